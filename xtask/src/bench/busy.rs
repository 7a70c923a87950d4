//! Whether others use the machine: then figures scatter, and whoever reads them should know.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result};

/// How long to look.
const WINDOW: Duration = Duration::from_millis(500);
/// Share of the CPUs that others may use without a word.
const TOLERABLE: f64 = 0.1;

/// Warns if others use the machine's CPUs.
///
/// # Errors
/// The kernel does not tell.
pub fn warn() -> Result<()> {
    let before = read()?;
    thread::sleep(WINDOW);
    let share = read()?.busy_since(&before);
    if share > TOLERABLE {
        eprintln!(
            "warning: others use {:.0} % of this machine's CPUs: the figures will scatter, only their ratios mean something",
            100.0 * share
        );
    }
    Ok(())
}

/// Time of all CPUs since the start, in the kernel's ticks.
struct Times {
    all: u64,
    idle: u64,
}

fn read() -> Result<Times> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    parse(&text).context("/proc/stat does not begin with the times of all CPUs")
}

/// Reads the first line: `cpu`, then user, nice, system, idle, iowait and more.
fn parse(text: &str) -> Option<Times> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let times: Vec<u64> = line
        .split_whitespace()
        .map(|time| time.parse().ok())
        .collect::<Option<_>>()?;
    let idle = times.get(3)? + times.get(4)?;
    // The last two, time of virtual machines, are part of the first two.
    Some(Times {
        all: times.iter().take(8).sum(),
        idle,
    })
}

impl Times {
    fn busy_since(&self, before: &Self) -> f64 {
        let all = (self.all - before.all).max(1) as f64;
        1.0 - (self.idle - before.idle) as f64 / all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busy_share_is_what_was_neither_idle_nor_waiting() {
        let before = parse("cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1").unwrap();
        let after = parse("cpu  130 0 70 840 60 0 0 0 9 9\ncpu0 1").unwrap();
        assert!((after.busy_since(&before) - 0.5).abs() < 1e-9);
        assert!(parse("intr 1 2 3").is_none());
    }
}
