//! Decides which program is run for which event, and when. Pure: time is an argument.
//!
//! ```text
//!              lasts alert-after                alert-every
//!            ┌─────────┐ report beginning ┌──────────┐ ───────┐ report again
//!   ──begin──▶ pending ├─────────────────▶│ reported │ ◀──────┘
//!            └────┬────┘                  └────┬─────┘
//!        end:     │ report only        end:    │ report
//!                 ▼ with always-up             ▼
//! ```
//!
//! Events that neither begin nor end a condition are reported at once. When a real server, a service or another node is removed, or a
//! real server no longer checked, its conditions end: entries that reported the beginning report that the condition is no longer monitored.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::facts::ConditionHistory;
use self::facts::{ConditionKey, Facts, Monitored, Role, forget, role};
use crate::model::{
    Model, Notify, address::service_key, condition::Condition, event::EventKind, view::EventRecord,
};

mod facts;

/// One run of an entry's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The entry whose program is run.
    pub entry: EntryId,
    /// The entry.
    pub notify: Arc<Notify>,
    /// The event to report.
    pub event: NotificationEvent,
}

/// Identifies an entry for as long as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(u64);

/// An event with all that its programs are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationEvent {
    /// The event; of a condition that is reported late or again, the event that began it, with the latest message.
    pub record: EventRecord,
    /// The service's name, if it has one.
    pub name: Option<String>,
    /// The real servers of its service, for an event of a whole service.
    pub hosts: Vec<IpAddr>,
    /// How often this condition was reported before.
    pub repeats: u32,
    /// The condition is no longer monitored; whether it still lasts is unknown.
    pub is_unknown: bool,
    /// When the condition began and ended before.
    pub past: ConditionHistory,
}

/// A lasting condition as one entry sees it.
#[derive(Clone, Debug)]
struct Incident {
    began: Instant,
    /// When it was last reported; for an entry that does not ask for beginnings, when it would have been.
    last_reported: Option<Instant>,
    /// How often it was reported.
    count: u32,
    /// The event that began it, with the latest message.
    event: EventRecord,
}

impl Incident {
    /// When it is to be reported next.
    fn due(&self, notify: &Notify) -> Option<Instant> {
        let Some(last) = self.last_reported else {
            return self.began.checked_add(notify.alert_after);
        };
        let is_wanted = notify.on.contains(&self.event.event);
        let every = notify.alert_every.filter(|every| *every > Duration::ZERO);
        last.checked_add(every.filter(|_| is_wanted)?)
    }

    /// Counts the reports that were due until `until` as made.
    fn catch_up(&mut self, notify: &Notify, is_wanted: bool, until: Instant) {
        self.last_reported = None;
        self.count = 0;
        let Some(first) = self.began.checked_add(notify.alert_after) else {
            return;
        };
        let Some(since) = until.checked_duration_since(first) else {
            return;
        };
        let every = notify.alert_every.unwrap_or_default().as_nanos();
        let times = since.as_nanos().checked_div(every).unwrap_or_default();
        let rest = since.as_nanos().checked_rem(every);
        let rest = rest.map_or(since, Duration::from_nanos_u128);
        self.last_reported = until.checked_sub(rest).or(Some(first));
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        self.count = if is_wanted {
            times.saturating_add(1)
        } else {
            0
        };
    }
}

/// A configured entry.
#[derive(Clone, Debug)]
struct Entry {
    id: EntryId,
    notify: Arc<Notify>,
    incidents: BTreeMap<ConditionKey, Incident>,
}

impl Entry {
    fn notification(&self, record: EventRecord, repeats: u32, facts: &Facts) -> Notification {
        let past = facts.past(&record);
        let service = facts.service(&record);
        let name = service.and_then(|service| service.name.clone());
        let hosts = match (service, record.real) {
            (Some(service), None) => service.hosts.clone(),
            _ => Vec::new(),
        };
        Notification {
            entry: self.id,
            notify: Arc::clone(&self.notify),
            event: NotificationEvent {
                record,
                name,
                hosts,
                repeats,
                is_unknown: false,
                past,
            },
        }
    }

    /// Whether the entry's `services` include the event's. Events of the node pass.
    fn includes_service(&self, event: &EventRecord, facts: &Facts) -> bool {
        let Some(service) = &event.service else {
            return true;
        };
        let wanted = &self.notify.services;
        let name = facts
            .service(event)
            .and_then(|service| service.name.as_deref());
        wanted.is_empty()
            || wanted.iter().any(|wanted| {
                Some(wanted.as_str()) == name
                    || wanted == service
                    || service_key(wanted).is_ok_and(|key| key.to_string() == *service)
            })
    }

    fn wants(&self, kind: EventKind) -> bool {
        self.notify.on.contains(&kind)
    }

    /// Reports the incidents that are due.
    fn expire(&mut self, now: Instant, facts: &Facts, notifications: &mut Vec<Notification>) {
        let mut due = Vec::new();
        for incident in self.incidents.values_mut() {
            if incident.due(&self.notify).is_none_or(|due| due > now) {
                continue;
            }
            incident.last_reported = Some(now);
            if self.notify.on.contains(&incident.event.event) {
                due.push((incident.event.clone(), incident.count));
                incident.count += 1;
            }
        }
        notifications.extend(
            due.into_iter()
                .map(|(event, repeats)| self.notification(event, repeats, facts)),
        );
    }
}

/// The policy: all entries and their incidents.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    entries: Vec<Entry>,
    facts: Facts,
    /// No incident is due before this.
    earliest: Option<Instant>,
    next_id: u64,
}

impl Policy {
    /// Takes a model's entries over; `time` is the time of day. An entry that was there before, or one with the same program, keeps
    /// its incidents; those of real servers and services that are gone or no longer checked end.
    pub fn configure(&mut self, model: &Model, time: &str) -> Vec<Notification> {
        let present = Monitored::of(model);
        self.facts.configure(model);
        let mut old = std::mem::take(&mut self.entries);
        let mut take = |matches: &dyn Fn(&Notify) -> bool| {
            let position = old.iter().position(|entry| matches(&entry.notify))?;
            Some(old.remove(position))
        };
        // Equal entries first, so that none of them is matched with a changed one that has the same program.
        let mut kept: Vec<_> = model
            .notify
            .iter()
            .map(|notify| take(&|old| old == notify))
            .collect();
        for (kept, notify) in kept.iter_mut().zip(&model.notify) {
            if kept.is_none() {
                *kept = take(&|old| old.run == notify.run);
            }
        }
        for (kept, notify) in kept.into_iter().zip(&model.notify) {
            let mut entry = kept.unwrap_or_else(|| self.new_entry(notify));
            entry.notify = Arc::new(notify.clone());
            self.entries.push(entry);
        }
        self.end_gone(|key| present.why_gone(key), time)
    }

    /// Ends the incidents of other nodes than these; `time` is the time of day.
    pub fn retain_peers(&mut self, peers: &[String], time: &str) -> Vec<Notification> {
        self.end_gone(|key| key.why_gone_from(peers), time)
    }

    /// Ends the incidents that are no longer monitored: those for which there is a reason.
    fn end_gone(
        &mut self,
        why_gone: impl Fn(&ConditionKey) -> Option<&'static str>,
        time: &str,
    ) -> Vec<Notification> {
        let mut notifications = Vec::new();
        for entry in &mut self.entries {
            let gone: Vec<_> = entry
                .incidents
                .extract_if(.., |key, _| why_gone(key).is_some())
                .collect();
            for (key, incident) in gone {
                let why = why_gone(&key).unwrap_or_default();
                let event = key.end(time.to_owned(), why.to_owned());
                self.facts.note(&event);
                if incident.last_reported.is_some() && entry.wants(event.event) {
                    let mut notification = entry.notification(event, 0, &self.facts);
                    notification.event.is_unknown = true;
                    notifications.push(notification);
                }
            }
        }
        self.facts.prune(why_gone);
        self.find_earliest();
        notifications
    }

    fn new_entry(&mut self, notify: &Notify) -> Entry {
        let id = EntryId(self.next_id);
        self.next_id += 1;
        Entry {
            id,
            notify: Arc::new(notify.clone()),
            incidents: BTreeMap::new(),
        }
    }

    /// The configured entries.
    pub fn entries(&self) -> impl Iterator<Item = EntryId> {
        self.entries.iter().map(|entry| entry.id)
    }

    /// When [`Self::expire`] is to be called next.
    #[must_use]
    pub const fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Handles an event.
    pub fn handle(&mut self, event: &EventRecord, now: Instant) -> Vec<Notification> {
        // Conditions that became due before this event are reported before it.
        let mut notifications = self.expire(now);
        self.facts.note(event);
        let role = role(event.event);
        for entry in &mut self.entries {
            // An entry that reported the beginning reports the end, also if the service has another name by now.
            let mut was_reported = false;
            match role {
                Role::Plain => {}
                Role::Forgets => forget(&mut entry.incidents, event),
                Role::Begins(condition) => {
                    begin_incident(
                        entry,
                        condition,
                        event,
                        now,
                        &self.facts,
                        &mut notifications,
                    );
                    continue;
                }
                Role::Ends(condition) => {
                    let incident = entry.incidents.remove(&ConditionKey::of(event, condition));
                    was_reported =
                        incident.is_some_and(|incident| incident.last_reported.is_some());
                    if !was_reported && !entry.notify.always_up {
                        continue;
                    }
                }
            }
            if entry.wants(event.event)
                && (was_reported || entry.includes_service(event, &self.facts))
            {
                notifications.push(entry.notification(event.clone(), 0, &self.facts));
            }
        }
        self.find_earliest_after(event);
        notifications
    }

    /// Takes over a condition that began under an earlier daemon at `began`. Reports that were due until `until`, while that daemon
    /// ran, count as made; later ones and the end are still to be reported.
    pub fn assume(&mut self, event: &EventRecord, began: Instant, until: Instant) {
        let Role::Begins(condition) = role(event.event) else {
            return;
        };
        self.facts.note(event);
        for entry in &mut self.entries {
            // Reports that are due at once were made by the earlier daemon.
            begin_incident(entry, condition, event, began, &self.facts, &mut Vec::new());
            let is_wanted = entry.wants(condition.beginning());
            if let Some(incident) = entry.incidents.get_mut(&ConditionKey::of(event, condition)) {
                incident.catch_up(&entry.notify, is_wanted, until);
            }
        }
        self.find_earliest_after(event);
    }

    /// Reports all incidents that are due by now.
    pub fn expire(&mut self, now: Instant) -> Vec<Notification> {
        let mut notifications = Vec::new();
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return notifications;
        }
        for entry in &mut self.entries {
            entry.expire(now, &self.facts, &mut notifications);
        }
        self.find_earliest();
        notifications
    }

    fn find_earliest(&mut self) {
        let due = |entry: &Entry| {
            let due = entry
                .incidents
                .values()
                .filter_map(|incident| incident.due(&entry.notify));
            due.min()
        };
        self.earliest = self.entries.iter().filter_map(due).min();
    }

    /// As [`Self::find_earliest`] after one event, without a look at all other incidents: the result may be too early, not too late.
    fn find_earliest_after(&mut self, event: &EventRecord) {
        let Role::Begins(condition) = role(event.event) else {
            return;
        };
        let key = ConditionKey::of(event, condition);
        for entry in &self.entries {
            let incident = entry.incidents.get(&key);
            let due = incident.and_then(|incident| incident.due(&entry.notify));
            self.earliest = self.earliest.into_iter().chain(due).min();
        }
    }
}

/// Begins an incident, or updates its message.
fn begin_incident(
    entry: &mut Entry,
    condition: Condition,
    event: &EventRecord,
    now: Instant,
    facts: &Facts,
    notifications: &mut Vec<Notification>,
) {
    let is_wanted = entry.wants(condition.beginning());
    if !(is_wanted || entry.wants(condition.end())) || !entry.includes_service(event, facts) {
        return;
    }
    let key = ConditionKey::of(event, condition);
    if let Some(incident) = entry.incidents.get_mut(&key) {
        incident.event.message.clone_from(&event.message);
        return;
    }
    let is_due = entry.notify.alert_after.is_zero();
    let incident = Incident {
        began: now,
        last_reported: is_due.then_some(now),
        count: u32::from(is_due && is_wanted),
        event: event.clone(),
    };
    entry.incidents.insert(key, incident);
    if is_due && is_wanted {
        notifications.push(entry.notification(event.clone(), 0, facts));
    }
}

#[cfg(test)]
mod tests;
