//! The workspace's test programs.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::cargo::{cargo, locked};

/// The package whose tests need root.
const PRIVILEGED: &str = "tests";

/// A test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    /// Package, kind and name of the target, to be printed.
    pub name: String,
    /// The program.
    pub path: PathBuf,
    /// The package's folder, in which cargo runs tests.
    pub package: PathBuf,
    /// Whether it needs root.
    pub kind: Kind,
}

/// Whether a test program needs root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It does not.
    Unprivileged,
    /// It needs root, and no other test may run at the same time.
    Privileged,
}

/// Builds all tests of the workspace except the packet program's package, which is for the BPF target.
pub fn build() -> Result<Vec<Binary>> {
    let mut child = cargo()
        .args([
            "test",
            "--no-run",
            "--workspace",
            "--exclude",
            "balancer-ebpf",
        ])
        .arg("--message-format=json-render-diagnostics")
        .args(locked())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut binaries = Vec::new();
    for line in BufReader::new(output).lines() {
        binaries.extend(parse(&line.context("cannot read what cargo prints")?));
    }
    if !child.wait().context("cannot wait for cargo")?.success() {
        bail!("the tests did not build: see what cargo says above");
    }
    Ok(binaries)
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Reads one of cargo's messages; `None` if it does not report a test program.
fn parse(line: &str) -> Option<Binary> {
    let message: Message = serde_json::from_str(line).ok()?;
    if message.reason != "compiler-artifact" || !message.profile?.test {
        return None;
    }
    let package = message.manifest_path?.parent()?.to_path_buf();
    let folder = package.file_name()?.to_str()?;
    let target = message.target?;
    let kind = target.kind.first()?;
    // Only these tests load programs and make namespaces; the harness's own unit tests do not.
    let privileged = folder == PRIVILEGED && kind == "test";
    Some(Binary {
        name: format!(
            "{folder}: {} {}",
            if kind == "test" { "tests" } else { kind },
            target.name
        ),
        path: message.executable?,
        kind: if privileged {
            Kind::Privileged
        } else {
            Kind::Unprivileged
        },
        package,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(folder: &str, kind: &str, test: bool) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"x","manifest_path":"/w/{folder}/Cargo.toml",
            "target":{{"kind":["{kind}"],"name":"netns","src_path":"/w/x.rs"}},"profile":{{"test":{test}}},
            "executable":"/t/netns-1","fresh":true}}"#
        )
    }

    #[test]
    fn only_test_programs_are_taken_and_only_those_below_tests_need_root() {
        assert_eq!(
            parse(&message("tests", "test", true)),
            Some(Binary {
                name: "tests: tests netns".into(),
                path: "/t/netns-1".into(),
                package: "/w/tests".into(),
                kind: Kind::Privileged,
            })
        );
        assert_eq!(
            parse(&message("tests", "lib", true)).map(|binary| binary.kind),
            Some(Kind::Unprivileged)
        );
        assert_eq!(
            parse(&message("balancer-ctl", "test", true)).map(|binary| binary.kind),
            Some(Kind::Unprivileged)
        );
        assert_eq!(parse(&message("balancer-ctl", "bin", false)), None);
        assert_eq!(parse(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(parse("not json"), None);
    }
}
