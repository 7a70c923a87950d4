//! The keys of each table: those of this version, and those of later versions, which are refused by name.

use toml_edit::{Key, TableLike};

use super::{Reader, start};
use crate::model::{
    enumeration::listed, persistence::PERSISTENCE_KEYS, real::REAL_KEYS, service::SERVICE_KEYS,
};

/// The keys of a table.
pub(super) struct Keys {
    pub known: &'static [&'static str],
    /// Keys of later versions.
    pub planned: &'static [&'static str],
}

pub(super) const FILE: Keys = Keys {
    known: &[
        "node",
        "dataplane",
        "timeouts",
        "service",
        "notify",
        "vrrp",
        "peers",
    ],
    planned: &["metrics"],
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
        "max-persistence",
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
    planned: &[],
};
pub(super) const PERSISTENCE: Keys = Keys {
    known: &PERSISTENCE_KEYS,
    planned: &[],
};
pub(super) const REAL: Keys = Keys {
    known: &REAL_KEYS,
    planned: &[],
};
pub(super) const PEERS: Keys = Keys {
    known: &["listen", "interface", "key-file", "nodes", "sync"],
    planned: &[],
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
pub(super) const VRRP: Keys = Keys {
    known: &[
        "name",
        "interface",
        "router-id",
        "priority",
        "advertisement-interval",
        "failback",
        "addresses",
        "unicast-peers",
        "group",
        "track-interfaces",
        "track-ping",
        "track-services",
        "track-exec",
        "checksum",
        "announce-interval",
    ],
    planned: &[],
};
pub(super) const TRACK_PING: Keys = Keys {
    known: &["targets", "interval", "timeout", "fall", "rise", "weight"],
    planned: &[],
};
pub(super) const TRACK_SERVICE: Keys = Keys {
    known: &["service", "weight"],
    planned: &[],
};
pub(super) const TRACK_EXEC: Keys = Keys {
    known: &[
        "run", "user", "interval", "timeout", "fall", "rise", "weight",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Scheduler, names::Named as _};

    /// The first column of a table of the reference, below this heading.
    fn reference(heading: &str) -> Vec<&'static str> {
        let readme = include_str!("../../../../README.md");
        let (_, after) = readme.split_once(&format!("\n### {heading}\n")).unwrap();
        let (section, _) = after.split_once("\n#").unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.filter_map(|row| row.split_once("` | "))
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn the_reference_names_each_key_and_each_scheduler() {
        assert_eq!(reference("Keys of `[[service]]`"), SERVICE.known);
        assert_eq!(reference("Keys of `[[service.real]]`"), REAL.known);
        assert_eq!(reference("Persistence"), PERSISTENCE.known);
        assert_eq!(reference("Schedulers"), Scheduler::NAMES);
        assert_eq!(reference("Keys of `[[vrrp]]`"), VRRP.known);
        assert_eq!(reference("Keys of `[peers]`"), PEERS.known);
    }

    #[test]
    fn the_reference_names_each_key_of_what_a_virtual_router_tracks() {
        let mut known: Vec<_> = [TRACK_PING, TRACK_SERVICE, TRACK_EXEC]
            .iter()
            .flat_map(|keys| keys.known)
            .copied()
            .collect();
        let mut named = reference("Keys of `track-ping`, `track-services` and `track-exec`");
        known.sort_unstable();
        known.dedup();
        named.sort_unstable();
        assert_eq!(named, known);
    }
}
