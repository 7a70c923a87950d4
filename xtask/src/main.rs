//! `cargo xtask`: builds, runs, tests and checks the project. One file per command.

mod bench;
mod build_ebpf;
mod cargo;
mod dist;
mod interrupt;
mod kernel;
mod lint;
mod privilege;
mod run;
mod setup;
mod tally;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs, tests and checks the project.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Options),
    Test(test::Options),
    /// Measures the project against references in the same run
    Bench(bench::Options),
    Lint(lint::Options),
    Dist(dist::Options),
    Setup(setup::Options),
    BuildEbpf(build_ebpf::Options),
    #[command(hide = true)]
    Lab(run::LabOptions),
    #[command(hide = true)]
    Page(run::PageOptions),
    #[command(hide = true)]
    MeasureIpvs(bench::IpvsGuestOptions),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Lint(options) => lint::run(&options),
        Command::Dist(options) => dist::run(&options),
        Command::Setup(options) => setup::run(&options),
        Command::BuildEbpf(options) => build_ebpf::run(&options),
        Command::Lab(options) => run::lab(&options),
        Command::Page(options) => run::page(&options),
        Command::MeasureIpvs(options) => bench::run_ipvs_guest(&options),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
