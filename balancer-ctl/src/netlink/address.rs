//! The networks that this host is in, by the addresses of its interfaces.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr},
};

use balancer_common::addr::Addr;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};

use super::Netlink;
use crate::model::prefix::Prefix;

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
}
