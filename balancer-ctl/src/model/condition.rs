//! Conditions: states that are bad for as long as they last. Each begins with one event and ends with another; `status` lists
//! those that last, and `[[notify]]` reports both ends.

use super::event::EventKind;

/// A state that is bad for as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// The loop that runs the checkers has not run for some seconds, or has ended.
    ChecksStalled,
    /// The packet program does not run the services as model and health require.
    DataplaneOutOfSync,
    /// The thread that watches changes of routes, links and neighbours does not run, so that they take effect some seconds late.
    RoutesUnwatched,
    /// The data plane's periodic work failed.
    MaintenanceFailed,
    /// New connections are refused, since their connection table is full.
    TableFull,
    /// Another node does not answer.
    NodeDown,
    /// The configuration file is not the one that was loaded, or that is not known.
    FileOutOfSync,
    /// A service's live weight is below its quorum.
    QuorumLost,
    /// A real server is down.
    RealDown,
}

impl Condition {
    /// All conditions.
    pub const ALL: [Self; 9] = [
        Self::ChecksStalled,
        Self::DataplaneOutOfSync,
        Self::RoutesUnwatched,
        Self::MaintenanceFailed,
        Self::TableFull,
        Self::NodeDown,
        Self::FileOutOfSync,
        Self::QuorumLost,
        Self::RealDown,
    ];

    /// The events that report its beginning and its end.
    #[must_use]
    pub const fn events(self) -> [EventKind; 2] {
        match self {
            Self::ChecksStalled => [EventKind::ChecksStalled, EventKind::ChecksResumed],
            Self::DataplaneOutOfSync => [EventKind::DataplaneOutOfSync, EventKind::DataplaneInSync],
            Self::RoutesUnwatched => [EventKind::RoutesUnwatched, EventKind::RoutesWatched],
            Self::MaintenanceFailed => [
                EventKind::MaintenanceFailed,
                EventKind::MaintenanceRecovered,
            ],
            Self::TableFull => [EventKind::TableFull, EventKind::TableRecovered],
            Self::NodeDown => [EventKind::NodeDown, EventKind::NodeUp],
            Self::FileOutOfSync => [EventKind::FileOutOfSync, EventKind::FileInSync],
            Self::QuorumLost => [EventKind::QuorumLost, EventKind::QuorumRegained],
            Self::RealDown => [EventKind::RealDown, EventKind::RealUp],
        }
    }

    /// The event that reports its beginning.
    #[must_use]
    pub const fn beginning(self) -> EventKind {
        self.events()[0]
    }

    /// The event that reports its end.
    #[must_use]
    pub const fn end(self) -> EventKind {
        self.events()[1]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_event_belongs_to_two_conditions() {
        let events = Condition::ALL.map(Condition::events);
        let distinct: HashSet<_> = events.iter().flatten().collect();
        assert_eq!(distinct.len(), 2 * Condition::ALL.len());
    }
}
