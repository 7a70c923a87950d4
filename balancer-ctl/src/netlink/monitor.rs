//! Notices what makes a cached way out wrong: routes, links, and the link-layer addresses of neighbours.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use anyhow::Context;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage, neighbour::NeighbourMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    Netlink,
    link::{self, Link},
    neighbour::{self, NextHop},
    socket,
};

/// What a batch of notifications means for the data plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// A cached way out may be wrong.
    pub ways: bool,
    /// So may be the next hop on it: a route, a rule or a link has changed.
    pub routes: bool,
    /// An interface came, went or changed its address.
    pub links: bool,
}

impl News {
    const NEIGHBOUR: Self = Self {
        ways: true,
        routes: false,
        links: false,
    };
    const ROUTE: Self = Self {
        routes: true,
        ..Self::NEIGHBOUR
    };
    const LINK: Self = Self {
        links: true,
        ..Self::ROUTE
    };
}

/// What was last seen of links and neighbours. Pure: messages in, news out.
#[derive(Debug, Default)]
pub struct Seen {
    links: HashMap<u32, Link>,
    /// Link-layer addresses that may be used.
    neighbours: HashMap<NextHop, Vec<u8>>,
}

impl Seen {
    /// Takes a message in. Changes of a neighbour between reachable and stale, and statistics of links, are
    /// no news.
    pub fn take(&mut self, message: &RouteNetlinkMessage) -> News {
        match message {
            RouteNetlinkMessage::NewLink(message) => {
                let Some(link) = link::parse(message) else {
                    return News::default();
                };
                let known = self.links.insert(link.index, link.clone());
                match known {
                    Some(known) if same_way(&known, &link) => News::default(),
                    _ => News::LINK,
                }
            }
            RouteNetlinkMessage::DelLink(message) => {
                self.links.remove(&message.header.index);
                News::LINK
            }
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => News::ROUTE,
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => News::ROUTE,
            RouteNetlinkMessage::NewNeighbour(message) => {
                let Some((hop, neighbour)) = neighbour::parse(message) else {
                    return News::default();
                };
                let known = match &neighbour.mac {
                    Some(mac) => self.neighbours.insert(hop, mac.clone()),
                    None => self.neighbours.remove(&hop),
                };
                if known == neighbour.mac {
                    News::default()
                } else {
                    News::NEIGHBOUR
                }
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                let Some((hop, _)) = neighbour::parse(message) else {
                    return News::default();
                };
                if self.neighbours.remove(&hop).is_some() {
                    News::NEIGHBOUR
                } else {
                    News::default()
                }
            }
            _ => News::default(),
        }
    }
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
        const GROUPS: [u32; 6] = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
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
        ] {
            for answer in netlink
                .dump(request)
                .context("cannot list links and neighbours")?
            {
                seen.take(&answer);
            }
        }
        Ok(Self { socket, seen })
    }

    /// Waits for notifications, up to `milliseconds`, and takes in all that are there.
    ///
    /// # Errors
    /// The socket failed.
    pub fn wait(&mut self, milliseconds: u16) -> io::Result<News> {
        let mut news = News::default();
        let mut timeout = PollTimeout::from(milliseconds);
        while self.is_readable(timeout)? {
            timeout = PollTimeout::ZERO;
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => {
                    for message in socket::messages(&datagram) {
                        if let NetlinkPayload::InnerMessage(message) = message.payload {
                            let one = self.seen.take(&message);
                            news.ways |= one.ways;
                            news.routes |= one.routes;
                            news.links |= one.links;
                        }
                    }
                }
                // Notifications were lost: anything may have changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.seen = Seen::default();
                    news = News::LINK;
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
mod tests {
    use netlink_packet_route::{
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
        route::RouteMessage,
    };

    use super::*;

    fn neighbour(state: NeighbourState, mac: Option<u8>) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        message.header.state = state;
        let address = NeighbourAddress::Inet([192, 168, 0, 2].into());
        message
            .attributes
            .push(NeighbourAttribute::Destination(address));
        message.attributes.extend(
            mac.map(|last| NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last])),
        );
        message
    }

    #[test]
    fn a_neighbour_is_news_when_its_address_appears_changes_or_goes() {
        use NeighbourState::{Failed, Incomplete, Probe, Reachable, Stale};
        let mut seen = Seen::default();
        for (state, mac, news) in [
            (Incomplete, None, News::default()),
            (Reachable, Some(1), News::NEIGHBOUR),
            (Stale, Some(1), News::default()),
            (Probe, Some(1), News::default()),
            (Reachable, Some(2), News::NEIGHBOUR),
            (Failed, Some(2), News::NEIGHBOUR),
            (Failed, None, News::default()),
            (Reachable, Some(2), News::NEIGHBOUR),
        ] {
            let message = RouteNetlinkMessage::NewNeighbour(neighbour(state, mac));
            assert_eq!(seen.take(&message), news, "{state:?} {mac:?}");
        }
        let gone = RouteNetlinkMessage::DelNeighbour(neighbour(Stale, Some(2)));
        assert_eq!(seen.take(&gone), News::NEIGHBOUR);
        assert_eq!(seen.take(&gone), News::default());
    }

    #[test]
    fn a_link_is_news_when_its_mac_mtu_carrier_or_master_changes() {
        let of = |mac: u8, mtu, flags, master| {
            let mut message = LinkMessage::default();
            message.header.index = 3;
            message.header.flags = flags;
            message.attributes = vec![
                LinkAttribute::IfName("eth0".into()),
                LinkAttribute::Address(vec![2, 0, 0, 0, 0, mac]),
                LinkAttribute::Mtu(mtu),
                LinkAttribute::Controller(master),
            ];
            message
        };
        let link = |mac, mtu, flags| of(mac, mtu, flags, 0);
        let up = LinkFlags::Up | LinkFlags::LowerUp;
        let mut seen = Seen::default();
        for (message, news) in [
            (link(1, 1500, up), News::LINK),
            (link(1, 1500, up), News::default()),
            (link(1, 1500, up | LinkFlags::Promisc), News::default()),
            (link(2, 1500, up), News::LINK),
            (link(2, 1400, up), News::LINK),
            (link(2, 1400, LinkFlags::Up), News::LINK),
            (of(2, 1400, LinkFlags::Up, 7), News::LINK),
            (of(2, 1400, LinkFlags::Up, 7), News::default()),
            (link(2, 1400, LinkFlags::Up), News::LINK),
        ] {
            assert_eq!(seen.take(&RouteNetlinkMessage::NewLink(message)), news);
        }
        assert_eq!(
            seen.take(&RouteNetlinkMessage::DelLink(link(2, 1400, up))),
            News::LINK
        );
    }

    #[test]
    fn every_route_is_news() {
        let mut seen = Seen::default();
        assert_eq!(
            seen.take(&RouteNetlinkMessage::NewRoute(RouteMessage::default())),
            News::ROUTE
        );
        assert_eq!(
            seen.take(&RouteNetlinkMessage::DelRoute(RouteMessage::default())),
            News::ROUTE
        );
    }
}
