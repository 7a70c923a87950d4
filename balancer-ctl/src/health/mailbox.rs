//! Updates on their way to the daemon: the latest of each checker, however long the daemon does not look. So it neither
//! delays a probe nor lets memory grow.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{CheckUpdate, schedule::CheckerId};

/// Both ends share it.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waiting: Mutex<BTreeMap<CheckerId, CheckUpdate>>,
    /// Something waits.
    filled: Notify,
    /// Which checks cannot be made at present: a sentence each.
    obstacles: Mutex<BTreeMap<CheckerId, String>>,
}

impl Mailbox {
    /// Puts an update in, in place of an older one.
    pub(super) fn put(&self, id: CheckerId, update: CheckUpdate) {
        self.lock().insert(id, update);
        self.filled.notify_one();
    }

    /// Takes back what there is of a checker that is gone.
    pub(super) fn remove(&self, id: CheckerId) {
        self.lock().remove(&id);
        self.obstruct(id, None);
    }

    /// Says that a check cannot be made, or that it can again.
    pub(super) fn obstruct(&self, id: CheckerId, sentence: Option<String>) {
        let mut obstacles = self.lock_obstacles();
        match sentence {
            Some(sentence) => obstacles.insert(id, sentence),
            None => obstacles.remove(&id),
        };
    }

    /// Which checks cannot be made at present: a sentence each.
    pub(super) fn obstacles(&self) -> Vec<String> {
        self.lock_obstacles().values().cloned().collect()
    }

    fn lock_obstacles(&self) -> MutexGuard<'_, BTreeMap<CheckerId, String>> {
        let obstacles = self.obstacles.lock();
        obstacles.unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing that panics is done under the lock.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<CheckerId, CheckUpdate>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is new, for the daemon.
#[derive(Debug)]
pub struct Updates(pub(super) Arc<Mailbox>);

impl Updates {
    /// Waits until something is new; at most one update of each checker, the latest. Nothing is lost if the caller stops
    /// waiting.
    pub async fn next(&mut self) -> Vec<CheckUpdate> {
        loop {
            let waiting = std::mem::take(&mut *self.0.lock());
            if !waiting.is_empty() {
                return waiting.into_values().collect();
            }
            // Filled since, it does not wait: the notice is kept for the one who reads.
            self.0.filled.notified().await;
        }
    }
}
