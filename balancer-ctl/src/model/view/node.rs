//! Other nodes, and what nodes track.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Another node in the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name; its address if it was never reached.
    pub name: String,
    /// Address and port at which it is reached.
    pub address: SocketAddr,
    /// Its part as it said last: `active`, `backup`, `fault`, `standalone` or `unknown`.
    pub role: String,
    /// The version of its daemon; `None` = it was never reached.
    pub version: Option<String>,
    /// Milliseconds since it was last heard; `None` = never.
    pub last_seen_ms: Option<u64>,
    /// Whether it answers.
    pub connected: bool,
    /// Whether it could have the VIPs.
    pub ready: bool,
    /// Whether an operator keeps it from having them.
    pub maintenance: bool,
    /// The lowest priority of its virtual routers.
    pub priority: Option<u8>,
    /// Whether it has the same services as this node.
    pub same_services: bool,
    /// Whether it answers and has the same services and VIPs as this node.
    pub synchronised: bool,
    /// Why it does not answer.
    pub trouble: Option<String>,
    /// The VIPs that it has, as it said last.
    #[serde(default)]
    pub vips: Vec<IpAddr>,
    /// What its virtual routers track, and whether it is up, as it said last.
    #[serde(default)]
    pub tracked: Vec<Tracked>,
}

/// The key with which nodes join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeKey {
    /// As `node join` takes it.
    pub key: String,
}

/// Something without which a node is less fit to have the VIPs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracked {
    /// What it is, as in `ping 192.0.2.1`.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
}
