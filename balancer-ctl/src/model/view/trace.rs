//! Which real server a client would get.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::model::{Protocol, names::names};

/// Answer to `GET /v1/trace`: which real server a client would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The service's protocol.
    pub protocol: Protocol,
    /// The service's address and port.
    pub service: SocketAddr,
    /// The real server; `null` = none.
    pub real: Option<SocketAddr>,
    /// Whether it would see an address of the balancer instead of the client's.
    #[serde(default)]
    pub full_nat: bool,
    /// How it was found.
    pub by: TracedBy,
    /// The rule of the service's filter that lets the client in or refuses it, as in `deny 198.51.100.0/24`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Why, in words.
    pub reason: String,
}

/// How a client's real server was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TracedBy {
    /// The client has a connection.
    Connection,
    /// The client keeps it.
    Persistence,
    /// By the scheduler's turn, hash or chance.
    Scheduler,
    /// It has the least load.
    LeastLoad,
    /// There is none.
    None,
}

names!(TracedBy {
    Connection = "connection",
    Persistence = "persistence",
    Scheduler = "scheduler",
    LeastLoad = "least-load",
    None = "none",
});
