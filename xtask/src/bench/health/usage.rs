//! CPU time and memory of a process, from `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// CPU time and memory that a process has used since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, user and system, of all its threads.
    pub cpu: Duration,
    /// Most memory it ever had, in bytes.
    pub most_memory: u64,
}

impl Usage {
    /// Reads the usage of the process with this id.
    ///
    /// # Errors
    /// There is none.
    pub fn of(id: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{id}/{name}");
            fs::read_to_string(&path).with_context(|| format!("reading {path}"))
        };
        // SAFETY: the call takes a number and returns one.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        let ticks = u32::try_from(ticks).context("the kernel's ticks are unknown")?;
        Ok(Self {
            cpu: cpu(&read("stat")?, ticks).context("reading the CPU time of a process")?,
            most_memory: memory(&read("status")?).context("reading the memory of a process")?,
        })
    }
}

/// Reads fields 14 and 15; the second, the name in brackets, may hold blanks.
fn cpu(stat: &str, ticks: u32) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs(1) * (user + system) / ticks)
}

fn memory(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 5 0 0 0 120 30 7 7 20 0 4 0 100 1 1";
        assert_eq!(cpu(stat, 100), Some(Duration::from_millis(1500)));
        assert_eq!(cpu("42 (a", 100), None);
        assert_eq!(
            memory("VmPeak:\t  9 kB\nVmHWM:\t   1024 kB\n"),
            Some(1 << 20)
        );
        assert_eq!(memory("Name: a\n"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(Usage::of(std::process::id()).unwrap().most_memory > 100_000);
    }
}
