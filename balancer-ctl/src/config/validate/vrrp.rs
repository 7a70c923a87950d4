//! The rules of virtual routers. Pure.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use super::{Place, Problems, is_interface_name};
use crate::model::{
    Model, VirtualRouter, VirtualService,
    address::is_name,
    limits::{
        ADVERTISEMENT_INTERVAL, ANNOUNCE_INTERVAL, FAILBACK_AFTER, INTERVAL, LINK_UP_DELAY,
        MAX_INTERFACE_NAME, MAX_VIRTUAL_ADDRESSES, OWNER, PRIORITY, PROBE_TIMEOUT, RISE_FALL,
        ROUTER_ID, TRACK_EXEC_INTERVAL, TRACK_WEIGHT,
    },
    same_family,
    vrrp::{Checksum, Failback},
};

/// The name of the loopback interface.
const LOOPBACK: &str = "lo";

pub(super) fn all(model: &Model, problems: &mut Problems) {
    unique(&model.vrrp, problems);
    groups(&model.vrrp, problems);
    vips(&model.vrrp, problems);
    for (index, router) in model.vrrp.iter().enumerate() {
        own(index, router, problems);
        track_interfaces(index, router, problems);
        track_ping(index, router, problems);
        track_services(index, router, &model.services, problems);
        track_exec(index, router, problems);
    }
}

/// Names, and router ids on one interface.
fn unique(routers: &[VirtualRouter], problems: &mut Problems) {
    let mut names = HashSet::new();
    let mut ids = HashMap::new();
    for (index, router) in routers.iter().enumerate() {
        let VirtualRouter {
            name,
            interface,
            router_id,
            ..
        } = router;
        if !is_name(name) {
            problems.add(
                Place::Vrrp(index, "name"),
                format!("`{name}` is no name for a virtual router: a letter, then up to 62 letters, digits, `.`, `_` or `-`"),
            );
        } else if !names.insert(name) {
            problems.add(
                Place::Vrrp(index, "name"),
                format!("name `{name}` is taken by another virtual router: choose another"),
            );
        }
        let Some(is_ipv4) = router.is_ipv4() else {
            continue;
        };
        if let Some(other) = ids.insert((interface, is_ipv4, router_id), name) {
            let family = if is_ipv4 { "IPv4" } else { "IPv6" };
            problems.add(
                Place::Vrrp(index, "router-id"),
                format!("router-id {router_id} of {family} is taken on interface {interface} by virtual router {other}: choose another"),
            );
        }
    }
}

/// What the virtual routers of a group must have in common: they are Active together, which is one decision.
fn groups(routers: &[VirtualRouter], problems: &mut Problems) {
    let mut first_of = HashMap::new();
    for (index, router) in routers.iter().enumerate() {
        let Some(group) = &router.group else { continue };
        let place = Place::Vrrp(index, "group");
        if !is_name(group) {
            problems.add(
                place,
                format!("`{group}` is no name for a group: a letter, then up to 62 letters, digits, `.`, `_` or `-`"),
            );
            continue;
        }
        let first: &VirtualRouter = first_of.entry(group).or_insert(router);
        for (what, own, others) in [
            (
                "priority",
                router.priority.to_string(),
                first.priority.to_string(),
            ),
            (
                "failback",
                router.failback.to_string(),
                first.failback.to_string(),
            ),
        ] {
            if own != others {
                problems.add(
                    place,
                    format!(
                        "{what} of virtual router {} is {own}, and that of {} in the same group {others}: the virtual routers of a \
                         group are Active together, so give them one {what}",
                        router.name, first.name
                    ),
                );
            }
        }
    }
}

/// The addresses of all virtual routers, and peers that are among them.
fn vips(routers: &[VirtualRouter], problems: &mut Problems) {
    let mut owners: HashMap<IpAddr, usize> = HashMap::new();
    for (index, router) in routers.iter().enumerate() {
        let Some(first) = router.addresses.first() else {
            continue;
        };
        for (number, vip) in router.addresses.iter().enumerate() {
            let (place, address) = (Place::VrrpEntry(index, "addresses", number), vip.address);
            if let Some(reason) = unusable(address) {
                problems.add(
                    place,
                    format!("address {address} of a virtual router is {reason}"),
                );
            } else if let Some(reason) = vip.unusable_in_network() {
                problems.add(
                    place,
                    format!("address {vip} of a virtual router is {reason}"),
                );
            } else if !same_family(address, first.address) {
                problems.add(
                    place,
                    format!(
                        "address {address} is not of the family of {}, the first: all must be IPv4 or all IPv6; give those of the \
                         other family a virtual router of their own",
                        first.address
                    ),
                );
            }
            match owners.insert(address, index) {
                Some(other) if other == index => problems.add(
                    place,
                    format!(
                        "address {address} is there twice in virtual router {}: name it once",
                        router.name
                    ),
                ),
                Some(other) => problems.add(
                    place,
                    format!(
                        "address {address} is also one of virtual router {}: a VIP belongs to one",
                        routers[other].name
                    ),
                ),
                None => {}
            }
        }
    }
    for (index, router) in routers.iter().enumerate() {
        let owner = |address: &IpAddr| owners.get(address).map(|owner| &routers[*owner].name);
        peers(index, router, owner, problems);
    }
}

fn peers<'a>(
    index: usize,
    router: &VirtualRouter,
    owner: impl Fn(&IpAddr) -> Option<&'a String>,
    problems: &mut Problems,
) {
    let mut seen = HashSet::new();
    for (number, peer) in router.unicast_peers.iter().enumerate() {
        let place = Place::VrrpEntry(index, "unicast-peers", number);
        if let Some(reason) = unusable(*peer) {
            problems.add(
                place,
                format!("unicast peer {peer} of a virtual router is {reason}"),
            );
        } else if router
            .addresses
            .first()
            .is_some_and(|first| !same_family(*peer, first.address))
        {
            problems.add(
                place,
                format!(
                    "unicast peer {peer} is not of the family of the addresses of virtual router {}: both must be IPv4 or both IPv6",
                    router.name
                ),
            );
        } else if let Some(owner) = owner(peer) {
            problems.add(
                place,
                format!(
                    "unicast peer {peer} is a VIP of virtual router {owner}: name the other node's own address"
                ),
            );
        }
        if !seen.insert(peer) {
            problems.add(
                place,
                format!("unicast peer {peer} is named twice: name it once"),
            );
        }
    }
}

/// The keys that concern this virtual router alone.
fn own(index: usize, router: &VirtualRouter, problems: &mut Problems) {
    let place = |key| Place::Vrrp(index, key);
    if !is_interface_name(&router.interface) {
        problems.add(place("interface"), no_interface_name(&router.interface));
    } else if router.interface == LOOPBACK {
        problems.add(
            place("interface"),
            format!(
                "interface {LOOPBACK} of virtual router {} is the loopback interface, which leads to no other node: name the one that \
                 leads to the network of the VIPs",
                router.name
            ),
        );
    }
    for (key, number, range) in [
        ("router-id", router.router_id, ROUTER_ID),
        ("priority", router.priority, PRIORITY),
    ] {
        if !range.contains(&number) {
            let (least, most) = range.into_inner();
            problems.add(
                place(key),
                format!("{key} {number} is out of range: {least}..={most}"),
            );
        }
    }
    let interval = router.advertisement_interval;
    let key = "advertisement-interval";
    problems.in_range(place(key), key, interval, &ADVERTISEMENT_INTERVAL);
    if ADVERTISEMENT_INTERVAL.contains(&interval) && !is_in_hundredths(interval) {
        problems.add(
            place(key),
            format!(
                "{key} of {} is no multiple of 10ms: VRRP counts in hundredths of a second",
                humantime::format_duration(interval)
            ),
        );
    }
    if let Failback::After(delay) = router.failback {
        failback_after(delay, place("failback"), problems);
    }
    let (key, delay) = ("link-up-delay", router.link_up_delay);
    problems.in_range(place(key), key, delay, &LINK_UP_DELAY);
    match router.addresses.len() {
        0 => problems.add(
            place("addresses"),
            "addresses is empty: name at least one, as in `addresses = [\"192.0.2.80/24\"]`",
        ),
        1..=MAX_VIRTUAL_ADDRESSES => {}
        count => problems.add(
            place("addresses"),
            format!(
                "addresses has {count} entries: {MAX_VIRTUAL_ADDRESSES} at most, which fit one packet on every link; give the others a \
                 virtual router of their own in the same group"
            ),
        ),
    }
    if router.checksum == Checksum::Plain && router.is_ipv4() == Some(false) {
        problems.add(
            place("checksum"),
            "checksum plain is for IPv4: that of IPv6 always has a pseudo-header; leave checksum out",
        );
    }
    if let Some(interval) = router.announce_interval
        && !ANNOUNCE_INTERVAL.contains(&interval)
    {
        let shown = humantime::format_duration;
        let (least, most) = ANNOUNCE_INTERVAL.into_inner();
        problems.add(
            place("announce-interval"),
            format!(
                "announce-interval of {} is out of range: {} to {}, or \"never\"",
                shown(interval),
                shown(least),
                shown(most)
            ),
        );
    }
}

fn failback_after(delay: Duration, place: Place, problems: &mut Problems) {
    if FAILBACK_AFTER.contains(&delay) {
        return;
    }
    let shown = humantime::format_duration;
    let (least, most) = FAILBACK_AFTER.into_inner();
    problems.add(
        place,
        format!(
            "failback `after {}` is out of range: `after {}` to `after {}`",
            shown(delay),
            shown(least),
            shown(most)
        ),
    );
}

const fn is_in_hundredths(duration: Duration) -> bool {
    duration.subsec_nanos().is_multiple_of(10_000_000)
}

fn no_interface_name(name: &str) -> String {
    format!("`{name}` is no interface name: 1 to {MAX_INTERFACE_NAME} bytes without space or `/`")
}

fn track_interfaces(index: usize, router: &VirtualRouter, problems: &mut Problems) {
    let mut seen = HashSet::new();
    for (number, name) in router.track_interfaces.iter().enumerate() {
        let place = Place::VrrpEntry(index, "track-interfaces", number);
        if !is_interface_name(name) {
            problems.add(place, no_interface_name(name));
        } else if !seen.insert(name) {
            problems.add(
                place,
                format!("interface `{name}` is named twice: name it once"),
            );
        }
    }
}

fn track_ping(index: usize, router: &VirtualRouter, problems: &mut Problems) {
    let Some(ping) = &router.track_ping else {
        return;
    };
    let place = |key| Place::VrrpTrack(index, "track-ping", 0, key);
    if ping.targets.is_empty() {
        problems.add(
            place("targets"),
            "targets is empty: name at least one, as in `targets = [\"192.0.2.1\"]`",
        );
    }
    let mut seen = HashSet::new();
    for (number, target) in ping.targets.iter().enumerate() {
        let place = Place::VrrpEntry(index, "targets", number);
        if let Some(reason) = unusable(*target) {
            problems.add(place, format!("target {target} of track-ping is {reason}"));
        }
        if !seen.insert(target) {
            problems.add(
                place,
                format!("target {target} is named twice: name it once"),
            );
        }
    }
    problems.in_range(place("interval"), "interval", ping.interval, &INTERVAL);
    let is_interval = INTERVAL.contains(&ping.interval);
    timeout(
        ping.timeout,
        is_interval.then_some(ping.interval),
        place,
        problems,
    );
    counts([("rise", ping.rise), ("fall", ping.fall)], place, problems);
    weight(router, "track-ping", ping.weight, place("weight"), problems);
}

fn track_services(
    index: usize,
    router: &VirtualRouter,
    services: &[VirtualService],
    problems: &mut Problems,
) {
    let mut seen = HashSet::new();
    for (number, tracked) in router.track_services.iter().enumerate() {
        let place = |key| Place::VrrpTrack(index, "track-services", number, key);
        let name = &tracked.service;
        match services.iter().find(|service| service.is_called(name)) {
            None => problems.add(
                place("service"),
                format!(
                    "virtual router {} tracks service {name}, which is not there: add the service, or take its name out of track-services",
                    router.name
                ),
            ),
            Some(service) if !seen.insert(service.key) => problems.add(
                place("service"),
                format!("service {name} is named twice: name it once"),
            ),
            Some(_) => {}
        }
        weight(
            router,
            "track-services",
            tracked.weight,
            place("weight"),
            problems,
        );
    }
}

fn track_exec(index: usize, router: &VirtualRouter, problems: &mut Problems) {
    for (number, exec) in router.track_exec.iter().enumerate() {
        let place = |key| Place::VrrpTrack(index, "track-exec", number, key);
        problems.in_range(
            place("interval"),
            "interval",
            exec.interval,
            &TRACK_EXEC_INTERVAL,
        );
        let is_interval = TRACK_EXEC_INTERVAL.contains(&exec.interval);
        timeout(
            exec.timeout,
            is_interval.then_some(exec.interval),
            place,
            problems,
        );
        counts([("rise", exec.rise), ("fall", exec.fall)], place, problems);
        weight(router, "track-exec", exec.weight, place("weight"), problems);
    }
}

/// A timeout beside its interval; `None` = one that is out of range, which is reported alone.
fn timeout(
    timeout: Duration,
    interval: Option<Duration>,
    place: impl Fn(&'static str) -> Place,
    problems: &mut Problems,
) {
    problems.in_range(place("timeout"), "timeout", timeout, &PROBE_TIMEOUT);
    if let Some(interval) = interval
        && timeout > interval
    {
        problems.add(
            place("timeout"),
            format!(
                "timeout {} is longer than interval {}: one must be over when the next begins",
                humantime::format_duration(timeout),
                humantime::format_duration(interval)
            ),
        );
    }
}

fn counts(
    counts: [(&'static str, u32); 2],
    place: impl Fn(&'static str) -> Place,
    problems: &mut Problems,
) {
    for (key, count) in counts {
        if !RISE_FALL.contains(&count) {
            let (least, most) = RISE_FALL.into_inner();
            problems.add(
                place(key),
                format!("{key} {count} is out of range: {least}..={most}"),
            );
        }
    }
}

fn weight(router: &VirtualRouter, of: &str, weight: u8, place: Place, problems: &mut Problems) {
    let (least, most) = TRACK_WEIGHT.into_inner();
    if !TRACK_WEIGHT.contains(&weight) {
        problems.add(
            place,
            format!("weight {weight} is out of range: {least}..={most}"),
        );
    } else if router.is_owner() && weight > 0 {
        problems.add(
            place,
            format!(
                "weight {weight} of {of} beside priority {OWNER}: the priority of the owner of the addresses never changes; write \
                 weight 0, with which virtual router {} is in fault instead",
                router.name
            ),
        );
    }
}

/// Why no advertisement, ping or client can reach this address, if so. Link-local addresses are allowed: all of this happens on one
/// link.
fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => None,
        _ => super::unusable(address),
    }
}
