//! Source addresses and ports of this host for connections with full NAT.
//!
//! A connection's source towards its real server is one of `SNAT_ADDRESSES` and a port of [`SnatPorts`], both of which the table's reply
//! entry reserves: no other has the same real server, its port, that address and that port. Which ones are tried follows from a number that
//! each new connection to the server draws, so that no two CPUs try the same, and those that are free are found one after the other.

use crate::{addr::Address, plain_data};

/// Most source addresses of a family at a time: what three bits of a connection's word tell apart.
pub const MAX_SNAT_ADDRESSES: u32 = 8;

/// Where the address at a place of its family's part of `SNAT_ADDRESSES` stands in the whole; the place is below [`MAX_SNAT_ADDRESSES`].
#[inline(always)]
#[must_use]
pub const fn index<A: Address>(place: u32) -> u32 {
    A::FAMILY as u32 * MAX_SNAT_ADDRESSES + (place & (MAX_SNAT_ADDRESSES - 1))
}

/// How many sources a new connection tries before it is refused. The next one, or the client's next attempt, goes on from there.
pub const TRIES: u32 = 16;

/// Number of counters that new connections draw from, each for some real servers; a power of two.
pub const COUNTERS: u32 = 1 << 14;

/// The ports that sources may have: `count` of them from `first`, in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SnatPorts {
    /// The lowest.
    pub first: u16,
    /// How many; 0 = none: no connection can have full NAT.
    pub count: u16,
}

plain_data!(SnatPorts);

impl SnatPorts {
    /// The port that the draw `number` tries, host byte order; `salt` is random and the same for all draws. Any `count` draws
    /// in a row try each port once, and neighbours lie far apart.
    #[inline(always)]
    #[must_use]
    pub const fn at(self, number: u32, salt: u32) -> u16 {
        let count = if self.count == 0 {
            1
        } else {
            self.count as u32
        };
        let within = (number % count).wrapping_mul(STRIDE % count) % count;
        self.first
            .wrapping_add(((within + salt % count) % count) as u16)
    }
}

/// The places in `SNAT_ADDRESSES` that may be tried, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Four bits each, the first in the lowest.
    packed: u32,
    /// How many.
    count: u32,
}

impl Places {
    /// Those whose bits are set in `mask`.
    #[inline(always)]
    #[must_use]
    pub const fn of(mask: u8) -> Self {
        let (mut packed, mut count, mut place) = (0, 0, 0);
        while place < MAX_SNAT_ADDRESSES {
            // Without a branch, which the verifier would follow both ways.
            let is_set = mask as u32 >> place & 1;
            packed |= (place * is_set) << ((4 * count) & 31);
            count += is_set;
            place += 1;
        }
        Self { packed, count }
    }

    /// The place that the draw `number` tries, and which draw that is among those of this place.
    #[inline(always)]
    #[must_use]
    pub const fn at(self, number: u32) -> (u32, u32) {
        let count = if self.count == 0 { 1 } else { self.count };
        let place = self.packed >> ((4 * (number % count)) & 31) & 7;
        (place, number / count)
    }
}

/// A prime above any number of ports, so that its multiples go round all of them.
const STRIDE: u32 = 75_011;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_go_round_the_addresses() {
        for mask in 1..=u8::MAX {
            let addresses: Vec<u32> = (0..8).filter(|bit| mask >> bit & 1 == 1).collect();
            for number in 0..100 {
                let among = addresses.len();
                let wanted = (addresses[number % among], (number / among) as u32);
                assert_eq!(Places::of(mask).at(number as u32), wanted);
            }
        }
    }

    #[test]
    fn so_many_draws_as_there_are_ports_try_each_once() {
        for (first, count) in [
            (15_000, 50_536),
            (1024, 1),
            (40_000, 2),
            (1, 65_535),
            (7, 1_000),
        ] {
            let ports = SnatPorts { first, count };
            for (start, salt) in [(0, 0), (123_456, 99), (u32::MAX / 2, u32::MAX)] {
                let mut tried: Vec<u16> = (0..u32::from(count))
                    .map(|number| ports.at(start + number, salt))
                    .collect();
                tried.sort_unstable();
                let all: Vec<u16> = (0..count).map(|port| first + port).collect();
                assert_eq!(tried, all);
            }
        }
    }
}
