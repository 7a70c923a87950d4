//! The CPUs that a measurement may use.

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// The calling thread, as the scheduler's system calls name it.
const SELF: Pid = Pid::from_raw(0);

/// Numbers of the CPUs that the calling thread may use, in order; at least one.
///
/// # Errors
/// The system call failed.
pub fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(SELF).context("asking which CPUs may be used")?;
    let cpus: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| set.is_set(*cpu) == Ok(true))
        .collect();
    ensure!(!cpus.is_empty(), "no CPU may be used");
    Ok(cpus)
}

/// Keeps the calling thread, and threads it will start, on one CPU.
///
/// # Errors
/// The CPU is not there.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(SELF, &set).with_context(|| format!("staying on CPU {cpu}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_was_put() {
        let last = *allowed().unwrap().last().unwrap();
        let there = std::thread::spawn(move || {
            stay_on(last).unwrap();
            allowed().unwrap()
        });
        assert_eq!(there.join().unwrap(), [last]);
    }
}
