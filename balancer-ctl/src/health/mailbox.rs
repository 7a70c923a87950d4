//! Updates on their way to the daemon. Only the latest of each checker is kept, so that a daemon that does not read them
//! neither delays a probe nor lets memory grow.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{CheckUpdate, schedule::CheckerId};

/// Shared by the driver, which writes, and the daemon, which reads.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pending: Mutex<BTreeMap<CheckerId, CheckUpdate>>,
    /// Wakes the reader when an update was added.
    updated: Notify,
    /// Checks that cannot be made at present, with a sentence that says why.
    obstacles: Mutex<BTreeMap<CheckerId, String>>,
}

impl Mailbox {
    /// Adds an update; it replaces an older one of the same checker.
    pub(super) fn put(&self, id: CheckerId, update: CheckUpdate) {
        self.lock().insert(id, update);
        self.updated.notify_one();
    }

    /// Removes the update and the obstacle of a checker that was stopped.
    pub(super) fn remove(&self, id: CheckerId) {
        self.lock().remove(&id);
        self.set_obstacle(id, None);
    }

    /// Sets why a check cannot be made; `None` = it can.
    pub(super) fn set_obstacle(&self, id: CheckerId, sentence: Option<String>) {
        let mut obstacles = self.lock_obstacles();
        match sentence {
            Some(sentence) => obstacles.insert(id, sentence),
            None => obstacles.remove(&id),
        };
    }

    /// A sentence for each check that cannot be made at present.
    pub(super) fn obstacles(&self) -> Vec<String> {
        self.lock_obstacles().values().cloned().collect()
    }

    fn lock_obstacles(&self) -> MutexGuard<'_, BTreeMap<CheckerId, String>> {
        let obstacles = self.obstacles.lock();
        obstacles.unwrap_or_else(PoisonError::into_inner)
    }

    /// A poisoned lock is safe to use: no code panics while it holds it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<CheckerId, CheckUpdate>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The daemon's end of the mailbox.
#[derive(Debug)]
pub struct Updates(pub(super) Arc<Mailbox>);

impl Updates {
    /// Waits for updates and returns the latest of each checker that has one. Cancel safe: nothing is lost if the caller
    /// stops waiting.
    pub async fn next(&mut self) -> Vec<CheckUpdate> {
        loop {
            let waiting = std::mem::take(&mut *self.0.lock());
            if !waiting.is_empty() {
                return waiting.into_values().collect();
            }
            // `notify_one` stores a permit, so an update added since the look above is not missed.
            self.0.updated.notified().await;
        }
    }
}
