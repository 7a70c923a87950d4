//! The addresses at which this host receives, and the broadcast addresses of its networks, from the routing tables.
//!
//! They are more than the interfaces' addresses: prefixes from `ip route add local` are among them. An IPv6 address
//! whose duplicate address detection has not ended is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType},
};

use super::Netlink;
use crate::model::prefix::Prefix;

/// What the kernel does with a packet to such an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// This host receives it. IPv6 anycast addresses count as local, too: those of networks for which this host forwards.
    Local,
    /// It goes to every host of a connected network.
    Broadcast,
}

/// One route of type local, anycast or broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalRoute {
    /// The addresses.
    pub prefix: Prefix,
    /// What the kernel does with packets to them.
    pub kind: Kind,
}

/// Lists the local and broadcast routes of both families in all tables: each VRF has its own.
///
/// # Errors
/// The kernel refused.
pub fn list(netlink: &mut Netlink) -> io::Result<Vec<LocalRoute>> {
    const WANTED: [(AddressFamily, RouteType); 4] = [
        (AddressFamily::Inet, RouteType::Local),
        (AddressFamily::Inet, RouteType::Broadcast),
        (AddressFamily::Inet6, RouteType::Local),
        (AddressFamily::Inet6, RouteType::Anycast),
    ];
    let mut routes = BTreeSet::new();
    for (family, kind) in WANTED {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.kind = kind;
        for answer in netlink.dump(RouteNetlinkMessage::GetRoute(message))? {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                routes.extend(parse(&route));
            }
        }
    }
    Ok(routes.into_iter().collect())
}

/// Reads a route from a message; `None` when it is of another type, or of a table that only policy rules use.
///
/// Routes count that are in the table `local`, or that the kernel itself has put into a VRF's table. Local routes that
/// an operator put into another table hand other hosts' packets to a transparent proxy (`ip route add local default dev
/// lo table 100`).
fn parse(route: &RouteMessage) -> Option<LocalRoute> {
    if table(route) != u32::from(libc::RT_TABLE_LOCAL)
        && route.header.protocol != RouteProtocol::Kernel
    {
        return None;
    }
    let kind = match route.header.kind {
        RouteType::Local | RouteType::Anycast => Kind::Local,
        RouteType::Broadcast => Kind::Broadcast,
        _ => return None,
    };
    let prefix = destination(route)?;
    Some(LocalRoute { prefix, kind })
}

/// A route's destination prefix; `None` for other address families.
pub(super) fn destination(route: &RouteMessage) -> Option<Prefix> {
    let destination = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        });
    // A default route has no destination attribute.
    let unnamed = match route.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let length = route.header.destination_prefix_length;
    Some(Prefix::of(destination.unwrap_or(unnamed), length))
}

/// The table that a route is in.
fn table(route: &RouteMessage) -> u32 {
    // Table numbers above 255 are in an attribute only.
    let number = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(number) => Some(*number),
            _ => None,
        });
    number.unwrap_or_else(|| u32::from(route.header.table))
}

/// The addresses of this host and the broadcast addresses of its networks, for look-ups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    prefixes: BTreeMap<Prefix, Kind>,
    /// Prefix lengths that occur, for IPv4 and for IPv6.
    lengths: [BTreeSet<u8>; 2],
}

impl LocalAddresses {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn read(netlink: &mut Netlink) -> io::Result<Self> {
        Ok(list(netlink)?.into_iter().collect())
    }

    /// The kind of an address by its longest prefix; `None` when it is another host's.
    #[must_use]
    pub fn kind(&self, address: IpAddr) -> Option<Kind> {
        let lengths = &self.lengths[family(address)];
        lengths.iter().rev().find_map(|length| {
            let prefix = Prefix::of(address, *length);
            self.prefixes.get(&prefix).copied()
        })
    }

    /// All prefixes with their kinds.
    pub fn prefixes(&self) -> impl Iterator<Item = LocalRoute> + '_ {
        self.prefixes.iter().map(|(prefix, kind)| LocalRoute {
            prefix: *prefix,
            kind: *kind,
        })
    }
}

impl FromIterator<LocalRoute> for LocalAddresses {
    fn from_iter<T: IntoIterator<Item = LocalRoute>>(routes: T) -> Self {
        let mut addresses = Self::default();
        for LocalRoute { prefix, kind } in routes {
            addresses.lengths[family(prefix.address)].insert(prefix.length);
            let known = addresses.prefixes.entry(prefix).or_insert(kind);
            // Where tables differ, local wins over broadcast.
            *known = kind.min(*known);
        }
        addresses
    }
}

const fn family(address: IpAddr) -> usize {
    address.is_ipv6() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix::of(address.parse().unwrap(), length.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_says_what_an_address_is() {
        let route = |text, kind| LocalRoute {
            prefix: prefix(text),
            kind,
        };
        let addresses: LocalAddresses = [
            route("127.0.0.0/8", Kind::Local),
            route("127.255.255.255/32", Kind::Broadcast),
            route("192.0.2.7/32", Kind::Broadcast),
            route("192.0.2.7/32", Kind::Local),
            route("fd00::1/128", Kind::Local),
        ]
        .into_iter()
        .collect();
        for (address, kind) in [
            ("127.1.2.3", Some(Kind::Local)),
            ("127.255.255.255", Some(Kind::Broadcast)),
            ("128.0.0.1", None),
            ("192.0.2.7", Some(Kind::Local)),
            ("fd00::1", Some(Kind::Local)),
            ("fd00::2", None),
            ("::", None),
        ] {
            assert_eq!(addresses.kind(address.parse().unwrap()), kind, "{address}");
        }
        assert_eq!(addresses.prefixes().count(), 4);
    }
}
