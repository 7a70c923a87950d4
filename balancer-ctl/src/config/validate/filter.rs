//! The rules of services' filters. Pure.

use std::{collections::HashMap, net::IpAddr};

use super::{Place, Problems};
use crate::model::{
    ServiceKey, VirtualService,
    filter::Prefixes,
    limits::{MAX_PREFIXES, RATE},
    prefix::{self, Prefix},
    same_family,
};

pub(super) fn all(services: &[VirtualService], problems: &mut Problems) {
    let mut total = 0;
    for (index, service) in services.iter().enumerate() {
        let mut seen = HashMap::new();
        let filter = &service.filter;
        for (key, list) in [("allow", &filter.allow), ("deny", &filter.deny)] {
            lists(index, service.key, (key, list), &mut seen, problems);
            let before = total;
            total += list.len();
            if before <= MAX_PREFIXES && total > MAX_PREFIXES {
                problems.add(
                    Place::Service(index, key),
                    format!(
                        "{key} of service {} is too long: with it the filters of all services hold more than {MAX_PREFIXES} prefixes, \
                         which is the most; join neighbouring prefixes",
                        service.key
                    ),
                );
            }
        }
        rate(index, service, problems);
    }
}

fn lists(
    index: usize,
    service: ServiceKey,
    (key, list): (&'static str, &Prefixes),
    seen: &mut HashMap<Prefix, &'static str>,
    problems: &mut Problems,
) {
    let vip = service.address.ip();
    for (number, prefix) in list.iter().enumerate() {
        let sentence = if !same_family(prefix.address, vip) {
            Some(format!(
                "{key} {prefix} is not of the family of service {service}: both must be IPv4 or both IPv6"
            ))
        } else if is_mapped(prefix) {
            Some(format!(
                "{key} {prefix} is an IPv4 prefix in IPv6 form, and no packet of IPv6 has such a source: leave it out, or write the IPv4 \
                 prefix in an IPv4 service"
            ))
        } else {
            match seen.insert(*prefix, key) {
                Some(other) if other == key => {
                    Some(format!("{key} {prefix} is there twice: name it once"))
                }
                Some(other) => Some(format!(
                    "{key} {prefix} is in {other}, too: leave it in one of them"
                )),
                None => None,
            }
        };
        if let Some(sentence) = sentence {
            problems.add(Place::ServiceEntry(index, key, number), sentence);
        }
    }
}

/// Whether all addresses in a prefix are IPv4 addresses in IPv6 form.
fn is_mapped(prefix: &Prefix) -> bool {
    match prefix.address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => prefix.length >= 96 && v6.to_ipv4_mapped().is_some(),
    }
}

fn rate(index: usize, service: &VirtualService, problems: &mut Problems) {
    let Some(rate) = service.filter.rate else {
        return;
    };
    let place = Place::Service(index, "rate");
    let whole = prefix::whole(service.key.address.ip());
    if !RATE.contains(&rate.per_second) {
        let (least, most) = RATE.into_inner();
        problems.add(
            place,
            format!("rate `{rate}` is out of range: {least}/s to {most}/s"),
        );
    } else if rate.length_for(service.key.address.ip()) > whole {
        problems.add(
            place,
            format!(
                "rate `{rate}` of service {} is per too long a prefix: /0 to /{whole}",
                service.key
            ),
        );
    }
}
