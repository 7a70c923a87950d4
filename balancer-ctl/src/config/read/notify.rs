//! `[[notify]]`: which programs are run for which events.

use std::time::Duration;

use toml_edit::TableLike;

use super::{Reader, keys::NOTIFY};
use crate::{
    config::validate::Place,
    model::{Notify, address::ServiceRef, enumeration::listed, event::EventKind},
};

/// How long a program may take when the file does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Events for which programs can be run: all but those that only mean something to a reader of the event stream.
pub const EVENTS: [EventKind; 34] = [
    EventKind::RealDown,
    EventKind::RealUp,
    EventKind::QuorumLost,
    EventKind::QuorumRegained,
    EventKind::BackupsIn,
    EventKind::BackupsOut,
    EventKind::TableFull,
    EventKind::TableRecovered,
    EventKind::ChecksStalled,
    EventKind::ChecksResumed,
    EventKind::DataplaneOutOfSync,
    EventKind::DataplaneInSync,
    EventKind::MaintenanceFailed,
    EventKind::MaintenanceRecovered,
    EventKind::RoutesUnwatched,
    EventKind::RoutesWatched,
    EventKind::FileOutOfSync,
    EventKind::FileInSync,
    EventKind::ServiceAdded,
    EventKind::ServiceChanged,
    EventKind::ServiceRemoved,
    EventKind::RealAdded,
    EventKind::RealChanged,
    EventKind::RealRemoved,
    EventKind::VirtualRouterAdded,
    EventKind::VirtualRouterChanged,
    EventKind::VirtualRouterRemoved,
    EventKind::Active,
    EventKind::Backup,
    EventKind::Fault,
    EventKind::NodeDown,
    EventKind::NodeUp,
    EventKind::Reloaded,
    EventKind::ReloadFailed,
];

impl Reader<'_> {
    pub(super) fn notify(&mut self, root: &dyn TableLike) -> Vec<Notify> {
        let mut programs = Vec::new();
        for table in self.blocks(root, "notify", "[[notify]]") {
            self.keys(table, &NOTIFY, "notify");
            let at = table.span().map_or(0, |span| span.start);
            let index = programs.len();
            let place = |key| Place::Notify(index, key);
            let on = self.events(table, place("on"), at);
            let services = self.services_of(table, place("services"));
            let timeout = self.duration(table, "timeout", place("timeout"));
            let alert_after = self.duration(table, "alert-after", place("alert-after"));
            let alert_every = self.duration(table, "alert-every", place("alert-every"));
            let always_up = self.boolean(table, "always-up", place("always-up"));
            let stdin = self.one_of(table, "stdin", place("stdin"));
            let user = self.user(table, place("user"));
            let Some(run) = self.program(table, place("run"), "notify", at) else {
                continue;
            };
            programs.push(Notify {
                on,
                services,
                run,
                user,
                timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
                alert_after: alert_after.unwrap_or_default(),
                alert_every,
                always_up: always_up.unwrap_or_default(),
                stdin: stdin.unwrap_or_default(),
            });
        }
        programs
    }

    fn events(&mut self, table: &dyn TableLike, place: Place, at: usize) -> Vec<EventKind> {
        const EXAMPLE: &str = "[\"real-down\", \"real-up\"]";
        if table.get("on").is_none() {
            self.problem(
                at,
                format!("notify has no events: add some, as in `on = {EXAMPLE}`"),
            );
        }
        let mut events = Vec::new();
        let Some(names) = self.strings(table, "on", place, EXAMPLE) else {
            return events;
        };
        if names.is_empty() {
            self.problem_at(
                place,
                format!("on is empty: name at least one event, as in `on = {EXAMPLE}`"),
            );
        }
        for (name, at) in names {
            match EVENTS.iter().find(|event| event.name() == name) {
                Some(event) if events.contains(event) => {
                    self.problem(at, format!("event `{name}` is named twice: name it once"));
                }
                Some(event) => events.push(*event),
                None => {
                    let known = EVENTS.map(EventKind::name);
                    self.problem(
                        at,
                        format!("event `{name}` is not known: expected {}", listed(&known)),
                    );
                }
            }
        }
        events
    }

    /// Services by name or by `tcp/ADDRESS:PORT`, in full whatever was written.
    fn services_of(&mut self, table: &dyn TableLike, place: Place) -> Vec<String> {
        let mut services = Vec::new();
        let names = self.strings(table, "services", place, "[\"web\"]");
        for (name, at) in names.unwrap_or_default() {
            match name.parse() {
                Ok(ServiceRef::Only) => {
                    self.problem(at, "`-` is no service: leave `services` out for all");
                }
                Ok(service) => services.push(service.to_string()),
                Err(error) => self.problem(at, error.to_string()),
            }
        }
        services
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_names_each_event() {
        let example = include_str!("../../../balancer.toml.example");
        let words: Vec<_> = example
            .split(|letter: char| !letter.is_ascii_lowercase() && letter != '-')
            .collect();
        for name in EVENTS.map(EventKind::name) {
            assert!(words.contains(&name), "the example lacks {name}");
        }
    }
}
