//! Hears what changes about the ways of packets: routes, links, and the link-layer addresses of neighbours.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use anyhow::Context;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::LinkMessage,
    neighbour::NeighbourMessage,
    route::{RouteMessage, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    Netlink,
    link::{self, Link},
    local::{self, Prefix},
    neighbour::{self, NextHop},
    socket,
};

/// Whose routes have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routes {
    /// Those to addresses in these prefixes.
    To(BTreeSet<Prefix>),
    /// Any.
    All,
}

/// So many prefixes are told one by one; more are all.
const MANY: usize = 4096;
/// So many datagrams are read before their news are told, however many come after them.
const AT_ONCE: usize = 256;

impl Routes {
    const NONE: Self = Self::To(BTreeSet::new());

    fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (Self::To(prefixes), Self::To(others)) => {
                prefixes.extend(others);
                if prefixes.len() > MANY {
                    *self = Self::All;
                }
            }
            (Self::To(_), Self::All) => *self = Self::All,
        }
    }
}

/// What has changed, as a batch of notifications tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkChanges {
    /// Routes: their next hops, or whether packets go at all.
    pub routes: Routes,
    /// Neighbours whose link-layer address appeared, changed or went.
    pub neighbours: HashSet<NextHop>,
    /// An interface came, went or changed its address.
    pub links: bool,
    /// So did an address at which this host receives.
    pub addresses: bool,
}

impl Default for NetlinkChanges {
    /// Nothing has.
    fn default() -> Self {
        Self {
            routes: Routes::NONE,
            neighbours: HashSet::new(),
            links: false,
            addresses: false,
        }
    }
}

impl NetlinkChanges {
    /// Anything may have changed.
    #[must_use]
    pub fn all() -> Self {
        Self {
            routes: Routes::All,
            links: true,
            addresses: true,
            ..Self::default()
        }
    }

    /// A neighbour has.
    fn of_neighbour(hop: NextHop) -> Self {
        Self {
            neighbours: HashSet::from([hop]),
            ..Self::default()
        }
    }

    /// A link has: any route may lead over it.
    fn of_link() -> Self {
        Self {
            routes: Routes::All,
            links: true,
            ..Self::default()
        }
    }

    /// A route has. Some say at which addresses this host receives.
    fn of_route(route: &RouteMessage) -> Self {
        Self {
            routes: local::destination(route)
                .map_or(Routes::All, |prefix| Routes::To([prefix].into())),
            addresses: matches!(
                route.header.kind,
                RouteType::Local | RouteType::Broadcast | RouteType::Anycast
            ),
            ..Self::default()
        }
    }

    /// An address of an interface has. Routes that name it as their source go with it, without a word.
    fn of_address(is_changed: bool) -> Self {
        Self {
            routes: if is_changed {
                Routes::All
            } else {
                Routes::NONE
            },
            addresses: true,
            ..Self::default()
        }
    }

    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what came later.
    pub fn add(&mut self, other: Self) {
        self.routes.add(other.routes);
        self.neighbours.extend(other.neighbours);
        self.links |= other.links;
        self.addresses |= other.addresses;
    }
}

/// An address of an interface: its index, the address and its network's prefix length.
type AddressAssignment = (u32, IpAddr, u8);

/// What was last seen of links, neighbours and addresses. Pure: messages in, news out.
#[derive(Debug, Default)]
pub struct Seen {
    links: HashMap<u32, Link>,
    /// Link-layer addresses that may be used.
    neighbours: HashMap<NextHop, Vec<u8>>,
    addresses: HashSet<AddressAssignment>,
}

impl Seen {
    /// Takes a message in. Changes of a neighbour between reachable and stale, statistics of links, and new lifetimes of
    /// an address are no news.
    pub fn take(&mut self, message: &RouteNetlinkMessage) -> NetlinkChanges {
        match message {
            RouteNetlinkMessage::NewLink(message) => {
                let Some(link) = link::parse(message) else {
                    return NetlinkChanges::default();
                };
                let known = self.links.insert(link.index, link.clone());
                match known {
                    Some(known) if same_way(&known, &link) => NetlinkChanges::default(),
                    _ => NetlinkChanges::of_link(),
                }
            }
            RouteNetlinkMessage::DelLink(message) => {
                self.links.remove(&message.header.index);
                NetlinkChanges::of_link()
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                NetlinkChanges::of_route(route)
            }
            RouteNetlinkMessage::NewAddress(message) => {
                let is_new = assigned(message).is_none_or(|one| self.addresses.insert(one));
                NetlinkChanges::of_address(is_new)
            }
            RouteNetlinkMessage::DelAddress(message) => {
                if let Some(one) = assigned(message) {
                    self.addresses.remove(&one);
                }
                NetlinkChanges::of_address(true)
            }
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => NetlinkChanges {
                routes: Routes::All,
                ..NetlinkChanges::default()
            },
            RouteNetlinkMessage::NewNeighbour(message) => {
                let Some((hop, neighbour)) = neighbour::parse(message) else {
                    return NetlinkChanges::default();
                };
                let known = match &neighbour.mac {
                    Some(mac) => self.neighbours.insert(hop, mac.clone()),
                    None => self.neighbours.remove(&hop),
                };
                if known == neighbour.mac {
                    NetlinkChanges::default()
                } else {
                    NetlinkChanges::of_neighbour(hop)
                }
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                let Some((hop, _)) = neighbour::parse(message) else {
                    return NetlinkChanges::default();
                };
                if self.neighbours.remove(&hop).is_some() {
                    NetlinkChanges::of_neighbour(hop)
                } else {
                    NetlinkChanges::default()
                }
            }
            _ => NetlinkChanges::default(),
        }
    }
}

/// The address that a message is about.
fn assigned(message: &AddressMessage) -> Option<AddressAssignment> {
    let address = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    // On a point-to-point link the local address stands beside the peer's.
    let local = address(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let other = address(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    let address = local.or(other)?;
    Some((message.header.index, address, message.header.prefix_len))
}

/// Whether packets may go on as before.
fn same_way(a: &Link, b: &Link) -> bool {
    a.mac == b.mac
        && a.mtu == b.mtu
        && a.running == b.running
        && a.name == b.name
        && a.master == b.master
}

/// A socket that hears of changes.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    seen: Seen,
}

impl Monitor {
    /// Begins to listen in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open() -> anyhow::Result<Self> {
        const GROUPS: [u32; 8] = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
        ];
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                socket.add_membership(group)?;
            }
            Ok(socket)
        };
        let socket = open().context("cannot listen for network changes")?;
        // After the groups were joined, so that nothing falls in between.
        let mut seen = Seen::default();
        let mut netlink = Netlink::open()?;
        for request in [
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        ] {
            for answer in netlink
                .dump(request)
                .context("cannot list links, neighbours and addresses")?
            {
                seen.take(&answer);
            }
        }
        Ok(Self { socket, seen })
    }

    /// Waits for notifications, up to `milliseconds`, and takes in those that are there.
    ///
    /// # Errors
    /// The socket failed.
    pub fn wait(&mut self, milliseconds: u16) -> io::Result<NetlinkChanges> {
        let mut news = NetlinkChanges::default();
        let mut timeout = PollTimeout::from(milliseconds);
        for _ in 0..AT_ONCE {
            if !self.is_readable(timeout)? {
                break;
            }
            timeout = PollTimeout::ZERO;
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => {
                    for message in socket::messages(&datagram) {
                        if let NetlinkPayload::InnerMessage(message) = message.payload {
                            news.add(self.seen.take(&message));
                        }
                    }
                }
                // Notifications were lost: anything may have changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.seen = Seen::default();
                    news = NetlinkChanges::all();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(news)
    }

    fn is_readable(&self, timeout: PollTimeout) -> io::Result<bool> {
        // SAFETY: the socket outlives this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
