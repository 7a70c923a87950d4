//! Neighbours: the link-layer addresses of next hops, and how to keep them known.
//!
//! The packet program can send only where the kernel already knows the next hop's MAC address. A *managed* entry is
//! kept fresh by the kernel itself, also while the daemon is dead.

use std::{collections::BTreeMap, io, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
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
    /// How far its resolution is.
    pub state: NeighbourState,
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
        state,
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

/// How an entry is kept fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManagedEntry {
    /// By the kernel from now on.
    Managed,
    /// By one resolution now: up to three requests, a second apart.
    Use,
}

/// Makes the kernel resolve `hop`, now or for good. A fixed entry must not be passed: the kernel would make it an
/// ordinary one.
///
/// # Errors
/// The kernel refused; `ENOBUFS` when its table is full.
pub fn keep(netlink: &mut Netlink, hop: NextHop, how: ManagedEntry) -> io::Result<()> {
    let mut message = about(hop);
    match how {
        ManagedEntry::Managed => message
            .attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed)),
        ManagedEntry::Use => message.header.flags = NeighbourFlags::Use,
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

/// Deletes an entry.
///
/// # Errors
/// The kernel refused; `ENOENT` when there is none.
pub fn delete(netlink: &mut Netlink, hop: NextHop) -> io::Result<()> {
    netlink
        .request(RouteNetlinkMessage::DelNeighbour(about(hop)), 0)
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

pub(super) const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
