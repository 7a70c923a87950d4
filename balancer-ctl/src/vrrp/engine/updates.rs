//! What the daemon is told. It may read late: lines to log are lost then, and of a group's states the latest is kept.

use std::time::Instant;

use tokio::sync::mpsc::{self, error::TrySendError};

use crate::vrrp::report::{Change, Update};

/// The way to the daemon, which never waits for it.
pub(super) struct Updates {
    sender: mpsc::Sender<Update>,
    /// What did not fit, the oldest first: at most one of each kind for each group.
    waiting: Vec<Update>,
}

impl Updates {
    pub(super) const fn new(sender: mpsc::Sender<Update>) -> Self {
        Self {
            sender,
            waiting: Vec::new(),
        }
    }

    /// Has a line logged, by the daemon: a log that is not read must not stop this thread.
    pub(super) fn warn(&self, sentence: String) {
        let _ = self.sender.try_send(Update::Warning(sentence));
    }

    /// Tells of a group's state, soon or later.
    pub(super) fn change(&mut self, change: Change) {
        self.waiting
            .retain(|old| !matches!(old, Update::Changed(old) if old.group == change.group));
        self.send(Update::Changed(change));
    }

    /// Tells of a group's failures, soon or later.
    pub(super) fn fail(&mut self, group: String, failures: Vec<Instant>) {
        self.waiting
            .retain(|old| !matches!(old, Update::Failed { group: old, .. } if *old == group));
        self.send(Update::Failed { group, failures });
    }

    fn send(&mut self, update: Update) {
        self.waiting.push(update);
        self.flush();
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn flush(&mut self) {
        while !self.waiting.is_empty() {
            match self.sender.try_send(self.waiting.remove(0)) {
                Ok(()) => {}
                Err(TrySendError::Full(update)) => {
                    self.waiting.insert(0, update);
                    return;
                }
                // Nobody listens any more.
                Err(TrySendError::Closed(_)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::vrrp::VirtualRouterState;

    fn change(group: &str, state: VirtualRouterState) -> Change {
        Change {
            group: group.to_owned(),
            state,
            reason: String::new(),
        }
    }

    #[test]
    fn of_each_group_the_latest_state_is_not_lost() {
        use VirtualRouterState::{Active, Backup, Fault};
        let (sender, mut inbox) = mpsc::channel(1);
        let mut updates = Updates::new(sender);
        updates.warn("first".to_owned());
        updates.warn("this one is lost".to_owned());
        let (began, failed) = (Instant::now(), |times| Update::Failed {
            group: "a".to_owned(),
            failures: times,
        });
        for state in [Active, Fault, Backup] {
            updates.change(change("a", state));
            updates.change(change("b", Active));
        }
        updates.fail("a".to_owned(), vec![began]);
        updates.fail("a".to_owned(), vec![began, began]);
        let mut told = Vec::new();
        while let Ok(update) = inbox.try_recv() {
            told.push(update);
            updates.flush();
        }
        let expected = [
            Update::Warning("first".to_owned()),
            Update::Changed(change("a", Backup)),
            Update::Changed(change("b", Active)),
            failed(vec![began, began]),
        ];
        assert_eq!(told, expected);
    }
}
