//! The build script of `balancer-ctl`: copies the object to the place from which it is embedded.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use super::{Built, Endian, Request, build, compiler::Compiler, program};
use crate::workspace;

/// Where the object comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// Built from source.
    Build,
    /// A file built elsewhere.
    File(PathBuf),
    /// An empty object.
    Skip,
}

/// Writes the object to `OUT_DIR/balancer` and tells cargo what it depends on. For build scripts only.
#[must_use]
pub fn build_script() -> ExitCode {
    // Not PATH: editors have another one, and each change would cause a build. The tools that were found are watched themselves;
    // if none were found, the script runs again anyway.
    for variable in [
        "BALANCER_EBPF",
        "BALANCER_EBPF_OBJECT",
        "BALANCER_EBPF_RUSTC",
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<()> {
    let variable = |name: &str| env::var(name).with_context(|| format!("cargo did not set {name}"));
    let out = PathBuf::from(variable("OUT_DIR")?);
    let destination = out.join("balancer");
    let setting = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    match source(
        setting("BALANCER_EBPF").as_deref(),
        setting("BALANCER_EBPF_OBJECT").as_deref(),
    )? {
        Source::Skip => {
            println!("cargo::rerun-if-changed=build.rs");
            fs::write(&destination, [])
                .with_context(|| format!("cannot write {}", destination.display()))
        }
        Source::File(file) => {
            // The path is relative to the workspace, which is not this script's folder.
            let file = workspace::root().join(file);
            println!("cargo::rerun-if-changed={}", file.display());
            let object = fs::read(&file)
                .with_context(|| format!("cannot read BALANCER_EBPF_OBJECT {}", file.display()))?;
            check(&object).with_context(|| format!("BALANCER_EBPF_OBJECT {}", file.display()))?;
            fs::write(&destination, object)
                .with_context(|| format!("cannot write {}", destination.display()))
        }
        Source::Build => {
            let root = workspace::root();
            let request = Request {
                target: workspace::target_above(&out).unwrap_or_else(|| root.join("target")),
                workspace: root,
                architecture: variable("CARGO_CFG_TARGET_ARCH")?,
                endian: match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
                    "big" => Endian::Big,
                    _ => Endian::Little,
                },
            };
            for path in request.sources() {
                println!("cargo::rerun-if-changed={}", path.display());
            }
            let built = build(&request)?;
            println!("cargo::rerun-if-changed={}", built.linker.path.display());
            println!("cargo::rerun-if-changed={}", built.compiler.rustc.display());
            copy_stripped(&built, &destination)
        }
    }
}

/// Reads the two environment variables.
fn source(switch: Option<&str>, object: Option<&str>) -> Result<Source> {
    match (switch, object) {
        (Some("skip"), _) => Ok(Source::Skip),
        (Some("build") | None, Some(file)) => Ok(Source::File(file.into())),
        (Some("build") | None, None) => Ok(Source::Build),
        (Some(other), _) => bail!(
            "BALANCER_EBPF={other} means nothing: set it to `skip` to embed no packet program, or unset it"
        ),
    }
}

/// Refuses what is not a BPF object: a wrong path would otherwise be noticed only when the daemon starts.
fn check(object: &[u8]) -> Result<()> {
    const MACHINE: usize = 18;
    const BPF: u8 = 247;
    if object.get(..4) != Some(b"\x7fELF") {
        bail!("is not an ELF object");
    }
    let machine = object.get(MACHINE..MACHINE + 2).unwrap_or_default();
    if !machine.contains(&BPF) || !machine.contains(&0) {
        bail!("is an ELF object for another machine than BPF");
    }
    Ok(())
}

/// Copies the object without its debug information, from which BTF has been made already, if there is a tool for
/// that. It is seven times smaller then; loading does not depend on it.
fn copy_stripped(built: &Built, destination: &Path) -> Result<()> {
    if let Some(strip) = strip_tool(&built.compiler) {
        let status = Command::new(strip)
            .arg("--strip-debug")
            .arg("-o")
            .arg(destination)
            .arg(&built.balancer)
            .status();
        if status.is_ok_and(|status| status.success()) {
            return Ok(());
        }
    }
    fs::copy(&built.balancer, destination)
        .map(drop)
        .with_context(|| {
            format!(
                "cannot copy {} to {}",
                built.balancer.display(),
                destination.display()
            )
        })
}

/// Returns an LLVM strip, the compiler's own version before any other.
fn strip_tool(compiler: &Compiler) -> Option<PathBuf> {
    let own = PathBuf::from(format!("/usr/lib/llvm-{}/bin/llvm-strip", compiler.llvm));
    if own.is_file() {
        return Some(own);
    }
    program(&format!("llvm-strip-{}", compiler.llvm)).or_else(|| program("llvm-strip"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switches_choose_the_source() {
        assert_eq!(source(None, None).unwrap(), Source::Build);
        assert_eq!(source(Some("build"), None).unwrap(), Source::Build);
        assert_eq!(source(None, Some("/x")).unwrap(), Source::File("/x".into()));
        assert_eq!(source(Some("skip"), Some("/x")).unwrap(), Source::Skip);
        let said = source(Some("no"), None).unwrap_err().to_string();
        assert!(
            said.contains("BALANCER_EBPF=no") && said.contains("`skip`"),
            "{said}"
        );
    }

    #[test]
    fn only_a_bpf_object_is_embedded() {
        let mut object = vec![0; 64];
        object[..4].copy_from_slice(b"\x7fELF");
        object[18] = 247;
        check(&object).unwrap();
        object[18] = 62;
        assert_eq!(
            check(&object).unwrap_err().to_string(),
            "is an ELF object for another machine than BPF"
        );
        assert_eq!(
            check(b"#!/bin/sh").unwrap_err().to_string(),
            "is not an ELF object"
        );
        assert_eq!(
            check(b"\x7fELF").unwrap_err().to_string(),
            "is an ELF object for another machine than BPF"
        );
        assert_eq!(check(b"").unwrap_err().to_string(), "is not an ELF object");
    }
}
