//! What the balancer is told: virtual services, real servers, settings; and the network around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use balancer_tests::{
    addresses::{GATEWAY, Mac, R, R2, R6, R26, REAL, REAL2, S, S6, T, T6, V, V6},
    dataplane::Side,
};

use crate::wire::{TCP, UDP};

/// An IPv4 address.
pub const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// An IPv6 address below 2001:db8::/32.
pub const fn v6(network: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, host))
}

/// A second VIP, and one with services on every port.
pub const V2: IpAddr = v4(192, 0, 2, 81);
/// See [`V2`].
pub const ANY: IpAddr = v4(192, 0, 2, 82);
/// As [`ANY`], in IPv6.
pub const ANY6: IpAddr = v6(0x80, 0x82);

/// The balancer towards the router.
pub const OUTSIDE: [IpAddr; 2] = [v4(203, 0, 113, 2), v6(0xf, 2)];

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Real {
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 = the packet's own.
    pub port: u16,
    /// The index of its service.
    pub service: usize,
    /// One of `balancer_common::real_server::state`, here by number.
    pub state: u32,
    /// Leading bits of its address that the balancer's network has too; 0 = it is in none.
    pub network: u32,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// VIP, port and protocol.
    pub key: (IpAddr, u16, u8),
    /// Whether the balancer knows it.
    pub exists: bool,
    /// Whether clients are answered when no real server takes them.
    pub rejects: bool,
    /// Real ids in turn.
    pub ring: Vec<usize>,
    /// Real ids that are compared.
    pub available: Vec<usize>,
}

/// What does not change while packets flow, but for the MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether the balancer knows the host's own addresses.
    pub knows_host: bool,
    /// MTU towards the clients and towards the real servers.
    pub mtu: [usize; 2],
    /// Whether frames go back by a redirect.
    pub redirects_back: bool,
    /// Whether it may send towards the clients.
    pub has_egress: bool,
}

/// Everything that the balancer is told.
#[derive(Clone, Debug)]
pub struct World {
    /// By real id.
    pub reals: Vec<Real>,
    /// By service id.
    pub services: Vec<Service>,
    /// Whether services on every port are looked for.
    pub any_port: bool,
    /// Whether real servers' packets of no connection are answered.
    pub answers_strays: bool,
    /// The network.
    pub around: Surroundings,
    /// Real servers whose MAC addresses the host does not know.
    pub silent: Vec<IpAddr>,
}

/// The services of a fresh world: key, and the real servers' addresses and port.
type Plan = ((IpAddr, u16, u8), &'static [IpAddr], u16);

const PLANS: [Plan; 12] = [
    ((V, 80, TCP), &[R, R2], 8080),
    ((V6, 80, TCP), &[R6, R26], 8080),
    ((V, 53, UDP), &[R, R2], 8053),
    ((V6, 53, UDP), &[R6, R26], 8053),
    // Their answers are told from those of the ones above by the client's address and port alone.
    ((V2, 443, TCP), &[R], 8080),
    ((V, 5353, UDP), &[R, R2], 8053),
    ((V6, 443, TCP), &[R26, R6], 8080),
    ((ANY, 0, TCP), &[R2, R], 0),
    ((ANY, 0, UDP), &[R2], 0),
    ((ANY6, 0, TCP), &[R26], 0),
    ((ANY6, 0, UDP), &[R6, R26], 0),
    // More exact than the one on every port.
    ((ANY, 8080, TCP), &[R], 8081),
];

impl World {
    /// A world in which all is well.
    pub fn new(around: Surroundings) -> Self {
        let mut world = Self {
            reals: Vec::new(),
            services: Vec::new(),
            any_port: true,
            answers_strays: false,
            around,
            silent: Vec::new(),
        };
        for (id, (key, addresses, port)) in PLANS.into_iter().enumerate() {
            let ring: Vec<_> = (world.reals.len()..).take(addresses.len()).collect();
            world.reals.extend(addresses.iter().map(|address| Real {
                address: *address,
                port,
                service: id,
                state: 1,
                network: 0,
            }));
            world.services.push(Service {
                key,
                exists: true,
                rejects: false,
                available: ring.clone(),
                ring,
            });
        }
        world
    }

    /// What the host's routes say of a destination.
    pub fn route(&self, to: IpAddr) -> Route {
        if self.silent.contains(&to) {
            return Route::NoNeighbour;
        }
        route(to)
    }

    /// Whether an address is a VIP's or a real server's: of one that has been, too.
    pub fn is_ours(&self, address: IpAddr) -> bool {
        self.services.iter().any(|service| service.key.0 == address)
            || self.reals.iter().any(|real| real.address == address)
    }

    /// The service of a destination.
    pub fn service(&self, address: IpAddr, port: u16, protocol: u8) -> Option<usize> {
        let exact = |port| {
            let key = (address, port, protocol);
            let mut all = self.services.iter();
            all.position(|service| service.exists && service.key == key)
        };
        exact(port).or_else(|| self.any_port.then(|| exact(0))?)
    }

    /// Whether a packet comes from a real server's address and port.
    pub fn is_from_real(&self, address: IpAddr, port: u16, protocol: u8) -> bool {
        self.reals.iter().any(|real| {
            real.address == address
                && real.port == port
                && self.services[real.service].key.2 == protocol
        })
    }

    /// Whether the balancer takes an address for its host's own. An IPv4 address is the same in an IPv6 packet.
    pub fn is_hosts(&self, address: IpAddr) -> bool {
        self.around.knows_host
            && match address.to_canonical() {
                IpAddr::V4(v4) => {
                    v4.is_loopback() || HOST.contains(&v4.into()) || BROADCASTS.contains(&v4.into())
                }
                v6 @ IpAddr::V6(_) => HOST.contains(&v6),
            }
    }
}

/// The host's own addresses.
pub const HOST: [IpAddr; 5] = [
    S,
    S6,
    OUTSIDE[0],
    OUTSIDE[1],
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];
/// Broadcast addresses of its networks.
pub const BROADCASTS: [IpAddr; 2] = [v4(192, 168, 0, 255), v4(203, 0, 113, 255)];

/// What the host's routes say of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To this neighbour at this side.
    To(Side, Mac),
    /// At this side, but nobody has answered for it.
    NoNeighbour,
    /// The route says no.
    Blackhole,
    /// As above.
    Unreachable,
    /// As above.
    Prohibited,
    /// It is the host's own, or a broadcast address.
    Own,
}

/// Networks whose routes say no, and which one: IPv4 198.18.n.0/24, IPv6 2001:db8:b0n::/48.
pub const REFUSING: [(&str, Route); 3] = [
    ("blackhole", Route::Blackhole),
    ("unreachable", Route::Unreachable),
    ("prohibit", Route::Prohibited),
];

/// The route to an address, as long as all neighbours are known.
fn route(to: IpAddr) -> Route {
    let neighbour = match to {
        R | R6 => Some((Side::Inside, REAL)),
        R2 | R26 => Some((Side::Inside, REAL2)),
        T | T6 => Some((Side::Outside, GATEWAY)),
        _ => None,
    };
    if let Some((side, mac)) = neighbour {
        return Route::To(side, mac);
    }
    if [V, V6].contains(&to) || HOST.contains(&to) || BROADCASTS.contains(&to) {
        return Route::Own;
    }
    match to {
        IpAddr::V4(v4) => match v4.octets() {
            [127, ..] => Route::Own,
            // The lowest addresses, too: Linux 5.14 takes them for those of hosts.
            [192, 168, 0, _] | [203, 0, 113, _] => Route::NoNeighbour,
            [198, 18, number, _] if number < 3 => REFUSING[usize::from(number)].1,
            _ => Route::To(Side::Outside, GATEWAY),
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0xfd00, 1, 0, 0, 0, 0, 0, 0] | [0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0] => Route::Own,
            [0xfd00, 1, 0, 0, ..] | [0x2001, 0xdb8, 0xf, 0, ..] => Route::NoNeighbour,
            [0x2001, 0xdb8, number @ 0xb00..=0xb02, ..] => REFUSING[usize::from(number - 0xb00)].1,
            _ => Route::To(Side::Outside, GATEWAY),
        },
    }
}

/// IPv4 addresses that frames name beside VIPs and real servers: clients, those whom no route reaches, those that no client has.
pub const STRANGERS_V4: [IpAddr; 16] = [
    v4(198, 51, 100, 10),
    v4(198, 51, 100, 11),
    v4(198, 51, 100, 12),
    T,
    v4(192, 168, 0, 77),
    v4(203, 0, 113, 99),
    v4(198, 18, 0, 1),
    v4(198, 18, 1, 1),
    v4(198, 18, 2, 1),
    S,
    OUTSIDE[0],
    v4(203, 0, 113, 255),
    v4(127, 0, 0, 1),
    v4(224, 0, 0, 1),
    v4(0, 0, 0, 0),
    v4(240, 0, 0, 1),
];

/// As [`STRANGERS_V4`], of IPv6.
pub const STRANGERS_V6: [IpAddr; 15] = [
    v6(0xc, 0x10),
    v6(0xc, 0x11),
    v6(0xc, 0x12),
    T6,
    IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x77)),
    v6(0xf, 0x99),
    v6(0xb00, 1),
    v6(0xb01, 1),
    v6(0xb02, 1),
    S6,
    OUTSIDE[1],
    IpAddr::V6(Ipv6Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xc633, 0x640a)),
];

impl World {
    /// Whether an address is one of those that tests name on purpose.
    pub fn is_known(&self, address: IpAddr) -> bool {
        self.is_ours(address) || STRANGERS_V4.contains(&address) || STRANGERS_V6.contains(&address)
    }
}

/// The real servers' addresses of a family.
pub fn reals_like(like: IpAddr) -> [IpAddr; 2] {
    if like.is_ipv4() { [R, R2] } else { [R6, R26] }
}
