//! Route look-ups: the next hop of an address, or why it cannot be reached.

use std::{collections::BTreeSet, io, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

use super::{
    Netlink,
    neighbour::{NextHop, family},
};
use crate::model::prefix;

/// Where packets that this host sends to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// To a next hop.
    NextHop(NextHop),
    /// To this host itself.
    Local,
    /// To all hosts of a connected network.
    Broadcast,
    /// There is no route.
    NoRoute,
    /// A route of type blackhole drops them.
    Blackhole,
    /// A route of type unreachable rejects them.
    Unreachable,
    /// A route of type prohibit rejects them.
    Prohibited,
}

impl RouteTarget {
    /// The next hop.
    #[must_use]
    pub const fn next_hop(self) -> Option<NextHop> {
        match self {
            Self::NextHop(hop) => Some(hop),
            Self::Local
            | Self::Broadcast
            | Self::NoRoute
            | Self::Blackhole
            | Self::Unreachable
            | Self::Prohibited => None,
        }
    }
}

/// What of a socket decides its route, besides the address that it sends to; `None` = not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteSource {
    /// Its address.
    pub address: Option<IpAddr>,
    /// Index of the interface that it is bound to.
    pub interface: Option<u32>,
    /// Its firewall mark.
    pub mark: Option<u32>,
}

/// Asks the kernel where packets to `address` go. Rules that match the source or the incoming interface are not
/// considered.
///
/// # Errors
/// The kernel refused the query.
pub fn lookup(netlink: &mut Netlink, address: IpAddr) -> io::Result<RouteTarget> {
    lookup_from(netlink, address, RouteSource::default())
}

/// Asks the kernel where packets of a socket to `address` go.
///
/// # Errors
/// The kernel refused the query.
pub fn lookup_from(
    netlink: &mut Netlink,
    address: IpAddr,
    source: RouteSource,
) -> io::Result<RouteTarget> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = prefix::whole(address);
    message
        .attributes
        .push(RouteAttribute::Destination(address.into()));
    if let Some(address) = source.address {
        message.header.source_prefix_length = prefix::whole(address);
        message
            .attributes
            .push(RouteAttribute::Source(address.into()));
    }
    let interface = source.interface.map(RouteAttribute::Oif);
    let mark = source.mark.map(RouteAttribute::Mark);
    message.attributes.extend(interface.into_iter().chain(mark));
    let answers = match netlink.request(RouteNetlinkMessage::GetRoute(message), 0) {
        Ok(answers) => answers,
        // The kernel answers with the error that a sender would get.
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::ENETUNREACH) => Ok(RouteTarget::NoRoute),
                Some(libc::EHOSTUNREACH) => Ok(RouteTarget::Unreachable),
                Some(libc::EACCES) => Ok(RouteTarget::Prohibited),
                Some(libc::EINVAL) => Ok(RouteTarget::Blackhole),
                _ => Err(error),
            };
        }
    };
    let target = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => match route.header.kind {
            RouteType::Unicast => {
                let (interface, gateway) = next_hops(route).into_iter().next()?;
                Some(RouteTarget::NextHop((
                    interface,
                    gateway.unwrap_or(address),
                )))
            }
            RouteType::Local | RouteType::Anycast => Some(RouteTarget::Local),
            RouteType::Broadcast => Some(RouteTarget::Broadcast),
            _ => None,
        },
        _ => None,
    });
    Ok(target.unwrap_or(RouteTarget::NoRoute))
}

/// The gateways of default routes, by which packets to clients leave.
///
/// # Errors
/// The kernel refused.
pub fn default_gateways(netlink: &mut Netlink) -> io::Result<BTreeSet<NextHop>> {
    let mut gateways = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        for answer in netlink.dump(RouteNetlinkMessage::GetRoute(message))? {
            if let RouteNetlinkMessage::NewRoute(route) = answer
                && route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
            {
                gateways.extend(
                    next_hops(&route)
                        .into_iter()
                        .filter_map(|(interface, gateway)| Some((interface, gateway?))),
                );
            }
        }
    }
    Ok(gateways)
}

/// The next hops of a route: interface and gateway.
fn next_hops(route: &RouteMessage) -> Vec<(u32, Option<IpAddr>)> {
    let mut interface = None;
    let mut hops = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::MultiPath(several) => {
                hops.extend(
                    several
                        .iter()
                        .map(|hop| (hop.interface_index, gateway(&hop.attributes))),
                );
            }
            _ => {}
        }
    }
    hops.extend(interface.map(|index| (index, gateway(&route.attributes))));
    hops
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        // An IPv4 route via an IPv6 gateway.
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}
