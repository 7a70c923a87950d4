//! The data plane as the daemon sees it: one trait, in the model's words. What lies behind it (maps, pins,
//! rings, expiry) is nobody else's business.

mod apply;
mod attach;
mod choice;
mod clock;
mod connections;
mod conntrack;
mod detach;
mod device;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod grace;
mod host_addresses;
mod interfaces;
pub mod kernel;
pub mod kernel_age;
mod known;
mod list;
mod load;
mod map;
mod maps;
mod memory;
mod neighbours;
pub mod object;
mod packet_log;
mod pins;
mod placement;
pub mod plan;
pub mod proof;
mod redirects;
pub mod ring;
mod routes;
mod services;
mod settings;
mod supervision;
mod survey;
mod sweep;
mod syscall;
mod table;
mod watch;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

pub use self::list::Listing;
pub use crate::model::counters::Counters;
use crate::{
    model::{
        DataplaneSettings, ForwardMethod, NoReal, Scheduler, ServiceKey, VirtualService, view,
    },
    netlink::local::LocalAddresses,
};

/// What is known of one real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RealSnapshot {
    /// Established TCP connections.
    pub active: u64,
    /// All other connections: half-open, closing, UDP.
    pub inactive: u64,
    /// Its counters.
    pub counters: Counters,
}

/// What is known of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// By real server's address.
    pub reals: BTreeMap<SocketAddr, RealSnapshot>,
    /// The service's counters: its real servers' and those of real servers that were removed.
    pub counters: Counters,
}

/// Counters and connections at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By service.
    pub services: BTreeMap<ServiceKey, ServiceSnapshot>,
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
    /// State.
    pub state: balancer_common::tcp::State,
    /// Time until it ends if nothing more is seen.
    pub expires_in: Duration,
}

/// Which connections to list; what is `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Client address, with any port or one.
    pub client: Option<(IpAddr, Option<u16>)>,
    /// Service.
    pub service: Option<ServiceKey>,
    /// Real server's address, with any port or one.
    pub real: Option<(IpAddr, Option<u16>)>,
    /// State.
    pub state: Option<balancer_common::tcp::State>,
    /// Stop after this many.
    pub limit: Option<usize>,
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

/// An address family; the number is its place where both have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

/// A connection table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStatus {
    /// Connections in it, in whatever state.
    pub connections: u64,
    /// As many as it is sized for. Some more find a place.
    pub max_connections: u64,
    /// Its size in memory, full or empty.
    pub bytes: u64,
}

/// The data plane's own state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataplaneStatus {
    /// Interfaces.
    pub interfaces: Vec<AttachedInterface>,
    /// The connection tables: IPv4's, IPv6's.
    pub tables: [TableStatus; 2],
    /// Packets that left early, by reason, in the order of [`balancer_common::verdict::Discard::ALL`].
    pub discards: Vec<(balancer_common::verdict::Discard, u64)>,
    /// Redirects that the kernel gave up since the daemon runs.
    pub redirect_failures: u64,
    /// What will not work as it stands: a sentence each, with the mend.
    pub warnings: Vec<String>,
    /// Why packets to a real server cannot leave, by its address; a sentence without its beginning.
    pub obstacles: Arc<BTreeMap<IpAddr, String>>,
}

/// What went wrong in the data plane: a sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct DataplaneError(#[from] pub anyhow::Error);

/// What is wrong with an interface that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct InterfaceError {
    /// Its name.
    pub name: String,
    /// What is wrong, and the mend.
    pub sentence: String,
}

/// A virtual service as the packet program is to run it: what health and operators say of its real servers is decided
/// already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// VIP, port, protocol.
    pub key: ServiceKey,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// With no real server.
    pub no_real: NoReal,
    /// How much of each weight is one unit; finer parts may be left out where there is no room for them.
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
    /// Share of new connections now; 0 = none.
    pub weight: u32,
    /// What becomes of the connections it has; [`Connections::Reset`] only with weight 0.
    pub connections: Connections,
}

/// What becomes of a real server's connections.
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

    /// How full the tables are, in words.
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

    /// As many as the tables of both families are sized for.
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
        }
    }
}

impl From<&VirtualService> for Service {
    /// The service while all its real servers are up and ready.
    fn from(service: &VirtualService) -> Self {
        Self {
            key: service.key,
            scheduler: service.scheduler,
            no_real: service.no_real,
            unit: 1,
            reals: service
                .reals
                .iter()
                .map(|real| Real {
                    address: real.address,
                    forwarding: real.forwarding,
                    weight: real.weight,
                    connections: Connections::Keep,
                })
                .collect(),
        }
    }
}

/// The data plane. One owner, the daemon, calls it; all methods may block for milliseconds.
pub trait Dataplane: Send {
    /// Brings the running tables to `services`. Running traffic sees either a service's old real servers or
    /// its new ones, never a gap. When this returns, the next new connection follows the change.
    ///
    /// # Errors
    /// Nothing was changed when a table is too small (the sentence says which and its size).
    fn reconcile(&mut self, services: &[Service]) -> Result<(), DataplaneError>;

    /// Applies settings that may change while packets flow. A changed size of a connection table is refused, with a sentence
    /// that says what it takes.
    ///
    /// # Errors
    /// An interface is missing or carries another program's XDP: nothing was changed.
    fn configure(&mut self, settings: &DataplaneSettings) -> Result<(), DataplaneError>;

    /// Deletes the connections of a real server, removed or not, at once.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn purge(&mut self, service: &ServiceKey, real: SocketAddr) -> Result<u64, DataplaneError>;

    /// Reads counters and counts connections. In a large table connections are those that the last pass of `tend` has
    /// counted, some seconds ago.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn snapshot(&mut self) -> Result<Snapshot, DataplaneError>;

    /// Lists connections, later.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn connections(&mut self, filter: ConnectionFilter) -> Result<Listing, DataplaneError>;

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

    /// Sets the counters of one service, or of all and the discards, to zero.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn zero(&mut self, service: Option<&ServiceKey>) -> Result<(), DataplaneError>;

    /// Reads which addresses are this host's own or broadcast addresses of its networks, so that no real server can have them.
    ///
    /// # Errors
    /// The kernel did not tell.
    fn local_addresses(&mut self) -> Result<LocalAddresses, DataplaneError>;

    /// Why changes of routes are not heard of at present, so that they are followed some seconds late; none while they are.
    /// Changes in `tend` only.
    fn watch_failure(&self) -> Option<&str>;

    /// Does a slice, of some milliseconds, of what is due now: ends idle connections, frees ids, refreshes neighbours. Called
    /// again after what [`Dataplane::next_tend`] says.
    ///
    /// # Errors
    /// The kernel refused a map call; the next call tries again.
    fn run_maintenance(&mut self) -> Result<(), DataplaneError>;

    /// How long to wait before the next call of `tend`: about a second, less while there is more to do.
    fn next_maintenance(&self) -> Duration {
        Duration::from_secs(1)
    }
}
