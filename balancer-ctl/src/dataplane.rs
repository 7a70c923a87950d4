//! The data plane as the daemon sees it: the trait [`Dataplane`], in the model's types. Maps, pins, rings and expiry
//! stay private to this module.

mod apply;
mod attach;
mod attachments;
mod connections;
mod conntrack;
mod detach;
mod device;
mod entry_filter;
mod failover_reals;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod full_nat;
mod host_addresses;
mod interface_table;
mod interfaces;
mod jiffies;
pub mod kernel;
pub mod kernel_version;
mod last_result;
mod list;
mod listing;
mod load;
mod loads;
mod map;
mod mapped_memory;
mod maps;
mod mode_choice;
mod neighbours;
pub mod object;
mod packet_log;
mod persistence;
mod pins;
pub mod plan;
mod rcu_barrier;
mod redirect_errors;
pub mod renewal;
pub mod ring;
mod route_versions;
pub mod self_test;
mod service_key_maps;
mod services;
mod settings;
mod snat;
mod sweep;
mod syscall;
mod table;
mod trace;
mod watch;
mod watch_supervision;
mod xdp_support;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

pub use self::{failover_reals::FailoverVips, listing::Listing, persistence::Deletion};
pub use crate::model::connections::ConnectionFilter;
pub use crate::model::counters::Counters;
pub use crate::model::kept_clients::PersistenceFilter;
use crate::{
    model::{
        DataplaneSettings, Filter, ForwardMethod, Hairpin, HashKey, NoReal, Persistence, Scheduler,
        ServiceKey, VirtualService, filter::FilterRule, prefix::Prefix, view,
    },
    netlink::local::LocalAddresses,
};

/// Connections and counters of one real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RealSnapshot {
    /// Established TCP connections.
    pub active: u64,
    /// All other connections: half-open, closing, UDP.
    pub inactive: u64,
    /// Whether it has reached its upper limit of connections, and takes no new ones for now.
    pub is_full: bool,
    /// Its counters.
    pub counters: Counters,
}

/// Connections and counters of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// Real servers by address and port.
    pub reals: BTreeMap<SocketAddr, RealSnapshot>,
    /// Sum over the service's real servers, removed ones included.
    pub counters: Counters,
    /// Clients that keep a server; those of its group, if it is in one. 0 where it is not persistent.
    pub kept_clients: u64,
    /// Packets that its filter has let in or refused, by rule.
    pub filtered: BTreeMap<FilterRule, u64>,
    /// Packets to it that were dropped or answered in its stead, by the reason's name; only what has been counted.
    pub discards: BTreeMap<&'static str, u64>,
}

/// Counters and connections of all services at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By service.
    pub services: BTreeMap<ServiceKey, ServiceSnapshot>,
}

/// What would become of the first packet of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// Where it goes.
    pub choice: Choice,
    /// The rule of the service's filter that lets the client in or refuses it.
    pub rule: Option<FilterRule>,
    /// Whether it goes to its real server by full NAT.
    pub is_full_nat: bool,
}

/// What the packet program would do with the first packet of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It goes to this real server.
    Real(SocketAddr, FoundBy),
    /// It leaves early.
    None(balancer_common::verdict::Discard),
}

/// How the real server of a client was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// The client has a connection from this port.
    Connection,
    /// The client keeps it.
    Persistence {
        /// By a connection that is not complete yet.
        is_pending: bool,
    },
    /// The scheduler chose it.
    Scheduler {
        /// The slot of its ring, counted from the ring's first.
        slot: u32,
        /// The ring's length in slots.
        of: u32,
    },
    /// It has the least load.
    LeastLoad,
}

/// A connection as `balancer-ctl connections` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// VIP, port and protocol as the client's packets have them.
    pub virtual_address: ServiceKey,
    /// The client.
    pub client: SocketAddr,
    /// The real server.
    pub real: SocketAddr,
    /// Of full NAT: this host's address and port towards it.
    pub source: Option<SocketAddr>,
    /// State.
    pub state: balancer_common::tcp::State,
    /// Time until it expires if no further packet comes.
    pub expires_in: Duration,
}

/// A client that keeps a server, as `balancer-ctl persistence` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptClient {
    /// Its address, or the prefix of the clients that count as one.
    pub client: Prefix,
    /// The services for which it keeps the server.
    pub services: Arc<[ServiceKey]>,
    /// The server.
    pub server: IpAddr,
    /// Time until it is forgotten if it opens no further connection.
    pub expires_in: Duration,
}

/// An interface on which the packet program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedInterface {
    /// Its name.
    pub name: String,
    /// Attached natively, not generically.
    pub native: bool,
    /// Kernel's id of the program.
    pub program_id: u32,
}

/// An address family; its number is the index into arrays that hold one value per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

/// Fill and size of one family's connection table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStatus {
    /// Connections in it, in any state.
    pub connections: u64,
    /// Connections that it is sized for (`max-connections`); a few more may fit.
    pub max_connections: u64,
    /// Memory that it takes, in bytes, however full it is.
    pub bytes: u64,
}

/// The data plane's own state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataplaneStatus {
    /// Interfaces.
    pub interfaces: Vec<AttachedInterface>,
    /// The connection tables: IPv4's, IPv6's.
    pub tables: [TableStatus; 2],
    /// Discarded packets by reason, in the order of [`balancer_common::verdict::Discard::ALL`].
    pub discards: Vec<(balancer_common::verdict::Discard, u64)>,
    /// Redirects that failed in the kernel since the daemon started.
    pub redirect_failures: u64,
    /// What does not work on this host as it is configured: one sentence each, with the remedy.
    pub warnings: Vec<String>,
    /// The same of what concerns packets of one family only: IPv4's, IPv6's. It matters to hosts with services of that family.
    pub family_warnings: [Vec<String>; 2],
    /// Why packets cannot reach a real server, by its address: a clause without capital letter and full stop.
    pub obstacles: Arc<BTreeMap<IpAddr, String>>,
}

/// What went wrong in the data plane: a sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct DataplaneError(#[from] pub anyhow::Error);

/// A configured interface does not exist or cannot carry the packet program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct InterfaceError {
    /// Its name.
    pub name: String,
    /// What is wrong, and the remedy.
    pub sentence: String,
}

/// A virtual service as the packet program is to run it: the weights already reflect health and the operator's
/// decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// VIP, port, protocol.
    pub key: ServiceKey,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// What the schedulers `sh` and `mh` hash.
    pub hash: HashKey,
    /// Whether a client's later connections go to the real server of its first, and for how long.
    pub persistence: Option<Persistence>,
    /// What clients get while no real server takes new connections.
    pub no_real: NoReal,
    /// What becomes of clients whom their real server would answer past the balancer.
    pub hairpin: Hairpin,
    /// Which clients may open connections, and how many.
    pub filter: Filter,
    /// How much of each real server's weight stands for one unit of configured weight. Above 1 while a real server
    /// ramps up; weights are rounded to whole units where the rings lack room.
    pub unit: u32,
    /// Its real servers, in the order in which they were added.
    pub reals: Vec<Real>,
}

/// A real server as the packet program is to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Real {
    /// Address and port.
    pub address: SocketAddr,
    /// How packets reach it.
    pub forwarding: ForwardMethod,
    /// Share of new connections; 0 = takes none.
    pub weight: u32,
    /// Its share of the clients where they are hashed: a matter of the configuration and of which backups serve, not of `weight`.
    pub hash_weight: u32,
    /// Whether clients that stay with it come back to it although its weight is 0, as it drains.
    pub takes_persistent: bool,
    /// Connections at which it takes no new ones; 0 = no limit.
    pub upper: u32,
    /// Connections below which it takes new ones again; 0 = three quarters of `upper`.
    pub lower: u32,
    /// What happens to its existing connections; [`Connections::Reset`] only with weight 0.
    pub connections: Connections,
}

/// What happens to a real server's existing connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// They go on.
    #[default]
    Keep,
    /// The next packet of a TCP client is answered with a reset, that of a UDP client goes to another real server.
    Reset,
}

impl DataplaneStatus {
    /// Connections of both families.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.tables.iter().map(|table| table.connections).sum()
    }

    /// How full the tables are, as text.
    #[must_use]
    pub fn fullness(&self) -> String {
        let [v4, v6] = self.tables.map(|table| {
            let TableStatus {
                connections,
                max_connections,
                bytes: _,
            } = table;
            format!("{connections} of {max_connections}")
        });
        format!("{v4} IPv4 connections, {v6} IPv6 connections")
    }

    /// Whether a table holds as many connections as it is sized for.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let mut tables = self.tables.iter();
        tables.any(|table| table.connections >= table.max_connections)
    }

    /// Connections that the tables of both families together are sized for.
    #[must_use]
    pub fn max_connections(&self) -> u64 {
        self.tables.iter().map(|table| table.max_connections).sum()
    }
}

impl From<Connection> for view::Connection {
    fn from(connection: Connection) -> Self {
        Self {
            protocol: connection.virtual_address.protocol,
            state: connection.state,
            expires_in_ms: u64::try_from(connection.expires_in.as_millis()).unwrap_or(u64::MAX),
            client: connection.client,
            virtual_address: connection.virtual_address.address,
            real: connection.real,
            source: connection.source,
        }
    }
}

impl Service {
    /// Whether any of its connections may have full NAT.
    #[must_use]
    pub fn may_have_full_nat(&self) -> bool {
        let is_full_nat = |real: &Real| real.forwarding == ForwardMethod::FullNat;
        self.hairpin == Hairpin::FullNat || self.reals.iter().any(is_full_nat)
    }
}

impl From<&VirtualService> for Service {
    /// The service with all its real servers up, each with its configured weight.
    fn from(service: &VirtualService) -> Self {
        Self {
            key: service.key,
            scheduler: service.scheduler,
            hash: service.hash.unwrap_or_default(),
            persistence: service.persistence.clone(),
            no_real: service.no_real,
            hairpin: service.hairpin,
            filter: service.filter.clone(),
            unit: 1,
            reals: service
                .reals
                .iter()
                .map(|real| Real {
                    address: real.address,
                    forwarding: real.forwarding.unwrap_or(service.forwarding),
                    weight: real.weight,
                    hash_weight: real.hash_weight(service.lightest_weight(), true),
                    takes_persistent: false,
                    upper: real.upper,
                    lower: real.lower,
                    connections: Connections::Keep,
                })
                .collect(),
        }
    }
}

/// The data plane. One owner, the daemon, calls it; all methods may block for milliseconds.
pub trait Dataplane: Send {
    /// Makes the kernel's tables match `services`. Running traffic sees either a service's old real servers or its new
    /// ones, never a gap. When this returns, the next new connection follows the change.
    ///
    /// # Errors
    /// A table is too small (the sentence says which, and its size): nothing was changed. Or the kernel refused a map
    /// call.
    fn reconcile(&mut self, services: &[Service]) -> Result<(), DataplaneError>;

    /// Applies settings that may change while packets flow. A changed size of a connection table is refused, with a
    /// sentence that says how to do it.
    ///
    /// # Errors
    /// An interface is missing or carries another program's XDP: nothing was changed.
    fn configure(&mut self, settings: &DataplaneSettings) -> Result<(), DataplaneError>;

    /// Says for which VIPs another node has begun connections, whose packets may come here from now on.
    ///
    /// # Errors
    /// The kernel refused a map call; the next [`Dataplane::reconcile`] tries again.
    fn set_failover_vips(&mut self, vips: &FailoverVips) -> Result<(), DataplaneError>;

    /// Deletes the connections of a real server, removed or not, at once.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn purge(&mut self, service: &ServiceKey, real: SocketAddr) -> Result<u64, DataplaneError>;

    /// Reads counters and the numbers of connections, of one service or with `None` of all. Where many clients keep a server, their
    /// number is some seconds old.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn snapshot(&mut self, service: Option<&ServiceKey>) -> Result<Snapshot, DataplaneError>;

    /// Prepares a list of connections, which the caller reads later.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn connections(
        &mut self,
        filter: ConnectionFilter,
    ) -> Result<Listing<Connection>, DataplaneError>;

    /// Prepares that the connections that [`Dataplane::connections`] lists are closed, which the caller does later: their entries are
    /// deleted.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn close_connections(&mut self, filter: ConnectionFilter) -> Result<Deletion, DataplaneError>;

    /// Prepares a list of the clients that keep a server, which the caller reads later.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn kept_clients(
        &mut self,
        filter: PersistenceFilter,
    ) -> Result<Listing<KeptClient>, DataplaneError>;

    /// Prepares that the clients that match are forgotten, which the caller does later: their next connections go where the schedulers
    /// say, and those they have go on. The filter's limit does not count.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn forget_clients(&mut self, filter: PersistenceFilter) -> Result<Deletion, DataplaneError>;

    /// What would become of the first packet of `client` to the service, without sending one. Changes nothing.
    ///
    /// # Errors
    /// The kernel refused the test run.
    fn trace(&mut self, client: SocketAddr, service: &ServiceKey)
    -> Result<Traced, DataplaneError>;

    /// How many packets were dropped because a connection table was full.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn refused(&mut self) -> Result<u64, DataplaneError>;

    /// Reads the data plane's own state.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn status(&mut self) -> Result<DataplaneStatus, DataplaneError>;

    /// Sets the counters of one service to zero; with `None` those of all services, and the discard counters.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn zero(&mut self, service: Option<&ServiceKey>) -> Result<(), DataplaneError>;

    /// Reads which addresses are this host's own or broadcast addresses of its networks, so that no real server can have them.
    ///
    /// # Errors
    /// The kernel refused the query.
    fn local_addresses(&mut self) -> Result<LocalAddresses, DataplaneError>;

    /// Why the thread that watches routes does not run, so that changes are noticed some seconds late; `None` while it
    /// runs. The value changes in [`Dataplane::run_maintenance`] only.
    fn watch_failure(&self) -> Option<&str>;

    /// Does some milliseconds of the work that is due: ends idle connections, frees ids, refreshes neighbours. The
    /// caller calls it again after [`Dataplane::next_maintenance`].
    ///
    /// # Errors
    /// The kernel refused a map call; the next call tries again.
    fn run_maintenance(&mut self) -> Result<(), DataplaneError>;

    /// How long to wait before the next call of [`Dataplane::run_maintenance`]: about a second, less while there is
    /// more to do.
    fn next_maintenance(&self) -> Duration {
        Duration::from_secs(1)
    }
}
