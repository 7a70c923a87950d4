//! Neighbour entries: the link-layer addresses of next hops, and how to keep them resolved.
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
    /// Its MAC address, while the entry is resolved.
    pub mac: Option<Vec<u8>>,
    /// Whether it is permanent, or on a link that needs no resolution: the daemon does not touch it.
    pub fixed: bool,
    /// Whether the kernel keeps it fresh (`NTF_EXT_MANAGED`, Linux 5.16).
    pub managed: bool,
    /// Whether it does not count against the limit of the kernel's table: permanent, or learned otherwise than by asking.
    pub uncounted: bool,
    /// The state of its resolution (NUD).
    pub state: NeighbourState,
}

/// Reads an entry from a message.
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
        uncounted: state == NeighbourState::Permanent
            || message.header.flags.contains(NeighbourFlags::ExtLearned),
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

/// Lists the neighbour entries of the namespace.
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

/// Reads one entry; `None` if there is none.
///
/// # Errors
/// The kernel refused.
pub fn get(netlink: &mut Netlink, hop: NextHop) -> io::Result<Option<Neighbour>> {
    let request = RouteNetlinkMessage::GetNeighbour(entry_message(hop));
    match netlink.request(request, 0) {
        Ok(answers) => Ok(answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => parse(message).map(|(_, entry)| entry),
            _ => None,
        })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How the kernel resolves an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Now, and again before it expires, for as long as the entry exists.
    Managed,
    /// Once: up to three requests, a second apart.
    Once,
}

/// Makes the kernel resolve `hop`. A fixed entry must not be passed: the kernel would make it an ordinary one.
///
/// # Errors
/// The kernel refused; `ENOBUFS` when its table is full.
pub fn resolve(netlink: &mut Netlink, hop: NextHop, how: Resolution) -> io::Result<()> {
    let mut message = entry_message(hop);
    match how {
        Resolution::Managed => message
            .attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed)),
        Resolution::Once => message.header.flags = NeighbourFlags::Use,
    }
    netlink
        .request(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .map(drop)
}

/// Makes the entry of `hop` an ordinary one again, which the kernel drops when it is unused.
///
/// # Errors
/// The kernel refused.
pub fn release(netlink: &mut Netlink, hop: NextHop, entry: &Neighbour) -> io::Result<()> {
    let mut message = entry_message(hop);
    if let Some(mac) = &entry.mac {
        // Other traffic may use it, so it stays resolved.
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
        .request(RouteNetlinkMessage::DelNeighbour(entry_message(hop)), 0)
        .map(drop)
}

/// A message that names an entry.
fn entry_message(hop: NextHop) -> NeighbourMessage {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_the_kernel_need_not_ask_for_does_not_count_against_the_limit() {
        for (state, flags, uncounted) in [
            (NeighbourState::Reachable, NeighbourFlags::empty(), false),
            (NeighbourState::Noarp, NeighbourFlags::empty(), false),
            (NeighbourState::Permanent, NeighbourFlags::empty(), true),
            (NeighbourState::Stale, NeighbourFlags::ExtLearned, true),
        ] {
            let hop = (2, IpAddr::from([192, 0, 2, 1]));
            let mut message = entry_message(hop);
            message.header.state = state;
            message.header.flags = flags;
            let expected = Neighbour {
                mac: None,
                fixed: matches!(state, NeighbourState::Noarp | NeighbourState::Permanent),
                managed: false,
                uncounted,
                state,
            };
            assert_eq!(parse(&message), Some((hop, expected)));
        }
    }
}
