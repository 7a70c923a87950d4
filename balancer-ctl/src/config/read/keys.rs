//! The keys of each table: those of this version, and those of later versions, which are refused by name.

use toml_edit::{Key, TableLike};

use super::{Reader, start};
use crate::model::{
    enumeration::listed,
    real::{PLANNED_REAL_KEYS, REAL_KEYS},
    service::{PLANNED_SERVICE_KEYS, SERVICE_KEYS},
};

/// The keys of a table.
pub(super) struct Keys {
    pub known: &'static [&'static str],
    /// Keys of later versions.
    pub planned: &'static [&'static str],
}

pub(super) const FILE: Keys = Keys {
    known: &["node", "dataplane", "timeouts", "service", "notify"],
    planned: &["metrics", "vrrp"],
};
pub(super) const NODE: Keys = Keys {
    known: &["name"],
    planned: &[],
};
pub(super) const DATAPLANE: Keys = Keys {
    known: &[
        "interfaces",
        "mode",
        "max-connections",
        "max-connections-ipv6",
        "stray-replies",
        "masquerade",
    ],
    planned: &[],
};
pub(super) const TIMEOUTS: Keys = Keys {
    known: &["tcp", "tcp-fin", "udp"],
    planned: &[],
};
pub(super) const SERVICE: Keys = Keys {
    known: &SERVICE_KEYS,
    planned: &PLANNED_SERVICE_KEYS,
};
pub(super) const REAL: Keys = Keys {
    known: &REAL_KEYS,
    planned: &PLANNED_REAL_KEYS,
};
pub(super) const NOTIFY: Keys = Keys {
    known: &[
        "on",
        "run",
        "user",
        "services",
        "timeout",
        "alert-after",
        "alert-every",
        "always-up",
        "stdin",
    ],
    planned: &[],
};

impl Reader<'_> {
    /// Reports each key that is unknown or planned.
    pub(super) fn keys(&mut self, table: &dyn TableLike, keys: &Keys, within: &str) {
        for (name, at) in names(table) {
            if keys.known.contains(&name) {
                continue;
            }
            if keys.planned.contains(&name) {
                self.problem(
                    at,
                    format!("this version does not have `{name}` yet: remove it"),
                );
                continue;
            }
            let place = if within.is_empty() {
                String::new()
            } else {
                format!(" in `{within}`")
            };
            self.problem(
                at,
                format!(
                    "unknown key `{name}`{place}: expected {}",
                    listed(keys.known)
                ),
            );
        }
    }
}

/// The keys of a table, each with its byte offset.
pub(super) fn names(table: &dyn TableLike) -> impl Iterator<Item = (&str, usize)> {
    table.iter().map(|(name, item)| {
        let at = table
            .key(name)
            .and_then(Key::span)
            .map_or_else(|| start(item), |span| span.start);
        (name, at)
    })
}
