//! The rules of a service's checks. Pure.

use std::{collections::HashSet, net::IpAddr};

use super::{Place, Problems, is_interface_name};
use crate::model::{
    Check, VirtualService,
    check::{Probe, Tls},
    limits::{INTERVAL, MAX_REQUEST_BODY, PROBE_TIMEOUT, RISE_FALL},
    same_family,
};

pub(super) fn checks(service_index: usize, service: &VirtualService, problems: &mut Problems) {
    let mut seen = HashSet::new();
    for (index, check) in service.checks.iter().enumerate() {
        let place = |key| Place::Check(service_index, index, key);
        timing(check, place, problems);
        target(check, service, place, problems);
        source(check, service, place, problems);
        body(check, place, problems);
        tls(check, place, problems);
        if !seen.insert(check) {
            problems.add(
                place("type"),
                format!(
                    "check `{}` is there twice in service {}: name it once",
                    check.probe.name(),
                    service.key
                ),
            );
        }
    }
}

fn timing(check: &Check, place: impl Fn(&'static str) -> Place, problems: &mut Problems) {
    let timing = &check.timing;
    let shown = humantime::format_duration;
    problems.in_range(place("interval"), "interval", timing.interval, &INTERVAL);
    problems.in_range(place("timeout"), "timeout", timing.timeout, &PROBE_TIMEOUT);
    // An interval that is out of range is reported alone.
    if INTERVAL.contains(&timing.interval) && timing.timeout > timing.interval {
        problems.add(
            place("timeout"),
            format!(
                "timeout {} is longer than interval {}: a probe must be over when the next begins",
                shown(timing.timeout),
                shown(timing.interval)
            ),
        );
    }
    if let Some(fast) = timing.fast_interval {
        problems.in_range(place("fast-interval"), "fast-interval", fast, &INTERVAL);
        if fast > timing.interval {
            problems.add(
                place("fast-interval"),
                format!(
                    "fast-interval {} is longer than interval {}: make it shorter, or leave it out",
                    shown(fast),
                    shown(timing.interval)
                ),
            );
        } else if INTERVAL.contains(&fast)
            && timing.timeout > fast
            && timing.timeout <= timing.interval
        {
            problems.add(
                place("timeout"),
                format!(
                    "timeout {} is longer than fast-interval {}: a probe must be over when the next begins",
                    shown(timing.timeout),
                    shown(fast)
                ),
            );
        }
    }
    for (key, count) in [("rise", timing.rise), ("fall", timing.fall)] {
        if !RISE_FALL.contains(&count) {
            let (least, most) = RISE_FALL.into_inner();
            problems.add(
                place(key),
                format!("{key} {count} is out of range: {least}..={most}"),
            );
        }
    }
}

fn target(
    check: &Check,
    service: &VirtualService,
    place: impl Fn(&'static str) -> Place,
    problems: &mut Problems,
) {
    if let Some(address) = check.target.address
        && let Some(reason) = unusable(address)
    {
        problems.add(
            place("address"),
            format!("address {address} of a check is {reason}"),
        );
    }
    if check.target.port.is_some() {
        return;
    }
    let name = check.probe.name();
    match check.probe {
        Probe::Agent(_) => problems.add(
            place("type"),
            "check of type `agent` has no port: add the agent's, which is not the service's, as in `port = 8700`",
        ),
        Probe::Ping | Probe::Exec(_) => {}
        Probe::Tcp(_) | Probe::Http(_) | Probe::Udp(_) | Probe::Dns(_) | Probe::Grpc(_) => {
            if service.key.address.port() == 0 {
                problems.add(
                    place("type"),
                    format!(
                        "check of type `{name}` has no port, and service {} is on every port: add one, as in `port = 80`",
                        service.key
                    ),
                );
            }
        }
    }
}

fn source(
    check: &Check,
    service: &VirtualService,
    place: impl Fn(&'static str) -> Place,
    problems: &mut Problems,
) {
    let probed = check.target.address.unwrap_or(service.key.address.ip());
    if let Some(source) = check.source.address {
        if let Some(reason) = unusable(source) {
            problems.add(
                place("source"),
                format!("source {source} of a check is {reason}"),
            );
        } else if !same_family(source, probed) {
            problems.add(
                place("source"),
                format!("source {source} of a check is not of the family of what it probes ({probed}): both must be IPv4 or both IPv6"),
            );
        }
    }
    if let Some(name) = &check.source.interface
        && !is_interface_name(name)
    {
        problems.add(
            place("interface"),
            format!("`{name}` is no interface name: 1 to 15 bytes without space or `/`"),
        );
    }
}

fn body(check: &Check, place: impl Fn(&'static str) -> Place, problems: &mut Problems) {
    let Probe::Http(http) = &check.probe else {
        return;
    };
    // RFC 9110, section 9.3.2.
    if http.body.is_some() && http.method == "HEAD" {
        problems.add(
            place("body"),
            "an answer to method HEAD has no body: leave body out, or name another method",
        );
    }
    let length = http.request_body.len();
    if length > MAX_REQUEST_BODY {
        problems.add(
            place("request-body"),
            format!("request-body has {length} bytes, and may have {MAX_REQUEST_BODY}"),
        );
    }
    // RFC 9110, section 9.3.8.
    if length > 0 && http.method == "TRACE" {
        problems.add(
            place("request-body"),
            "a request of method TRACE has no body: leave request-body out, or name another method",
        );
    }
}

fn tls(check: &Check, place: impl Fn(&'static str) -> Place, problems: &mut Problems) {
    let tls = match &check.probe {
        Probe::Http(http) => http.tls.as_ref(),
        Probe::Grpc(grpc) => grpc.tls.as_ref(),
        Probe::Tcp(_)
        | Probe::Udp(_)
        | Probe::Dns(_)
        | Probe::Ping
        | Probe::Exec(_)
        | Probe::Agent(_) => None,
    };
    if let Some(Tls {
        ca: Some(_),
        insecure: true,
        ..
    }) = tls
    {
        problems.add(
            place("insecure"),
            "insecure takes any certificate, so ca has no use beside it: keep one",
        );
    }
}

/// Why no probe can go to or from this address, if so. Loopback addresses are allowed: an agent may run on this host.
fn unusable(address: IpAddr) -> Option<&'static str> {
    if address.is_loopback() {
        return None;
    }
    super::unusable(address)
}
