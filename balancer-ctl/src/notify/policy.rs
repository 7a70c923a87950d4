//! Which programs are told of what, and when. Pure: time is an argument.
//!
//! ```text
//!                     lasts alert-after             alert-every
//!            ┌───────┐ tell beginning   ┌──────┐ ────────┐ tell again
//!   ──begin──▶ young ├─────────────────▶│ told │ ◀───────┘
//!            └───┬───┘                  └──┬───┘
//!        end:    │ tell only        end:   │ tell
//!                ▼ with always-up          ▼
//! ```
//!
//! What is no trouble and ends none is told at once. A real server or service that is gone ends its troubles silently.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    address::service_key,
    event::EventKind,
    model::{AdminState, Model, Notify},
    view::Event,
};

/// Something to tell a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tell {
    /// Which entry's program.
    pub entry: EntryId,
    /// The entry.
    pub notify: Arc<Notify>,
    /// What.
    pub news: News,
}

/// An entry, for as long as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(u64);

/// An event as a program is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// What happened; of a trouble that is told late or again, how it began, with the latest message.
    pub event: Event,
    /// The service's name, if it has one.
    pub name: Option<String>,
    /// The real servers of its service, where it is about all of that.
    pub hosts: Vec<IpAddr>,
    /// How often this was told before.
    pub again: u32,
    /// When this failed and passed before.
    pub past: Past,
}

/// When something failed and passed, as far as events told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Beginning of the trouble that is there, or was there last.
    pub first_failure: Option<SystemTime>,
    /// Last sign of it.
    pub last_failure: Option<SystemTime>,
    /// Last end of a trouble.
    pub last_success: Option<SystemTime>,
}

/// A state that is bad for as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Trouble {
    RealDown,
    QuorumLost,
    TableFull,
}

impl Trouble {
    const fn beginning(self) -> EventKind {
        match self {
            Self::RealDown => EventKind::RealDown,
            Self::QuorumLost => EventKind::QuorumLost,
            Self::TableFull => EventKind::TableFull,
        }
    }

    const fn end(self) -> EventKind {
        match self {
            Self::RealDown => EventKind::RealUp,
            Self::QuorumLost => EventKind::QuorumRegained,
            Self::TableFull => EventKind::TableHasRoom,
        }
    }
}

/// What an event is to troubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Begins(Trouble),
    Ends(Trouble),
    /// What it is about is gone, or new.
    Forgets,
    Plain,
}

const fn role(kind: EventKind) -> Role {
    match kind {
        EventKind::RealDown => Role::Begins(Trouble::RealDown),
        EventKind::RealUp => Role::Ends(Trouble::RealDown),
        EventKind::QuorumLost => Role::Begins(Trouble::QuorumLost),
        EventKind::QuorumRegained => Role::Ends(Trouble::QuorumLost),
        EventKind::TableFull => Role::Begins(Trouble::TableFull),
        EventKind::TableHasRoom => Role::Ends(Trouble::TableFull),
        EventKind::ServiceAdded
        | EventKind::ServiceRemoved
        | EventKind::RealAdded
        | EventKind::RealRemoved => Role::Forgets,
        EventKind::ServiceChanged
        | EventKind::RealChanged
        | EventKind::Reloaded
        | EventKind::ReloadFailed
        | EventKind::BackupsIn
        | EventKind::BackupsOut
        | EventKind::Lost
        | EventKind::Stopping => Role::Plain,
    }
}

/// Where which trouble is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    service: Option<String>,
    real: Option<SocketAddr>,
    trouble: Trouble,
}

impl Place {
    fn of(event: &Event, trouble: Trouble) -> Self {
        Self {
            service: event.service.clone(),
            real: event.real,
            trouble,
        }
    }

    /// Whether an event about a service or real server as a whole is about this too.
    fn is_within(&self, event: &Event) -> bool {
        self.service == event.service && (event.real.is_none() || self.real == event.real)
    }
}

/// A trouble as one entry sees it.
#[derive(Clone, Debug)]
struct Case {
    began: Instant,
    /// When it was told last; an entry that does not ask for beginnings counts them as told.
    told: Option<Instant>,
    /// How often it was told.
    times: u32,
    /// How it began, with the latest message.
    event: Event,
}

impl Case {
    /// When it is to be told next.
    fn due(&self, notify: &Notify) -> Option<Instant> {
        let Some(told) = self.told else {
            return self.began.checked_add(notify.alert_after);
        };
        let is_wanted = notify.on.contains(&self.event.event);
        let every = notify.alert_every.filter(|every| *every > Duration::ZERO);
        told.checked_add(every.filter(|_| is_wanted)?)
    }
}

/// A configured entry.
#[derive(Clone, Debug)]
struct Entry {
    id: EntryId,
    notify: Arc<Notify>,
    cases: BTreeMap<Place, Case>,
}

impl Entry {
    fn tell(&self, event: Event, again: u32, facts: &Facts) -> Tell {
        let past = facts.past(&event);
        let service = facts.service(&event);
        let name = service.and_then(|service| service.name.clone());
        let hosts = match (service, event.real) {
            (Some(service), None) => service.hosts.clone(),
            _ => Vec::new(),
        };
        Tell {
            entry: self.id,
            notify: Arc::clone(&self.notify),
            news: News {
                event,
                name,
                hosts,
                again,
                past,
            },
        }
    }

    /// Whether it asks about what the event is about. Events of the node are of no service and pass.
    fn asks_about(&self, event: &Event, facts: &Facts) -> bool {
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

    /// Tells what has lasted long enough.
    fn expire(&mut self, now: Instant, facts: &Facts, tells: &mut Vec<Tell>) {
        let mut due = Vec::new();
        for case in self.cases.values_mut() {
            if case.due(&self.notify).is_none_or(|due| due > now) {
                continue;
            }
            case.told = Some(now);
            if self.notify.on.contains(&case.event.event) {
                due.push((case.event.clone(), case.times));
                case.times += 1;
            }
        }
        tells.extend(
            due.into_iter()
                .map(|(event, again)| self.tell(event, again, facts)),
        );
    }
}

/// What is known of a service.
#[derive(Clone, Debug)]
struct Service {
    name: Option<String>,
    hosts: Vec<IpAddr>,
}

/// What is known of services, whoever is told.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// By key, as events have it.
    services: HashMap<String, Service>,
    /// Services that the last configuration took away: that they are gone is still to be told.
    former: HashMap<String, Service>,
    past: HashMap<Place, Past>,
}

impl Facts {
    fn service(&self, event: &Event) -> Option<&Service> {
        let key = event.service.as_ref()?;
        self.services.get(key).or_else(|| self.former.get(key))
    }

    fn configure(&mut self, model: &Model) {
        let services = model.services.iter().map(|service| {
            let facts = Service {
                name: service.name.clone(),
                hosts: service.reals.iter().map(|real| real.address.ip()).collect(),
            };
            (service.key.to_string(), facts)
        });
        self.former = std::mem::replace(&mut self.services, services.collect());
        self.former
            .retain(|key, _| !self.services.contains_key(key));
    }

    fn past(&self, event: &Event) -> Past {
        let (Role::Begins(trouble) | Role::Ends(trouble)) = role(event.event) else {
            return Past::default();
        };
        let place = Place::of(event, trouble);
        self.past.get(&place).copied().unwrap_or_default()
    }

    /// Notes when things failed and passed.
    fn note(&mut self, event: &Event) {
        let time = humantime::parse_rfc3339(&event.time).ok();
        match role(event.event) {
            Role::Begins(trouble) => {
                let past = self.past.entry(Place::of(event, trouble)).or_default();
                let has_passed =
                    past.last_success.is_some() && past.last_success >= past.last_failure;
                if past.first_failure.is_none() || has_passed {
                    past.first_failure = time;
                }
                past.last_failure = time;
            }
            Role::Ends(trouble) => {
                let past = self.past.entry(Place::of(event, trouble)).or_default();
                past.last_success = time;
            }
            Role::Forgets => self.past.retain(|place, _| !place.is_within(event)),
            Role::Plain => {}
        }
    }
}

/// Decides who is told.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    entries: Vec<Entry>,
    facts: Facts,
    /// No case is due before this.
    earliest: Option<Instant>,
    next_id: u64,
}

impl Policy {
    /// Takes a model's entries. Those that were there, or at least their program, keep the troubles they know; troubles
    /// of what is not there any more, or is let alone on purpose, end silently.
    pub fn configure(&mut self, model: &Model) {
        let present = Present::of(model);
        self.facts.configure(model);
        let mut old = std::mem::take(&mut self.entries);
        let mut take = |is_it: &dyn Fn(&Notify) -> bool| {
            let position = old.iter().position(|entry| is_it(&entry.notify))?;
            Some(old.remove(position))
        };
        // Equal entries first, so that none of them is taken for another with the same program.
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
            entry.cases.retain(|place, _| present.has(place));
            self.entries.push(entry);
        }
        self.facts.past.retain(|place, _| present.has(place));
        self.find_earliest();
    }

    fn new_entry(&mut self, notify: &Notify) -> Entry {
        let id = EntryId(self.next_id);
        self.next_id += 1;
        Entry {
            id,
            notify: Arc::new(notify.clone()),
            cases: BTreeMap::new(),
        }
    }

    /// The entries there are.
    pub fn entries(&self) -> impl Iterator<Item = EntryId> {
        self.entries.iter().map(|entry| entry.id)
    }

    /// When [`Self::expire`] is to be called next.
    #[must_use]
    pub const fn next_deadline(&self) -> Option<Instant> {
        self.earliest
    }

    /// Takes an event.
    pub fn handle(&mut self, event: &Event, now: Instant) -> Vec<Tell> {
        // What has lasted long enough before this event is told before it.
        let mut tells = self.expire(now);
        self.facts.note(event);
        let role = role(event.event);
        for entry in &mut self.entries {
            match role {
                Role::Plain => {}
                Role::Forgets => entry.cases.retain(|place, _| !place.is_within(event)),
                Role::Begins(trouble) => {
                    begin(entry, trouble, event, now, &self.facts, &mut tells);
                    continue;
                }
                Role::Ends(trouble) => {
                    let case = entry.cases.remove(&Place::of(event, trouble));
                    let was_told = case.is_some_and(|case| case.told.is_some());
                    if !was_told && !entry.notify.always_up {
                        continue;
                    }
                }
            }
            if entry.wants(event.event) && entry.asks_about(event, &self.facts) {
                tells.push(entry.tell(event.clone(), 0, &self.facts));
            }
        }
        self.find_earliest_after(event);
        tells
    }

    /// Takes a trouble that was told already, by a daemon that ran before: its end is to be told.
    pub fn assume(&mut self, event: &Event, now: Instant) {
        let Role::Begins(trouble) = role(event.event) else {
            return;
        };
        self.facts.note(event);
        for entry in &mut self.entries {
            begin(entry, trouble, event, now, &self.facts, &mut Vec::new());
            if let Some(case) = entry.cases.get_mut(&Place::of(event, trouble))
                && case.told.is_none()
            {
                case.told = Some(now);
                case.times = 1;
            }
        }
        self.find_earliest_after(event);
    }

    /// Tells what has lasted long enough by now.
    pub fn expire(&mut self, now: Instant) -> Vec<Tell> {
        let mut tells = Vec::new();
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return tells;
        }
        for entry in &mut self.entries {
            entry.expire(now, &self.facts, &mut tells);
        }
        self.find_earliest();
        tells
    }

    fn find_earliest(&mut self) {
        let due = |entry: &Entry| {
            let due = entry
                .cases
                .values()
                .filter_map(|case| case.due(&entry.notify));
            due.min()
        };
        self.earliest = self.entries.iter().filter_map(due).min();
    }

    /// The same once an event was taken, without a look at all other cases: the time is then at most too early.
    fn find_earliest_after(&mut self, event: &Event) {
        let Role::Begins(trouble) = role(event.event) else {
            return;
        };
        let place = Place::of(event, trouble);
        for entry in &self.entries {
            let case = entry.cases.get(&place);
            let due = case.and_then(|case| case.due(&entry.notify));
            self.earliest = self.earliest.into_iter().chain(due).min();
        }
    }
}

/// A trouble begins, or shows itself again.
fn begin(
    entry: &mut Entry,
    trouble: Trouble,
    event: &Event,
    now: Instant,
    facts: &Facts,
    tells: &mut Vec<Tell>,
) {
    let is_wanted = entry.wants(trouble.beginning());
    if !(is_wanted || entry.wants(trouble.end())) || !entry.asks_about(event, facts) {
        return;
    }
    let place = Place::of(event, trouble);
    if let Some(case) = entry.cases.get_mut(&place) {
        case.event.message.clone_from(&event.message);
        return;
    }
    let is_due = entry.notify.alert_after.is_zero();
    let case = Case {
        began: now,
        told: is_due.then_some(now),
        times: u32::from(is_due && is_wanted),
        event: event.clone(),
    };
    entry.cases.insert(place, case);
    if is_due && is_wanted {
        tells.push(entry.tell(event.clone(), 0, facts));
    }
}

/// What can be in trouble: services, and their real servers that are not let alone on purpose.
struct Present {
    reals: HashMap<String, HashSet<SocketAddr>>,
}

impl Present {
    fn of(model: &Model) -> Self {
        let reals = model.services.iter().map(|service| {
            let watched = service
                .reals
                .iter()
                .filter(|real| real.state != AdminState::Maintenance)
                .map(|real| real.address);
            (service.key.to_string(), watched.collect())
        });
        Self {
            reals: reals.collect(),
        }
    }

    fn has(&self, place: &Place) -> bool {
        let Some(service) = &place.service else {
            return true;
        };
        let reals = self.reals.get(service);
        reals.is_some_and(|reals| place.real.is_none_or(|real| reals.contains(&real)))
    }
}

#[cfg(test)]
mod tests;
