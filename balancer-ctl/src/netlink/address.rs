//! The addresses of this host's interfaces: the networks that it is in by them, and addresses that are added for a
//! limited time.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use balancer_common::addr::Addr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressProtocol, AddressScope, CacheInfo},
};

use super::{Netlink, neighbour::family};
use crate::model::prefix::Prefix;

pub use netlink_packet_route::address::AddressFlags;

/// What marks the addresses that [`add`] makes (`IFA_PROTO`): who has added an address. Nobody else is known to use
/// this number. Kernels before Linux 5.18 ignore the mark and show none.
pub const OUR_PROTOCOL: u8 = 0xbc;

/// The lifetime of a permanent address, in seconds.
const FOREVER: u32 = u32::MAX;

/// A set of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(BTreeSet<Prefix>);

impl Networks {
    /// Asks the kernel.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn read(netlink: &mut Netlink) -> io::Result<Self> {
        let answers = netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let networks = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => network(message),
            _ => None,
        });
        Ok(networks.collect())
    }

    /// The mask of the smallest network that contains `address`, in network byte order, an IPv4 mask in the last word;
    /// zeroes if there is none.
    #[must_use]
    pub fn mask_around(&self, address: IpAddr) -> Addr {
        let around = self
            .0
            .iter()
            .filter(|network| Prefix::of(address, network.length) == **network);
        let length = around.map(|network| network.length).max().unwrap_or(0);
        let ones = Prefix::of(Ipv6Addr::from_bits(u128::MAX).into(), length);
        match Addr::from(ones.address) {
            // An IPv4 mask is in the last word.
            Addr([word, _, _, _]) if address.is_ipv4() => Addr([0, 0, 0, word]),
            mask => mask,
        }
    }
}

impl FromIterator<Prefix> for Networks {
    fn from_iter<T: IntoIterator<Item = Prefix>>(networks: T) -> Self {
        Self(networks.into_iter().collect())
    }
}

/// The network of an interface's address; `None` for a /32 or /128 and for loopback.
fn network(message: &AddressMessage) -> Option<Prefix> {
    let length = message.header.prefix_len;
    // On a point-to-point link this attribute has the peer's address, to which the prefix length belongs.
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    (length < whole && !address.is_loopback()).then(|| Prefix::of(address, length))
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's index.
    pub index: u32,
    /// This host's address.
    pub address: IpAddr,
    /// The length of its network's prefix in bits.
    pub length: u8,
    /// How long the kernel still keeps it, in whole seconds; `None`: for ever.
    pub lifetime: Option<Duration>,
    /// Who has added it (`IFA_PROTO`): [`OUR_PROTOCOL`] for ours, 0 if that is not known.
    pub protocol: u8,
    /// The kernel's flags (`IFA_F_…`).
    pub flags: AddressFlags,
}

impl InterfaceAddress {
    /// Whether [`add`] has made it.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        self.protocol == OUR_PROTOCOL
    }

    /// Whether this host uses it: not while its kernel still looks for another host with it, or has found one.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        let detection = AddressFlags::Tentative.union(AddressFlags::Dadfailed);
        !self.flags.intersects(detection)
    }
}

/// Lists the addresses of all interfaces of the namespace.
///
/// # Errors
/// The kernel refused.
pub fn list(netlink: &mut Netlink) -> io::Result<Vec<InterfaceAddress>> {
    let answers = netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let addresses = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(message) => parse(message),
        _ => None,
    });
    Ok(addresses.collect())
}

/// Reads an address from a message.
fn parse(message: &AddressMessage) -> Option<InterfaceAddress> {
    let mut local = None;
    let mut other = None;
    let mut lifetime = FOREVER;
    let mut protocol = 0;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            // The peer's, on a point-to-point link; otherwise the same, or of IPv6 the only one.
            AddressAttribute::Address(address) => other = Some(*address),
            AddressAttribute::CacheInfo(cache) => lifetime = cache.ifa_valid,
            AddressAttribute::Protocol(by) => protocol = (*by).into(),
            // All 32 bits; the header has the lower 8.
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    Some(InterfaceAddress {
        index: message.header.index,
        address: local.or(other)?,
        length: message.header.prefix_len,
        lifetime: (lifetime != FOREVER).then(|| Duration::from_secs(lifetime.into())),
        protocol,
        flags,
    })
}

/// Gives interface `index` an address for `lifetime`, which is rounded up to whole seconds, or renews it for that long
/// from now. The kernel removes it if it is not renewed. An IPv6 address is usable at once, and is no packet's source
/// unless a program chooses it.
///
/// An address that the interface already has, whoever added it, becomes ours with this lifetime.
///
/// # Errors
/// The kernel refused; `ENODEV` when there is no such interface.
pub fn add(
    netlink: &mut Netlink,
    index: u32,
    address: IpAddr,
    length: u8,
    lifetime: Duration,
) -> io::Result<()> {
    let mut message = address_message(index, address, length);
    let mut flags = AddressFlags::empty();
    // A /32 or /128 is no network, which a route would lead to.
    let whole = if address.is_ipv4() { 32 } else { 128 };
    flags.set(AddressFlags::Noprefixroute, length == whole);
    flags.set(AddressFlags::Nodad, address.is_ipv6());
    let mut cache = CacheInfo::default();
    cache.ifa_valid = whole_seconds(lifetime);
    // A deprecated address (preferred for 0 s) is the source only of what is bound to it. The kernel ignores that for
    // IPv4, where the interface's first address of the network is the source.
    cache.ifa_preferred = if address.is_ipv4() {
        cache.ifa_valid
    } else {
        0
    };
    message.attributes.extend([
        AddressAttribute::Flags(flags),
        AddressAttribute::CacheInfo(cache),
        AddressAttribute::Protocol(AddressProtocol::Other(OUR_PROTOCOL)),
    ]);
    netlink
        .request(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .map(drop)
}

/// Removes an address from interface `index`, whoever added it. Returns `false` if it, or the interface, was not
/// there.
///
/// Of several IPv4 addresses of one network on an interface, the kernel removes the others with the first, unless the
/// sysctl `promote_secondaries` is set. Addresses with a length of 32 do not depend on each other.
///
/// # Errors
/// The kernel refused.
pub fn remove(netlink: &mut Netlink, index: u32, address: IpAddr, length: u8) -> io::Result<bool> {
    let message = address_message(index, address, length);
    match netlink.request(RouteNetlinkMessage::DelAddress(message), 0) {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EADDRNOTAVAIL | libc::ENODEV)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A message that names an address.
fn address_message(index: u32, address: IpAddr, length: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.index = index;
    message.header.prefix_len = length;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

/// A lifetime as the kernel counts it: rounded up, at least 1 s, and not for ever.
fn whole_seconds(lifetime: Duration) -> u32 {
    let seconds = lifetime.as_nanos().div_ceil(1_000_000_000);
    u32::try_from(seconds)
        .unwrap_or(FOREVER)
        .clamp(1, FOREVER - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_is_that_of_the_smallest_network_around_an_address() {
        let network = |address: &str, length| Prefix::of(address.parse().unwrap(), length);
        let networks: Networks = [
            network("10.0.0.0", 8),
            network("10.1.0.0", 16),
            network("fd00:1::", 64),
        ]
        .into_iter()
        .collect();
        for (address, words) in [
            ("10.1.2.3", [0, 0, 0, 0xffff_0000]),
            ("10.2.2.3", [0, 0, 0, 0xff00_0000]),
            ("11.0.0.1", [0; 4]),
            ("fd00:1::7", [u32::MAX, u32::MAX, 0, 0]),
            ("fd00:2::7", [0; 4]),
        ] {
            assert_eq!(
                networks.mask_around(address.parse().unwrap()),
                Addr(words.map(u32::to_be)),
                "{address}"
            );
        }
    }

    #[test]
    fn a_lifetime_is_rounded_up_and_never_for_ever() {
        let seconds = [0, 1, 1_000, 1_001, u64::MAX]
            .map(|milliseconds| whole_seconds(Duration::from_millis(milliseconds)));
        assert_eq!(seconds, [1, 1, 1, 2, u32::MAX - 1]);
    }

    #[test]
    fn the_local_address_of_a_point_to_point_link_is_ours_and_not_the_peers() {
        let mut message = AddressMessage::default();
        message.header.index = 7;
        message.header.prefix_len = 32;
        assert_eq!(parse(&message), None);
        let [local, peer] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
        message.attributes = vec![
            AddressAttribute::Address(peer),
            AddressAttribute::Local(local),
            AddressAttribute::Flags(AddressFlags::Permanent),
        ];
        let parsed = InterfaceAddress {
            index: 7,
            address: local,
            length: 32,
            lifetime: None,
            protocol: 0,
            flags: AddressFlags::Permanent,
        };
        assert_eq!(parse(&message), Some(parsed));
    }
}
