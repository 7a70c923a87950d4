//! Gets the kernel's notifications about changes that affect where packets go: routes, links, addresses, and the
//! link-layer addresses of neighbours.

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
    local,
    neighbour::{self, NextHop},
    socket,
};
use crate::model::prefix::Prefix;

/// Which routes have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChanges {
    /// Routes to addresses in these prefixes.
    To(BTreeSet<Prefix>),
    /// Any route.
    All,
}

/// More prefixes than this count as [`RouteChanges::All`].
const MAX_PREFIXES: usize = 4096;
/// The most datagrams that one call of [`Monitor::wait`] reads.
const MAX_DATAGRAMS: usize = 256;

impl RouteChanges {
    const NONE: Self = Self::To(BTreeSet::new());

    fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (Self::To(prefixes), Self::To(others)) => {
                prefixes.extend(others);
                if prefixes.len() > MAX_PREFIXES {
                    *self = Self::All;
                }
            }
            (Self::To(_), Self::All) => *self = Self::All,
        }
    }
}

/// What has changed, by a batch of notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkChanges {
    /// Routes whose next hop or type changed.
    pub routes: RouteChanges,
    /// Neighbours whose link-layer address appeared, changed or went.
    pub neighbours: HashSet<NextHop>,
    /// Whether an interface appeared, went, or changed in a way that affects forwarding.
    pub links: bool,
    /// Whether an address at which this host receives appeared or went.
    pub addresses: bool,
}

impl Default for NetlinkChanges {
    /// Nothing has changed.
    fn default() -> Self {
        Self {
            routes: RouteChanges::NONE,
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
            routes: RouteChanges::All,
            links: true,
            addresses: true,
            ..Self::default()
        }
    }

    /// A neighbour has changed.
    fn of_neighbour(hop: NextHop) -> Self {
        Self {
            neighbours: HashSet::from([hop]),
            ..Self::default()
        }
    }

    /// A link has changed, and any route may use it.
    fn of_link() -> Self {
        Self {
            routes: RouteChanges::All,
            links: true,
            ..Self::default()
        }
    }

    /// A route has changed. Local routes say at which addresses this host receives.
    fn of_route(route: &RouteMessage) -> Self {
        Self {
            routes: local::destination(route).map_or(RouteChanges::All, |prefix| {
                RouteChanges::To([prefix].into())
            }),
            addresses: matches!(
                route.header.kind,
                RouteType::Local | RouteType::Broadcast | RouteType::Anycast
            ),
            ..Self::default()
        }
    }

    /// An address of an interface was announced. If it `is_changed`, any route may have, since the kernel removes
    /// routes that name an address as their source with it, without a notification.
    fn of_address(is_changed: bool) -> Self {
        Self {
            routes: if is_changed {
                RouteChanges::All
            } else {
                RouteChanges::NONE
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

    /// Adds later changes.
    pub fn add(&mut self, other: Self) {
        self.routes.add(other.routes);
        self.neighbours.extend(other.neighbours);
        self.links |= other.links;
        self.addresses |= other.addresses;
    }
}

/// An address of an interface: its index, the address and its network's prefix length.
type AddressAssignment = (u32, IpAddr, u8);

/// The last known state of links, neighbours and addresses. Pure: messages in, changes out.
#[derive(Debug, Default)]
pub struct KnownState {
    links: HashMap<u32, Link>,
    /// Link-layer addresses of resolved neighbours.
    neighbours: HashMap<NextHop, Vec<u8>>,
    addresses: HashSet<AddressAssignment>,
}

impl KnownState {
    /// Applies a message, and returns what it changes. Changes of a neighbour between reachable and stale, statistics
    /// of links, and new lifetimes of an address are no changes.
    pub fn apply(&mut self, message: &RouteNetlinkMessage) -> NetlinkChanges {
        match message {
            RouteNetlinkMessage::NewLink(message) => {
                let Some(link) = link::parse(message) else {
                    return NetlinkChanges::default();
                };
                let known = self.links.insert(link.index, link.clone());
                match known {
                    Some(known) if routes_alike(&known, &link) => NetlinkChanges::default(),
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
                let is_new = assignment(message).is_none_or(|one| self.addresses.insert(one));
                NetlinkChanges::of_address(is_new)
            }
            RouteNetlinkMessage::DelAddress(message) => {
                if let Some(one) = assignment(message) {
                    self.addresses.remove(&one);
                }
                NetlinkChanges::of_address(true)
            }
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => NetlinkChanges {
                routes: RouteChanges::All,
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
fn assignment(message: &AddressMessage) -> Option<AddressAssignment> {
    let address = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    // On a point-to-point link the local address has an attribute of its own, beside the peer's.
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

/// Whether two states of a link are the same for forwarding.
fn routes_alike(a: &Link, b: &Link) -> bool {
    a.mac == b.mac
        && a.mtu == b.mtu
        && a.running == b.running
        && a.name == b.name
        && a.master == b.master
}

/// A socket subscribed to the kernel's notifications.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    state: KnownState,
}

impl Monitor {
    /// Subscribes in the network namespace of the calling thread.
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
        // After joining the groups, so that no change is missed in between.
        let mut state = KnownState::default();
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
                state.apply(&answer);
            }
        }
        Ok(Self { socket, state })
    }

    /// Waits up to `milliseconds` for notifications, and returns the changes of those that arrived.
    ///
    /// # Errors
    /// The socket failed.
    pub fn wait(&mut self, milliseconds: u16) -> io::Result<NetlinkChanges> {
        let mut changes = NetlinkChanges::default();
        let mut timeout = PollTimeout::from(milliseconds);
        for _ in 0..MAX_DATAGRAMS {
            if !self.is_readable(timeout)? {
                break;
            }
            timeout = PollTimeout::ZERO;
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => {
                    for message in socket::messages(&datagram) {
                        if let NetlinkPayload::InnerMessage(message) = message.payload {
                            changes.add(self.state.apply(&message));
                        }
                    }
                }
                // Notifications were lost: anything may have changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.state = KnownState::default();
                    changes = NetlinkChanges::all();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(changes)
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
