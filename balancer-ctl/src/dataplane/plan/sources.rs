//! The source addresses of connections with full NAT: which may be used towards which real server, and their places in `SNAT_ADDRESSES`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use balancer_common::snat::MAX_SNAT_ADDRESSES;

const PLACES: usize = MAX_SNAT_ADDRESSES as usize;

/// Which source addresses connections with full NAT may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceAddresses {
    /// Those that the operator has named: towards every real server of their family.
    pub configured: BTreeSet<IpAddr>,
    /// The real servers of which it is known by which interface packets to them leave, or that there is none.
    pub known: BTreeSet<IpAddr>,
    /// By real server, that of the interface by which packets to it leave: where the operator has named none of its family.
    pub of_interfaces: BTreeMap<IpAddr, IpAddr>,
}

impl SourceAddresses {
    /// Those that packets to this real server may have.
    fn of(&self, real: IpAddr) -> impl Iterator<Item = IpAddr> + '_ {
        let configured = self.configured.iter().copied();
        let mut configured = configured
            .filter(move |address| address.is_ipv4() == real.is_ipv4())
            .peekable();
        let of_interface = if configured.peek().is_none() {
            self.of_interfaces.get(&real).copied()
        } else {
            None
        };
        configured.chain(of_interface)
    }

    /// All of a family that any real server has.
    fn all(&self, is_ipv4: bool) -> BTreeSet<IpAddr> {
        let of_interfaces = self.of_interfaces.keys().flat_map(|real| self.of(*real));
        let all = self.configured.iter().copied().chain(of_interfaces);
        all.filter(|address| address.is_ipv4() == is_ipv4).collect()
    }
}

/// The addresses, each at its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Which are wanted.
    pub wanted: SourceAddresses,
    /// By family and place. Connections may have one that is not wanted any more.
    pub places: [[Option<IpAddr>; PLACES]; 2],
}

impl Sources {
    /// The places whose addresses packets to this real server may have, a bit each: `present` as long as it is not known by which interface
    /// they leave, as in a daemon that has just started.
    #[must_use]
    pub fn places_of(&self, real: IpAddr, present: u8) -> u8 {
        if self.wanted.of(real).next().is_none() && !self.wanted.known.contains(&real) {
            return present;
        }
        let places = &self.places[usize::from(real.is_ipv6())];
        let place = |address| places.iter().position(|taken| *taken == Some(address));
        self.wanted
            .of(real)
            .filter_map(place)
            .fold(0, |all, place| all | 1 << place)
    }

    /// Gives each wanted address a free place, or with `takes_over` also that of one that is not wanted any more, whose last connections end
    /// by that. Returns what is new, by its index in `SNAT_ADDRESSES`.
    pub fn place(&mut self, takes_over: bool) -> Vec<(u32, IpAddr)> {
        let mut placed = Vec::new();
        for (family, is_ipv4) in [true, false].into_iter().enumerate() {
            let wanted = self.wanted.all(is_ipv4);
            let places = &mut self.places[family];
            for address in &wanted {
                if places.contains(&Some(*address)) {
                    continue;
                }
                let free = places.iter().position(Option::is_none);
                let left = |place: &Option<IpAddr>| {
                    takes_over && place.is_some_and(|old| !wanted.contains(&old))
                };
                let Some(place) = free.or_else(|| places.iter().position(left)) else {
                    continue;
                };
                places[place] = Some(*address);
                let index = family * PLACES + place;
                placed.push((u32::try_from(index).unwrap_or(u32::MAX), *address));
            }
        }
        placed
    }

    /// The wanted addresses that have no place, since there are too many.
    #[must_use]
    pub fn without_place(&self) -> Vec<IpAddr> {
        let mut left = Vec::new();
        for (family, is_ipv4) in [true, false].into_iter().enumerate() {
            let places = &self.places[family];
            let wanted = self.wanted.all(is_ipv4).into_iter();
            left.extend(wanted.filter(|address| !places.contains(&Some(*address))));
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn named_addresses_serve_all_real_servers_of_their_family_and_interfaces_the_others() {
        let mut sources = Sources {
            wanted: SourceAddresses {
                configured: BTreeSet::from([ip("10.0.0.1"), ip("10.0.0.9")]),
                known: BTreeSet::from([ip("fd00::4")]),
                of_interfaces: BTreeMap::from([
                    (ip("10.0.0.2"), ip("10.0.0.5")),
                    (ip("fd00::2"), ip("fd00::1")),
                ]),
            },
            places: Default::default(),
        };
        assert_eq!(sources.places_of(ip("10.0.0.2"), 0), 0);
        assert_eq!(
            sources.place(true),
            [(0, ip("10.0.0.1")), (1, ip("10.0.0.9")), (8, ip("fd00::1"))]
        );
        assert_eq!(sources.places_of(ip("10.0.0.2"), 0), 0b11);
        assert_eq!(sources.places_of(ip("192.0.2.1"), 0), 0b11);
        assert_eq!(sources.places_of(ip("fd00::2"), 0), 1);
        // Not known yet, and known to have none.
        assert_eq!(sources.places_of(ip("fd00::3"), 0b100), 0b100);
        assert_eq!(sources.places_of(ip("fd00::4"), 0b100), 0);
        assert_eq!(sources.place(true), []);
        assert!(sources.without_place().is_empty());
    }

    #[test]
    fn an_address_keeps_its_place_and_a_ninth_takes_that_of_one_that_is_not_wanted() {
        let mut sources = Sources::default();
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        sources.wanted.configured = (0..8).map(address).collect();
        assert_eq!(sources.place(true).len(), 8);
        sources.wanted.configured.insert(address(8));
        assert_eq!(sources.place(true), []);
        assert_eq!(sources.without_place(), [address(8)]);
        sources.wanted.configured.remove(&address(3));
        assert_eq!(sources.place(false), []);
        assert_eq!(sources.place(true), [(3, address(8))]);
        assert!(sources.without_place().is_empty());
        sources.wanted.configured.clear();
        assert_eq!(sources.place(true), []);
        assert_eq!(sources.places_of(address(100), 0), 0);
        sources.wanted.configured.insert(address(0));
        assert_eq!(sources.places_of(address(100), 0), 1);
    }
}
