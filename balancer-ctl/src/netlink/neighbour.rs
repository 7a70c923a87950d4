//! Neighbours: the link-layer addresses of next hops, and how to keep them known.
//!
//! The packet program can send only where the kernel already knows the next hop's MAC address. A *managed* entry
//! (Linux 5.16) is kept fresh by the kernel itself, also while the daemon is dead; older kernels are asked to use the
//! entry now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};

use super::Netlink;

/// A next hop: interface index and address.
pub type NextHop = (u32, IpAddr);

/// A neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its MAC address, when that is known and may be used.
    pub mac: Option<Vec<u8>>,
    /// Set by hand, or on a link that needs no resolution: leave it alone.
    pub fixed: bool,
    /// The kernel keeps it fresh.
    pub managed: bool,
}

/// Reads an entry out of a message.
pub(super) fn parse(message: &NeighbourMessage) -> Option<(NextHop, Neighbour)> {
    let state = message.header.state;
    let usable = matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Noarp
            | NeighbourState::Permanent
    );
    let mut address = None;
    let mut neighbour = Neighbour {
        mac: None,
        fixed: matches!(state, NeighbourState::Noarp | NeighbourState::Permanent),
        managed: false,
    };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6))
            }
            NeighbourAttribute::LinkLayerAddress(mac) if usable => {
                neighbour.mac = Some(mac.clone())
            }
            NeighbourAttribute::ExtFlags(flags) => {
                neighbour.managed = flags.contains(NeighbourExtFlags::Managed)
            }
            _ => {}
        }
    }
    Some(((message.header.ifindex, address?), neighbour))
}

/// Lists the neighbour table.
///
/// # Errors
/// The kernel refused.
pub fn list(netlink: &mut Netlink) -> io::Result<BTreeMap<NextHop, Neighbour>> {
    let answers = netlink.dump(RouteNetlinkMessage::GetNeighbour(
        NeighbourMessage::default(),
    ))?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => parse(message),
            _ => None,
        })
        .collect())
}

/// Where packets to `address` go next; none without a route, or when it is this host.
///
/// # Errors
/// The kernel refused the question for another reason than a missing route.
pub fn next_hop(netlink: &mut Netlink, address: IpAddr) -> io::Result<Option<NextHop>> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    message
        .attributes
        .push(RouteAttribute::Destination(address.into()));
    let answers = match netlink.request(RouteNetlinkMessage::GetRoute(message), 0) {
        Ok(answers) => answers,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => {
                    Ok(None)
                }
                _ => Err(error),
            };
        }
    };
    Ok(answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(route) if route.header.kind == RouteType::Unicast => {
            let (interface, gateway) = ways(route).into_iter().next()?;
            Some((interface, gateway.unwrap_or(address)))
        }
        _ => None,
    }))
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
                    ways(&route)
                        .into_iter()
                        .filter_map(|(interface, gateway)| Some((interface, gateway?))),
                );
            }
        }
    }
    Ok(gateways)
}

/// The ways a route takes: interface and gateway.
fn ways(route: &RouteMessage) -> Vec<(u32, Option<IpAddr>)> {
    let mut interface = None;
    let mut ways = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::MultiPath(hops) => {
                ways.extend(
                    hops.iter()
                        .map(|hop| (hop.interface_index, gateway(&hop.attributes))),
                );
            }
            _ => {}
        }
    }
    ways.extend(interface.map(|index| (index, gateway(&route.attributes))));
    ways
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

/// How an entry is kept fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// By the kernel from now on.
    Managed,
    /// By one probe now.
    Use,
}

/// Makes the kernel resolve `hop`, now or for good. A fixed entry must not be passed: the kernel would make it an
/// ordinary one.
///
/// # Errors
/// The kernel refused; `EINVAL` for [`Keep::Managed`] before Linux 5.16.
pub fn keep(netlink: &mut Netlink, hop: NextHop, how: Keep) -> io::Result<()> {
    let mut message = about(hop);
    match how {
        Keep::Managed => message
            .attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed)),
        Keep::Use => message.header.flags = NeighbourFlags::Use,
    }
    netlink
        .request(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .map(drop)
}

/// Makes the entry of `hop` an ordinary one again, that goes when nobody uses it.
///
/// # Errors
/// The kernel refused.
pub fn release(netlink: &mut Netlink, hop: NextHop, entry: &Neighbour) -> io::Result<()> {
    let mut message = about(hop);
    if let Some(mac) = &entry.mac {
        // Connections of others may run by it: it stays usable.
        message.header.state = NeighbourState::Stale;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.clone()));
    }
    netlink
        .request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE)
        .map(drop)
}

/// A message that names an entry.
fn about(hop: NextHop) -> NeighbourMessage {
    let (interface, address) = hop;
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = interface;
    message.header.state = NeighbourState::None;
    message
        .attributes
        .push(NeighbourAttribute::Destination(match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        }));
    message
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
