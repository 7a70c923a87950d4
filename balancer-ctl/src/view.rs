//! What the daemon shows: the types behind `--json` and the API's answers. Data only.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};
use tracing::Level;

use crate::{
    dataplane::Counters,
    model::{ForwardMethod, NoReal, Protocol, Scheduler},
};

/// Answer to `GET /v1/services`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Services {
    /// In the order in which they were added.
    pub services: Vec<Service>,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// The operator's name for it.
    pub name: Option<String>,
    /// Protocol.
    pub protocol: Protocol,
    /// VIP and port.
    pub address: SocketAddr,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// Persistence; none yet.
    pub persistence: Option<Never>,
    /// With no real server.
    pub no_real: NoReal,
    /// Whether it, or its last change, is not in the configuration file.
    pub runtime: bool,
    /// Its real servers.
    pub reals: Vec<Real>,
    /// Its counters, removed real servers' among them.
    pub counters: Counters,
    /// Per second, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Counters>,
}

/// What is never there yet; `null` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Never {}

/// A real server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Real {
    /// Address and port.
    pub address: SocketAddr,
    /// The weight it was given.
    pub weight: u32,
    /// The weight by which it takes new connections now.
    pub effective_weight: u32,
    /// How packets reach it.
    pub forwarding: ForwardMethod,
    /// Whether it serves only when the others cannot; not yet.
    pub backup: bool,
    /// State.
    pub state: RealState,
    /// Why, unless it is plainly up.
    pub reason: Option<String>,
    /// Established TCP connections.
    pub active: u64,
    /// All other connections.
    pub inactive: u64,
    /// Its counters.
    pub counters: Counters,
    /// Per second, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Counters>,
    /// Whether it, or its last change, is not in the configuration file.
    pub runtime: bool,
}

/// State of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RealState {
    /// It takes new connections.
    Up,
    /// It keeps its connections and takes no new ones.
    Draining,
}

impl RealState {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
        }
    }
}

/// Answer to `GET /v1/connections`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// In no order.
    pub connections: Vec<Connection>,
    /// Whether there are more than were asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// Protocol.
    pub protocol: Protocol,
    /// State, by name.
    pub state: String,
    /// Milliseconds until it is deleted if nothing more is seen.
    pub expires_in_ms: u64,
    /// The client.
    pub client: SocketAddr,
    /// The address that the client sees.
    #[serde(rename = "virtual")]
    pub virtual_address: SocketAddr,
    /// The real server.
    pub real: SocketAddr,
}

/// Answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// The daemon's version.
    pub version: String,
    /// Whether all works.
    pub overall: Overall,
    /// Why not, a sentence each.
    pub reasons: Vec<String>,
    /// Whether peers could take over; not yet.
    pub high_availability: bool,
    /// The node's part in high availability.
    pub role: Role,
    /// Virtual routers; none yet.
    pub vrrp: Vec<Never>,
    /// Peers; none yet.
    pub peers: Vec<Never>,
    /// The data plane.
    pub dataplane: Dataplane,
    /// Virtual services.
    pub services: Vec<ServiceStatus>,
    /// The configuration file, if there is one.
    pub config: Option<String>,
    /// Whether what runs differs from the file by changes made with `--runtime`.
    pub runtime_changes: bool,
}

/// Whether all works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overall {
    /// All works.
    Running,
    /// Something works around a problem.
    Limited,
    /// A service cannot answer.
    Down,
}

impl Overall {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Limited => "limited",
            Self::Down => "down",
        }
    }
}

/// The node's part in high availability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// There is only this node.
    Standalone,
}

/// The data plane in the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dataplane {
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Connections in the table.
    pub connections: u64,
    /// Most connections.
    pub max_connections: u64,
    /// Packets that left early, by reason; all reasons are there.
    pub discards: BTreeMap<String, u64>,
}

/// An interface in the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
    /// Kernel's id of the program.
    pub program_id: u32,
}

/// A virtual service in the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name, or what it is known by.
    pub name: String,
    /// Real servers that take new connections.
    pub reals_up: usize,
    /// All its real servers.
    pub reals_total: usize,
}

/// A change of state, as `GET /v1/events` sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in UTC (RFC 3339).
    pub time: String,
    /// What.
    pub event: EventKind,
    /// Which service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Which real server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<SocketAddr>,
    /// More, in words; empty where there is no more to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A service was added.
    ServiceAdded,
    /// A service was changed.
    ServiceChanged,
    /// A service was removed.
    ServiceRemoved,
    /// A real server was added.
    RealAdded,
    /// A real server was changed.
    RealChanged,
    /// A real server was removed.
    RealRemoved,
    /// The configuration file was loaded again.
    Reloaded,
    /// The configuration file could not be loaded again; what ran goes on.
    ReloadFailed,
    /// New connections find no room in the connection table.
    TableFull,
    /// There is room again.
    TableHasRoom,
    /// The reader was too slow and events were lost; the stream ends.
    Lost,
    /// The daemon stops; forwarding goes on.
    Stopping,
}

impl EventKind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServiceAdded => "service-added",
            Self::ServiceChanged => "service-changed",
            Self::ServiceRemoved => "service-removed",
            Self::RealAdded => "real-added",
            Self::RealChanged => "real-changed",
            Self::RealRemoved => "real-removed",
            Self::Reloaded => "reloaded",
            Self::ReloadFailed => "reload-failed",
            Self::TableFull => "table-full",
            Self::TableHasRoom => "table-has-room",
            Self::Lost => "lost",
            Self::Stopping => "stopping",
        }
    }

    /// How loud the log tells it.
    #[must_use]
    pub const fn level(self) -> Level {
        match self {
            Self::ReloadFailed => Level::ERROR,
            Self::TableFull | Self::Lost => Level::WARN,
            Self::ServiceAdded
            | Self::ServiceChanged
            | Self::ServiceRemoved
            | Self::RealAdded
            | Self::RealChanged
            | Self::RealRemoved
            | Self::Reloaded
            | Self::TableHasRoom
            | Self::Stopping => Level::INFO,
        }
    }

    /// What happened, for the log.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::ServiceAdded => "service added",
            Self::ServiceChanged => "service changed",
            Self::ServiceRemoved => "service removed",
            Self::RealAdded => "real added",
            Self::RealChanged => "real changed",
            Self::RealRemoved => "real removed",
            Self::Reloaded => "configuration loaded again",
            Self::ReloadFailed => "configuration not loaded, what ran goes on running",
            Self::TableFull => "connection table full, new connections are refused",
            Self::TableHasRoom => "connection table has room again",
            Self::Lost => "events lost",
            Self::Stopping => "stopping",
        }
    }
}
