//! Computes the events for the differences between two models. Pure.

use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use toml_edit::InlineTable;

use crate::{
    model::{
        AdminState, Check, Model, RealServer, VirtualRouter, VirtualService,
        check::keys,
        real::REAL_SETTINGS,
        service::SERVICE_SETTINGS,
        setting,
        view::{EventKind, EventRecord},
        vrrp,
    },
    os::clock,
};

/// An event without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its kind.
    pub kind: EventKind,
    /// The service as `tcp/ADDRESS:PORT`; `None` = no particular one.
    pub service: Option<String>,
    /// The real server; `None` = no particular one.
    pub real: Option<SocketAddr>,
    /// The other node, by name; `None` = no particular one.
    pub peer: Option<String>,
    /// Details in words; may be empty.
    pub message: String,
}

impl Event {
    /// An event of the node as a whole.
    #[must_use]
    pub fn of_node(kind: EventKind, message: &str) -> Self {
        Self {
            kind,
            service: None,
            real: None,
            peer: None,
            message: message.to_owned(),
        }
    }

    /// An event of another node, with the reason, if there is one.
    #[must_use]
    pub fn of_peer(kind: EventKind, name: &str, reason: Option<&str>) -> Self {
        let message = match reason {
            None => name.to_owned(),
            Some(reason) => format!("{name}: {reason}"),
        };
        Self {
            peer: Some(name.to_owned()),
            ..Self::of_node(kind, &message)
        }
    }

    /// It in a line: its kind, what it is about, and the details.
    #[must_use]
    pub fn line(self) -> String {
        let words = [
            Some(self.kind.name().to_owned()),
            self.service,
            self.real.map(|real| real.to_string()),
            Some(self.message).filter(|message| !message.is_empty()),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Its record, with the time at which it happened.
    #[must_use]
    pub fn record(self, time: SystemTime) -> EventRecord {
        EventRecord {
            time: clock::utc(time),
            event: self.kind,
            service: self.service,
            real: self.real,
            peer: self.peer,
            message: self.message,
        }
    }
}

/// The events between two models: removed services first, then changed and added ones in the order of `new`;
/// virtual routers in the same way.
#[must_use]
pub fn model_diff(old: &Model, new: &Model) -> Vec<Event> {
    let mut events = Vec::new();
    let (old_services, new_services) = (old.by_key(), new.by_key());
    for service in &old.services {
        if !new_services.contains_key(&service.key) {
            events.push(of_service(
                EventKind::ServiceRemoved,
                service,
                String::new(),
            ));
        }
    }
    for service in &new.services {
        match old_services.get(&service.key) {
            Some(before) if *before == service => {}
            None => {
                let message = format!("scheduler {}", service.scheduler.name());
                events.push(of_service(EventKind::ServiceAdded, service, message));
                reals(&[], service, &mut events);
            }
            Some(before) => {
                let message = service_changes(before, service);
                if !message.is_empty() {
                    events.push(of_service(EventKind::ServiceChanged, service, message));
                }
                reals(&before.reals, service, &mut events);
            }
        }
    }
    virtual_routers(&old.vrrp, &new.vrrp, &mut events);
    events
}

fn virtual_routers(before: &[VirtualRouter], after: &[VirtualRouter], events: &mut Vec<Event>) {
    let mut add = |kind, message: &str| events.push(Event::of_node(kind, message));
    for router in before {
        if !after.iter().any(|other| other.name == router.name) {
            add(EventKind::VirtualRouterRemoved, &router.name);
        }
    }
    for router in after {
        let name = &router.name;
        match before.iter().find(|other| other.name == *name) {
            Some(before) if before == router => {}
            None => {
                let addresses: Vec<_> = router.addresses.iter().map(ToString::to_string).collect();
                let message = format!(
                    "{name}: {} on {}, router id {}, priority {}",
                    addresses.join(" "),
                    router.interface,
                    router.router_id,
                    router.priority
                );
                add(EventKind::VirtualRouterAdded, &message);
            }
            Some(before) => {
                let table = vrrp::keys::table;
                let changes = key_changes(&table(before), &table(router), vrrp::keys::left_out);
                add(
                    EventKind::VirtualRouterChanged,
                    &format!("{name}: {changes}"),
                );
            }
        }
    }
}

fn reals(before: &[RealServer], service: &VirtualService, events: &mut Vec<Event>) {
    let find =
        |reals: &[RealServer], address| reals.iter().find(|real| real.address == address).cloned();
    for real in before {
        if find(&service.reals, real.address).is_none() {
            events.push(of_real(
                EventKind::RealRemoved,
                service,
                real,
                String::new(),
            ));
        }
    }
    for real in &service.reals {
        match find(before, real.address) {
            None => {
                let forwarding = real.forwarding.unwrap_or(service.forwarding);
                let mut message = format!("weight {}, {}", real.weight, forwarding.name());
                if real.backup {
                    message.push_str(", backup");
                }
                if real.state != AdminState::Ready {
                    message.push_str(&format!(", state {}", real.state.name()));
                }
                events.push(of_real(EventKind::RealAdded, service, real, message));
            }
            Some(before) => {
                let changes =
                    setting::changes(&REAL_SETTINGS, &before.settings(), &real.settings());
                let message = changes.join(", ");
                if !message.is_empty() {
                    events.push(of_real(EventKind::RealChanged, service, real, message));
                }
            }
        }
    }
}

fn service_changes(before: &VirtualService, after: &VirtualService) -> String {
    if before.is_same_but_reals(after) {
        return String::new();
    }
    let mut changes = setting::changes(&SERVICE_SETTINGS, &before.settings(), &after.settings());
    if before.persistence != after.persistence {
        let shown = |service: &VirtualService| match &service.persistence {
            Some(persistence) => persistence.to_string(),
            None => "none".to_owned(),
        };
        changes.push(format!("persistence {} -> {}", shown(before), shown(after)));
    }
    changes.extend(checks(&before.checks, &after.checks));
    changes.join(", ")
}

/// The changes of a service's checks. A removed and an added check of the same type count as one changed check.
fn checks(before: &[Check], after: &[Check]) -> Vec<String> {
    let mut changes = Vec::new();
    let mut added: Vec<_> = after
        .iter()
        .filter(|check| !before.contains(check))
        .collect();
    for removed in before.iter().filter(|check| !after.contains(check)) {
        let type_of = |check: &Check| check.probe.name();
        match added
            .iter()
            .position(|check| type_of(check) == type_of(removed))
        {
            Some(index) => {
                let added = keys::table(added.remove(index));
                let keys = key_changes(&keys::table(removed), &added, |_| "unset".to_owned());
                changes.push(format!("check {}: {keys}", type_of(removed)));
            }
            None => changes.push(format!("check removed: {}", keys::summary(removed))),
        }
    }
    let added = added.into_iter();
    changes.extend(added.map(|check| format!("check added: {}", keys::summary(check))));
    changes
}

/// The keys whose values differ between two tables; `left_out` names the value of a key that a table lacks.
fn key_changes(
    before: &InlineTable,
    after: &InlineTable,
    left_out: impl Fn(&str) -> String,
) -> String {
    let values = |table: &InlineTable| -> BTreeMap<String, String> {
        table
            .iter()
            .map(|(key, value)| {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                (key.to_owned(), text.trim().to_owned())
            })
            .collect()
    };
    let (before, after) = (values(before), values(after));
    let shown = |values: &BTreeMap<String, String>, key: &str| {
        values.get(key).cloned().unwrap_or_else(|| left_out(key))
    };
    let mut keys: Vec<_> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let values: Vec<_> = keys
        .into_iter()
        .map(|key| (key.as_str(), shown(&before, key), shown(&after, key)))
        .collect();
    changed(&values)
}

fn changed(values: &[(&str, String, String)]) -> String {
    let changed = values.iter().filter(|(_, before, after)| before != after);
    let changes: Vec<_> = changed
        .map(|(key, before, after)| format!("{key} {before} -> {after}"))
        .collect();
    changes.join(", ")
}

fn of_service(kind: EventKind, service: &VirtualService, message: String) -> Event {
    Event {
        kind,
        service: Some(service.key.to_string()),
        real: None,
        peer: None,
        message,
    }
}

fn of_real(kind: EventKind, service: &VirtualService, real: &RealServer, message: String) -> Event {
    Event {
        kind,
        service: Some(service.key.to_string()),
        real: Some(real.address),
        peer: None,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::change::tests::model;

    #[test]
    fn every_change_is_an_event_once() {
        let old = model(
            r#"
            [[service]]
            address = "192.0.2.80:80"
            [[service.real]]
            address = "10.0.0.2"
            [[service.real]]
            address = "10.0.0.3"
            [[service.real]]
            address = "10.0.0.4"
            [[service]]
            address = "192.0.2.80:81"
            "#,
        );
        let new = model(
            r#"
            [[service]]
            address = "192.0.2.80:80"
            name = "web"
            scheduler = "rr"
            [[service.real]]
            address = "10.0.0.3"
            weight = 0
            [[service.real]]
            address = "10.0.0.4"
            [[service.real]]
            address = "10.0.0.5"
            [[service]]
            address = "192.0.2.80:82"
            [[service.real]]
            address = "10.0.0.6"
            "#,
        );
        let events: Vec<_> = model_diff(&old, &new)
            .into_iter()
            .map(
                |Event {
                     kind,
                     service,
                     real,
                     peer: _,
                     message,
                 }| {
                    let real = real.map(|real| real.to_string()).unwrap_or_default();
                    format!("{} {} {real} {message}", kind.name(), service.unwrap())
                },
            )
            .collect();
        assert_eq!(
            events,
            [
                "service-removed tcp/192.0.2.80:81  ",
                "service-changed tcp/192.0.2.80:80  name none -> web, scheduler wrr -> rr",
                "real-removed tcp/192.0.2.80:80 10.0.0.2:80 ",
                "real-changed tcp/192.0.2.80:80 10.0.0.3:80 weight 1 -> 0",
                "real-added tcp/192.0.2.80:80 10.0.0.5:80 weight 1, nat",
                "service-added tcp/192.0.2.80:82  scheduler wrr",
                "real-added tcp/192.0.2.80:82 10.0.0.6:82 weight 1, nat",
            ]
        );
        assert_eq!(model_diff(&new, &new), []);
    }

    #[test]
    fn changes_of_health_settings_name_the_files_keys() {
        let service = |settings: &str, real: &str| {
            model(&format!(
                "[[service]]\naddress = \"192.0.2.80:80\"\n{settings}\n[[service.real]]\naddress = \"10.0.0.2\"\n{real}"
            ))
        };
        let events = |old: &Model, new: &Model| -> Vec<_> {
            model_diff(old, new)
                .into_iter()
                .map(|event| format!("{} {}", event.kind.name(), event.message))
                .collect()
        };
        let plain = service("", "");
        let set = service(
            "on-down = \"keep\"\nslow-start = \"30s\"\nquorum = 2\nhysteresis = 1\nbackups = \"all\"\n\
             hash = \"client-port\"\nscheduler = \"mh\"\npersistence = { timeout = \"1m\", netmask = 24, drain = \"keep\" }\n\
             check = { type = \"http\", path = \"/a\" }",
            "backup = true\nupper = 10\nlower = 5\nstate = \"drain\"",
        );
        assert_eq!(
            events(&plain, &set),
            [
                "service-changed scheduler wrr -> mh, hash none -> client-port, on-down reset -> keep, slow-start 0s -> 30s, quorum 1 -> 2, hysteresis 0 -> 1, \
                 backups first -> all, persistence none -> 1m netmask 24 drain keep, check added: http every 5s",
                "real-changed upper 0 -> 10, lower 0 -> 5, backup false -> true, state ready -> drain",
            ]
        );
        let other = service(
            "check = [{ type = \"http\", interval = \"1s\" }, { type = \"ping\" }]",
            "",
        );
        assert_eq!(
            events(&set, &other)[0]
                .rsplit_once("persistence 1m netmask 24 drain keep -> none, ")
                .unwrap()
                .1,
            "check http: interval unset -> 1s, path /a -> unset, check added: ping every 5s"
        );
        assert_eq!(
            events(&other, &plain),
            ["service-changed check removed: http every 1s, check removed: ping every 5s"]
        );
        assert_eq!(
            events(&model(""), &set)[1],
            "real-added weight 1, nat, backup, state drain"
        );
    }

    #[test]
    fn changes_of_virtual_routers_name_the_files_keys() {
        let router = |name: &str, lines: &str| {
            format!(
                "[[vrrp]]\nname = \"{name}\"\ninterface = \"eth0\"\nrouter-id = {}\naddresses = [\"192.0.2.8{}/24\"]\n{lines}\n",
                name.len(),
                name.len()
            )
        };
        let (inside, outside) = (router("in", ""), router("out", ""));
        let events = |old: &str, new: &str| -> Vec<_> {
            let events = model_diff(&model(old), &model(new));
            let shown = events.iter().map(|event| {
                assert_eq!((&event.service, event.real), (&None, None));
                format!("{} {}", event.kind.name(), event.message)
            });
            shown.collect()
        };
        let both = format!("{inside}{outside}");
        assert_eq!(events(&both, &format!("{outside}{inside}")), [""; 0]);
        let other = router("other", "priority = 150");
        assert_eq!(
            events(&both, &format!("{other}{outside}")),
            [
                "virtual-router-removed in",
                "virtual-router-added other: 192.0.2.85/24 on eth0, router id 5, priority 150",
            ]
        );
        let changed = router(
            "in",
            "priority = 150\nadvertisement-interval = \"10ms\"\nfailback = \"after 10m\"\nchecksum = \"plain\"\n\
             announce-interval = \"never\"\ntrack-interfaces = [\"eth1\"]\ntrack-ping = { targets = [\"192.0.2.1\"] }",
        );
        assert_eq!(
            events(&both, &format!("{changed}{outside}")),
            [
                "virtual-router-changed in: advertisement-interval 1s -> 10ms, announce-interval 1m -> never, \
                 checksum pseudo-header -> plain, failback never -> after 10m, priority 100 -> 150, \
                 track-interfaces none -> [\"eth1\"], track-ping none -> { targets = [\"192.0.2.1\"] }"
            ]
        );
        let moved = inside.replace("82/24", "83/24").replace("eth0", "eth1");
        assert_eq!(
            events(&inside, &moved),
            [
                "virtual-router-changed in: addresses [\"192.0.2.82/24\"] -> [\"192.0.2.83/24\"], interface eth0 -> eth1"
            ]
        );
    }
}
