//! run
use anyhow::Result;
use std::process::ExitCode;
/// Runs
#[derive(Debug, clap::Args)]
pub struct Options {}
/// Lab
#[derive(Debug, clap::Args)]
pub struct LabOptions {}
/// Page
#[derive(Debug, clap::Args)]
pub struct PageOptions {}
pub fn run(_: &Options) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
pub fn lab(_: &LabOptions) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
pub fn page(_: &PageOptions) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
