//! Other programs on the machine: the bench gets a higher priority, and warns if they use much of the CPUs.
//!
//! Otherwise a busy machine would not only make figures scatter: a measurement with more processes would get a larger share of the
//! CPUs, and look faster.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

/// How long CPU use is observed.
const WINDOW: Duration = Duration::from_millis(500);
/// Share of the CPUs that others may use without a warning.
const TOLERABLE: f64 = 0.1;

/// Niceness of the bench and of all it starts: almost all of the CPUs' time if it wants it.
const NICENESS: i32 = -15;

/// Where the kernel keeps the niceness of a session's processes as a group, where it groups them so.
const GROUP: &str = "/proc/self/autogroup";

/// The raised priority. When it is dropped, the session gets its old niceness back; the process keeps the new one.
pub struct RaisedPriority {
    group_before: Option<String>,
}

/// Raises the priority of this process and of all processes that it will start.
///
/// # Errors
/// The caller is not root.
pub fn raise_priority() -> Result<RaisedPriority> {
    // SAFETY: a system call that takes three numbers; 0 is the calling process.
    let failed = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
    ensure!(
        failed == 0,
        "cannot raise the bench's priority: {}",
        std::io::Error::last_os_error()
    );
    let group_before = fs::read_to_string(GROUP)
        .ok()
        .as_deref()
        .and_then(group_niceness);
    if group_before.is_some() {
        fs::write(GROUP, NICENESS.to_string()).with_context(|| format!("writing {GROUP}"))?;
    }
    Ok(RaisedPriority { group_before })
}

/// Reads the niceness in `/autogroup-42 nice 0`.
fn group_niceness(text: &str) -> Option<String> {
    Some(text.trim().rsplit_once(" nice ")?.1.to_owned())
}

impl Drop for RaisedPriority {
    fn drop(&mut self) {
        if let Some(niceness) = &self.group_before
            && let Err(error) = fs::write(GROUP, niceness)
        {
            eprintln!("warning: {GROUP} keeps niceness {NICENESS}: {error}");
        }
    }
}

/// Warns if others use the machine's CPUs.
///
/// # Errors
/// The kernel's counters cannot be read.
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
    fn the_groups_niceness_is_read_from_what_the_kernel_shows() {
        assert_eq!(
            group_niceness("/autogroup-42 nice -3\n").as_deref(),
            Some("-3")
        );
        assert_eq!(group_niceness(""), None);
    }

    #[test]
    fn the_busy_share_is_what_was_neither_idle_nor_waiting() {
        let before = parse("cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1").unwrap();
        let after = parse("cpu  130 0 70 840 60 0 0 0 9 9\ncpu0 1").unwrap();
        assert!((after.busy_since(&before) - 0.5).abs() < 1e-9);
        assert!(parse("intr 1 2 3").is_none());
    }
}
