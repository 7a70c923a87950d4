//! How the nodes of a pair reach each other, and who was not let in.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use crate::model::names::names;

/// The port on which nodes listen if none is named.
pub const DEFAULT_PORT: u16 = 4446;

/// The `[peers]` part of the configuration. There is a channel once there is a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Address and port on which the node listens.
    pub listen: SocketAddr,
    /// Name of the interface over which alone it listens and dials.
    pub interface: Option<String>,
    /// File with the key; `None` = the one that `balancer-ctl node key` made.
    pub key_file: Option<PathBuf>,
    /// Other nodes by address and port, beside those that joined.
    pub nodes: Vec<SocketAddr>,
    /// Who keeps the nodes' services alike.
    pub sync: Sync,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), DEFAULT_PORT),
            interface: None,
            key_file: None,
            nodes: Vec::new(),
            sync: Sync::default(),
        }
    }
}

/// Who keeps the nodes' services alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// The operator, with `balancer-ctl push`.
    #[default]
    Manual,
    /// The Active node sends its services to the others whenever theirs differ.
    ActivePushes,
}

names!(Sync {
    Manual = "manual",
    ActivePushes = "active-pushes",
});

/// Connections that were not let in, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalCounters {
    /// The other side had another key.
    pub wrong_key: u64,
    /// What came was no handshake or no message.
    pub garbage: u64,
    /// What came was recorded on another connection, or changed on the way.
    pub forged: u64,
    /// Nothing came in time.
    pub silent: u64,
    /// The other side went before the handshake was complete.
    pub abandoned: u64,
    /// Too many shook hands at the same time, and it was the oldest.
    pub crowded: u64,
    /// The node has this node's name, or another's.
    pub name: u64,
    /// The node has the key and is not one of this cluster.
    pub unknown: u64,
}

impl RefusalCounters {
    /// Each reason: its name, what happened, and how often.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, &'static str, u64); 8] {
        [
            ("wrong-key", "another key", self.wrong_key),
            ("garbage", "no handshake, or no message", self.garbage),
            (
                "forged",
                "recorded on another connection, or changed on the way",
                self.forged,
            ),
            ("silent", "nothing came in time", self.silent),
            (
                "abandoned",
                "ended before the handshake was complete",
                self.abandoned,
            ),
            (
                "crowded",
                "too many at the same time, and it was the oldest",
                self.crowded,
            ),
            ("name", "a name that another node has", self.name),
            ("unknown", "a node that is not one of these", self.unknown),
        ]
    }
}

/// Reads a node's address, with or without a port; the error continues a sentence that begins with the key and the value.
///
/// # Errors
/// It is neither.
pub fn node_address(text: &str) -> Result<SocketAddr, String> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let alone = || text.parse().ok().or_else(|| bracketed().map(IpAddr::V6));
    let address = text.parse::<SocketAddr>().ok();
    let address = address.or_else(|| Some(SocketAddr::new(alone()?, DEFAULT_PORT)));
    address.filter(|address| address.port() != 0).ok_or_else(|| {
        "is no address of a node: write `192.0.2.2`, `192.0.2.2:4446`, `2001:db8::2` or `[2001:db8::2]:4446`"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_address_has_the_usual_port_if_none_is_named() {
        for (text, expected) in [
            ("192.0.2.2", "192.0.2.2:4446"),
            ("192.0.2.2:99", "192.0.2.2:99"),
            ("2001:db8::2", "[2001:db8::2]:4446"),
            ("[2001:db8::2]:99", "[2001:db8::2]:99"),
            ("[2001:db8::2]", "[2001:db8::2]:4446"),
        ] {
            assert_eq!(node_address(text), Ok(expected.parse().unwrap()));
        }
        for text in [
            "",
            "lb2",
            "192.0.2.2:0",
            "192.0.2.2:",
            "192.0.2.0/24",
            "[192.0.2.2]",
            "[2001:db8::2",
            "2001:db8::2]",
            "[]",
        ] {
            assert!(node_address(text).is_err(), "{text}");
        }
    }
}
