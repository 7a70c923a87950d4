//! The rules of a valid model, for the file and for changes alike. Pure.

mod check;
mod filter;
pub mod host_interfaces;
pub mod own;
mod peers;
mod persistence;
mod vrrp;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use balancer_common::snat::MAX_SNAT_ADDRESSES;

use crate::model::{
    DataplaneSettings, ForwardMethod, Model, OnDown, Protocol, RealServer, VirtualService,
    address::is_name,
    limits::{
        ALERT_EVERY, MAX_CONNECTIONS, MAX_DELAY, MAX_INTERFACE_NAME, MAX_PERSISTENCE, MAX_QUORUM,
        MAX_THRESHOLD, MAX_TIMEOUT, MAX_WEIGHT, MIN_TIMEOUT, NOTIFY_TIMEOUT,
    },
    same_family,
};

/// The value that a problem is about; the file's reader knows its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// `[node] name`.
    Node,
    /// A key of `[dataplane]`.
    Dataplane(&'static str),
    /// The n-th interface.
    Interface(usize),
    /// A key of `[timeouts]`.
    Timeout(&'static str),
    /// A key of the n-th service.
    Service(usize, &'static str),
    /// An entry of a list of the n-th service: which service, which list, which entry.
    ServiceEntry(usize, &'static str, usize),
    /// A key of the n-th service's persistence.
    Persistence(usize, &'static str),
    /// A key of a real server: which service, which real server.
    Real(usize, usize, &'static str),
    /// A key of a check: which service, which check.
    Check(usize, usize, &'static str),
    /// A key of `[peers]`.
    Peers(&'static str),
    /// The n-th of `[peers] nodes`.
    PeerNode(usize),
    /// A key of the n-th `[[notify]]`.
    Notify(usize, &'static str),
    /// A key of the n-th virtual router.
    Vrrp(usize, &'static str),
    /// An entry of a list of addresses or interfaces of a virtual router: which virtual router, which list, which entry.
    VrrpEntry(usize, &'static str, usize),
    /// A key of what a virtual router tracks: which virtual router, `track-ping`, `track-services` or `track-exec`, which of them,
    /// which key.
    VrrpTrack(usize, &'static str, usize, &'static str),
}

impl Place {
    /// The entry with this number, of a list that stands here.
    #[must_use]
    pub const fn entry(self, number: usize) -> Self {
        match self {
            Self::Service(service, key) => Self::ServiceEntry(service, key, number),
            other => other,
        }
    }
}

/// A violated rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The value.
    pub place: Place,
    /// What is wrong with it and what is allowed.
    pub sentence: String,
}

/// Returns all violated rules, in the order of the file.
#[must_use]
pub fn validate(model: &Model) -> Vec<Problem> {
    let mut problems = Problems(Vec::new());
    if model.node.is_empty()
        || model
            .node
            .chars()
            .any(|c| c.is_control() || c.is_whitespace())
    {
        problems.add(
            Place::Node,
            format!(
                "node name `{}` is empty, or holds spaces or control characters",
                model.node
            ),
        );
    }
    dataplane(&model.dataplane, &mut problems);
    services(&model.services, &mut problems);
    notify(model, &mut problems);
    peers::peers(&model.peers, &mut problems);
    vrrp::all(model, &mut problems);
    problems.0
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, place: Place, sentence: impl Into<String>) {
        self.0.push(Problem {
            place,
            sentence: sentence.into(),
        });
    }

    /// Adds a problem if a duration is out of range.
    fn in_range(
        &mut self,
        place: Place,
        what: &str,
        duration: Duration,
        range: &RangeInclusive<Duration>,
    ) {
        if !range.contains(&duration) {
            self.add(
                place,
                format!(
                    "{what} of {} is out of range: {} to {}",
                    humantime::format_duration(duration),
                    humantime::format_duration(*range.start()),
                    humantime::format_duration(*range.end())
                ),
            );
        }
    }
}

fn dataplane(settings: &DataplaneSettings, problems: &mut Problems) {
    if settings.interfaces.is_empty() {
        problems.add(
            Place::Dataplane("interfaces"),
            "interfaces is empty: name at least one, as in `interfaces = [\"eth0\"]`",
        );
    }
    let mut seen = HashSet::new();
    for (index, name) in settings.interfaces.iter().enumerate() {
        let place = Place::Interface(index);
        if !is_interface_name(name) {
            problems.add(
                place,
                format!("`{name}` is no interface name: 1 to {MAX_INTERFACE_NAME} bytes without space or `/`"),
            );
        } else if !seen.insert(name) {
            problems.add(
                place,
                format!("interface `{name}` is named twice: name it once"),
            );
        }
    }
    for (key, number, range) in [
        ("max-connections", settings.max_connections, MAX_CONNECTIONS),
        (
            "max-connections-ipv6",
            settings.max_connections_ipv6,
            MAX_CONNECTIONS,
        ),
        ("max-persistence", settings.max_persistence, MAX_PERSISTENCE),
    ] {
        if !range.contains(&number) {
            let (least, most) = range.into_inner();
            problems.add(
                Place::Dataplane(key),
                format!("{key} {number} is out of range: {least}..={most}"),
            );
        }
    }
    snat(settings, problems);
    let timeouts = &settings.timeouts;
    for (key, timeout) in [
        ("tcp", timeouts.tcp),
        ("tcp-fin", timeouts.tcp_fin),
        ("udp", timeouts.udp),
    ] {
        problems.in_range(
            Place::Timeout(key),
            &format!("timeout {key}"),
            timeout,
            &(MIN_TIMEOUT..=MAX_TIMEOUT),
        );
    }
}

/// The addresses and ports of connections with full NAT.
fn snat(settings: &DataplaneSettings, problems: &mut Problems) {
    let place = Place::Dataplane("snat-addresses");
    let mut seen = HashSet::new();
    for address in &settings.snat_addresses {
        if let Some(reason) = unusable(*address) {
            problems.add(
                place,
                format!("address {address} of snat-addresses is {reason}"),
            );
        } else if !seen.insert(address) {
            problems.add(
                place,
                format!("snat-addresses names {address} twice: name it once"),
            );
        }
    }
    for (is_ipv4, family) in [(true, "IPv4"), (false, "IPv6")] {
        let of_family = settings.snat_addresses.iter();
        let count = of_family.filter(|one| one.is_ipv4() == is_ipv4).count();
        if count > MAX_SNAT_ADDRESSES as usize {
            problems.add(
                place,
                format!("snat-addresses names {count} addresses of {family}: at most {MAX_SNAT_ADDRESSES} are allowed"),
            );
        }
    }
    if let Some(fault) = settings.snat_ports.fault() {
        let ports = settings.snat_ports;
        problems.add(
            Place::Dataplane("snat-ports"),
            format!("snat-ports {ports} {fault}"),
        );
    }
}

/// Whether the kernel accepts this as an interface's name.
#[must_use]
pub fn is_interface_name(name: &str) -> bool {
    (1..=MAX_INTERFACE_NAME).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

fn services(services: &[VirtualService], problems: &mut Problems) {
    let mut keys = HashSet::new();
    let mut names = HashMap::new();
    let vips: HashSet<(Protocol, SocketAddr)> = services
        .iter()
        .map(|service| (service.key.protocol, service.key.address))
        .collect();
    for (index, service) in services.iter().enumerate() {
        let key = service.key;
        let address = Place::Service(index, "address");
        if let Some(reason) = unusable(key.address.ip()) {
            problems.add(
                address,
                format!("address {} of a service is {reason}", key.address.ip()),
            );
        }
        if !keys.insert(key) {
            problems.add(
                address,
                format!("service {key} is there twice: address, port and protocol must differ"),
            );
        }
        if let Some(name) = &service.name {
            let place = Place::Service(index, "name");
            if !is_name(name) {
                problems.add(
                    place,
                    format!("`{name}` is no name for a service: a letter, then up to 62 letters, digits, `.`, `_` or `-`"),
                );
            } else if let Some(other) = names.insert(name, key) {
                problems.add(
                    place,
                    format!("name `{name}` is taken by service {other}: choose another"),
                );
            }
        }
        if let Some(hash) = service.hash
            && !service.scheduler.hashes_client()
        {
            problems.add(
                Place::Service(index, "hash"),
                format!(
                    "hash {} is of no use with scheduler {}, which does not hash clients: use scheduler sh or mh, or \
                     leave hash out",
                    hash.name(),
                    service.scheduler.name()
                ),
            );
        }
        health(index, service, problems);
        check::checks(index, service, problems);
        reals(index, service, &vips, problems);
    }
    persistence::all(services, problems);
    filter::all(services, problems);
}

fn health(index: usize, service: &VirtualService, problems: &mut Problems) {
    let health = &service.health;
    let place = |key| Place::Service(index, key);
    if let OnDown::ResetAfter(delay) = health.on_down {
        let range = Duration::from_millis(1)..=MAX_DELAY;
        problems.in_range(place("on-down"), "on-down reset-after", delay, &range);
    }
    problems.in_range(
        place("slow-start"),
        "slow-start",
        health.slow_start,
        &(Duration::ZERO..=MAX_DELAY),
    );
    if !(1..=MAX_QUORUM).contains(&health.quorum) {
        problems.add(
            place("quorum"),
            format!("quorum {} is out of range: 1..={MAX_QUORUM}", health.quorum),
        );
    } else if health.hysteresis >= health.quorum {
        problems.add(
            place("hysteresis"),
            format!(
                "hysteresis {} is not less than quorum {}: make it less, or the quorum could never be lost",
                health.hysteresis, health.quorum
            ),
        );
    }
}

fn notify(model: &Model, problems: &mut Problems) {
    for (index, notify) in model.notify.iter().enumerate() {
        let place = |key| Place::Notify(index, key);
        problems.in_range(place("timeout"), "timeout", notify.timeout, &NOTIFY_TIMEOUT);
        problems.in_range(
            place("alert-after"),
            "alert-after",
            notify.alert_after,
            &(Duration::ZERO..=MAX_TIMEOUT),
        );
        if let Some(every) = notify.alert_every {
            problems.in_range(place("alert-every"), "alert-every", every, &ALERT_EVERY);
        }
    }
}

fn reals(
    index: usize,
    service: &VirtualService,
    vips: &HashSet<(Protocol, SocketAddr)>,
    problems: &mut Problems,
) {
    let key = service.key;
    let mut seen = HashSet::new();
    for (number, real) in service.reals.iter().enumerate() {
        let place = Place::Real(index, number, "address");
        let address = real.address;
        if let Some(reason) = unusable(address.ip()) {
            problems.add(
                place,
                format!("address {} of a real is {reason}", address.ip()),
            );
        } else if !same_family(address.ip(), key.address.ip()) {
            problems.add(
                place,
                format!("real {address} is not of the family of service {key}: both must be IPv4 or both IPv6"),
            );
        } else if vips.contains(&(key.protocol, address))
            || vips.contains(&(key.protocol, SocketAddr::new(address.ip(), 0)))
        {
            problems.add(
                place,
                format!(
                    "real {address} is itself the address of a service: name the server behind it"
                ),
            );
        }
        if address.port() == 0 && key.address.port() != 0 {
            problems.add(
                place,
                format!("real {address} has port 0, but service {key} is on one port: give the real's port"),
            );
        }
        let forwarding = real.forwarding.unwrap_or(service.forwarding);
        if address.port() != 0 && key.address.port() == 0 && forwarding == ForwardMethod::FullNat {
            problems.add(
                place,
                format!(
                    "real {address} has a port, but service {key} is on every port: with full NAT the port that a client asked for would be \
                     lost; give the real no port, or forwarding = \"nat\""
                ),
            );
        }
        if !seen.insert(address) {
            problems.add(
                place,
                format!("real {address} is there twice in service {key}: name it once"),
            );
        }
        if real.weight > MAX_WEIGHT {
            problems.add(
                Place::Real(index, number, "weight"),
                format!(
                    "weight {} of real {address} is out of range: 0..={MAX_WEIGHT}",
                    real.weight
                ),
            );
        }
        thresholds(index, number, real, problems);
    }
}

fn thresholds(index: usize, number: usize, real: &RealServer, problems: &mut Problems) {
    let RealServer {
        address,
        upper,
        lower,
        ..
    } = *real;
    for (key, threshold) in [("upper", upper), ("lower", lower)] {
        if threshold > MAX_THRESHOLD {
            problems.add(
                Place::Real(index, number, key),
                format!("{key} {threshold} of real {address} is out of range: 0..={MAX_THRESHOLD}"),
            );
            return;
        }
    }
    let place = Place::Real(index, number, "lower");
    if upper == 0 && lower > 0 {
        problems.add(
            place,
            format!("lower {lower} of real {address} without upper: give it upper too, or leave lower out"),
        );
    } else if lower > upper {
        problems.add(
            place,
            format!(
                "lower {lower} of real {address} is above upper {upper}: make it {upper} at most"
            ),
        );
    }
}

/// Why no packet can be forwarded to or from this address, if so.
fn unusable(address: IpAddr) -> Option<&'static str> {
    if address.is_multicast() {
        return Some("a multicast address: use a unicast address");
    }
    if address.is_loopback() {
        return Some(
            "a loopback address, which never leaves the host: use an address on the network",
        );
    }
    match address {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("unspecified: use the address itself"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address: use a unicast address"),
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) if v6.is_unspecified() => Some("unspecified: use the address itself"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("an IPv4 address in IPv6 form: write the IPv4 address")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("link-local, which is not forwarded: use a global or unique local address")
        }
        IpAddr::V6(_) => None,
    }
}
