//! The types of the API's answers, which `--json` prints. Data only.

mod node;
mod trace;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use balancer_common::tcp::State;
use serde::{Deserialize, Serialize};

pub use self::{
    node::{NodeKey, Peer, Tracked},
    trace::{Trace, TracedBy},
};
pub use crate::model::event::EventKind;
use crate::model::{
    self, AdminState, Backups, ForwardMethod, Hairpin, HashKey, NoReal, OnDown, PersistenceDrain,
    Protocol, Scheduler, VirtualService,
    check::keys,
    counters::Counters,
    duration, filter,
    health::AgentRequest,
    names::names,
    prefix::Prefix,
    vrrp::{Probes, VirtualRouterState},
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
    /// What the schedulers `sh` and `mh` hash.
    pub hash: HashKey,
    /// Its persistence; `None` = a client's connections go anywhere.
    pub persistence: Option<Persistence>,
    /// Clients that keep a real server of it; those of its group, if it is in one. `None` where it has no persistence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence_entries: Option<u64>,
    /// What a client gets while no real server takes new connections.
    pub no_real: NoReal,
    /// How packets reach those of its real servers that have no method of their own.
    #[serde(default)]
    pub forwarding: ForwardMethod,
    /// What becomes of clients whom their real server would answer past the balancer.
    #[serde(default)]
    pub hairpin: Hairpin,
    /// Its checks, in the file's keys.
    pub check: Vec<serde_json::Value>,
    /// What becomes of the connections of a real server that went down, as in the file.
    pub on_down: OnDown,
    /// How long the weight of a real server that came back takes to grow to its full value, as in the file.
    pub slow_start: String,
    /// Least live weight that the service needs.
    pub quorum: u32,
    /// Quorum is lost at this much below `quorum`, and regained at this much above it.
    pub hysteresis: u32,
    /// Which backups step in.
    pub backups: Backups,
    /// Clients that may open connections; if there are any, others may not.
    #[serde(default)]
    pub allow: Vec<FilterRule>,
    /// Clients that may not.
    #[serde(default)]
    pub deny: Vec<FilterRule>,
    /// Packets that were refused because their clients are in no prefix of `allow`, or of `deny`. `None` where `allow` is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_allowed: Option<u64>,
    /// How many connections a client may open in a second; `None` = any number.
    #[serde(default)]
    pub rate: Option<RateLimit>,
    /// Whether it, or its last change, is not in the configuration file.
    pub runtime: bool,
    /// Its real servers.
    pub reals: Vec<Real>,
    /// Its counters, including those of removed real servers.
    pub counters: Counters,
    /// Packets to it that were dropped or answered in its stead, by the reason; only what has been counted. Fragments, and packets with IPv6
    /// extension headers, count in `status` alone.
    #[serde(default)]
    pub discards: BTreeMap<String, u64>,
    /// Counters per second, if the request asks for rates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Counters>,
}

impl From<&VirtualService> for Service {
    /// The service with its settings; without its real servers, and nothing counted.
    fn from(service: &VirtualService) -> Self {
        Self::filtered(service, &BTreeMap::new())
    }
}

impl Service {
    /// The service with its settings, and what its filter has counted; without its real servers, and nothing else counted.
    #[must_use]
    pub fn filtered(service: &VirtualService, counted: &BTreeMap<filter::FilterRule, u64>) -> Self {
        let count = |rule| counted.get(&rule).copied().unwrap_or_default();
        let list = |list: &[Prefix]| {
            let rules = list.iter().map(|prefix| FilterRule {
                prefix: prefix.to_string(),
                packets: count(filter::FilterRule::Prefix(*prefix)),
            });
            rules.collect()
        };
        let model::Filter { allow, deny, rate } = &service.filter;
        Self {
            name: service.name.clone(),
            protocol: service.key.protocol,
            address: service.key.address,
            scheduler: service.scheduler,
            hash: service.hash.unwrap_or_default(),
            persistence: service.persistence.as_ref().map(Persistence::from),
            persistence_entries: service.persistence.is_some().then_some(0),
            no_real: service.no_real,
            forwarding: service.forwarding,
            hairpin: service.hairpin,
            check: service.checks.iter().map(keys::json).collect(),
            on_down: service.health.on_down,
            slow_start: duration::exact(service.health.slow_start),
            quorum: service.health.quorum,
            hysteresis: service.health.hysteresis,
            backups: service.health.backups,
            allow: list(allow),
            deny: list(deny),
            not_allowed: (!allow.is_empty()).then(|| count(filter::FilterRule::Others)),
            rate: rate.map(|rate| RateLimit {
                limit: rate.in_full(service.key.address.ip()),
                refused: count(filter::FilterRule::Rate),
            }),
            runtime: service.runtime,
            reals: Vec::new(),
            counters: Counters::default(),
            discards: BTreeMap::new(),
            rates: None,
        }
    }
}

/// A prefix of a service's filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRule {
    /// The prefix; a whole address without its length.
    pub prefix: String,
    /// Packets that would have opened a connection, and that it has let in or refused.
    pub packets: u64,
}

/// A service's limit of connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// As in the file, with the length of the prefix in any case: `100/s per /32`.
    pub limit: String,
    /// Packets that it has refused.
    pub refused: u64,
}

/// The persistence of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persistence {
    /// How long a client stays with its real server after its latest connection began, as in the file.
    pub timeout: String,
    /// Length of the prefix in which clients' addresses agree that count as one; `None` = the whole address.
    pub netmask: Option<u8>,
    /// The group of services that share their clients' real servers.
    pub group: Option<String>,
    /// What becomes of the clients of a draining real server.
    pub drain: PersistenceDrain,
}

impl From<&model::Persistence> for Persistence {
    fn from(persistence: &model::Persistence) -> Self {
        Self {
            timeout: duration::exact(persistence.timeout),
            netmask: persistence.netmask,
            group: persistence.group.clone(),
            drain: persistence.drain,
        }
    }
}

/// A value that only a later version will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Planned {}

/// A real server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Real {
    /// Address and port.
    pub address: SocketAddr,
    /// Its configured weight.
    pub weight: u32,
    /// The weight by which it takes new connections now.
    pub effective_weight: u32,
    /// How packets reach it.
    pub forwarding: ForwardMethod,
    /// Connections at which it takes no new ones; 0 = no limit.
    pub upper: u32,
    /// Connections below which it takes new ones again; 0 = three quarters of `upper`.
    pub lower: u32,
    /// Whether it serves only when the others cannot.
    pub backup: bool,
    /// Its state.
    pub state: RealState,
    /// Why it is in this state; `None` where it is up without any restriction.
    pub reason: Option<String>,
    /// Its administrative state, set by the operator.
    pub admin: AdminState,
    /// What probes and its agent found; `None` = no result yet, or it is not probed.
    pub health: Option<RealHealth>,
    /// The weight and state that its agent, or an `exec` check, requests.
    pub agent: Option<AgentRequest>,
    /// Established TCP connections.
    pub active: u64,
    /// All other connections.
    pub inactive: u64,
    /// Its counters.
    pub counters: Counters,
    /// Counters per second, if the request asks for rates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rates: Option<Counters>,
    /// Whether it, or its last change, is not in the configuration file.
    pub runtime: bool,
}

/// What the checks of a real server found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealHealth {
    /// All its checks pass.
    Up,
    /// A check fails.
    Down,
}

names!(RealHealth {
    Up = "up",
    Down = "down",
});

/// State of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RealState {
    /// It takes new connections.
    Up,
    /// A probe failed, or none has passed yet.
    Down,
    /// It keeps its connections and takes no new ones.
    Draining,
    /// Taken out of service by the operator or its agent.
    Maintenance,
}

names!(RealState {
    Up = "up",
    Down = "down",
    Draining = "draining",
    Maintenance = "maintenance",
});

/// Answer to `GET /v1/health`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// All checkers, ordered by the real servers that use them.
    pub checkers: Vec<Checker>,
    /// Why there is no checker, with the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
}

/// A checker, its state and its results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checker {
    /// Address and port that are probed.
    pub target: SocketAddr,
    /// The type of its probe.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its check, in the configuration file's keys.
    pub check: serde_json::Value,
    /// The real servers whose health it decides, as `SERVICE REAL`.
    pub used_by: Vec<String>,
    /// `up`, `down`, or `unknown` before the first probe is done.
    pub state: String,
    /// Since when, in UTC (RFC 3339).
    pub since: String,
    /// Why it is in this state.
    pub reason: String,
    /// The last conclusive probe.
    pub last: Option<LastProbe>,
    /// Why this host cannot probe the target at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
    /// The last changes of its state, the latest first.
    pub history: Vec<HealthChange>,
}

/// The last probe of a checker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastProbe {
    /// When it began, in UTC (RFC 3339).
    pub time: String,
    /// Whether it passed.
    pub passed: bool,
    /// The answer, or what was wrong with it.
    pub message: String,
    /// How long it took, in microseconds.
    pub latency_us: u64,
    /// Equal results in a row, this one included.
    pub in_a_row: u32,
}

/// A change of a checker's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthChange {
    /// When, in UTC (RFC 3339).
    pub time: String,
    /// `up` or `down`.
    pub state: String,
    /// Why.
    pub reason: String,
    /// How long the state lasted, in milliseconds; `None` = it still lasts.
    pub lasted_ms: Option<u64>,
}

/// Answer to `GET /v1/connections`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    /// In no particular order.
    pub connections: Vec<Connection>,
    /// Whether there are more than the limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// Answer to a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeResult {
    /// What the operator should know about it, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What keeps it from having its effect, and what to do about it, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Answer to `DELETE /v1/connections`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsClosed {
    /// How many connections were closed.
    pub closed: u64,
}

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Protocol.
    pub protocol: Protocol,
    /// State, by name.
    #[serde(with = "state_name")]
    pub state: State,
    /// Milliseconds until it expires if no more packets come.
    pub expires_in_ms: u64,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The virtual service's address and port.
    #[serde(rename = "virtual")]
    pub virtual_address: SocketAddr,
    /// The real server's address and port.
    pub real: SocketAddr,
    /// Of full NAT: the balancer's address and port towards the real server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
}

/// A connection's state by its name.
mod state_name {
    use std::borrow::Cow;

    use balancer_common::tcp::State;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub fn serialize<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(state.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<State, D::Error> {
        let name = Cow::<'de, str>::deserialize(deserializer)?;
        let mut states = State::ALL.into_iter();
        states
            .find(|state| state.name() == name)
            .ok_or_else(|| D::Error::custom(format!("unknown state {name}")))
    }
}

/// Answer to `GET /v1/persistence`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistenceEntries {
    /// In no particular order.
    pub entries: Vec<PersistenceEntry>,
    /// Whether there are more than the limit.
    pub more: bool,
}

/// A client that keeps a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistenceEntry {
    /// Its address, or the prefix of the clients that count as one.
    pub client: String,
    /// The group of the services; `None` = it is one service without a group.
    pub group: Option<String>,
    /// The services for which it keeps the server: their names, or `tcp/ADDRESS:PORT`.
    pub services: Vec<String>,
    /// The server's address.
    pub server: IpAddr,
    /// Milliseconds until it is forgotten if it opens no further connection.
    pub expires_in_ms: u64,
}

/// Answer to `DELETE /v1/persistence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistenceDeleted {
    /// How many clients were forgotten.
    pub deleted: u64,
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
    /// Why not everything works, a sentence each.
    pub reasons: Vec<String>,
    /// Whether another node can take over, as far as this one knows: it hears the Active node, and could be Active itself.
    pub high_availability: bool,
    /// The node's part in high availability.
    pub role: Role,
    /// Virtual routers.
    pub vrrp: Vec<VirtualRouter>,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// The node that would take over from the Active one, as far as this one knows.
    #[serde(default)]
    pub successor: Option<String>,
    /// What virtual routers track, and whether it is up.
    #[serde(default)]
    pub tracked: Vec<Tracked>,
    /// Connections to the port for other nodes that were not let in, by reason; each reason has an entry. Empty without a channel.
    #[serde(default)]
    pub peer_refusals: BTreeMap<String, u64>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Overall {
    /// All works.
    Running,
    /// The node serves, but something is wrong.
    Limited,
    /// A service cannot serve.
    Down,
}

names!(Overall {
    Running = "running",
    Limited = "limited",
    Down = "down",
});

/// The node's part in high availability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has VIPs that nodes share.
    Active,
    /// Another node has them, and this one may take over.
    Backup,
    /// It cannot have them.
    Fault,
    /// There is no virtual router: it shares no VIP.
    Standalone,
}

names!(Role {
    Active = "active",
    Backup = "backup",
    Fault = "fault",
    Standalone = "standalone",
});

/// A virtual router in the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualRouter {
    /// Its name.
    pub name: String,
    /// Whether this node is Active or Backup, or cannot be either.
    pub state: VirtualRouterState,
    /// Why it is in this state.
    pub reason: String,
    /// The priority that it has now: less than the configured one while something that it tracks is down.
    pub priority: u8,
    /// Its VIPs with the lengths of their networks' prefixes, as in the file.
    pub addresses: Vec<String>,
    /// Since when it is in this state, in UTC (RFC 3339).
    pub since: String,
    /// Its interface.
    pub interface: String,
    /// Its router id.
    pub router_id: u8,
    /// The group of virtual routers that are Active together.
    pub group: Option<String>,
    /// Which nodes probe the services on its VIPs.
    #[serde(default)]
    pub probes: Probes,
    /// The address of the Active node that it hears; `null` while it is Active itself.
    pub active_node: Option<IpAddr>,
    /// Advertisements that it sent.
    pub sent: u64,
    /// Advertisements of other nodes that it took.
    pub received: u64,
    /// Advertisements that it ignored, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// The data plane in the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dataplane {
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Connections of both families, in whatever state.
    pub connections: u64,
    /// How many connections the tables of both families are sized for.
    pub max_connections: u64,
    /// The IPv4 connection table.
    pub ipv4: Table,
    /// The IPv6 connection table.
    pub ipv6: Table,
    /// Discarded packets by reason; each reason has an entry.
    pub discards: BTreeMap<String, u64>,
    /// Frames that the kernel refused to redirect since the daemon started.
    #[serde(default)]
    pub redirect_failures: u64,
}

/// A connection table in the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Connections in it, in whatever state.
    pub connections: u64,
    /// How many connections it is sized for; some more may fit.
    pub max_connections: u64,
    /// Its size in memory, full or empty.
    pub bytes: u64,
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
    /// Its name, else its key.
    pub name: String,
    /// Real servers that are up, including backups that stand by.
    pub reals_up: usize,
    /// All its real servers.
    pub reals_total: usize,
    /// Sum of the weights of its real servers that are up, without backups.
    pub live_weight: u64,
    /// Whether the live weight meets its quorum; `null` before its real servers were probed.
    pub quorum: Option<bool>,
}

/// A change of state, as `GET /v1/events` sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// When it happened, in UTC (RFC 3339).
    pub time: String,
    /// Its kind.
    pub event: EventKind,
    /// The service as `tcp/ADDRESS:PORT`; `None` = no particular one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The real server; `None` = no particular one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<SocketAddr>,
    /// The other node, by name; `None` = no particular one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Details in words; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
