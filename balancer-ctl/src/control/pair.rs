//! What nodes that share VIPs tell each other, and what this one makes of it. Pure.

mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

pub use self::services::{
    PushChanges, differences, digests, push_changes, services_of, services_text,
};
use crate::{
    model::{
        duration, view,
        vrrp::{VirtualAddress, VirtualRouterState},
    },
    peer::{
        PeerView,
        message::{
            NodeOverall, NodeReport, NodeRole, RouterSummary, ServiceSummary, TrackedSummary,
        },
    },
};

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
        tracked: status
            .tracked
            .iter()
            .map(|tracked| TrackedSummary {
                name: tracked.name.clone(),
                up: tracked.up,
            })
            .collect(),
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
            vips: report.map(|report| vips(report)).unwrap_or_default(),
            tracked: report
                .iter()
                .flat_map(|report| &report.tracked)
                .map(|tracked| view::Tracked {
                    name: tracked.name.clone(),
                    up: tracked.up,
                })
                .collect(),
        }
    });
    peers.collect()
}

/// The VIPs that a node says it has.
fn vips(report: &NodeReport) -> Vec<IpAddr> {
    let active = VirtualRouterState::Active.name();
    let routers = report.vrrp.iter().filter(|router| router.state == active);
    routers
        .flat_map(|router| addresses(&router.addresses))
        .collect()
}

/// The VIPs of a virtual router, which are written as in the file.
fn addresses(written: &[String]) -> impl Iterator<Item = IpAddr> {
    let read = written.iter().filter_map(|one| one.parse().ok());
    read.map(|one: VirtualAddress| one.address)
}

/// The virtual routers whose VIPs no node has, as far as this one hears.
#[must_use]
pub fn without_active_node<'a>(
    routers: &'a [view::VirtualRouter],
    peers: &[view::Peer],
) -> Vec<&'a str> {
    let has_vips = |router: &view::VirtualRouter| {
        let others = peers.iter().filter(|peer| peer.connected);
        let mut vips = others.flat_map(|peer| &peer.vips);
        router.state == VirtualRouterState::Active
            || router.active_node.is_some()
            || vips.any(|vip| addresses(&router.addresses).any(|own| own == *vip))
    };
    let without = routers.iter().filter(|router| !has_vips(router));
    without.map(|router| router.name.as_str()).collect()
}

/// The VIPs that several nodes have, a sentence for each set of nodes. `own` are this node's virtual routers, and `name` is its name.
#[must_use]
pub fn several_active(
    name: &str,
    own: &[view::VirtualRouter],
    peers: &[view::Peer],
) -> Vec<String> {
    let own = own
        .iter()
        .filter(|router| router.state == VirtualRouterState::Active)
        .flat_map(|router| addresses(&router.addresses))
        .map(|vip| (vip, name));
    let others = peers.iter().filter(|peer| peer.connected);
    let others = others.flat_map(|peer| peer.vips.iter().map(|vip| (*vip, peer.name.as_str())));
    let mut nodes = BTreeMap::<IpAddr, BTreeSet<&str>>::new();
    for (vip, node) in own.chain(others) {
        nodes.entry(vip).or_default().insert(node);
    }
    let mut vips = BTreeMap::<BTreeSet<&str>, Vec<String>>::new();
    for (vip, nodes) in nodes.into_iter().filter(|(_, nodes)| nodes.len() > 1) {
        vips.entry(nodes).or_default().push(vip.to_string());
    }
    let sentences = vips.into_iter().map(|(nodes, vips)| {
        let nodes: Vec<_> = nodes.into_iter().collect();
        format!(
            "{} are all Active for {}: they do not hear each other's advertisements, or do not take them",
            nodes.join(" and "),
            vips.join(", ")
        )
    });
    sentences.collect()
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
            // Before it is reached, its address is all that is known.
            let address = Some(peer.address.to_string()).filter(|address| address != name);
            let address = address.map(|address| format!(" ({address})"));
            problems.push(format!(
                "node {name}{} does not answer, {heard}{trouble}",
                address.unwrap_or_default()
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
    use crate::model::vrrp::Probes;

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
            vips: Vec::new(),
            tracked: Vec::new(),
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
        let unknown = view::Peer {
            name: "192.0.2.2:4446".to_owned(),
            ..never.clone()
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
            problems(&[lost, never, unknown, kept, differs, routers]),
            [
                "node lb2 (192.0.2.2:4446) does not answer, last heard 5s ago: connection refused",
                "node lb2 (192.0.2.2:4446) does not answer, it was never heard",
                "node 192.0.2.2:4446 does not answer, it was never heard",
                "node lb3 is in maintenance and will not take over",
                "node lb4 has other services than this one: `balancer-ctl diff lb4` shows them, `balancer-ctl push lb4` sends it \
                 this node's",
                "node lb5 has other virtual routers than this one: give both the same VIPs",
            ]
        );
    }

    fn router(state: VirtualRouterState, active_node: Option<&str>) -> view::VirtualRouter {
        view::VirtualRouter {
            name: "outside".to_owned(),
            state,
            reason: String::new(),
            priority: 100,
            addresses: vec!["192.0.2.80/24".to_owned(), "192.0.2.81/32".to_owned()],
            since: String::new(),
            interface: "eth0".to_owned(),
            router_id: 51,
            group: None,
            probes: Probes::EveryNode,
            active_node: active_node.map(|node| node.parse().unwrap()),
            sent: 0,
            received: 0,
            refused: BTreeMap::new(),
        }
    }

    /// A node that has the VIP.
    fn active(name: &str) -> view::Peer {
        view::Peer {
            role: "active".to_owned(),
            vips: vec!["192.0.2.80".parse().unwrap()],
            ..peer(name)
        }
    }

    #[test]
    fn vips_that_no_node_has_are_noticed() {
        let fault = [router(VirtualRouterState::Fault, None)];
        let lost = view::Peer {
            connected: false,
            ..active("lb2")
        };
        assert_eq!(
            without_active_node(&fault, &[peer("lb2"), lost]),
            ["outside"]
        );
        assert_eq!(without_active_node(&fault, &[active("lb2")]), [""; 0]);
        for has in [
            router(VirtualRouterState::Active, None),
            router(VirtualRouterState::Backup, Some("192.0.2.3")),
        ] {
            assert_eq!(without_active_node(&[has], &[]), [""; 0]);
        }
    }

    #[test]
    fn vips_that_several_nodes_have_are_noticed() {
        let active_here = [router(VirtualRouterState::Active, None)];
        let said = |nodes: &str| {
            vec![format!(
                "{nodes} are all Active for 192.0.2.80: they do not hear each other's advertisements, or do not take them"
            )]
        };
        let nothing: Vec<String> = Vec::new();
        assert_eq!(several_active("lb1", &active_here, &[peer("lb2")]), nothing);
        assert_eq!(
            several_active("lb1", &active_here, &[active("lb2")]),
            said("lb1 and lb2")
        );
        let backup = [router(VirtualRouterState::Backup, Some("192.0.2.3"))];
        assert_eq!(several_active("lb3", &backup, &[active("lb1")]), nothing);
        assert_eq!(
            several_active("lb3", &backup, &[active("lb1"), active("lb2")]),
            said("lb1 and lb2")
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
