//! The keys of each table: those of this version, and those of later versions, which are refused by name.

mod nodes;

use toml_edit::TableLike;

pub(in crate::config) use self::nodes::{PEERS, TRACK_EXEC, TRACK_PING, TRACK_SERVICE, VRRP};
use super::{Reader, start};
use crate::model::{
    enumeration::listed,
    key::{self, Key, key},
    persistence::PERSISTENCE_KEYS,
    real::REAL_KEYS,
    service::SERVICE_KEYS,
};

/// The keys of a table.
pub(in crate::config) struct Keys {
    pub known: &'static [Key],
    /// Keys of later versions.
    pub planned: &'static [&'static str],
}

pub(in crate::config) const FILE: Keys = Keys {
    known: &[
        key("node", "this node: a table `[node]`", "none"),
        key(
            "dataplane",
            "interfaces and sizes: a table `[dataplane]`",
            "must be named",
        ),
        key(
            "timeouts",
            "of idle connections: a table `[timeouts]`",
            "none",
        ),
        key(
            "service",
            "the virtual services, each in a block `[[service]]`",
            "none",
        ),
        key(
            "notify",
            "programs that are run for events, each in a block `[[notify]]`",
            "none",
        ),
        key(
            "vrrp",
            "virtual routers, each in a block `[[vrrp]]`",
            "none",
        ),
        key(
            "peers",
            "the channel to other nodes: a table `[peers]`",
            "none",
        ),
    ],
    planned: &["metrics"],
};
pub(in crate::config) const NODE: Keys = Keys {
    known: &[key(
        "name",
        "the node's name, in `status` and for other nodes",
        "the host's name",
    )],
    planned: &[],
};
pub(in crate::config) const DATAPLANE: Keys = Keys {
    known: &[
        key(
            "interfaces",
            "names of the interfaces to balance on, as in `[\"eth0\", \"eth1\"]`",
            "must be named",
        ),
        key(
            "mode",
            "`native`, `generic`, or `auto`: native, else generic with a warning. All interfaces run the packet program in one mode",
            "`auto`",
        ),
        key(
            "max-connections",
            "how many IPv4 connections the table is sized for, 1024 to 16777216: 80 bytes of kernel memory each, from the start",
            "262144",
        ),
        key(
            "max-connections-ipv6",
            "the same of IPv6, 160 bytes each",
            "a quarter of `max-connections`, at least 1024",
        ),
        key(
            "max-persistence",
            "how many clients of services with persistence are remembered, of both families together, 1024 to 16777216: so many by their TCP handshakes, and so many by their datagrams, 112 bytes of kernel memory each, from the start",
            "65536",
        ),
        key(
            "stray-replies",
            "what becomes of a real server's packet that belongs to no connection: `pass` (to the kernel) or `reset` (TCP reset or ICMP port unreachable to the real server)",
            "`pass`",
        ),
        key(
            "snat-addresses",
            "addresses of this host that connections with full NAT have towards real servers, at most 8 of each family, as in `[\"192.168.0.1\"]`",
            "that of the interface towards the real server",
        ),
        key(
            "snat-ports",
            "the ports that they have there, for each address, real server and port; while a service may use full NAT the host's own sockets get other ports (net.ipv4.ip_local_port_range)",
            "`10000-60535`",
        ),
        key(
            "masquerade",
            "of a later version: only `false` is allowed",
            "`false`",
        ),
    ],
    planned: &[],
};
pub(in crate::config) const TIMEOUTS: Keys = Keys {
    known: &[
        key("tcp", "of an established TCP connection", "`15m`"),
        key("tcp-fin", "of one that a side has closed or reset", "`2m`"),
        key("udp", "of UDP; 30s until the first answer", "`5m`"),
    ],
    planned: &[],
};
pub(in crate::config) const SERVICE: Keys = Keys {
    known: &SERVICE_KEYS,
    planned: &[],
};
pub(in crate::config) const PERSISTENCE: Keys = Keys {
    known: &PERSISTENCE_KEYS,
    planned: &[],
};
pub(in crate::config) const REAL: Keys = Keys {
    known: &REAL_KEYS,
    planned: &[],
};
pub(in crate::config) const NOTIFY: Keys = Keys {
    known: &[
        key(
            "on",
            "the events for which the program runs, of those below",
            "must be named",
        ),
        key(
            "run",
            "the program by its absolute path, and its own arguments",
            "must be named",
        ),
        key(
            "user",
            "the user of this host that the program runs as, with that user's groups",
            "root",
        ),
        key(
            "services",
            "only events of these services, by name or `tcp/ADDRESS:PORT`, and of their real servers",
            "all events",
        ),
        key(
            "timeout",
            "time that the program may take, 100ms to 1h",
            "`10s`",
        ),
        key(
            "alert-after",
            "a condition is reported once it has lasted this long, 0s to 7days",
            "`0s`",
        ),
        key(
            "alert-every",
            "interval at which a lasting condition is reported again, 1s to 7days",
            "reported once",
        ),
        key(
            "always-up",
            "whether the end of a condition is reported even if its beginning was not: `true` or `false`",
            "`false`",
        ),
        key("stdin", "what the program reads: `json` or `mon`", "`json`"),
    ],
    planned: &[],
};

impl Reader<'_> {
    /// Reports each key that is unknown or planned.
    pub(super) fn keys(&mut self, table: &dyn TableLike, keys: &Keys, within: &str) {
        for (name, at) in names(table) {
            if keys.known.iter().any(|key| key.name == name) {
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
                    listed(&key::names(keys.known))
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
            .and_then(toml_edit::Key::span)
            .map_or_else(|| start(item), |span| span.start);
        (name, at)
    })
}
