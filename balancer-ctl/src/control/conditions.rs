//! The node's conditions: what is wrong with the node as a whole at present. A change of one returns the event to publish.
//! Pure.

use std::collections::{BTreeMap, btree_map::Entry};

use crate::model::{condition::Condition, diff::Event};

/// The conditions that last, each with its latest cause, a sentence for people.
#[derive(Debug, Default)]
pub struct Conditions {
    details: BTreeMap<Condition, String>,
}

/// What a call changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The condition began or ended: the event is to be published.
    Event(Event),
    /// It lasts for another cause than before, which is to be logged.
    NewDetail,
    /// Nothing.
    None,
}

impl Conditions {
    /// A condition begins, or lasts for the cause `detail`.
    pub fn set(&mut self, condition: Condition, detail: &str) -> Transition {
        match self.details.entry(condition) {
            Entry::Vacant(entry) => {
                entry.insert(detail.to_owned());
                Transition::Event(Event::of_node(condition.beginning(), detail))
            }
            Entry::Occupied(mut entry) if entry.get() != detail => {
                detail.clone_into(entry.get_mut());
                Transition::NewDetail
            }
            Entry::Occupied(_) => Transition::None,
        }
    }

    /// A condition ends, if it lasted.
    pub fn clear(&mut self, condition: Condition, detail: &str) -> Transition {
        match self.details.remove(&condition) {
            Some(_) => Transition::Event(Event::of_node(condition.end(), detail)),
            None => Transition::None,
        }
    }

    /// The cause of a condition; `None` if it does not last.
    #[must_use]
    pub fn detail(&self, condition: Condition) -> Option<&str> {
        self.details.get(&condition).map(String::as_str)
    }

    /// Whether a condition lasts.
    #[must_use]
    pub fn lasts(&self, condition: Condition) -> bool {
        self.details.contains_key(&condition)
    }

    /// The conditions that last with their causes, in the order in which `status` lists them.
    pub fn iter(&self) -> impl Iterator<Item = (Condition, &str)> {
        self.details
            .iter()
            .map(|(condition, detail)| (*condition, detail.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::EventKind;

    #[test]
    fn a_condition_is_an_event_when_it_begins_and_when_it_ends() {
        const STALLED: Condition = Condition::ChecksStalled;
        let event = |kind, detail: &str| Transition::Event(Event::of_node(kind, detail));
        let mut conditions = Conditions::default();
        assert_eq!(conditions.clear(STALLED, ""), Transition::None);
        let began = conditions.set(STALLED, "one");
        assert_eq!(began, event(EventKind::ChecksStalled, "one"));
        assert_eq!(conditions.set(STALLED, "one"), Transition::None);
        assert_eq!(conditions.set(STALLED, "two"), Transition::NewDetail);
        assert_eq!(conditions.detail(STALLED), Some("two"));
        assert!(conditions.lasts(STALLED) && !conditions.lasts(Condition::TableFull));
        let listed: Vec<_> = conditions.iter().collect();
        assert_eq!(listed, [(STALLED, "two")]);
        let ended = conditions.clear(STALLED, "over");
        assert_eq!(ended, event(EventKind::ChecksResumed, "over"));
        assert_eq!(conditions.clear(STALLED, ""), Transition::None);
        assert_eq!(conditions.iter().count(), 0);
    }
}
