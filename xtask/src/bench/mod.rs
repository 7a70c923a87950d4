//! `cargo xtask bench`: measures the project, always as a ratio to references in the same run.

mod packet;
mod report;

use std::path::PathBuf;

use anyhow::Result;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Suite {
    /// The packet program alone, by test runs on one CPU
    Packet,
}

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What to measure [default: everything]
    suites: Vec<Suite>,

    /// Rounds; every round measures every row once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Measure these rows only, by name, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Also write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// packet: packets per row and round
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1000..))]
    packets: u32,

    /// packet: measure this object's program `balancer` instead of the one built
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
}

/// Runs the suites asked for.
///
/// # Errors
/// A measurement could not be made or was void.
pub fn run(options: &Options) -> Result<()> {
    let mut rows = Vec::new();
    let wanted = |suite| options.suites.is_empty() || options.suites.contains(&suite);
    if wanted(Suite::Packet) {
        rows.extend(packet::run(options)?);
    }
    if let Some(path) = &options.json {
        report::write_json(path, &rows)?;
    }
    Ok(())
}
