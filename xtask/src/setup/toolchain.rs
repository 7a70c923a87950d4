//! Brings a compiler and a linker for the packet program onto the machine: rustup's nightly where rustup is
//! online, else the distribution's.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use xtask::ebpf::{
    self,
    compiler::{self, Compiler},
    linker, program,
};

use super::{apt, install_with};
use crate::cargo;

/// The distribution's compilers: package of the compiler, of its cargo, of its sources. Debian keeps a newer one
/// for its browsers beside the release's own.
const DISTRIBUTION: [[&str; 3]; 2] = [
    ["rustc-web", "cargo-web", "rust-web-src"],
    ["rustc", "cargo", "rust-src"],
];

/// Libraries that bpf-linker is linked against, besides LLVM.
const LIBRARIES: [&str; 3] = ["zlib1g-dev", "libzstd-dev", "libxml2-dev"];

/// Returns what will be done, in the order in which it is tried.
pub fn plan() -> Vec<String> {
    let mut lines = Vec::new();
    let usable = compiler::find().usable;
    if usable.is_empty() {
        lines.push(
            "a Rust compiler with the sources of its core library, to build the packet program:"
                .into(),
        );
        if program("rustup").is_some() {
            lines.push("    Rust nightly with rust-src, by rustup; should that fail,".into());
        }
        lines.push("    the distribution's compiler and its sources (Debian 12: rustc-web cargo-web rust-web-src)".into());
    }
    lines.push("bpf-linker, which makes the packet program's object: by cargo, against the compiler's LLVM".into());
    if apt::is_there() {
        let major = usable
            .first()
            .map_or_else(|| "N".into(), |compiler| compiler.llvm.to_string());
        lines.push(format!(
            "    (packages {})",
            llvm_packages(&major).join(" ")
        ));
    }
    lines
}

/// Refuses to install a compiler that the environment forbids to use.
///
/// # Errors
/// `BALANCER_EBPF_RUSTC` names a compiler that cannot be used.
pub fn check_setting() -> Result<()> {
    if let Some(only) = env::var_os("BALANCER_EBPF_RUSTC").filter(|value| !value.is_empty())
        && compiler::find().usable.is_empty()
    {
        bail!(
            "BALANCER_EBPF_RUSTC={} cannot be used, and nothing else is looked for while it is set: {}",
            only.display(),
            compiler::find().refused.join("; ")
        );
    }
    Ok(())
}

/// A way to install a compiler: its name, and the function that does it.
type Route = (&'static str, fn() -> Result<()>);

/// Tries each way until there is a compiler with a matching linker.
///
/// # Errors
/// All ways failed; the error names each.
pub fn install() -> Result<()> {
    let mut tried = Vec::new();
    let routes: [Route; 3] = [
        ("the compilers that are there", || Ok(())),
        ("Rust nightly by rustup", rustup_nightly),
        ("the distribution's compiler", distribution_compiler),
    ];
    for (name, bring) in routes {
        if let Err(error) = bring() {
            tried.push(format!("{name}: {error:#}"));
            continue;
        }
        if ebpf::toolchain::find().is_ok() {
            return Ok(());
        }
        let usable = compiler::find().usable;
        if usable.is_empty() {
            tried.push(format!("{name}: none can be used"));
        }
        for compiler in usable {
            match bring_linker(&compiler) {
                Ok(()) if ebpf::toolchain::find().is_ok() => return Ok(()),
                Ok(()) => tried.push(format!(
                    "bpf-linker for {compiler}: was installed and cannot be used"
                )),
                Err(error) => tried.push(format!("bpf-linker for {compiler}: {error:#}")),
            }
        }
    }
    let found = ebpf::toolchain::find().err().unwrap_or_default();
    bail!(
        "what the packet program needs cannot be installed; tried:\n  - {}\n{found}",
        tried.join("\n  - ")
    )
}

fn rustup_nightly() -> Result<()> {
    let Some(rustup) = program("rustup") else {
        bail!("rustup is not installed")
    };
    let mut command = Command::new(&rustup);
    // An installed nightly is the user's: only its sources are added, its version stays.
    let there = Command::new(&rustup)
        .args(["which", "--toolchain", "nightly", "rustc"])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output();
    if there.is_ok_and(|output| output.status.success()) {
        command.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
    } else {
        command.args(["toolchain", "install", "nightly", "--no-self-update"]);
        command.args(["--profile", "minimal", "--component", "rust-src"]);
    }
    install_with(&mut command)
}

fn distribution_compiler() -> Result<()> {
    if !apt::is_there() {
        bail!(
            "this is no Debian or Ubuntu: install your distribution's rustc, cargo and Rust sources by hand"
        );
    }
    apt::update();
    let candidates = DISTRIBUTION.map(|set| (set, apt::candidate(set[0])));
    let packages = choose(&candidates, compiler::oldest_minor())?;
    apt::install(&packages, "the distribution's compiler")
}

/// Chooses the first set of packages whose compiler is new enough.
fn choose(
    candidates: &[([&'static str; 3], Option<String>)],
    oldest: u32,
) -> Result<[&'static str; 3]> {
    for (set, version) in candidates {
        if version
            .as_deref()
            .and_then(apt::rust_minor)
            .is_some_and(|minor| minor >= oldest)
        {
            return Ok(*set);
        }
    }
    let offered: Vec<String> = candidates
        .iter()
        .map(|(set, version)| {
            format!(
                "{} {}",
                set[0],
                version.as_deref().unwrap_or("is not offered")
            )
        })
        .collect();
    bail!(
        "it offers no Rust 1.{oldest} or newer: {}",
        offered.join(", ")
    )
}

fn bring_linker(compiler: &Compiler) -> Result<()> {
    if linker::find().is_ok_and(|linker| linker.reads(compiler.llvm)) {
        return Ok(());
    }
    let major = compiler.llvm.to_string();
    if apt::is_there() {
        let packages = llvm_packages(&major);
        let lacking: Vec<&str> = packages
            .iter()
            .map(String::as_str)
            .filter(|name| !is_installed(name))
            .collect();
        if !lacking.is_empty() {
            apt::update();
            if let Some(unknown) = lacking.iter().find(|name| apt::candidate(name).is_none()) {
                bail!("the distribution offers no {unknown}; https://apt.llvm.org may");
            }
            apt::install(&lacking, "what bpf-linker is linked against")?;
        }
    }
    let Some(prefix) = llvm_prefix(&major) else {
        bail!(
            "LLVM {major} with its headers is not installed (no /usr/lib/llvm-{major}, no llvm-config)"
        );
    };
    let mut install = cargo::cargo();
    install
        // Outside of the workspace, so that its cargo settings do not apply.
        .current_dir(env::temp_dir())
        .args([
            "install",
            "bpf-linker",
            "--no-default-features",
            "--features",
            &format!("llvm-{major}"),
        ])
        .env("LLVM_PREFIX", prefix);
    if linker::find().is_ok() {
        install.arg("--force");
    }
    install_with(&mut install)
}

fn llvm_packages(major: &str) -> Vec<String> {
    [format!("llvm-{major}-dev"), format!("libpolly-{major}-dev")]
        .into_iter()
        .chain(LIBRARIES.map(String::from))
        .collect()
}

/// Tells whether a package is installed, from the files that dpkg keeps.
fn is_installed(package: &str) -> bool {
    let folder = Path::new("/var/lib/dpkg/info");
    let list = format!("{package}.list");
    let with_architecture = format!("{package}:");
    folder.join(&list).is_file()
        || fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| {
                entry.file_name().to_str().is_some_and(|name| {
                    name.starts_with(&with_architecture) && name.ends_with(".list")
                })
            })
}

/// Returns the folder of an installed LLVM of that version.
fn llvm_prefix(major: &str) -> Option<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if debian.join("bin/llvm-config").is_file() {
        return Some(debian);
    }
    let config = program(&format!("llvm-config-{major}")).or_else(|| program("llvm-config"))?;
    let ask = |what: &str| -> Option<String> {
        let output = Command::new(&config)
            .arg(what)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    (ask("--version")?.split('.').next() == Some(major))
        .then(|| ask("--prefix").map(PathBuf::from))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_new_enough_compiler_is_chosen() {
        let offer = |web: Option<&str>, own: Option<&str>| {
            [
                (DISTRIBUTION[0], web.map(String::from)),
                (DISTRIBUTION[1], own.map(String::from)),
            ]
        };
        let bookworm = offer(Some("1.96.0+dfsg1-1~deb12u2"), Some("1.63.0+dfsg1-2"));
        assert_eq!(
            choose(&bookworm, 95).unwrap(),
            ["rustc-web", "cargo-web", "rust-web-src"]
        );
        let unstable = offer(None, Some("1.97.0+dfsg1-1"));
        assert_eq!(
            choose(&unstable, 95).unwrap(),
            ["rustc", "cargo", "rust-src"]
        );
        let old = offer(None, Some("1.63.0+dfsg1-2"));
        assert_eq!(
            choose(&old, 95).unwrap_err().to_string(),
            "it offers no Rust 1.95 or newer: rustc-web is not offered, rustc 1.63.0+dfsg1-2"
        );
    }

    #[test]
    fn the_llvm_packages_follow_the_compiler() {
        assert_eq!(
            llvm_packages("22"),
            [
                "llvm-22-dev",
                "libpolly-22-dev",
                "zlib1g-dev",
                "libzstd-dev",
                "libxml2-dev"
            ]
        );
    }
}
