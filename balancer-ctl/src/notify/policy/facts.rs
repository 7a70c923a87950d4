//! What the policy knows of services and real servers, independent of entries: names, hosts, and when conditions began and ended.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use crate::model::{AdminState, Model, condition::Condition, event::EventKind, view::EventRecord};

/// When a condition began and ended, as far as events reported it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConditionHistory {
    /// When the present or last condition began.
    pub first_failure: Option<SystemTime>,
    /// When an event last said that it is there.
    pub last_failure: Option<SystemTime>,
    /// When it last ended.
    pub last_success: Option<SystemTime>,
}

/// What an event does to conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Begins(Condition),
    Ends(Condition),
    /// Its service or real server was added or removed: its conditions are forgotten.
    Forgets,
    Plain,
}

pub(super) fn role(kind: EventKind) -> Role {
    for condition in Condition::ALL {
        let [beginning, end] = condition.events();
        if kind == beginning {
            return Role::Begins(condition);
        }
        if kind == end {
            return Role::Ends(condition);
        }
    }
    match kind {
        EventKind::ServiceAdded
        | EventKind::ServiceRemoved
        | EventKind::RealAdded
        | EventKind::RealRemoved => Role::Forgets,
        _ => Role::Plain,
    }
}

/// A condition of a service, a real server, the node or another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConditionKey {
    service: Option<String>,
    real: Option<SocketAddr>,
    peer: Option<String>,
    condition: Condition,
}

impl ConditionKey {
    pub(super) fn of(event: &EventRecord, condition: Condition) -> Self {
        Self {
            service: event.service.clone(),
            real: event.real,
            peer: event.peer.clone(),
            condition,
        }
    }

    /// Why a condition of another node is no longer monitored, where these are all there are; `None` while it is.
    pub(super) fn why_gone_from(&self, peers: &[String]) -> Option<&'static str> {
        let peer = self.peer.as_ref()?;
        (!peers.contains(peer)).then_some("no longer watched: the node was taken out")
    }

    /// The event that ends it.
    pub(super) fn end(&self, time: String, message: String) -> EventRecord {
        EventRecord {
            time,
            event: self.condition.end(),
            service: self.service.clone(),
            real: self.real,
            peer: self.peer.clone(),
            message,
        }
    }
}

/// Removes the entries of a real server, or of a service and its real servers.
pub(super) fn forget<T>(keys: &mut BTreeMap<ConditionKey, T>, event: &EventRecord) {
    if event.real.is_some() {
        // A real server has no other condition.
        keys.remove(&ConditionKey::of(event, Condition::RealDown));
    } else {
        keys.retain(|key, _| key.service != event.service);
    }
}

/// A service's name and hosts.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) name: Option<String>,
    pub(super) hosts: Vec<IpAddr>,
}

/// Names and hosts of the services, and when their conditions began and ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// By the service's key as events contain it.
    services: HashMap<String, Service>,
    /// Services that the last configuration removed, for the events that report that.
    former: HashMap<String, Service>,
    past: BTreeMap<ConditionKey, ConditionHistory>,
}

impl Facts {
    pub(super) fn service(&self, event: &EventRecord) -> Option<&Service> {
        let key = event.service.as_ref()?;
        self.services.get(key).or_else(|| self.former.get(key))
    }

    pub(super) fn configure(&mut self, model: &Model) {
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

    pub(super) fn past(&self, event: &EventRecord) -> ConditionHistory {
        let (Role::Begins(condition) | Role::Ends(condition)) = role(event.event) else {
            return ConditionHistory::default();
        };
        let key = ConditionKey::of(event, condition);
        self.past.get(&key).copied().unwrap_or_default()
    }

    /// Forgets what is no longer monitored.
    pub(super) fn prune(&mut self, why_gone: impl Fn(&ConditionKey) -> Option<&'static str>) {
        self.past.retain(|key, _| why_gone(key).is_none());
    }

    /// Records when a condition began or ended.
    pub(super) fn note(&mut self, event: &EventRecord) {
        let time = humantime::parse_rfc3339(&event.time).ok();
        match role(event.event) {
            Role::Begins(condition) => {
                let past = self
                    .past
                    .entry(ConditionKey::of(event, condition))
                    .or_default();
                let has_passed =
                    past.last_success.is_some() && past.last_success >= past.last_failure;
                if past.first_failure.is_none() || has_passed {
                    past.first_failure = time;
                }
                past.last_failure = time;
            }
            Role::Ends(condition) => {
                let past = self
                    .past
                    .entry(ConditionKey::of(event, condition))
                    .or_default();
                past.last_success = time;
            }
            Role::Forgets => forget(&mut self.past, event),
            Role::Plain => {}
        }
    }
}

/// What can have conditions: services, and their real servers that are probed. A real server that is not probed has none: no event
/// would report the end.
pub(super) struct Monitored {
    services: HashMap<String, MonitoredReals>,
}

/// A service's real servers, each with the reason why it is not probed, if so.
type MonitoredReals = HashMap<SocketAddr, Option<&'static str>>;

impl Monitored {
    pub(super) fn of(model: &Model) -> Self {
        let services = model.services.iter().map(|service| {
            let reals = service.reals.iter().map(|real| {
                let why = if service.checks.is_empty() {
                    Some("no longer watched: it has no check")
                } else if real.state == AdminState::Maintenance {
                    Some("no longer watched: in maintenance")
                } else {
                    None
                };
                (real.address, why)
            });
            (service.key.to_string(), reals.collect())
        });
        Self {
            services: services.collect(),
        }
    }

    /// Why a condition is no longer monitored; `None` while it is.
    pub(super) fn why_gone(&self, key: &ConditionKey) -> Option<&'static str> {
        let service = key.service.as_ref()?;
        let Some(reals) = self.services.get(service) else {
            return Some("no longer watched: the service was removed");
        };
        match reals.get(&key.real?) {
            None => Some("no longer watched: removed"),
            Some(why) => *why,
        }
    }
}
