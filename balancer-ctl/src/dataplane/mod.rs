//! The data plane as the daemon sees it: one trait, in the model's words. What lies behind it (maps, pins,
//! rings, expiry) is nobody else's business.

mod apply;
mod attach;
mod census;
mod choice;
mod clock;
mod device;
mod expiry;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod grace;
pub mod kernel;
mod load;
mod maps;
mod packet_log;
mod pins;
mod placement;
mod reading;
mod redirects;
mod settings;
mod survey;
mod syscall;
mod table;
mod watch;
mod ways;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::model::{
    DataplaneSettings, ForwardMethod, NoReal, Scheduler, ServiceKey, VirtualService,
};

/// Counters of a real server or, added up, of a service. Bytes are those of IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// New connections.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// VIP, port and protocol as the client's packets have them.
    pub virtual_address: ServiceKey,
    /// The client.
    pub client: SocketAddr,
    /// The real server.
    pub real: SocketAddr,
    /// State.
    pub state: balancer_common::tcp::State,
    /// Time until it is deleted if nothing more is seen.
    pub expires_in: Duration,
}

/// Which connections to list; what is `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Client address, with any port or one.
    pub client: Option<(std::net::IpAddr, Option<u16>)>,
    /// Service.
    pub service: Option<ServiceKey>,
    /// Real server's address, with any port or one.
    pub real: Option<(std::net::IpAddr, Option<u16>)>,
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

/// The data plane's own state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataplaneStatus {
    /// Interfaces.
    pub interfaces: Vec<AttachedInterface>,
    /// Connections in the table (established, closing, UDP), both families.
    pub connections: u64,
    /// Most connections.
    pub max_connections: u64,
    /// Packets that left early, by reason, in the order of [`balancer_common::verdict::Discard::ALL`].
    pub discards: Vec<(balancer_common::verdict::Discard, u64)>,
    /// Redirects that the kernel gave up since the daemon runs.
    pub redirect_failures: u64,
    /// What will not work as it stands: a sentence each, with the mend.
    pub warnings: Vec<String>,
}

/// What takes longer than the data plane's owner may wait: called on a thread that may, whatever becomes of the data plane.
pub type Reading<T> = Box<dyn FnOnce() -> Result<T, Error> + Send>;

/// What went wrong in the data plane: a sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct Error(#[from] pub anyhow::Error);

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
    fn reconcile(&mut self, services: &[Service]) -> Result<(), Error>;

    /// Applies settings that may change while packets flow: timeouts and the list of interfaces. A changed
    /// `max_connections` is refused with a sentence that says that it needs a restart with `--detach`.
    ///
    /// # Errors
    /// An interface is missing or carries another program's XDP: nothing was changed.
    fn configure(&mut self, settings: &DataplaneSettings) -> Result<(), Error>;

    /// Deletes the connections of a real server, removed or not, at once.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn purge(&mut self, service: &ServiceKey, real: SocketAddr) -> Result<u64, Error>;

    /// Reads counters and counts connections. In a large table connections are those that the last walk of `tend` has
    /// counted, some seconds ago.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn snapshot(&mut self) -> Result<Snapshot, Error>;

    /// Lists connections, later.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn connections(&mut self, filter: ConnectionFilter) -> Result<Reading<Vec<Connection>>, Error>;

    /// Reads the data plane's own state.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn status(&mut self) -> Result<DataplaneStatus, Error>;

    /// Sets the counters of one service, or of all and the discards, to zero.
    ///
    /// # Errors
    /// The kernel refused a map call.
    fn zero(&mut self, service: Option<&ServiceKey>) -> Result<(), Error>;

    /// Does a slice, of some milliseconds, of what is due now: expires connections, frees ids, refreshes neighbours. Called
    /// again after what [`Dataplane::next_tend`] says.
    ///
    /// # Errors
    /// The kernel refused a map call; the next call tries again.
    fn tend(&mut self) -> Result<(), Error>;

    /// How long to wait before the next call of `tend`: about a second, less while there is more to do.
    fn next_tend(&self) -> Duration {
        Duration::from_secs(1)
    }
}
