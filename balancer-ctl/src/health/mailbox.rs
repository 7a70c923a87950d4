//! Updates on their way to the daemon: the latest of each checker, however long the daemon does not look. So it neither
//! delays a probe nor lets memory grow.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{Update, schedule::CheckerId};

/// Both ends share it.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waiting: Mutex<BTreeMap<CheckerId, Update>>,
    /// Something waits.
    filled: Notify,
}

impl Mailbox {
    /// Puts an update in, in place of an older one.
    pub(super) fn put(&self, id: CheckerId, update: Update) {
        self.lock().insert(id, update);
        self.filled.notify_one();
    }

    /// Takes back what waits of a checker that is gone.
    pub(super) fn remove(&self, id: CheckerId) {
        self.lock().remove(&id);
    }

    /// Nothing that panics is done under the lock.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<CheckerId, Update>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is new, for the daemon.
#[derive(Debug)]
pub struct Updates(pub(super) Arc<Mailbox>);

impl Updates {
    /// Waits until something is new; at most one update of each checker, the latest. Nothing is lost if the caller stops
    /// waiting.
    pub async fn next(&mut self) -> Vec<Update> {
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
