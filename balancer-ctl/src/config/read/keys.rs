//! Which keys stand in which table: built, or planned and refused by name until they are.

use toml_edit::{Key, TableLike};

use super::{Reader, start};
use crate::model::{
    enumeration::listed,
    real::{PLANNED_REAL_KEYS, REAL_KEYS},
    service::{PLANNED_SERVICE_KEYS, SERVICE_KEYS},
};

/// What stands in a table and is known: built, or planned and refused until it is.
pub(super) struct Keys {
    pub known: &'static [&'static str],
    pub later: &'static [&'static str],
}

pub(super) const FILE: Keys = Keys {
    known: &["node", "dataplane", "timeouts", "service", "notify"],
    later: &["metrics", "vrrp"],
};
pub(super) const NODE: Keys = Keys {
    known: &["name"],
    later: &[],
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
    later: &[],
};
pub(super) const TIMEOUTS: Keys = Keys {
    known: &["tcp", "tcp-fin", "udp"],
    later: &[],
};
pub(super) const SERVICE: Keys = Keys {
    known: &SERVICE_KEYS,
    later: &PLANNED_SERVICE_KEYS,
};
pub(super) const REAL: Keys = Keys {
    known: &REAL_KEYS,
    later: &PLANNED_REAL_KEYS,
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
    later: &[],
};

impl Reader<'_> {
    /// Complains about each key that is not known, or not built yet.
    pub(super) fn keys(&mut self, table: &dyn TableLike, keys: &Keys, within: &str) {
        for (name, at) in names(table) {
            if keys.known.contains(&name) {
                continue;
            }
            if keys.later.contains(&name) {
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

/// The keys of a table and where each stands.
pub(super) fn names(table: &dyn TableLike) -> impl Iterator<Item = (&str, usize)> {
    table.iter().map(|(name, item)| {
        let at = table
            .key(name)
            .and_then(Key::span)
            .map_or_else(|| start(item), |span| span.start);
        (name, at)
    })
}
