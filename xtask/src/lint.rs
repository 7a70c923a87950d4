//! `cargo xtask lint`: formatting, imports between modules, clippy for both targets, dependencies, documentation.

mod layers;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use xtask::{
    ebpf::{self, program, toolchain::Toolchain},
    workspace,
};

use crate::{
    cargo::{self, cargo, locked},
    tally::Tally,
};

/// Checks formatting, imports, lints, dependencies and documentation. Needs no BPF tools: checks whose tool is missing are
/// skipped, with a note.
#[derive(Debug, clap::Args)]
pub struct Options {}

/// A check: its name, and its command or why it cannot be made.
struct Check {
    name: &'static str,
    command: Result<Command, String>,
}

/// Runs all checks, also after one has failed.
pub fn run(_: &Options) -> Result<ExitCode> {
    let checks = [
        Check {
            name: "fmt",
            command: Ok(fmt()),
        },
        Check {
            name: "clippy",
            command: Ok(clippy()),
        },
        Check {
            name: "clippy of the packet program",
            command: clippy_ebpf(),
        },
        Check {
            name: "deny",
            command: deny(),
        },
        Check {
            name: "doc",
            command: Ok(doc()),
        },
    ];
    let mut tally = Tally::default();
    println!("== layers");
    let faults = layers::check(&workspace::root())?;
    for fault in &faults {
        println!("{fault}");
    }
    if faults.is_empty() {
        tally.passed += 1;
    } else {
        tally.failed.push("layers".into());
    }
    for Check { name, command } in checks {
        match command {
            Err(why) => tally.skipped.push((name.into(), why)),
            Ok(mut command) => {
                println!("== {name}");
                let status = command
                    .status()
                    .with_context(|| format!("cannot run {command:?}"))?;
                if status.success() {
                    tally.passed += 1;
                } else {
                    tally.failed.push(name.into());
                }
            }
        }
    }
    for line in tally.details() {
        println!("{line}");
    }
    println!("lint: {tally}");
    Ok(tally.exit_code())
}

fn fmt() -> Command {
    let mut command = cargo();
    command.args(["fmt", "--all", "--", "--check"]);
    command
}

/// Returns a command that runs cargo on everything but the packet program, without building that. It has its own build directory:
/// in the usual one, each change between a lint and a build would build everything again.
fn for_the_host(subcommand: &str) -> Command {
    let mut command = cargo();
    command
        .args([
            subcommand,
            "--workspace",
            "--exclude",
            "balancer-ebpf",
            "--target-dir",
        ])
        .arg(cargo::target().join("lint"))
        .args(locked())
        .env("BALANCER_EBPF", "skip");
    command
}

fn clippy() -> Command {
    let mut command = for_the_host("clippy");
    command.args(["--all-targets", "--", "-Dwarnings"]);
    command
}

fn doc() -> Command {
    let mut command = for_the_host("doc");
    command
        .args(["--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-Dwarnings");
    command
}

/// Clippy for the packet program; it must belong to the compiler that builds it.
fn clippy_ebpf() -> Result<Command, String> {
    let Toolchain { compiler, linker } = ebpf::toolchain::find().map_err(|_| {
        "there is no toolchain for it; `cargo xtask setup` installs one".to_string()
    })?;
    let clippy = compiler.rustc.with_file_name("cargo-clippy");
    if !clippy.is_file() || !compiler.rustc.with_file_name("clippy-driver").is_file() {
        return Err(format!(
            "{compiler} has no clippy: `rustup component add clippy --toolchain nightly`, or Debian's rust-web-clippy"
        ));
    }
    let request = cargo::ebpf_request();
    let mut command = ebpf::command(&clippy, &compiler, &linker, &request);
    // cargo-clippy calls cargo, which calls the driver in the folder of cargo-clippy.
    command
        .env("CARGO", &compiler.cargo)
        .args(["clippy", "--release", "--bins"])
        .args(ebpf::arguments(&request));
    command.args(["--", "-Dwarnings"]);
    Ok(command)
}

/// Checks licences, sources and duplicates of dependencies; not advisories, which have to be downloaded.
fn deny() -> Result<Command, String> {
    if program("cargo-deny").is_none() {
        return Err("cargo-deny is not installed: `cargo install --locked cargo-deny`".into());
    }
    let mut command = cargo();
    // cargo-deny finds `.cargo/deny.toml` by itself.
    command.args([
        "deny",
        "--all-features",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    Ok(command)
}
