//! Waiting until no packet is under way that may have read what was replaced since: rings that a service has left, real
//! servers that were removed.

use std::{collections::HashSet, thread::JoinHandle, time::Duration};

use anyhow::{Context, anyhow};

use super::{sweep::forget_changed, syscall};
use crate::dataplane::plan::tables::TableChange;

/// A wait on a thread of its own: the kernel may take tens of milliseconds, and the daemon has other things to do.
#[derive(Debug)]
pub struct RcuBarrier {
    thread: JoinHandle<anyhow::Result<()>>,
    removed: HashSet<u32>,
}

impl RcuBarrier {
    /// A wait that begins now, for packets that may have chosen one of the real ids in `removed`.
    pub fn begin(removed: HashSet<u32>) -> Self {
        Self {
            thread: std::thread::spawn(wait),
            removed,
        }
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// These changes are about to be made: packets may choose the real ids among them again.
    pub fn about_to_change(&mut self, changes: &[TableChange]) {
        forget_changed(&mut self.removed, changes);
    }

    /// The real ids that no packet under way has chosen.
    ///
    /// # Errors
    /// The kernel refused to wait.
    pub fn end(self) -> anyhow::Result<HashSet<u32>> {
        let result = self.thread.join();
        result.map_err(|_| anyhow!("waiting for running packet programs ended in a panic"))??;
        Ok(self.removed)
    }
}

/// Waits here and now.
///
/// # Errors
/// The kernel refused.
pub fn wait() -> anyhow::Result<()> {
    if !syscall::wait_for_running_programs().context("cannot wait for running packet programs")? {
        // Without the barrier: a packet program runs for microseconds, and never sleeps.
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
