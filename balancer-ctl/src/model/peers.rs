//! How the nodes of a pair reach each other.

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
    /// The Active node sends its services to the others after each change.
    ActivePushes,
}

names!(Sync {
    Manual = "manual",
    ActivePushes = "active-pushes",
});

/// Reads a node's address, with or without a port; the error continues a sentence that begins with the key and the value.
///
/// # Errors
/// It is neither.
pub fn node_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<SocketAddr>().or_else(|_| {
        text.parse::<IpAddr>()
            .map(|ip| SocketAddr::new(ip, DEFAULT_PORT))
    });
    match address {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) | Err(_) => Err(
            "is no address of a node: write `192.0.2.2`, `192.0.2.2:4446` or `[2001:db8::2]:4446`"
                .to_owned(),
        ),
    }
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
        ] {
            assert_eq!(node_address(text), Ok(expected.parse().unwrap()));
        }
        for text in ["", "lb2", "192.0.2.2:0", "192.0.2.2:", "192.0.2.0/24"] {
            assert!(node_address(text).is_err(), "{text}");
        }
    }
}
