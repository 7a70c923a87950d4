//! The model: virtual services and real servers in the words of the glossary, with `std::net` types.
//!
//! Everything from outside (file, command line, API) becomes this after validation; everything towards the
//! kernel starts from it. Pure: no clock, socket or map here. Ports in host byte order.

pub mod address;
pub mod argument;
pub mod change;
pub mod check;
pub mod condition;
pub mod connections;
pub mod counters;
pub mod diff;
pub mod duration;
pub mod enumeration;
pub mod error;
pub mod event;
pub mod filter;
pub mod health;
pub mod kept_clients;
pub mod key;
pub mod limits;
pub mod names;
pub mod notify;
pub mod peers;
pub mod persistence;
pub mod prefix;
pub mod real;
pub mod service;
pub mod setting;
pub mod since;
pub mod toml_json;
pub mod toml_table;
pub mod view;
pub mod vrrp;

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use self::names::names;
pub use self::{
    check::Check,
    filter::Filter,
    health::{AdminState, Backups, HealthPolicy, OnDown},
    limits::MAX_WEIGHT,
    notify::Notify,
    peers::PeerSettings,
    persistence::{Persistence, PersistenceDrain, PersistenceSettings},
    real::{RealServer, RealSettings},
    service::{ServiceSettings, VirtualService},
    vrrp::VirtualRouter,
};

/// Transport protocol of a virtual service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => balancer_common::addr::TCP,
            Self::Udp => balancer_common::addr::UDP,
        }
    }
}

names!(Protocol {
    Tcp = "tcp",
    Udp = "udp",
});

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What makes a virtual service unique: VIP, port (0 = every port) and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Transport protocol.
    pub protocol: Protocol,
    /// VIP and port.
    pub address: SocketAddr,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, self.address)
    }
}

/// How new connections are distributed over real servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduler {
    /// Round robin: each in turn, whatever its weight (0 still drains).
    Rr,
    /// Weighted round robin, smooth: weights 3 and 1 give A A B A.
    #[default]
    Wrr,
    /// Least connections: the least overhead (256 times its active connections, plus the inactive ones), whatever its weight.
    Lc,
    /// Weighted least connections: the least overhead for its weight.
    Wlc,
    /// Shortest expected delay: the fewest active connections for its weight, the new one included.
    Sed,
    /// Never queue: one without active connections, else as `sed`.
    Nq,
    /// Source hashing: the client's address decides; shares in proportion to weight.
    Sh,
    /// Destination hashing: the VIP decides, so that a service uses one real server as long as it is up.
    Dh,
    /// Maglev hashing: as `sh`, and few clients move when a real server comes or goes.
    Mh,
    /// Weighted failover: the heaviest real server that is up takes all.
    Fo,
    /// Weighted overflow: the heaviest whose active connections are not above its weight.
    Ovf,
    /// The better of two: of two picks by weight, the one with the least overhead for its weight.
    Twos,
}

names!(Scheduler {
    Rr = "rr",
    Wrr = "wrr",
    Lc = "lc",
    Wlc = "wlc",
    Sed = "sed",
    Nq = "nq",
    Sh = "sh",
    Dh = "dh",
    Mh = "mh",
    Fo = "fo",
    Ovf = "ovf",
    Twos = "twos",
} refused [
    "lblc" = "it chooses a cache for each of many destinations, and a virtual service has one",
    "lblcr" = "it chooses caches for each of many destinations, and a virtual service has one",
]);

impl Scheduler {
    /// Whether it hashes what a [`HashKey`] names.
    #[must_use]
    pub const fn hashes_client(self) -> bool {
        matches!(self, Self::Sh | Self::Mh)
    }
}

/// What of a client the schedulers `sh` and `mh` hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashKey {
    /// Its address.
    #[default]
    Client,
    /// Its address and port.
    ClientPort,
}

names!(HashKey {
    Client = "client",
    ClientPort = "client-port",
});

/// What a client gets while no real server takes new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoReal {
    /// TCP RST, or ICMP port unreachable.
    #[default]
    Reject,
    /// Nothing.
    Drop,
}

names!(NoReal {
    Reject = "reject",
    Drop = "drop",
});

/// How packets reach a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardMethod {
    /// Destination NAT; replies come back through the balancer.
    #[default]
    Nat,
    /// Destination and source NAT: to the real server its clients have an address of the balancer.
    FullNat,
}

names!(ForwardMethod {
    Nat = "nat",
    FullNat = "full-nat",
} planned ["direct", "tunnel"]);

/// What becomes of clients whom their real server would answer past the balancer: those in its own network, and itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hairpin {
    /// Their connections have full NAT.
    #[default]
    FullNat,
    /// They are answered with a reset or that the port is unreachable.
    Refuse,
}

names!(Hairpin {
    FullNat = "full-nat",
    Refuse = "refuse",
});

/// Idle timeouts of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, established.
    pub tcp: Duration,
    /// TCP, closing.
    pub tcp_fin: Duration,
    /// UDP.
    pub udp: Duration,
}

/// How the packet program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Native where the driver can, else generic with a warning.
    #[default]
    Auto,
    /// Native; an error if the driver cannot.
    Native,
    /// Generic.
    Generic,
}

names!(Mode {
    Auto = "auto",
    Native = "native",
    Generic = "generic",
});

/// What becomes of a real server's packet that belongs to no connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StrayReplies {
    /// The kernel's network stack gets it, and forwards it with the real server's own address as its source.
    #[default]
    Pass,
    /// The real server is answered with a TCP reset or ICMP port unreachable.
    Reset,
}

names!(StrayReplies {
    Pass = "pass",
    Reset = "reset",
});

/// The `[dataplane]` and `[timeouts]` parts of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataplaneSettings {
    /// Names of the interfaces to attach to.
    pub interfaces: Vec<String>,
    /// How to attach to them.
    pub mode: Mode,
    /// How many IPv4 connections the table is sized for.
    pub max_connections: u32,
    /// How many IPv6 connections the table is sized for.
    pub max_connections_ipv6: u32,
    /// How many clients of persistent services are remembered with their real servers.
    pub max_persistence: u32,
    /// What becomes of a real server's packet that belongs to no connection.
    pub stray_replies: StrayReplies,
    /// The addresses of this host that connections with full NAT have towards real servers; of a family of which there is none, that of the
    /// interface by which packets leave.
    pub snat_addresses: Vec<IpAddr>,
    /// The ports that they have there.
    pub snat_ports: PortRange,
    /// Idle timeouts.
    pub timeouts: Timeouts,
}

/// Ports from the first to the last, written `FIRST-LAST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last; not below the first.
    pub last: u16,
}

impl PortRange {
    /// The least port that is no service's by convention.
    pub const LEAST: u16 = 1024;
    /// So many ports at least are left to the host's own sockets.
    pub const LEFT: u16 = 1000;
    /// So many are enough for them.
    const ENOUGH: u16 = 4096;

    /// So few ports could come round to two CPUs at the same moment, each of which tries sixteen.
    pub const FEWEST: u16 = 4096;

    /// What is left to the host's own sockets: what is above the last, where services seldom listen, if that is enough; else the larger part
    /// from [`Self::LEAST`] to the first, or from the last; below the first it begins at 4096 where that leaves enough.
    #[must_use]
    pub fn left_to_host(self) -> RangeInclusive<u16> {
        let below = self.first.saturating_sub(Self::LEAST);
        let above = u16::MAX - self.last;
        if above >= Self::ENOUGH || above > below {
            return self.last + 1..=u16::MAX;
        }
        let start = if self.first > 4096 + Self::LEFT {
            4096
        } else {
            Self::LEAST
        };
        start..=self.first.saturating_sub(1)
    }

    /// Why it cannot be the ports of connections with full NAT.
    #[must_use]
    pub fn fault(self) -> Option<&'static str> {
        if self.first < Self::LEAST {
            return Some("must not begin below 1024, where services have their ports");
        }
        if self.last - self.first < Self::FEWEST - 1 {
            return Some("must be at least 4096 ports");
        }
        (self.left_to_host().len() < usize::from(Self::LEFT)).then_some(
            "must leave the host's own sockets at least 1000 ports in a row from 1024 up",
        )
    }
}

impl From<PortRange> for balancer_common::snat::SnatPorts {
    fn from(range: PortRange) -> Self {
        Self {
            first: range.first,
            count: range.last - range.first + 1,
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').ok_or(())?;
        let port = |text: &str| match text.starts_with('+') {
            true => Err(()),
            false => text.parse::<u16>().map_err(drop),
        };
        let range = Self {
            first: port(first)?,
            last: port(last)?,
        };
        if range.first == 0 || range.first > range.last {
            return Err(());
        }
        Ok(range)
    }
}

/// The desired state: everything that the operator has configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The node's name.
    pub node: String,
    /// The data plane.
    pub dataplane: DataplaneSettings,
    /// Virtual services in the order in which they were added; keys and names are unique.
    pub services: Vec<VirtualService>,
    /// Programs to run when events happen.
    pub notify: Vec<Notify>,
    /// How this node reaches others.
    pub peers: PeerSettings,
    /// Virtual routers in the order of the file; names are unique.
    pub vrrp: Vec<VirtualRouter>,
}

impl Model {
    /// The services by their keys, for whoever looks up many of them.
    #[must_use]
    pub fn by_key(&self) -> HashMap<ServiceKey, &VirtualService> {
        let services = self.services.iter();
        services.map(|service| (service.key, service)).collect()
    }

    /// The service with this key.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&VirtualService> {
        self.services.iter().find(|service| service.key == *key)
    }

    /// The real server at `address` of the service with this key.
    #[must_use]
    pub fn real(&self, key: &ServiceKey, address: SocketAddr) -> Option<&RealServer> {
        let mut reals = self.service(key)?.reals.iter();
        reals.find(|real| real.address == address)
    }
}

/// Whether two addresses are of one family.
#[must_use]
pub const fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_sockets_get_the_ports_that_are_left() {
        for (range, left) in [
            ("15000-65535", 4096..=14_999),
            ("5000-65535", 1024..=4999),
            ("1024-40000", 40_001..=65_535),
            ("20000-30000", 30_001..=65_535),
            ("10000-60535", 60_536..=65_535),
            ("50000-60000", 60_001..=65_535),
        ] {
            let range: PortRange = range.parse().unwrap();
            assert_eq!(range.left_to_host(), left);
            assert_eq!(range.fault(), None);
        }
        for range in ["1024-65535", "80-30000", "2000-65000", "20000-24094"] {
            assert!(
                range.parse::<PortRange>().unwrap().fault().is_some(),
                "{range}"
            );
        }
        for text in [
            "", "15000", "15000-", "-15000", "9-8", "0-9", "1-65536", "+1-9", "1-2-3",
        ] {
            assert_eq!(text.parse::<PortRange>(), Err(()), "{text}");
        }
    }
}
