//! Waits until every packet program that was running has ended, so that none still reads what was replaced: rings that
//! services no longer point at, real servers that were removed.

use std::{collections::HashSet, thread::JoinHandle, time::Duration};

use anyhow::{Context, anyhow};

use super::{sweep::remove_rewritten, syscall};
use crate::dataplane::plan::tables::TableChange;

/// A wait in a thread of its own, since it may take tens of milliseconds.
#[derive(Debug)]
pub struct RcuBarrier {
    thread: JoinHandle<anyhow::Result<()>>,
    removed: HashSet<u32>,
}

impl RcuBarrier {
    /// Starts the wait, for packets that may have chosen one of the real ids in `removed`.
    pub fn start(removed: HashSet<u32>) -> Self {
        Self {
            thread: std::thread::spawn(wait),
            removed,
        }
    }

    /// Whether the wait has ended, so that [`Self::finish`] does not block.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Call this before `changes` are made: packets may choose the real ids that they rewrite again.
    pub fn about_to_change(&mut self, changes: &[TableChange]) {
        remove_rewritten(&mut self.removed, changes);
    }

    /// Joins the thread. Returns the real ids that no running packet program has chosen.
    ///
    /// # Errors
    /// The kernel refused to wait.
    pub fn finish(self) -> anyhow::Result<HashSet<u32>> {
        let result = self.thread.join();
        result.map_err(|_| anyhow!("waiting for running packet programs ended in a panic"))??;
        Ok(self.removed)
    }
}

/// Waits in the calling thread.
///
/// # Errors
/// The kernel refused.
pub fn wait() -> anyhow::Result<()> {
    if !syscall::wait_for_running_programs().context("cannot wait for running packet programs")? {
        // This kernel lacks the barrier; a packet program runs for microseconds and never sleeps.
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
