//! The rules of services' persistence. Pure.

use std::collections::HashMap;

use super::{Place, Problems};
use crate::model::{
    Persistence, VirtualService,
    address::is_name,
    duration,
    limits::{MAX_TIMEOUT, MIN_TIMEOUT},
    same_family,
};

pub(super) fn all(services: &[VirtualService], problems: &mut Problems) {
    let mut groups = HashMap::new();
    for (index, service) in services.iter().enumerate() {
        let Some(persistence) = &service.persistence else {
            continue;
        };
        alone(index, service, persistence, problems);
        let Some(group) = persistence.group.as_deref() else {
            continue;
        };
        let first = *groups.entry(group).or_insert((service, persistence));
        in_group(index, group, (service, persistence), first, problems);
    }
}

fn alone(
    index: usize,
    service: &VirtualService,
    persistence: &Persistence,
    problems: &mut Problems,
) {
    let place = |key| Place::Persistence(index, key);
    problems.in_range(
        place("timeout"),
        "timeout of persistence",
        persistence.timeout,
        &(MIN_TIMEOUT..=MAX_TIMEOUT),
    );
    let most = if service.key.address.is_ipv4() {
        32
    } else {
        128
    };
    if let Some(netmask) = persistence.netmask
        && !(1..=most).contains(&netmask)
    {
        problems.add(
            place("netmask"),
            format!(
                "netmask {netmask} of service {} is out of range: 1..={most}",
                service.key
            ),
        );
    }
    if let Some(group) = &persistence.group
        && !is_name(group)
    {
        problems.add(
            place("group"),
            format!("`{group}` is no name for a group: a letter, then up to 62 letters, digits, `.`, `_` or `-`"),
        );
    }
}

/// Compares a service of a group with the `first` of that group: what the packet program keeps for a client serves all of them.
fn in_group(
    index: usize,
    group: &str,
    (service, own): (&VirtualService, &Persistence),
    (other, first): (&VirtualService, &Persistence),
    problems: &mut Problems,
) {
    let mut differ = |key: &'static str, own: String, first: String| {
        if own != first {
            problems.add(
                Place::Persistence(index, key),
                format!(
                    "{key} {own} of service {} differs from {first} of service {}, which is in group `{group}` too: \
                     services of one group have one {key}",
                    service.key, other.key
                ),
            );
        }
    };
    let netmask = |one: &Persistence| one.netmask.map_or("none".to_owned(), |n| n.to_string());
    let timeout = |one: &Persistence| duration::exact(one.timeout);
    differ("timeout", timeout(own), timeout(first));
    differ("netmask", netmask(own), netmask(first));
    differ(
        "drain",
        own.drain.name().to_owned(),
        first.drain.name().to_owned(),
    );
    if !same_family(service.key.address.ip(), other.key.address.ip()) {
        problems.add(
            Place::Persistence(index, "group"),
            format!(
                "service {} is not of the family of service {}, which is in group `{group}` too: both must be IPv4 or \
                 both IPv6",
                service.key, other.key
            ),
        );
    }
}
