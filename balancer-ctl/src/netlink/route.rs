//! Routes: where packets go next, or why they go nowhere.

use std::{collections::BTreeSet, io, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

use super::{
    Netlink,
    neighbour::{NextHop, family},
};

/// Where packets that this host sends to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To a next hop.
    Hop(NextHop),
    /// To this host itself.
    Local,
    /// To all hosts of a connected network.
    Broadcast,
    /// Nowhere: there is no route.
    Missing,
    /// Nowhere: a route drops them.
    Blackhole,
    /// Nowhere: a route says that they cannot be delivered.
    Unreachable,
    /// Nowhere: a route forbids them.
    Prohibited,
}

impl Way {
    /// The next hop.
    #[must_use]
    pub const fn hop(self) -> Option<NextHop> {
        match self {
            Self::Hop(hop) => Some(hop),
            Self::Local
            | Self::Broadcast
            | Self::Missing
            | Self::Blackhole
            | Self::Unreachable
            | Self::Prohibited => None,
        }
    }
}

/// Asks the kernel where packets to `address` go. Rules that look at the source or at the interface that a packet came in
/// by are not asked for.
///
/// # Errors
/// The kernel refused the question.
pub fn way(netlink: &mut Netlink, address: IpAddr) -> io::Result<Way> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    message
        .attributes
        .push(RouteAttribute::Destination(address.into()));
    let answers = match netlink.request(RouteNetlinkMessage::GetRoute(message), 0) {
        Ok(answers) => answers,
        // The kernel answers with the error that a sender would meet.
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::ENETUNREACH) => Ok(Way::Missing),
                Some(libc::EHOSTUNREACH) => Ok(Way::Unreachable),
                Some(libc::EACCES) => Ok(Way::Prohibited),
                Some(libc::EINVAL) => Ok(Way::Blackhole),
                _ => Err(error),
            };
        }
    };
    let way = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => match route.header.kind {
            RouteType::Unicast => {
                let (interface, gateway) = hops(route).into_iter().next()?;
                Some(Way::Hop((interface, gateway.unwrap_or(address))))
            }
            RouteType::Local | RouteType::Anycast => Some(Way::Local),
            RouteType::Broadcast => Some(Way::Broadcast),
            _ => None,
        },
        _ => None,
    });
    Ok(way.unwrap_or(Way::Missing))
}

/// The gateways of default routes: clients' answers leave by them.
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
                    hops(&route)
                        .into_iter()
                        .filter_map(|(interface, gateway)| Some((interface, gateway?))),
                );
            }
        }
    }
    Ok(gateways)
}

/// The hops of a route: interface and gateway.
fn hops(route: &RouteMessage) -> Vec<(u32, Option<IpAddr>)> {
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
        // An IPv4 route by an IPv6 gateway.
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}
