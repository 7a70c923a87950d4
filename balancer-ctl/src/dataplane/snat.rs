//! Which address of this host connections with full NAT have towards a real server, where the operator has named none.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    model::prefix::Prefix,
    netlink::{
        address::{AddressFlags, InterfaceAddress},
        route::RouteTarget,
    },
};

/// The address of the interface by which packets to `target` leave: the first in the next hop's network, else the first. Addresses that
/// move to another node, and VIPs, are none.
#[must_use]
pub fn of_interface(
    addresses: &[InterfaceAddress],
    vips: &BTreeSet<IpAddr>,
    target: RouteTarget,
) -> Option<IpAddr> {
    let (interface, hop) = target.next_hop()?;
    let avoided = AddressFlags::Deprecated.union(AddressFlags::Secondary);
    let usable = addresses.iter().filter(|one| {
        one.index == interface
            && one.address.is_ipv4() == hop.is_ipv4()
            && one.is_usable()
            && !one.is_ours()
            && !vips.contains(&one.address)
            && !is_link_local(one.address)
    });
    let is_near =
        |one: &InterfaceAddress| Prefix::of(one.address, one.length) == Prefix::of(hop, one.length);
    // Secondary addresses of IPv4, which leave with their primary one, and temporary and outdated ones of IPv6 come last.
    usable
        .min_by_key(|one| (!is_near(one), one.flags.intersects(avoided)))
        .map(|one| one.address)
}

/// Those of the configured addresses that this host has and may use; of a family of which it has none, all of them.
#[must_use]
pub fn usable(configured: &[IpAddr], addresses: &[InterfaceAddress]) -> BTreeSet<IpAddr> {
    let is_here = |wanted: &IpAddr| {
        let mut here = addresses.iter();
        here.any(|one| one.address == *wanted && one.is_usable())
    };
    let is_needed = |wanted: &IpAddr| {
        let mut others = configured.iter();
        !others.any(|other| other.is_ipv4() == wanted.is_ipv4() && is_here(other))
    };
    let wanted = configured.iter().copied();
    wanted
        .filter(|address| is_here(address) || is_needed(address))
        .collect()
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Warnings about addresses that the operator has named and this host does not have, about those that there is no place for, and about
/// real servers of full NAT without any.
pub fn warnings<'a>(
    missing: impl Iterator<Item = &'a IpAddr>,
    left: &[IpAddr],
    sourceless: &BTreeSet<IpAddr>,
) -> Vec<String> {
    let missing = missing.map(|address| {
        format!(
            "snat-addresses of [dataplane] names {address}, which no interface of this host has: real servers' answers to it do not come here. \
             Add it with `ip addr add`, or leave it out"
        )
    });
    let left = left.iter().map(|address| {
        format!(
            "{address} cannot be the source of connections with full NAT: there are eight others of its family, name them by snat-addresses \
             of [dataplane]"
        )
    });
    let sourceless = sourceless.iter().map(|real| {
        format!(
            "the real server {real} is to be reached by full NAT, and this host has no address for it on the interface towards it that is \
             not a VIP: its clients are refused. Add an address there with `ip addr add`, or name one by snat-addresses of [dataplane]"
        )
    });
    missing.chain(left).chain(sourceless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(index: u32, text: &str, length: u8) -> InterfaceAddress {
        InterfaceAddress {
            index,
            address: text.parse().unwrap(),
            length,
            lifetime: None,
            protocol: 0,
            flags: AddressFlags::empty(),
        }
    }

    #[test]
    fn configured_addresses_that_are_not_here_are_left_out_as_long_as_another_is() {
        let mut tentative = address(3, "fd00::9", 64);
        tentative.flags = AddressFlags::Tentative;
        let addresses = [address(2, "10.0.0.9", 24), tentative];
        let [here, missing, first, second] =
            ["10.0.0.9", "10.0.0.8", "fd00::9", "fd00::8"].map(|text| text.parse().unwrap());
        assert_eq!(
            usable(&[here, missing, first, second], &addresses),
            BTreeSet::from([here, first, second])
        );
        assert_eq!(usable(&[missing], &addresses), BTreeSet::from([missing]));
    }

    #[test]
    fn the_address_in_the_next_hops_network_comes_first_and_vips_never() {
        let mut vip = address(3, "10.0.0.80", 24);
        vip.protocol = crate::netlink::address::OUR_PROTOCOL;
        let mut secondary = address(3, "10.0.0.4", 24);
        secondary.flags = AddressFlags::Secondary;
        let mut tentative = address(3, "fd00::9", 64);
        tentative.flags = AddressFlags::Tentative;
        let addresses = [
            address(2, "10.0.0.9", 24),
            address(3, "192.0.2.80", 32),
            address(3, "172.16.0.1", 24),
            vip,
            secondary,
            address(3, "10.0.0.5", 24),
            address(3, "fe80::1", 64),
            tentative,
            address(3, "fd00::5", 64),
        ];
        let vips = BTreeSet::from(["192.0.2.80".parse().unwrap()]);
        for (hop, wanted) in [
            ("10.0.0.1", "10.0.0.5"),
            ("172.16.0.7", "172.16.0.1"),
            ("203.0.113.1", "172.16.0.1"),
            ("fd00::1", "fd00::5"),
            ("fe80::7", "fd00::5"),
        ] {
            let target = RouteTarget::NextHop((3, hop.parse().unwrap()));
            assert_eq!(
                of_interface(&addresses, &vips, target),
                Some(wanted.parse().unwrap()),
                "{hop}"
            );
        }
        assert_eq!(of_interface(&addresses, &vips, RouteTarget::NoRoute), None);
        let elsewhere = RouteTarget::NextHop((4, "10.0.0.1".parse().unwrap()));
        assert_eq!(of_interface(&addresses, &vips, elsewhere), None);
    }
}
