//! Next hops: what all packets that leave by the same neighbour share, and how a connection's entry knows that what it
//! remembers still holds.
//!
//! An entry remembers the index of its next hop and a stamp: the version of the routes to its destination and the
//! version of the next hop's row, added up, when the kernel's FIB was asked (and the entry's serial number, since what one
//! flow has found must not serve the next one in its place). Both versions only ever grow, by two, so an entry
//! whose stamp is not the present sum asks again. Whoever changes one row (a neighbour's MAC address, another
//! neighbour in its place) touches that row's version alone; a changed route touches the version of the addresses that
//! it covers, so that routes to strangers cost nobody a look-up.
//!
//! An entry that stays silent while exactly 32,768 changes come would take an old stamp for a present one. To that end
//! its neighbour, or routes that share its slot, would have to change so often between two of its packets.

use crate::{
    addr::{Addr, MAPPED_WORD},
    plain_data,
};

/// Capacity of `NEXT_HOPS`. Every client in a network of the balancer's own is a next hop.
pub const NEXT_HOPS: u32 = 1 << 16;

/// Rows in which a next hop may lie: its own, by [`place`], and those that follow.
pub const PROBES: u32 = 4;

/// A row of `NEXT_HOPS`. It is written while its version is odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C, align(8))]
pub struct NextHop {
    /// Even, and greater with each change; odd while the row is being written. 0 = never used.
    pub version: u32,
    /// Index of the interface that leads there.
    pub ifindex: u32,
    /// The first 12 bytes of the frame as it leaves: MAC address of the next hop, then of the interface.
    pub macs: [u32; 3],
    /// Largest IP packet in bytes that the way carries.
    pub mtu: u32,
    /// Its address: the gateway's, or the destination's own in a connected network.
    pub address: Addr,
    /// Always zero.
    pub zero: [u32; 6],
}

const _: () = assert!(size_of::<NextHop>() == 64);
plain_data!(NextHop);

impl NextHop {
    /// Joins the MAC addresses of the next hop and of the interface to the start of a frame.
    #[must_use]
    pub const fn join_macs(destination: [u8; 6], source: [u8; 6]) -> [u32; 3] {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (destination, source);
        [
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
        ]
    }
}

/// The first of the rows in which the next hop with this address, by the interface `ifindex`, may lie. The others follow, and
/// after the last row comes the first.
#[inline(always)]
#[must_use]
pub const fn place(address: &Addr, ifindex: u32) -> u32 {
    let high = (address.0[0] as u64) << 32 | address.0[1] as u64;
    let low = (address.0[2] as u64) << 32 | address.0[3] as u64;
    let sum = (high ^ ifindex as u64)
        .wrapping_mul(0xd6e8_feb8_6659_fd93)
        .wrapping_add(low)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((sum ^ sum >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 48) as u32 & (NEXT_HOPS - 1)
}

/// Number of [`RouteVersions::of`].
pub const ROUTE_SLOTS: usize = 1024;

/// Versions of routes by their destination: the one value of `ROUTE_VERSIONS`. Even numbers that grow by two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RouteVersions {
    /// By [`slot`].
    pub of: [u32; ROUTE_SLOTS],
}

const _: () = assert!(size_of::<RouteVersions>() == 4096);
plain_data!(RouteVersions);

/// Leading bits of an IPv4 address that name its slot.
pub const SLOT_BITS_V4: u8 = 16;
/// Leading bits of an IPv6 address that name its slot.
pub const SLOT_BITS_V6: u8 = 32;

/// Where the version of the routes to an address stands. Addresses with the same leading bits share one, and strangers may.
#[inline(always)]
#[must_use]
pub const fn slot(address: &Addr) -> usize {
    let leading = if address.0[2] == MAPPED_WORD && address.0[0] == 0 {
        u32::from_be(address.0[3]) >> 16
    } else {
        u32::from_be(address.0[0])
    };
    (leading.wrapping_mul(0x9e37_79b1) >> 22) as usize & (ROUTE_SLOTS - 1)
}

/// What an entry remembers of its next hop: index and stamp in one word, so that no reader takes one for the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct NextHopRef(pub u32);

impl NextHopRef {
    /// The next hop in row `index`, found by the flow in a place with this serial number while the routes to its destination
    /// and the row had these versions. Never zero.
    #[inline(always)]
    #[must_use]
    pub const fn new(index: u32, routes: u32, next_hop: u32, serial: u16) -> Self {
        let serial = (serial as u32) << 1;
        let stamp = routes.wrapping_add(next_hop).wrapping_add(serial) & 0xffff | 1;
        Self(index << 16 | stamp)
    }

    /// Index in `NEXT_HOPS`.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_either_version_makes_another_stamp() {
        let made = [(2, 2, 0), (4, 2, 0), (4, 4, 0), (8, 4, 0), (8, 4, 1)]
            .map(|(routes, hop, serial)| NextHopRef::new(7, routes, hop, serial));
        assert_eq!(
            made.map(|made| made.0 & 0xffff),
            [5, 7, 9, 13, 15],
            "serial and versions add up"
        );
        assert!(made.iter().all(|made| made.index() == 7));
        assert_ne!(NextHopRef::new(0, 0, 0, 0), NextHopRef::default());
        assert_eq!(NextHopRef::new(65_535, u32::MAX - 1, 2, 0).index(), 65_535);
    }

    #[test]
    fn neighbours_of_one_network_lie_apart() {
        let mut places = std::collections::HashSet::new();
        for host in 0..4_096_u32 {
            places.insert(place(&Addr::from_v4((0xc0a8_0000 | host).to_be()), 3));
        }
        assert!(places.len() > 3_900, "{}", places.len());
        let address = Addr::from_v4(1);
        assert_ne!(place(&address, 3), place(&address, 4));
    }

    #[test]
    fn addresses_of_one_network_share_their_slot() {
        let v4 = |address: [u8; 4]| slot(&Addr::from_v4(u32::from_ne_bytes(address)));
        assert_eq!(v4([198, 51, 100, 10]), v4([198, 51, 3, 7]));
        assert_ne!(v4([198, 51, 100, 10]), v4([198, 52, 100, 10]));
        let v6 = |words: [u32; 4]| slot(&Addr(words.map(u32::to_be)));
        assert_eq!(v6([0x2001_0db8, 1, 2, 3]), v6([0x2001_0db8, 4, 5, 6]));
        assert_ne!(v6([0x2001_0db8, 0, 0, 0]), v6([0x2001_0db9, 0, 0, 0]));
        let mut slots = std::collections::HashSet::new();
        for network in 0..1024_u32 {
            slots.insert(slot(&Addr::from_v4((network << 16).to_be())));
        }
        assert!(slots.len() > 600, "{}", slots.len());
    }
}
