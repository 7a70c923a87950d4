//! How large the programs of an object are, as the kernel counts.

use anyhow::{Context as _, Result};
use aya::{EbpfLoader, programs::Program};

/// Largest value of the log level's global: every line is kept.
const ALL_LINES: u8 = 5;
/// Smallest: the verifier drops them.
const NO_LINES: u8 = 0;

/// Loads all XDP programs of `object`, without and with its log lines, and prints what each costs.
///
/// # Errors
/// The object cannot be read. A program that the kernel refuses is named in the table.
pub fn print(object: &[u8]) -> Result<()> {
    println!(
        "{:<20} {:>14} {:>14} {:>14}",
        "program", "verified insns", "xlated bytes", "jited bytes"
    );
    for (level, remark) in [(NO_LINES, ""), (ALL_LINES, " + log")] {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("CONNTRACK_V4", 1)
            .map_max_entries("CONNTRACK_V6", 1)
            .override_global("AYA_LOG_LEVEL", &level, false)
            .load(object)
            .context("loading the object under test")?;
        if level != NO_LINES && ebpf.map("AYA_LOGS").is_none() {
            continue;
        }
        for (name, program) in ebpf.programs_mut() {
            // What only listens to the kernel touches no packet.
            let Program::Xdp(program) = program else {
                continue;
            };
            if let Err(error) = program.load() {
                // The measured one has no log lines; when it is refused, the bench fails later and says why.
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
