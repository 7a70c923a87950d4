//! When a CPU runs nobody: neither the first of all programs. A hypervisor that has other work, or a kernel that does not let itself be
//! interrupted, keeps a node from sending whatever it does; what follows from that is the machine's.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{
    record::{Time, now},
    watch,
};

/// How long the thread of a CPU sleeps at a time.
const PACE: Duration = Duration::from_millis(1);

/// A time in which a CPU ran nobody: from, to.
pub type Stall = (Time, Time);

/// A thread on each CPU that sleeps, and notices when it is woken too late. They end when this is dropped.
pub struct Stalls {
    is_over: Arc<AtomicBool>,
    found: Arc<Mutex<Vec<Stall>>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Stalls {
    /// Starts the threads. Stalls shorter than `least` do not count.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn watch(cpus: usize, least: Duration) -> Result<Self> {
        let mut stalls = Self {
            is_over: Arc::default(),
            found: Arc::default(),
            threads: Vec::new(),
        };
        for cpu in 0..cpus {
            let (over, found) = (Arc::clone(&stalls.is_over), Arc::clone(&stalls.found));
            let run = move || run(cpu, least, &over, &found);
            let thread = thread::Builder::new().name(format!("stalls-{cpu}"));
            stalls
                .threads
                .push(thread.spawn(run).context("starting a thread")?);
        }
        Ok(stalls)
    }

    /// Those so far.
    ///
    /// # Errors
    /// A thread has ended, which says why when this is dropped.
    pub fn found(&self) -> Result<Vec<Stall>> {
        anyhow::ensure!(
            self.threads.iter().all(|thread| !thread.is_finished()),
            "a thread that watches a CPU has ended"
        );
        Ok(self
            .found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("warning: a thread that watches a CPU ended: {error:#}");
            }
        }
    }
}

fn run(cpu: usize, least: Duration, over: &AtomicBool, found: &Mutex<Vec<Stall>>) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only).context("staying on a CPU")?;
    watch::run_first()?;
    while !over.load(Ordering::Relaxed) {
        let due = now() + PACE;
        thread::sleep(PACE);
        let woken = now();
        if woken.saturating_sub(due) >= least {
            found
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((due, woken));
        }
    }
    Ok(())
}

/// How many of these times had a stall in the `reach` before.
pub fn explained(times: &[Time], stalls: &[Stall], reach: Duration) -> usize {
    let overlaps = |at: Time, (from, to): &Stall| *from <= at && *to + reach >= at;
    times
        .iter()
        .filter(|at| stalls.iter().any(|stall| overlaps(**at, stall)))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_explains_what_follows_it_soon() {
        let millis = Duration::from_millis;
        let stalls = [(millis(100), millis(150)), (millis(500), millis(530))];
        let count = |at: u64| explained(&[millis(at)], &stalls, millis(40));
        for (at, expected) in [
            (99, 0),
            (100, 1),
            (130, 1),
            (190, 1),
            (191, 0),
            (540, 1),
            (600, 0),
        ] {
            assert_eq!(count(at), expected, "{at}");
        }
        assert_eq!(explained(&[millis(1), millis(120)], &stalls, millis(40)), 1);
        assert_eq!(explained(&[millis(120)], &[], millis(40)), 0);
    }
}
