//! `cargo xtask dist`: the Debian package.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use xtask::{ebpf::program, workspace};

use crate::{
    cargo::{cargo, locked, target},
    setup::{self, Consent, Purpose},
};

/// Builds the Debian package: the programs, the unit file, the manual, completions and an example configuration.
///
/// It is written to target/release/dist; `apt install ./FILE` installs it. What it contains is listed in balancer-ctl/Cargo.toml.
/// cargo-deb, which packs it, is installed below target/tools if it is missing.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// Builds the package and prints its path.
pub fn run(options: &Options) -> Result<ExitCode> {
    let consent = setup::consent(options.yes);
    setup::ensure(&[Purpose::Dist], consent)?;
    let packer = packer(consent)?;
    let package = build(&packer, Profile::Release)?;
    println!("{}", package.display());
    Ok(ExitCode::SUCCESS)
}

/// The cargo-deb that is installed if there is none.
const PACKER: &str = "cargo-deb@3.8.0";

/// The shells with completions, and the names under which each looks for them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "balancer-ctl"),
    ("zsh", "_balancer-ctl"),
    ("fish", "balancer-ctl.fish"),
];

/// How the programs are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// To be handed on.
    Release,
    /// To be tested: as the tests have built them already.
    Dev,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "dev",
        }
    }

    /// Its folder in the build directory.
    fn folder(self) -> PathBuf {
        target().join(match self {
            Self::Release => "release",
            Self::Dev => "debug",
        })
    }
}

/// Returns cargo-deb, which is installed below `target/tools` if it is missing.
///
/// # Errors
/// It cannot be installed, or the user answered no.
pub fn packer(consent: Consent) -> Result<PathBuf> {
    if let Some(found) = program("cargo-deb") {
        return Ok(found);
    }
    let tools = target().join("tools");
    let installed = tools.join("bin/cargo-deb");
    if !installed.is_file() {
        println!("This machine lacks what is needed here. To be installed:");
        println!("  {PACKER}, which makes the Debian package: by cargo, below target/tools");
        setup::ask(consent)?;
        let mut install = cargo();
        install
            // Outside of the workspace, so that its cargo settings do not apply.
            .current_dir(env::temp_dir())
            .args(["install", PACKER, "--locked", "--root"])
            .arg(&tools);
        setup::install_with(&mut install)?;
    }
    Ok(installed)
}

/// Removes the package of an earlier build, and what it was made of.
///
/// # Errors
/// It cannot be removed.
pub fn clear(profile: Profile) -> Result<()> {
    let folder = profile.folder().join("dist");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Builds the package and returns its path.
///
/// # Errors
/// A step fails.
pub fn build(packer: &Path, profile: Profile) -> Result<PathBuf> {
    clear(profile)?;
    let mut build = cargo();
    build
        .args(["build", "--package", "balancer-ctl", "--bins", "--profile"])
        .arg(profile.name())
        .args(locked());
    setup::succeed(&mut build)?;
    let folder = profile.folder().join("dist");
    let completions = folder.join("completions");
    fs::create_dir_all(&completions)
        .with_context(|| format!("cannot create {}", completions.display()))?;
    let tool = profile.folder().join("balancer-ctl");
    setup::succeed(
        Command::new(&tool)
            .args(["man", "--all"])
            .arg(folder.join("man")),
    )?;
    for (shell, name) in COMPLETIONS {
        let path = completions.join(name);
        let file =
            fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        setup::succeed(
            Command::new(&tool)
                .args(["completions", shell])
                .stdout(Stdio::from(file)),
        )?;
    }
    let mut pack = Command::new(packer);
    pack.current_dir(workspace::root().join("balancer-ctl"))
        .env("CARGO_TARGET_DIR", target())
        .args(["--package", "balancer-ctl", "--no-build", "--profile"])
        .arg(profile.name())
        .args(locked())
        .args(["--strip", "--output"])
        .arg(&folder)
        // Its path is all that it prints there.
        .stdout(Stdio::null());
    if profile == Profile::Dev {
        pack.args(["--compress-type", "gz"]);
    }
    setup::succeed(&mut pack)?;
    packages(&folder)?
        .pop()
        .with_context(|| format!("cargo-deb wrote no package to {}", folder.display()))
}

fn packages(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    ensure!(
        found.len() <= 1,
        "there are several packages in {}",
        folder.display()
    );
    Ok(found)
}
