//! The node's conditions: what is wrong with the node as a whole at present, and since when. A change of one gives the event
//! that tells of it. Pure.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Instant,
};

use crate::model::{condition::Condition, diff::Event};

/// The conditions that last.
#[derive(Debug, Default)]
pub struct Conditions {
    lasting: BTreeMap<Condition, Lasting>,
}

/// A condition that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// The latest cause, for people.
    pub detail: String,
    /// When it began.
    pub since: Instant,
}

/// What a call changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The condition began or ended: everybody is told.
    Event(Event),
    /// It lasts for another cause than before: the log says so.
    NewDetail,
    /// Nothing.
    None,
}

impl Conditions {
    /// A condition begins, or lasts for the cause `detail`.
    pub fn set(&mut self, condition: Condition, detail: &str, now: Instant) -> Transition {
        match self.lasting.entry(condition) {
            Entry::Vacant(entry) => {
                entry.insert(Lasting {
                    detail: detail.to_owned(),
                    since: now,
                });
                Transition::Event(Event::of_node(condition.beginning(), detail))
            }
            Entry::Occupied(mut entry) if entry.get().detail != detail => {
                detail.clone_into(&mut entry.get_mut().detail);
                Transition::NewDetail
            }
            Entry::Occupied(_) => Transition::None,
        }
    }

    /// A condition ends, if it lasted.
    pub fn clear(&mut self, condition: Condition, detail: &str) -> Transition {
        match self.lasting.remove(&condition) {
            Some(_) => Transition::Event(Event::of_node(condition.end(), detail)),
            None => Transition::None,
        }
    }

    /// A condition that lasts.
    #[must_use]
    pub fn get(&self, condition: Condition) -> Option<&Lasting> {
        self.lasting.get(&condition)
    }

    /// Whether a condition lasts.
    #[must_use]
    pub fn lasts(&self, condition: Condition) -> bool {
        self.lasting.contains_key(&condition)
    }

    /// The conditions that last, in the order in which `status` lists them.
    pub fn iter(&self) -> impl Iterator<Item = (Condition, &Lasting)> {
        self.lasting
            .iter()
            .map(|(condition, lasting)| (*condition, lasting))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::event::EventKind;

    #[test]
    fn a_condition_is_told_when_it_begins_and_when_it_ends() {
        const STALLED: Condition = Condition::ChecksStalled;
        let event = |kind, detail: &str| Transition::Event(Event::of_node(kind, detail));
        let start = Instant::now();
        let mut conditions = Conditions::default();
        assert_eq!(conditions.clear(STALLED, ""), Transition::None);
        let began = conditions.set(STALLED, "one", start);
        assert_eq!(began, event(EventKind::ChecksStalled, "one"));
        let later = start + Duration::from_secs(5);
        assert_eq!(conditions.set(STALLED, "one", later), Transition::None);
        assert_eq!(conditions.set(STALLED, "two", later), Transition::NewDetail);
        let lasting = Lasting {
            detail: "two".to_owned(),
            since: start,
        };
        assert_eq!(conditions.get(STALLED), Some(&lasting));
        assert!(conditions.lasts(STALLED) && !conditions.lasts(Condition::TableFull));
        let listed: Vec<_> = conditions.iter().collect();
        assert_eq!(listed, [(STALLED, &lasting)]);
        let ended = conditions.clear(STALLED, "over");
        assert_eq!(ended, event(EventKind::ChecksResumed, "over"));
        assert_eq!(conditions.clear(STALLED, ""), Transition::None);
        assert_eq!(conditions.iter().count(), 0);
    }
}
