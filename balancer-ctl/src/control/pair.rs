//! What nodes that share VIPs tell each other, and what this one makes of it. Pure.

use std::time::{Duration, Instant};

use blake2::{Blake2s256, Digest as _};

use crate::{
    config::{read, write},
    model::{
        Model, PeerSettings, VirtualRouter, VirtualService, change::Change, diff::model_diff,
        duration, view, vrrp::VirtualRouterState,
    },
    peer::{
        PeerView,
        message::{NodeOverall, NodeReport, NodeRole, RouterSummary, ServiceSummary},
    },
};

/// This node's services as the text of a configuration, which other nodes read.
#[must_use]
pub fn services_text(model: &Model) -> String {
    let mut services = model.services.clone();
    for service in &mut services {
        service.runtime = false;
        for real in &mut service.reals {
            real.runtime = false;
        }
    }
    write::text(&Model {
        services,
        notify: Vec::new(),
        vrrp: Vec::new(),
        peers: PeerSettings::default(),
        ..model.clone()
    })
}

/// The services in such a text.
///
/// # Errors
/// A sentence: it is not such a text.
pub fn services_of(text: &str) -> Result<Vec<VirtualService>, String> {
    let model = read::model(text, "peer").map_err(|errors| {
        let sentences: Vec<_> = errors.iter().map(|error| error.message.clone()).collect();
        sentences.join("; ")
    })?;
    Ok(model.services)
}

/// The changes that turn the services of `model` into `wanted`: those that differ are deleted and added again.
#[must_use]
pub fn changes_to(model: &Model, wanted: &[VirtualService]) -> Vec<Change> {
    let same = |one: &VirtualService, other: &VirtualService| saved(one) == saved(other);
    let stays = |service: &VirtualService| wanted.iter().any(|other| same(service, other));
    let gone = model.services.iter().filter(|service| !stays(service));
    let mut changes: Vec<_> = gone
        .map(|service| Change::DelService(service.key))
        .collect();
    for service in wanted {
        let is_there = model.services.iter().any(|present| same(present, service));
        if is_there {
            continue;
        }
        let settings = service.settings_beside_defaults();
        changes.push(Change::AddService(service.key, settings));
        let reals = service.reals.iter();
        changes.extend(reals.map(|real| {
            Change::AddReal(service.key, real.address, real.settings_beside_defaults())
        }));
    }
    changes
}

/// A service as the file has it.
fn saved(service: &VirtualService) -> VirtualService {
    let mut service = service.clone();
    service.runtime = false;
    for real in &mut service.reals {
        real.runtime = false;
    }
    service
}

/// What another node's services, given as text, have other than this node's: a line each.
///
/// # Errors
/// A sentence: it is not such a text.
pub fn differences(model: &Model, text: &str) -> Result<Vec<String>, String> {
    let own = Model {
        services: model.services.iter().map(saved).collect(),
        ..model.clone()
    };
    let theirs = Model {
        services: services_of(text)?,
        ..own.clone()
    };
    let events = model_diff(&own, &theirs).into_iter();
    let lines = events.map(|event| {
        let words = [
            Some(event.kind.name().to_owned()),
            event.service,
            event.real.map(|real| real.to_string()),
            Some(event.message).filter(|message| !message.is_empty()),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    });
    Ok(lines.collect())
}

fn digest(text: &str) -> String {
    let bytes = Blake2s256::digest(text);
    bytes
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What all nodes have to have alike in their virtual routers.
fn routers_text(routers: &[VirtualRouter]) -> String {
    let mut lines: Vec<_> = routers
        .iter()
        .map(|router| {
            let addresses: Vec<_> = router.addresses.iter().map(ToString::to_string).collect();
            format!(
                "{} {} {} {}",
                router.router_id,
                addresses.join(" "),
                duration::exact(router.advertisement_interval),
                router.group.as_deref().unwrap_or_default(),
            )
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

/// The digests of a model's services, in whatever order, and of its virtual routers: of what nodes have to have alike.
#[must_use]
pub fn digests(model: &Model) -> [String; 2] {
    let mut services: Vec<_> = model
        .services
        .iter()
        .map(|service| write::service_text(&saved(service)))
        .collect();
    services.sort();
    [
        digest(&services.concat()),
        digest(&routers_text(&model.vrrp)),
    ]
}

/// What other nodes are told of this one.
#[must_use]
pub fn report(status: &view::Status, digests: [String; 2], in_maintenance: bool) -> NodeReport {
    let [services_digest, vrrp_digest] = digests;
    let routers = status.vrrp.iter();
    let can_serve = |router: &view::VirtualRouter| router.state != VirtualRouterState::Fault;
    NodeReport {
        name: status.node.clone(),
        version: status.version.clone(),
        role: match status.role {
            view::Role::Active => NodeRole::Active,
            view::Role::Backup => NodeRole::Backup,
            view::Role::Fault => NodeRole::Fault,
            view::Role::Standalone => NodeRole::Standalone,
        },
        ready: !in_maintenance && status.vrrp.iter().all(can_serve),
        maintenance: in_maintenance,
        overall: match status.overall {
            view::Overall::Running => NodeOverall::Running,
            view::Overall::Limited => NodeOverall::Limited,
            view::Overall::Down => NodeOverall::Down,
        },
        reasons: status.reasons.iter().take(10).cloned().collect(),
        services: status
            .services
            .iter()
            .map(|service| ServiceSummary {
                name: service.name.clone(),
                reals_up: u32::try_from(service.reals_up).unwrap_or(u32::MAX),
                reals_total: u32::try_from(service.reals_total).unwrap_or(u32::MAX),
            })
            .collect(),
        vrrp: routers
            .map(|router| RouterSummary {
                name: router.name.clone(),
                state: router.state.name().to_owned(),
                priority: router.priority,
                addresses: router.addresses.clone(),
            })
            .collect(),
        tracked: Vec::new(),
        services_digest,
        vrrp_digest,
    }
}

/// The other nodes as operators see them.
#[must_use]
pub fn views(peers: &[PeerView], digests: &[String; 2], now: Instant) -> Vec<view::Peer> {
    let peers = peers.iter().map(|peer| {
        let report = peer.report.as_ref();
        let is_alike = report.is_some_and(|report| {
            report.services_digest == digests[0] && report.vrrp_digest == digests[1]
        });
        let heard = peer
            .last_heard
            .map(|heard| now.saturating_duration_since(heard));
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        view::Peer {
            name: peer
                .name
                .clone()
                .unwrap_or_else(|| peer.address.to_string()),
            address: peer.address,
            role: match report.map(|report| report.role) {
                Some(NodeRole::Active) => "active",
                Some(NodeRole::Backup) => "backup",
                Some(NodeRole::Fault) => "fault",
                Some(NodeRole::Standalone) => "standalone",
                Some(NodeRole::Unknown) | None => "unknown",
            }
            .to_owned(),
            version: peer.version.clone(),
            last_seen_ms: heard.map(milliseconds),
            connected: peer.is_connected(),
            ready: peer.is_connected() && report.is_some_and(|report| report.ready),
            maintenance: report.is_some_and(|report| report.maintenance),
            priority: report
                .and_then(|report| report.vrrp.iter().map(|router| router.priority).min()),
            same_services: report.is_some_and(|report| report.services_digest == digests[0]),
            synchronised: peer.is_connected() && is_alike,
            trouble: peer.trouble.clone(),
        }
    });
    peers.collect()
}

/// What is wrong with other nodes, a sentence each.
#[must_use]
pub fn problems(peers: &[view::Peer]) -> Vec<String> {
    let mut problems = Vec::new();
    for peer in peers {
        let name = &peer.name;
        if !peer.connected {
            let heard = peer.last_seen_ms.map_or_else(
                || "it was never heard".to_owned(),
                |ms| {
                    format!(
                        "last heard {} ago",
                        duration::rounded(Duration::from_millis(ms))
                    )
                },
            );
            let trouble = peer
                .trouble
                .as_ref()
                .map(|why| format!(": {why}"))
                .unwrap_or_default();
            problems.push(format!(
                "node {name} ({}) does not answer, {heard}{trouble}",
                peer.address
            ));
            continue;
        }
        if peer.maintenance {
            problems.push(format!(
                "node {name} is in maintenance and will not take over"
            ));
        } else if !peer.ready {
            problems.push(format!(
                "node {name} cannot take over: `balancer-ctl status` there says why"
            ));
        }
        if !peer.same_services {
            problems.push(format!(
                "node {name} has other services than this one: `balancer-ctl diff {name}` shows them, `balancer-ctl push {name}` sends \
                 it this node's"
            ));
        } else if !peer.synchronised {
            problems.push(format!(
                "node {name} has other virtual routers than this one: give both the same VIPs"
            ));
        }
    }
    problems
}

/// Who would take over: of the nodes that stand by, the one with the highest priority. `own` is this node's name and lowest priority, if
/// it stands by.
#[must_use]
pub fn successor(peers: &[view::Peer], own: Option<(&str, u8)>) -> Option<String> {
    let others = peers
        .iter()
        .filter(|peer| peer.ready && peer.role == "backup")
        .map(|peer| (peer.priority.unwrap_or_default(), peer.name.as_str()));
    let own = own.map(|(name, priority)| (priority, name));
    let best = others.chain(own).max();
    best.map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::change::tests::model;

    const SERVICES: &str = r#"
        [[service]]
        name = "web"
        address = "192.0.2.80:80"
        scheduler = "mh"
        check = { type = "http" }
        [[service.real]]
        address = "10.0.0.2:80"
        state = "drain"
        [[service]]
        address = "192.0.2.80:443"
        [[service.real]]
        address = "10.0.0.2:443"
    "#;

    #[test]
    fn services_arrive_as_they_are_sent() {
        let mut sent = model(SERVICES);
        sent.services[0].runtime = true;
        let services = services_of(&services_text(&sent)).unwrap();
        let own: Vec<_> = sent.services.iter().map(saved).collect();
        assert_eq!(services, own);
        let mut present = model("");
        for change in changes_to(&present.clone(), &services) {
            change.apply(&mut present.services).unwrap();
        }
        assert_eq!(present.services, services);
        assert_eq!(changes_to(&present, &services), []);
        assert!(services_of("interfaces = 1").is_err());
    }

    #[test]
    fn only_services_that_differ_are_replaced() {
        let present = model(SERVICES);
        let wanted = model(&SERVICES.replace("\"mh\"", "\"rr\"")).services;
        let web = wanted[0].key;
        let changes = changes_to(&present, &wanted);
        assert_eq!(changes[0], Change::DelService(web));
        assert!(changes.iter().all(|change| change.service() == Some(&web)));
        // They stand in another order then, which is no difference.
        let mut pushed = present.clone();
        for change in &changes {
            change.apply(&mut pushed.services).unwrap();
        }
        let sender = Model {
            services: wanted.clone(),
            ..present.clone()
        };
        assert_ne!(pushed.services, sender.services);
        assert_eq!(digests(&pushed), digests(&sender));
        let text = services_text(&Model {
            services: wanted,
            ..present.clone()
        });
        assert_eq!(
            differences(&present, &text).unwrap(),
            ["service-changed tcp/192.0.2.80:80 scheduler mh -> rr"]
        );
    }

    #[test]
    fn digests_are_of_what_nodes_have_to_have_alike() {
        let one = model(SERVICES);
        let mut other = one.clone();
        other.node = "lb2".to_owned();
        other.dataplane.interfaces = vec!["ens1".to_owned()];
        other.dataplane.max_connections = 4096;
        other.services.reverse();
        other.services[1].runtime = true;
        assert_eq!(digests(&one), digests(&other));
        let [same, _] = digests(&other);
        other.services[0].reals[0].weight = 7;
        assert_ne!(digests(&other)[0], same);
        other.services[0].reals[0].weight = 1;
        let checked = other
            .services
            .iter_mut()
            .find(|service| !service.checks.is_empty());
        checked.unwrap().checks.clear();
        assert_ne!(digests(&other)[0], same);
        other.services.pop();
        assert_ne!(digests(&one)[0], digests(&other)[0]);
        let mut router = VirtualRouter::new("outside", "eth0", 51);
        router.addresses = vec!["192.0.2.80/24".parse().unwrap()];
        let mut backup = router.clone();
        backup.priority = 50;
        backup.interface = "ens1".to_owned();
        backup.name = "out".to_owned();
        let with = |router: &VirtualRouter| Model {
            vrrp: vec![router.clone()],
            ..one.clone()
        };
        assert_eq!(digests(&with(&router)), digests(&with(&backup)));
        backup.addresses = vec!["192.0.2.81/24".parse().unwrap()];
        assert_ne!(digests(&with(&router))[1], digests(&with(&backup))[1]);
    }

    fn peer(name: &str) -> view::Peer {
        view::Peer {
            name: name.to_owned(),
            address: "192.0.2.2:4446".parse().unwrap(),
            role: "backup".to_owned(),
            version: Some("1".to_owned()),
            last_seen_ms: Some(100),
            connected: true,
            ready: true,
            maintenance: false,
            priority: Some(100),
            same_services: true,
            synchronised: true,
            trouble: None,
        }
    }

    #[test]
    fn what_is_wrong_with_another_node_is_said() {
        assert_eq!(problems(&[peer("lb2")]), [""; 0]);
        let lost = view::Peer {
            connected: false,
            last_seen_ms: Some(5000),
            trouble: Some("connection refused".to_owned()),
            ..peer("lb2")
        };
        let never = view::Peer {
            last_seen_ms: None,
            trouble: None,
            ..lost.clone()
        };
        let kept = view::Peer {
            maintenance: true,
            ready: false,
            ..peer("lb3")
        };
        let differs = view::Peer {
            same_services: false,
            synchronised: false,
            ..peer("lb4")
        };
        let routers = view::Peer {
            synchronised: false,
            ..peer("lb5")
        };
        assert_eq!(
            problems(&[lost, never, kept, differs, routers]),
            [
                "node lb2 (192.0.2.2:4446) does not answer, last heard 5s ago: connection refused",
                "node lb2 (192.0.2.2:4446) does not answer, it was never heard",
                "node lb3 is in maintenance and will not take over",
                "node lb4 has other services than this one: `balancer-ctl diff lb4` shows them, `balancer-ctl push lb4` sends it \
                 this node's",
                "node lb5 has other virtual routers than this one: give both the same VIPs",
            ]
        );
    }

    #[test]
    fn the_node_with_the_highest_priority_that_stands_by_would_take_over() {
        let strong = view::Peer {
            priority: Some(120),
            ..peer("lb3")
        };
        let away = view::Peer {
            ready: false,
            priority: Some(200),
            ..peer("lb4")
        };
        let peers = [peer("lb2"), strong, away];
        assert_eq!(successor(&peers, None).as_deref(), Some("lb3"));
        assert_eq!(
            successor(&peers, Some(("lb1", 150))).as_deref(),
            Some("lb1")
        );
        assert_eq!(successor(&[], None), None);
    }
}
