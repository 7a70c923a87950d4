//! Services as `ipvsadm -S -n` prints them, a line for each service (`-A`) and each real server (`-a`): written and read. Pure.

mod read;

use serde_json::{Map, Value};

pub use self::read::read;
use crate::model::{
    AdminState, HashKey, PersistenceDrain, Protocol, ServiceKey, VirtualService, duration,
    persistence, view,
};

/// The lines of services, and what of these the lines have no place for, a sentence each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// The lines.
    pub lines: Vec<String>,
    /// What is left out.
    pub left_out: Vec<String>,
}

impl Lines {
    /// The lines of these services, in their order.
    pub fn of(services: &[view::Service]) -> Self {
        let mut lines = Self::default();
        for service in services {
            lines.add(service);
        }
        lines
    }

    fn add(&mut self, service: &view::Service) {
        let key = ServiceKey {
            protocol: service.protocol,
            address: service.address,
        };
        let letter = match service.protocol {
            Protocol::Tcp => "-t",
            Protocol::Udp => "-u",
        };
        let name = format!("{letter} {}", service.address);
        let mut line = format!("-A {name} -s {}", service.scheduler.name());
        if let Some(persistence) = &service.persistence {
            line.push_str(&format!(" -p {}", seconds(&persistence.timeout)));
            if let Some(netmask) = persistence.netmask {
                line.push_str(&format!(" -M {}", mask(&key, netmask)));
            }
        }
        if service.hash == HashKey::ClientPort {
            line.push_str(&format!(" -b {}-port", service.scheduler.name()));
        }
        self.lines.push(line);
        self.leave_out(&format!("service {key}"), of_service(&key, service));
        for real in &service.reals {
            let mut line = format!("-a {name} -r {} -m -w {}", real.address, real.weight);
            for (letter, threshold) in [("-x", real.upper), ("-y", real.lower)] {
                if threshold > 0 {
                    line.push_str(&format!(" {letter} {threshold}"));
                }
            }
            self.lines.push(line);
            let settings = [
                ("forwarding", real.forwarding != service.forwarding),
                ("backup", real.backup),
                ("state", real.admin != AdminState::default()),
            ];
            let settings = settings.into_iter().filter(|(_, is_set)| *is_set);
            let settings = settings.map(|(name, _)| name.to_owned()).collect();
            self.leave_out(&format!("real {} of service {key}", real.address), settings);
        }
    }

    fn leave_out(&mut self, of: &str, settings: Vec<String>) {
        if !settings.is_empty() {
            let settings = settings.join(", ");
            self.left_out
                .push(format!("{of}: these lines do not hold {settings}"));
        }
    }
}

/// The settings of a service, by the file's keys, that are not the default and that its line does not hold.
fn of_service(key: &ServiceKey, service: &view::Service) -> Vec<String> {
    const ELSEWHERE: [&str; 11] = [
        "protocol",
        "address",
        "scheduler",
        "hash",
        "persistence",
        "persistence_entries",
        "not_allowed",
        "runtime",
        "reals",
        "counters",
        "rates",
    ];
    let default = view::Service::from(&VirtualService::new(*key));
    let (own, default) = (fields(service), fields(&default));
    let own = own
        .iter()
        .filter(|(name, value)| default.get(*name) != Some(*value));
    let names = own.map(|(name, _)| name.as_str());
    let names = names.filter(|name| !ELSEWHERE.contains(name));
    let mut names: Vec<_> = names.map(|name| name.replace('_', "-")).collect();
    if let Some(persistence) = &service.persistence {
        let parts = [
            ("group", persistence.group.is_some()),
            ("drain", persistence.drain != PersistenceDrain::default()),
            (
                "milliseconds of the timeout",
                duration::parse(&persistence.timeout).is_ok_and(|time| time.subsec_millis() > 0),
            ),
        ];
        let parts = parts.into_iter().filter(|(_, is_set)| *is_set);
        names.extend(parts.map(|(name, _)| format!("persistence {name}")));
    }
    names
}

fn fields(service: &view::Service) -> Map<String, Value> {
    match serde_json::to_value(service) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// A timeout in whole seconds, at least one.
fn seconds(timeout: &str) -> u64 {
    let timeout = duration::parse(timeout).unwrap_or_default();
    timeout.as_secs().max(1)
}

/// A netmask as ipvsadm writes it: of IPv4 with dots, of IPv6 as a length.
fn mask(key: &ServiceKey, length: u8) -> String {
    if key.address.is_ipv6() {
        return length.to_string();
    }
    persistence::mask(length).to_string()
}

#[cfg(test)]
mod tests;
