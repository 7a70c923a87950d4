//! `cargo xtask setup`: installs only what the build and the commands lack.
//!
//! It prints what it will install and why, asks on a terminal, and prints nothing when there is
//! nothing to do: `run`, `test` and `bench` call it first.

mod apt;
mod toolchain;
mod tools;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use xtask::ebpf;

use self::tools::Tool;
pub use self::tools::{Purpose, is_installed};

/// Installs what the build, the lab, the tests and the benchmarks lack.
///
/// A second run installs nothing and says nothing.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Install without asking
    #[arg(long)]
    yes: bool,
}

/// Installs what any command needs.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure(&Purpose::ALL, consent(options.yes))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether to ask before installing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// There is a terminal on which to ask.
    Ask,
    /// `--yes` was given, or there is no terminal.
    Given,
}

/// Decides by `--yes` and by whether there is a terminal.
pub fn consent(yes: bool) -> Consent {
    if yes || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        Consent::Given
    } else {
        Consent::Ask
    }
}

/// Installs what is missing to build the packet program and for `purposes`.
///
/// # Errors
/// Something cannot be installed (the error names each way that was tried, and the remedy), or the user answered no.
pub fn ensure(purposes: &[Purpose], consent: Consent) -> Result<()> {
    let lacks_toolchain = needs_toolchain()
        .then(ebpf::toolchain::find)
        .and_then(Result::err);
    let missing = tools::missing(purposes, is_installed);
    if lacks_toolchain.is_none() && missing.is_empty() {
        return Ok(());
    }
    toolchain::check_setting()?;
    println!("This machine lacks what is needed here. To be installed:");
    if lacks_toolchain.is_some() {
        for line in toolchain::plan() {
            println!("  {line}");
        }
    }
    for line in describe(&missing) {
        println!("  {line}");
    }
    ask(consent)?;
    if !missing.is_empty() {
        install_tools(&missing)?;
    }
    if lacks_toolchain.is_some() {
        toolchain::install()?;
    }
    Ok(())
}

/// Asks whether to go on, if `consent` says so.
///
/// # Errors
/// The user answered no.
pub fn ask(consent: Consent) -> Result<()> {
    if consent == Consent::Ask && !agreed()? {
        bail!("nothing was installed; the same command asks again");
    }
    Ok(())
}

/// Whether the packet program is built here: with an object built elsewhere, or without one, no tools are needed.
fn needs_toolchain() -> bool {
    let set = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty());
    !set("BALANCER_EBPF_OBJECT")
        && !std::env::var("BALANCER_EBPF").is_ok_and(|value| value == "skip")
}

/// Returns a line for each missing package: what is missing, and why it is needed.
fn describe(missing: &[Tool]) -> Vec<String> {
    missing
        .iter()
        .map(|tool| format!("{}: {}", tool.package, tool.why))
        .collect()
}

fn install_tools(missing: &[Tool]) -> Result<()> {
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if !apt::is_there() {
        bail!(
            "this is no Debian or Ubuntu: install these with your own package manager (Debian's names): {}",
            packages.join(" ")
        );
    }
    apt::update();
    apt::install(&packages, "the tools above")
}

fn agreed() -> Result<bool> {
    print!("Go ahead? [Y/n] ");
    io::stdout()
        .flush()
        .context("cannot write to the terminal")?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    Ok(means_yes(&answer))
}

fn means_yes(answer: &str) -> bool {
    // An empty read is the end of input, not an answer.
    matches!(
        answer.to_lowercase().as_str(),
        "\n" | "y\n" | "yes\n" | "y" | "yes"
    )
}

/// Prints and runs a command that installs something; its output is shown.
pub fn install_with(command: &mut Command) -> Result<()> {
    println!("> {}", written(command));
    succeed(command)
}

/// Runs a command that must succeed; its output is shown.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", written(command)))?;
    if !status.success() {
        bail!(
            "`{}` failed ({status}); see what it says above",
            written(command)
        );
    }
    Ok(())
}

/// Formats a command as one would type it.
fn written(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(key, value)| {
        let (key, value) = (key.to_string_lossy(), value?.to_string_lossy());
        Some(format!("{key}={value}"))
    });
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    set.chain(words.map(|word| word.to_string_lossy().into_owned()))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        for yes in ["\n", "y\n", "Y\n", "yes\n", "Yes\n"] {
            assert!(means_yes(yes), "{yes:?}");
        }
        for no in ["", "n\n", "no\n", "later\n"] {
            assert!(!means_yes(no), "{no:?}");
        }
    }

    #[test]
    fn a_command_is_written_as_one_would_type_it() {
        let mut command = Command::new("cargo");
        command
            .args(["install", "bpf-linker"])
            .env("LLVM_PREFIX", "/usr/lib/llvm-22")
            .env_remove("X");
        assert_eq!(
            written(&command),
            "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker"
        );
    }
}
