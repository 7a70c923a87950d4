//! How large the programs of an object are, as the kernel counts.

use anyhow::{Context as _, Result};
use aya::programs::Program;

use super::target::{self, LogLevel};

/// Loads all XDP programs of `object`, without and with its log lines, and prints what each costs.
///
/// # Errors
/// The object cannot be read. A program that the kernel refuses is named in the table.
pub fn print(object: &[u8]) -> Result<()> {
    println!(
        "{:<20} {:>14} {:>14} {:>14}",
        "program", "verified insns", "xlated bytes", "jited bytes"
    );
    for (level, remark) in [(LogLevel::Silent, ""), (LogLevel::All, " + log")] {
        let mut ebpf = target::loader(1, level)
            .load(object)
            .context("loading the object under test")?;
        if level == LogLevel::All && ebpf.map(target::LOG_MAP).is_none() {
            continue;
        }
        for (name, program) in ebpf.programs_mut() {
            // Other programs, such as tracepoints, do not handle packets.
            let Program::Xdp(program) = program else {
                continue;
            };
            if let Err(error) = program.load() {
                // The program without log lines is the measured one; if the kernel refuses it, the bench fails later with the reason.
                let text = error.to_string();
                let last = text
                    .lines()
                    .rev()
                    .map(str::trim)
                    .find(|line| line.contains("prohibited"));
                println!(
                    "{:<20} refused by the kernel: {}",
                    format!("{name}{remark}"),
                    last.unwrap_or("see its log")
                );
                continue;
            }
            let info = program.info()?;
            let shown = |count: Option<u32>| {
                count.map_or_else(|| "-".to_owned(), |count| count.to_string())
            };
            println!(
                "{:<20} {:>14} {:>14} {:>14}",
                format!("{name}{remark}"),
                shown(info.verified_instruction_count()),
                shown(info.size_translated()),
                info.size_jitted(),
            );
        }
    }
    println!();
    Ok(())
}
