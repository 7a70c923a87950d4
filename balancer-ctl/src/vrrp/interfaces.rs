//! The interfaces of this host and their addresses, as virtual routers need them. Pure.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use super::packet::Family;
use crate::netlink::{address::InterfaceAddress, link::Link};

/// For how long after the host has booted a link counts as just come up: as long as a switch's port may block with spanning tree (two
/// forward delays of 15 s), and the host needs to start.
pub const BOOTING: Duration = Duration::from_secs(60);

/// The interfaces of this host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// The interfaces.
    pub links: Vec<Link>,
    /// Their addresses.
    pub addresses: Vec<InterfaceAddress>,
}

impl Interfaces {
    /// The interface of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The indexes of the interfaces that have a link now, and had none before, or were not there; all with a link where this is the first
    /// list, if the host has just booted.
    pub fn come_up_since(&self, before: &Self, boots: bool) -> impl Iterator<Item = u32> {
        let links = self.links.iter().filter(|link| link.running);
        links.map(|link| link.index).filter(move |index| {
            let mut old = before.links.iter();
            match old.find(|link| link.index == *index) {
                Some(link) => !link.running,
                None => boots || !before.links.is_empty(),
            }
        })
    }

    /// Why an interface of this name cannot be used; `None` if it can.
    #[must_use]
    pub fn fault(&self, name: &str) -> Option<String> {
        match self.named(name) {
            None => Some(format!("interface {name} is not there")),
            Some(link) if !link.running => Some(format!("interface {name} has no link")),
            Some(_) => None,
        }
    }

    /// The address that an interface's advertisements come from: its first IPv4 address, or its link-local IPv6 address, that is none
    /// of `vips` (RFC 9568, sections 5.1.1.1 and 5.1.2.1).
    #[must_use]
    pub fn source(&self, index: u32, family: Family, vips: &HashSet<IpAddr>) -> Option<IpAddr> {
        let of_interface = self.addresses.iter().filter(|one| one.index == index);
        let mut own = of_interface
            .filter(|one| one.is_usable() && !one.is_ours() && !vips.contains(&one.address));
        let is_source = |one: &&InterfaceAddress| match one.address {
            IpAddr::V4(_) => family == Family::Ipv4,
            IpAddr::V6(address) => family == Family::Ipv6 && address.is_unicast_link_local(),
        };
        own.find(is_source).map(|one| one.address)
    }

    /// Whether an interface has this address from somebody else than this daemon: for ever, and without its mark.
    #[must_use]
    pub fn is_foreign(&self, index: u32, address: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|one| one.index == index && one.address == address && is_foreign(one))
    }
}

/// Whether somebody else than this daemon added an address. Kernels before Linux 5.18 do not keep its mark; but it lets all of its
/// addresses expire.
#[must_use]
pub const fn is_foreign(address: &InterfaceAddress) -> bool {
    !address.is_ours() && address.lifetime.is_none()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use netlink_packet_route::address::AddressFlags;

    use super::*;
    use crate::netlink::address::OUR_PROTOCOL;

    fn address(index: u32, address: &str) -> InterfaceAddress {
        InterfaceAddress {
            index,
            address: address.parse().unwrap(),
            length: 24,
            lifetime: None,
            protocol: 0,
            flags: AddressFlags::empty(),
        }
    }

    #[test]
    fn advertisements_come_from_an_address_of_the_interface_that_is_no_vip() {
        let interfaces = Interfaces {
            links: Vec::new(),
            addresses: vec![
                InterfaceAddress {
                    protocol: OUR_PROTOCOL,
                    ..address(2, "192.0.2.80")
                },
                address(2, "192.0.2.81"),
                address(3, "192.0.2.3"),
                address(2, "192.0.2.2"),
                address(2, "2001:db8::2"),
                InterfaceAddress {
                    flags: AddressFlags::Tentative,
                    ..address(2, "fe80::1")
                },
                address(2, "fe80::2"),
            ],
        };
        let vips = HashSet::from(["192.0.2.81".parse().unwrap()]);
        let source = |index, family| interfaces.source(index, family, &vips);
        assert_eq!(source(2, Family::Ipv4), Some("192.0.2.2".parse().unwrap()));
        assert_eq!(source(2, Family::Ipv6), Some("fe80::2".parse().unwrap()));
        assert_eq!(source(3, Family::Ipv6), None);
    }

    #[test]
    fn a_link_comes_up_that_had_none_or_is_of_a_new_interface() {
        let interfaces = |links: &[(u32, bool)]| Interfaces {
            links: links
                .iter()
                .map(|(index, running)| Link {
                    index: *index,
                    running: *running,
                    ..Link::default()
                })
                .collect(),
            addresses: Vec::new(),
        };
        let (none, before) = (
            interfaces(&[]),
            interfaces(&[(1, true), (2, false), (3, true)]),
        );
        let now = interfaces(&[(1, true), (2, true), (3, false), (4, true), (5, false)]);
        let come_up = |before, boots| now.come_up_since(before, boots).collect::<Vec<_>>();
        assert_eq!(come_up(&before, false), [2, 4]);
        // What is there at the start has not come up, unless the host has.
        assert_eq!(come_up(&none, false), [0; 0]);
        assert_eq!(come_up(&none, true), [1, 2, 4]);
    }

    #[test]
    fn an_address_that_neither_has_our_mark_nor_expires_is_somebody_elses() {
        let own = InterfaceAddress {
            protocol: OUR_PROTOCOL,
            ..address(2, "192.0.2.80")
        };
        let of_an_old_kernel = InterfaceAddress {
            lifetime: Some(Duration::from_secs(5)),
            ..address(2, "192.0.2.80")
        };
        assert!(!is_foreign(&own));
        assert!(!is_foreign(&of_an_old_kernel));
        assert!(is_foreign(&address(2, "192.0.2.80")));
    }

    #[test]
    fn an_interface_without_a_link_is_a_fault() {
        let link = |name: &str, running| Link {
            name: name.to_owned(),
            running,
            ..Link::default()
        };
        let interfaces = Interfaces {
            links: vec![link("eth0", true), link("eth1", false)],
            addresses: Vec::new(),
        };
        assert_eq!(interfaces.fault("eth0"), None);
        assert_eq!(
            interfaces.fault("eth1").unwrap(),
            "interface eth1 has no link"
        );
        assert_eq!(
            interfaces.fault("eth2").unwrap(),
            "interface eth2 is not there"
        );
    }
}
