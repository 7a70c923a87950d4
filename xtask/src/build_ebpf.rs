//! `cargo xtask build-ebpf`.

use std::process::ExitCode;

use anyhow::Result;
use xtask::ebpf;

use crate::cargo;

/// Builds the packet program alone and prints where it is.
///
/// `cargo build` does this by itself; BALANCER_EBPF_OBJECT=FILE then embeds the file on another machine.
#[derive(Debug, clap::Args)]
pub struct Options {}

/// Builds the packet program.
pub fn run(_: &Options) -> Result<ExitCode> {
    let built = ebpf::build(&cargo::ebpf_request())?;
    eprintln!("built with {} and {}", built.compiler, built.linker);
    println!("{}", built.balancer.display());
    Ok(ExitCode::SUCCESS)
}
