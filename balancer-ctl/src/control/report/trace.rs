//! Which real server a client would get, and why. Pure.

use std::net::SocketAddr;

use balancer_common::verdict::Discard;

use crate::{
    dataplane::{Choice, FoundBy, ServiceSnapshot, Traced},
    model::{HashKey, Scheduler, VirtualService, view},
};

/// The answer for a client of a service, with the loads that `counted` has.
#[must_use]
pub fn trace(
    service: &VirtualService,
    client: SocketAddr,
    traced: Traced,
    counted: &ServiceSnapshot,
) -> view::Trace {
    let Traced {
        choice,
        rule,
        is_full_nat,
    } = traced;
    let rule = rule.map(|rule| service.filter.words(rule, service.key.address.ip()));
    let (real, by, reason) = match choice {
        Choice::None(discard) => {
            // What becomes of a packet stands behind the reason.
            let sentence = discard.sentence();
            let reason = sentence.split(';').next().unwrap_or(sentence);
            let reason = match &rule {
                Some(rule) if matches!(discard, Discard::Denied | Discard::RateLimited) => {
                    format!("{reason}: {rule}")
                }
                _ => reason.to_owned(),
            };
            (None, view::TracedBy::None, reason)
        }
        Choice::Real(real, found) => {
            let (by, reason) = found_by(service, real, found, counted);
            (Some(real), by, reason)
        }
    };
    view::Trace {
        client,
        protocol: service.key.protocol,
        service: service.key.address,
        real,
        full_nat: is_full_nat,
        by,
        rule,
        reason,
    }
}

fn found_by(
    service: &VirtualService,
    real: SocketAddr,
    found: FoundBy,
    counted: &ServiceSnapshot,
) -> (view::TracedBy, String) {
    match found {
        FoundBy::Connection => (
            view::TracedBy::Connection,
            "the client has a connection from this port".to_owned(),
        ),
        FoundBy::Persistence { is_pending } => (
            view::TracedBy::Persistence,
            persistence(service, is_pending),
        ),
        FoundBy::Scheduler { slot, of } => {
            (view::TracedBy::Scheduler, scheduler(service, slot, of))
        }
        FoundBy::LeastLoad => (
            view::TracedBy::LeastLoad,
            least_load(service, real, counted),
        ),
    }
}

fn persistence(service: &VirtualService, is_pending: bool) -> String {
    let group = service.persistence.as_ref();
    let group = group.and_then(|persistence| persistence.group.as_ref());
    let whose = group.map_or_else(String::new, |group| format!(" in the group `{group}`"));
    let how = if is_pending {
        ", by its first connection, which is not complete yet"
    } else {
        ""
    };
    format!("the client keeps this server{whose}{how}")
}

fn scheduler(service: &VirtualService, slot: u32, of: u32) -> String {
    let name = service.scheduler.name();
    let hashed = match (service.scheduler, service.hash.unwrap_or_default()) {
        (Scheduler::Dh, _) => "the virtual address",
        (_, HashKey::Client) => "the client's address",
        (_, HashKey::ClientPort) => "the client's address and port",
    };
    match service.scheduler {
        Scheduler::Sh | Scheduler::Dh | Scheduler::Mh if slot < of => {
            format!("slot {slot} of {of} of {name}, by a hash of {hashed}")
        }
        Scheduler::Sh | Scheduler::Dh | Scheduler::Mh => format!(
            "a hash of {hashed} among those that take new connections, since the slots of {name} that it named do not"
        ),
        Scheduler::Twos => {
            "the less loaded of two at random: another time it may be another".to_owned()
        }
        _ => format!("its turn comes next: slot {slot} of {of} of {name}"),
    }
}

fn least_load(service: &VirtualService, real: SocketAddr, counted: &ServiceSnapshot) -> String {
    let counts = counted.reals.get(&real).copied().unwrap_or_default();
    let load = format!("{} active, {} inactive", counts.active, counts.inactive);
    let name = service.scheduler.name();
    match service.scheduler {
        Scheduler::Lc | Scheduler::Wlc | Scheduler::Sed | Scheduler::Nq => {
            format!("least load by {name}: {load}")
        }
        Scheduler::Fo => format!("the highest weight that is not full: {load}"),
        Scheduler::Ovf => {
            format!("the highest weight that has not more active connections than that: {load}")
        }
        _ => format!(
            "the choice of {name} takes no new connection of this client, and this one has the least load: {load}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataplane::RealSnapshot,
        model::{
            Filter, Persistence, Protocol, ServiceKey,
            filter::{FilterRule, Prefixes, Rate},
        },
    };

    fn service(scheduler: Scheduler) -> VirtualService {
        VirtualService {
            scheduler,
            ..VirtualService::new(ServiceKey {
                protocol: Protocol::Tcp,
                address: "192.0.2.80:80".parse().unwrap(),
            })
        }
    }

    const fn traced(choice: Choice) -> Traced {
        Traced {
            choice,
            rule: None,
            is_full_nat: false,
        }
    }

    #[test]
    fn the_rule_of_the_filter_is_named() {
        let client = "198.51.100.7:40000".parse().unwrap();
        let mut service = service(Scheduler::Rr);
        let list = |text| Prefixes::from_argument(text).unwrap();
        service.filter = Filter {
            allow: list("198.51.100.0/24"),
            deny: list("198.51.100.7"),
            rate: Some(Rate {
                per_second: 9,
                length: None,
            }),
        };
        let [network, host] = ["198.51.100.0/24", "198.51.100.7"]
            .map(|prefix| Some(FilterRule::Prefix(prefix.parse().unwrap())));
        let denied = "the service's `allow` and `deny` do not let the client open connections";
        let limited = "the client has opened as many connections to the service as the service's `rate` lets it";
        let real = "10.0.0.2:80".parse().unwrap();
        let turn = Choice::Real(real, FoundBy::Scheduler { slot: 0, of: 1 });
        for (choice, rule, words, reason) in [
            (
                turn,
                network,
                Some("allow 198.51.100.0/24"),
                "its turn comes next: slot 0 of 1 of rr",
            ),
            (turn, None, None, "its turn comes next: slot 0 of 1 of rr"),
            (
                Choice::None(Discard::Denied),
                host,
                Some("deny 198.51.100.7"),
                &format!("{denied}: deny 198.51.100.7"),
            ),
            (
                Choice::None(Discard::Denied),
                Some(FilterRule::Others),
                Some("not in allow"),
                &format!("{denied}: not in allow"),
            ),
            (
                Choice::None(Discard::RateLimited),
                Some(FilterRule::Rate),
                Some("rate 9/s per /32"),
                &format!("{limited}: rate 9/s per /32"),
            ),
            (
                Choice::None(Discard::NoReal),
                network,
                Some("allow 198.51.100.0/24"),
                "no real server takes new connections",
            ),
        ] {
            let traced = Traced {
                choice,
                rule,
                is_full_nat: false,
            };
            let told = trace(&service, client, traced, &ServiceSnapshot::default());
            assert_eq!(told.rule.as_deref(), words);
            assert_eq!(told.reason, reason);
        }
    }

    #[test]
    fn every_way_to_a_real_server_is_said() {
        let real: SocketAddr = "10.0.0.2:8080".parse().unwrap();
        let client = "198.51.100.7:40000".parse().unwrap();
        let mut counted = ServiceSnapshot::default();
        let counts = RealSnapshot {
            active: 3,
            inactive: 1,
            ..RealSnapshot::default()
        };
        counted.reals.insert(real, counts);
        let grouped = VirtualService {
            persistence: Some(Persistence {
                group: Some("shop".to_owned()),
                ..Persistence::default()
            }),
            ..service(Scheduler::Rr)
        };
        let by_port = VirtualService {
            hash: Some(HashKey::ClientPort),
            ..service(Scheduler::Sh)
        };
        let turn = FoundBy::Scheduler { slot: 2, of: 4 };
        let kept = |is_pending| FoundBy::Persistence { is_pending };
        for (service, found, by, reason) in [
            (
                service(Scheduler::Rr),
                FoundBy::Connection,
                "connection",
                "the client has a connection from this port",
            ),
            (
                grouped.clone(),
                kept(false),
                "persistence",
                "the client keeps this server in the group `shop`",
            ),
            (
                grouped,
                kept(true),
                "persistence",
                "the client keeps this server in the group `shop`, by its first connection, which is not complete yet",
            ),
            (
                service(Scheduler::Wrr),
                turn,
                "scheduler",
                "its turn comes next: slot 2 of 4 of wrr",
            ),
            (
                service(Scheduler::Mh),
                turn,
                "scheduler",
                "slot 2 of 4 of mh, by a hash of the client's address",
            ),
            (
                by_port,
                FoundBy::Scheduler { slot: 9, of: 4 },
                "scheduler",
                "a hash of the client's address and port among those that take new connections, since the slots of sh that it named \
                 do not",
            ),
            (
                service(Scheduler::Wlc),
                FoundBy::LeastLoad,
                "least-load",
                "least load by wlc: 3 active, 1 inactive",
            ),
            (
                service(Scheduler::Rr),
                FoundBy::LeastLoad,
                "least-load",
                "the choice of rr takes no new connection of this client, and this one has the least load: 3 active, 1 inactive",
            ),
        ] {
            let told = trace(
                &service,
                client,
                traced(Choice::Real(real, found)),
                &counted,
            );
            assert_eq!((told.by.name(), told.reason.as_str()), (by, reason));
            assert_eq!((told.real, told.client), (Some(real), client));
        }
        let none = Choice::None(Discard::NoRealReject);
        let told = trace(&service(Scheduler::Rr), client, traced(none), &counted);
        assert_eq!(told.real, None);
        assert_eq!(
            (told.by.name(), told.reason.as_str()),
            ("none", "no real server takes new connections")
        );
    }
}
