//! The node's status: what works, what does not, and the remedy.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use super::{obstacles::unreachable, service_name};
use crate::{
    control::{
        availability::{Availability, RealStatus, ServiceStatus},
        pair,
    },
    dataplane::DataplaneStatus,
    model::{HealthPolicy, Model, VirtualService, view, vrrp::VirtualRouterState},
    os::shell,
};

/// What the daemon knows beside the model and the data plane.
#[derive(Debug)]
pub struct ReportContext<'a> {
    /// Addresses of this host; `None` when they could not be read.
    pub addresses: Option<&'a HashSet<IpAddr>>,
    /// The configuration file.
    pub config: Option<String>,
    /// Whether what runs differs from the file.
    pub runtime_changes: bool,
    /// A sentence for each condition of the node.
    pub failures: Vec<String>,
    /// A sentence for each check that cannot be made; its target's state does not change meanwhile.
    pub obstacles: Vec<String>,
    /// Whether a connection table is full.
    pub is_full: bool,
    /// The virtual routers.
    pub vrrp: Vec<view::VirtualRouter>,
    /// A sentence for each thing that is wrong with them.
    pub vrrp_problems: Vec<String>,
    /// Whether an operator keeps this node from being Active.
    pub in_maintenance: bool,
    /// The other nodes.
    pub peers: Vec<view::Peer>,
    /// A sentence for each thing that is wrong with them.
    pub peer_problems: Vec<String>,
}

/// The node's status.
#[must_use]
pub fn status(
    model: &Model,
    availability: &Availability,
    dataplane: DataplaneStatus,
    context: &ReportContext<'_>,
) -> view::Status {
    let services: Vec<_> = model
        .services
        .iter()
        .map(|service| service_status(service, availability.service(&service.key)))
        .collect();
    let (connections, max_connections) = (dataplane.connections(), dataplane.max_connections());
    let [ipv4, ipv6] = dataplane.tables.map(|table| view::Table {
        connections: table.connections,
        max_connections: table.max_connections,
        bytes: table.bytes,
    });
    let mut reasons = shortened(
        model
            .services
            .iter()
            .filter_map(|service| cannot_answer(service, availability.service(&service.key)))
            .collect(),
        ["service cannot answer", "services cannot answer"],
    );
    let without = pair::without_active_node(&context.vrrp, &context.peers);
    if !without.is_empty() {
        reasons.push(format!(
            "no node is Active for {}: nobody answers for the VIPs",
            without.join(", ")
        ));
    }
    let down = !reasons.is_empty();
    reasons.extend(shortened(
        without_real(model),
        ["service has no real server", "services have no real server"],
    ));
    reasons.extend(shortened(
        problems(model, availability),
        [
            "real server or service is in trouble",
            "real servers and services are in trouble",
        ],
    ));
    reasons.extend(shortened(
        unreachable(model, &dataplane.obstacles),
        ["real server cannot work", "real servers cannot work"],
    ));
    reasons.extend(
        context
            .addresses
            .map(|addresses| vips_without_interface(model, vips(model), addresses))
            .unwrap_or_default(),
    );
    reasons.extend(vrrp_problems(context));
    reasons.extend(context.failures.iter().cloned());
    reasons.extend(shortened(
        context.obstacles.clone(),
        ["check cannot be made", "checks cannot be made"],
    ));
    reasons.extend(table_full_reason(&dataplane, context.is_full));
    reasons.extend(dataplane.warnings);
    for (warnings, is_used) in dataplane.family_warnings.into_iter().zip(families(model)) {
        reasons.extend(warnings.into_iter().filter(|_| is_used));
    }
    let overall = match (down, reasons.is_empty()) {
        (true, _) => view::Overall::Down,
        (false, false) => view::Overall::Limited,
        (false, true) => view::Overall::Running,
    };
    let discards: BTreeMap<_, _> = dataplane
        .discards
        .iter()
        .map(|(reason, count)| (reason.name().to_owned(), *count))
        .collect();
    view::Status {
        node: model.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        overall,
        reasons,
        high_availability: is_highly_available(context),
        role: role(&context.vrrp),
        vrrp: context.vrrp.clone(),
        peers: context.peers.clone(),
        successor: None,
        peer_refusals: BTreeMap::new(),
        tracked: Vec::new(),
        dataplane: view::Dataplane {
            interfaces: dataplane
                .interfaces
                .into_iter()
                .map(|interface| view::Interface {
                    name: interface.name,
                    mode: if interface.native {
                        "native"
                    } else {
                        "generic"
                    }
                    .to_owned(),
                    program_id: interface.program_id,
                })
                .collect(),
            connections,
            max_connections,
            ipv4,
            ipv6,
            discards,
            redirect_failures: dataplane.redirect_failures,
        },
        services,
        config: context.config.clone(),
        runtime_changes: context.runtime_changes,
    }
}

/// The node's part, by its virtual routers.
fn role(routers: &[view::VirtualRouter]) -> view::Role {
    let any = |state| routers.iter().any(|router| router.state == state);
    if any(VirtualRouterState::Active) {
        view::Role::Active
    } else if any(VirtualRouterState::Backup) {
        view::Role::Backup
    } else if any(VirtualRouterState::Fault) {
        view::Role::Fault
    } else {
        view::Role::Standalone
    }
}

/// Whether a node stands by: another one that can take over from this one, or this one from an Active node that it hears.
fn is_highly_available(context: &ReportContext<'_>) -> bool {
    let stands_by = |router: &view::VirtualRouter| {
        router.state == VirtualRouterState::Backup && router.active_node.is_some()
    };
    let this_one =
        !context.in_maintenance && !context.vrrp.is_empty() && context.vrrp.iter().all(stands_by);
    let another = context
        .peers
        .iter()
        .any(|peer| peer.ready && peer.role == "backup");
    match role(&context.vrrp) {
        view::Role::Active => another,
        view::Role::Backup => this_one,
        view::Role::Fault | view::Role::Standalone => false,
    }
}

/// What is wrong with virtual routers.
fn vrrp_problems(context: &ReportContext<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    if context.in_maintenance {
        problems.push(
            "this node is in maintenance and will not be Active: `balancer-ctl node ready` ends that".to_owned(),
        );
    }
    let faults = context
        .vrrp
        .iter()
        .filter(|router| router.state == VirtualRouterState::Fault);
    let mut faults: Vec<_> = faults
        .map(|router| match &router.group {
            Some(group) => format!("group {group} is in fault: {}", router.reason),
            None => format!(
                "virtual router {} is in fault: {}",
                router.name, router.reason
            ),
        })
        .collect();
    faults.dedup();
    problems.extend(faults);
    problems.extend(context.vrrp_problems.iter().cloned());
    problems.extend(context.peer_problems.iter().cloned());
    problems
}

/// The reason for a full connection table: established connections go on, new ones may be refused.
fn table_full_reason(dataplane: &DataplaneStatus, is_full: bool) -> Option<String> {
    is_full.then(|| {
        format!(
            "new connections are dropped, since a connection table is full ({}): raise max-connections or max-connections-ipv6 and \
             restart balancerd, which resets running connections, or shorten the timeouts",
            dataplane.fullness()
        )
    })
}

/// The first ten sentences, and the number of the others. `rest` names one and several of those.
fn shortened(mut sentences: Vec<String>, rest: [&str; 2]) -> Vec<String> {
    const FEW: usize = 10;
    let more = sentences.len().saturating_sub(FEW);
    sentences.truncate(FEW);
    if more > 0 {
        let [one, several] = rest;
        let what = if more == 1 { one } else { several };
        sentences.push(format!("{more} more {what}"));
    }
    sentences
}

fn service_status(service: &VirtualService, status: Option<&ServiceStatus>) -> view::ServiceStatus {
    let is_up = |real: &RealStatus| real.state == view::RealState::Up;
    view::ServiceStatus {
        name: service_name(service),
        reals_up: status.map_or(0, |status| {
            status.reals.values().filter(|real| is_up(real)).count()
        }),
        reals_total: service.reals.len(),
        live_weight: status.map_or(0, |status| status.live_weight),
        quorum: status.and_then(|status| status.quorum),
    }
}

/// Whether there are services over IPv4, and over IPv6.
fn families(model: &Model) -> [bool; 2] {
    let any = |is_ipv4| {
        let mut services = model.services.iter();
        services.any(|service| service.key.address.is_ipv4() == is_ipv4)
    };
    [any(true), any(false)]
}

/// A sentence for each service that has no real server, as each has at first.
fn without_real(model: &Model) -> Vec<String> {
    let services = model.services.iter();
    let empty = services.filter(|service| service.reals.is_empty());
    empty
        .map(|service| {
            let name = service_name(service);
            format!(
                "service {name} has no real server: `balancer-ctl add-real ADDRESS --service {name}` adds one"
            )
        })
        .collect()
}

fn cannot_answer(service: &VirtualService, status: Option<&ServiceStatus>) -> Option<String> {
    let name = service_name(service);
    let reals = || status.iter().flat_map(|status| status.reals.values());
    if service.reals.is_empty() || reals().any(|real| real.weight > 0) {
        return None;
    }
    Some(
        if reals().all(|real| {
            real.state == view::RealState::Draining && real.reason.as_deref() == Some("weight 0")
        }) {
            format!(
                "no real server of service {name} takes new connections: give one a weight with `balancer-ctl edit-real`"
            )
        } else if reals().any(|real| real.healthy.is_none() && real.state == view::RealState::Down)
        {
            format!("service {name} waits for the first probes of its real servers")
        } else {
            format!(
                "no real server of service {name} takes new connections: `balancer-ctl list` says why"
            )
        },
    )
}

/// Problems that limit services: real servers that are down, quorums that are lost or can never be met.
fn problems(model: &Model, availability: &Availability) -> Vec<String> {
    let mut problems = Vec::new();
    for name in model.notify.iter().flat_map(|notify| &notify.services) {
        if !model.services.iter().any(|service| service.is_called(name)) {
            problems.push(format!(
                "[[notify]] names service {name}, which is not there: add the service, or take its name out"
            ));
        }
    }
    for service in &model.services {
        let most: u64 = service
            .reals
            .iter()
            .filter(|real| !real.backup)
            .map(|real| u64::from(real.weight))
            .sum();
        let wanted = u64::from(service.health.quorum) + u64::from(service.health.hysteresis);
        if wanted > most.max(1) {
            problems.push(format!(
                "service {} can never have its quorum: quorum and hysteresis are {wanted}, and all weights together {most}",
                service_name(service)
            ));
        }
        let Some(status) = availability.service(&service.key) else {
            continue;
        };
        let name = service_name(service);
        if status.quorum == Some(false) && status.reals.values().any(|real| real.weight > 0) {
            problems.push(below_quorum(&name, service, status.live_weight));
        }
        for real in &service.reals {
            if let Some(status) = status.reals.get(&real.address)
                && status.state == view::RealState::Down
                && status.healthy == Some(false)
                && let Some(reason) = &status.reason
            {
                problems.push(format!(
                    "real {} of service {name} is down: {reason}",
                    real.address
                ));
            }
        }
    }
    problems
}

/// The sentence for a service below its quorum; with hysteresis it names the weight at which the quorum is regained.
fn below_quorum(name: &str, service: &VirtualService, live: u64) -> String {
    let HealthPolicy {
        quorum, hysteresis, ..
    } = service.health;
    if hysteresis == 0 {
        return format!("service {name} is below its quorum: live weight {live}, quorum {quorum}");
    }
    let wanted = u64::from(quorum) + u64::from(hysteresis);
    format!(
        "service {name} has lost its quorum: live weight {live}, needs {wanted} to regain its quorum"
    )
}

/// The VIPs of all services.
pub fn vips(model: &Model) -> impl Iterator<Item = IpAddr> {
    let services = model.services.iter();
    services.map(|service| service.key.address.ip())
}

/// A warning for each of these VIPs that no interface of this host carries and no virtual router brings.
#[must_use]
pub fn vips_without_interface(
    model: &Model,
    vips: impl Iterator<Item = IpAddr>,
    addresses: &HashSet<IpAddr>,
) -> Vec<String> {
    let mut told = HashSet::new();
    let brought: HashSet<_> = model
        .vrrp
        .iter()
        .flat_map(|router| &router.addresses)
        .map(|brought| brought.address)
        .collect();
    let interface = model
        .dataplane
        .interfaces
        .first()
        .map_or("INTERFACE".into(), |name| shell::word(name));
    let sentences = vips
        .filter(|vip| !addresses.contains(vip) && !brought.contains(vip) && told.insert(*vip))
        .map(|vip| {
            let length = if vip.is_ipv4() { 32 } else { 128 };
            format!(
                "no interface carries VIP {vip}, so nobody answers for it: \
                 `ip address add {vip}/{length} dev {interface}`"
            )
        })
        .collect();
    shortened(
        sentences,
        [
            "VIP is carried by no interface",
            "VIPs are carried by no interface",
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::report::tests::{SERVICES, available},
        dataplane::TableStatus,
        model::change::tests::model,
    };

    const NOTHING: ReportContext<'static> = ReportContext {
        addresses: None,
        config: None,
        runtime_changes: false,
        failures: Vec::new(),
        obstacles: Vec::new(),
        is_full: false,
        vrrp: Vec::new(),
        vrrp_problems: Vec::new(),
        in_maintenance: false,
        peers: Vec::new(),
        peer_problems: Vec::new(),
    };

    fn assessed(
        services: &str,
        warnings: &[&str],
        context: &ReportContext<'_>,
    ) -> (view::Overall, Vec<String>) {
        let warnings = warnings.iter().map(ToString::to_string).collect();
        let dataplane = DataplaneStatus {
            warnings,
            ..Default::default()
        };
        let model = model(services);
        let status = status(&model, &available(&model), dataplane, context);
        (status.overall, status.reasons)
    }

    #[test]
    fn a_drained_real_beside_one_that_is_up_limits_nothing() {
        assert_eq!(
            assessed(SERVICES, &[], &NOTHING),
            (view::Overall::Running, vec![])
        );
        assert_eq!(
            assessed("", &[], &NOTHING),
            (view::Overall::Running, vec![])
        );
    }

    #[test]
    fn a_service_that_cannot_answer_is_down_and_one_without_a_real_server_is_limited() {
        let drained = SERVICES.replacen("\"10.0.0.2\"", "\"10.0.0.2\"\nweight = 0", 1);
        assert_eq!(
            assessed(&drained, &["slow"], &NOTHING),
            (
                view::Overall::Down,
                vec![
                    "no real server of service web takes new connections: give one a weight with `balancer-ctl edit-real`".to_owned(),
                    "slow".to_owned()
                ]
            )
        );
        let empty = "[[service]]\naddress = \"[2001:db8::80]:80\"";
        assert_eq!(
            assessed(empty, &[], &NOTHING),
            (
                view::Overall::Limited,
                vec![
                    "service tcp/[2001:db8::80]:80 has no real server: `balancer-ctl add-real ADDRESS --service tcp/[2001:db8::80]:80` \
                     adds one"
                        .to_owned()
                ]
            )
        );
    }

    #[test]
    fn what_concerns_a_family_without_services_limits_nothing() {
        let reasons = |services: &str| {
            let dataplane = DataplaneStatus {
                family_warnings: ["four", "six"].map(|warning| vec![warning.to_owned()]),
                ..Default::default()
            };
            let model = model(services);
            status(&model, &available(&model), dataplane, &NOTHING).reasons
        };
        assert_eq!(reasons(""), [""; 0]);
        assert_eq!(reasons(SERVICES), ["four"]);
        let ipv6 = "[[service]]\naddress = \"[2001:db8::80]:80\"\n\
                    [[service.real]]\naddress = \"2001:db8:1::2\"\n";
        assert_eq!(reasons(ipv6), ["six"]);
        assert_eq!(reasons(&format!("{SERVICES}{ipv6}")), ["four", "six"]);
    }

    #[test]
    fn a_lost_quorum_is_reported_with_what_it_needs() {
        for (health, expected) in [
            (
                "quorum = 6",
                "service web is below its quorum: live weight 5, quorum 6",
            ),
            (
                "quorum = 6\nhysteresis = 1",
                "service web has lost its quorum: live weight 5, needs 7 to regain its quorum",
            ),
        ] {
            let model = model(&format!(
                "[[service]]\nname = \"web\"\naddress = \"192.0.2.80:80\"\n{health}"
            ));
            assert_eq!(below_quorum("web", &model.services[0], 5), expected);
        }
    }

    #[test]
    fn warnings_limit() {
        assert_eq!(
            assessed(SERVICES, &["slow"], &NOTHING),
            (view::Overall::Limited, vec!["slow".to_owned()])
        );
        let failing = ReportContext {
            failures: vec!["failing".to_owned()],
            ..NOTHING
        };
        assert_eq!(
            assessed(SERVICES, &[], &failing),
            (view::Overall::Limited, vec!["failing".to_owned()])
        );
    }

    #[test]
    fn checks_that_cannot_be_made_limit() {
        let obstacles = |count| ReportContext {
            obstacles: (0..count).map(|number| format!("check {number}")).collect(),
            ..NOTHING
        };
        assert_eq!(
            assessed(SERVICES, &[], &obstacles(1)),
            (view::Overall::Limited, vec!["check 0".to_owned()])
        );
        let (_, reasons) = assessed(SERVICES, &[], &obstacles(11));
        assert_eq!(reasons[10], "1 more check cannot be made");
        let (_, reasons) = assessed(SERVICES, &[], &obstacles(1000));
        assert_eq!(reasons.len(), 11);
        assert_eq!(reasons[10], "990 more checks cannot be made");
    }

    #[test]
    fn a_table_that_refuses_connections_limits() {
        let assessed = |is_full| {
            let table = |connections, max_connections| TableStatus {
                connections,
                max_connections,
                bytes: 1,
            };
            let dataplane = DataplaneStatus {
                tables: [table(120, 100), table(3, 25)],
                ..Default::default()
            };
            let context = ReportContext { is_full, ..NOTHING };
            let model = model(SERVICES);
            let status = status(&model, &available(&model), dataplane, &context);
            (status.overall, status.reasons)
        };
        // Many are over, and others take their places.
        assert_eq!(assessed(false), (view::Overall::Running, vec![]));
        let sentence = "new connections are dropped, since a connection table is full (120 of 100 IPv4 connections, 3 of 25 IPv6 \
                        connections): raise max-connections or max-connections-ipv6 and restart balancerd, which resets running \
                        connections, or shorten the timeouts";
        assert_eq!(
            assessed(true),
            (view::Overall::Limited, vec![sentence.to_owned()])
        );
    }

    #[test]
    fn a_vip_that_no_interface_carries_is_reported_once_with_the_remedy() {
        let addresses = HashSet::new();
        let context = ReportContext {
            addresses: Some(&addresses),
            ..NOTHING
        };
        let sentence = "no interface carries VIP 192.0.2.80, so nobody answers for it: \
                        `ip address add 192.0.2.80/32 dev eth0`";
        assert_eq!(
            assessed(SERVICES, &[], &context),
            (view::Overall::Limited, vec![sentence.to_owned()])
        );
        let addresses = HashSet::from(["192.0.2.80".parse().unwrap()]);
        let context = ReportContext {
            addresses: Some(&addresses),
            ..NOTHING
        };
        assert_eq!(
            assessed(SERVICES, &[], &context),
            (view::Overall::Running, vec![])
        );
    }

    #[test]
    fn a_vip_that_a_virtual_router_brings_is_not_reported() {
        let router = "[[vrrp]]\nname = \"outside\"\ninterface = \"eth0\"\nrouter-id = 51\n\
                      addresses = [\"192.0.2.79/24\", \"192.0.2.80/24\"]\n";
        let addresses = HashSet::new();
        let warnings = |services: &str| {
            let model = model(services);
            vips_without_interface(&model, vips(&model), &addresses)
        };
        assert_eq!(warnings(&format!("{SERVICES}{router}")), [""; 0]);
        assert_eq!(
            warnings(&format!("{SERVICES}{}", router.replace("80/24", "81/24"))),
            warnings(SERVICES)
        );
    }

    #[test]
    fn equal_problems_are_shortened_to_a_few() {
        let services: String = (1..=12)
            .map(|number| format!("[[service]]\naddress = \"192.0.2.{number}:80\"\n"))
            .collect();
        let addresses = HashSet::new();
        let context = ReportContext {
            addresses: Some(&addresses),
            ..NOTHING
        };
        let (_, reasons) = assessed(&services, &[], &context);
        assert_eq!(reasons.len(), 22);
        assert_eq!(reasons[10], "2 more services have no real server");
        assert_eq!(reasons[21], "2 more VIPs are carried by no interface");
    }
}
