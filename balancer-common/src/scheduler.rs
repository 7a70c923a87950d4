//! The in-kernel pick: a turn, a hash or a load becomes a real server of a service's ring.

use crate::{addr::Addr, plain_data};

/// Slots in a word of `RINGS`.
pub const SLOTS_PER_WORD: u32 = 4;
/// Capacity of `RINGS` in words of [`SLOTS_PER_WORD`] slots, shared by all services.
pub const RING_WORDS: u32 = 1 << 21;
/// Capacity of `RINGS` in slots.
pub const RING_SLOTS: u32 = RING_WORDS * SLOTS_PER_WORD;

/// Longest ring of turns, in slots.
pub const MAX_RING: u32 = 1 << 15;
/// Slots of a Maglev table: a prime, so that every step walks through all of them.
pub const MAGLEV_SLOTS: u32 = 65_537;

/// Where slots lie in `RINGS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Ring {
    /// First slot, a multiple of [`SLOTS_PER_WORD`].
    pub offset: u32,
    /// Number of slots; 0 = none.
    pub length: u32,
}

const _: () = assert!(size_of::<Ring>() == 8);
plain_data!(Ring);

impl Ring {
    /// The slot for the `turn`-th new connection, or `None` where the ring is empty.
    #[inline(always)]
    #[must_use]
    pub const fn slot(&self, turn: u64) -> Option<u32> {
        if self.length == 0 {
            return None;
        }
        Some(self.offset + (turn % self.length as u64) as u32)
    }

    /// The words of `RINGS` that it takes.
    #[must_use]
    pub const fn words(&self) -> core::ops::Range<u32> {
        let start = self.offset / SLOTS_PER_WORD;
        start..start + self.length.div_ceil(SLOTS_PER_WORD)
    }
}

/// The real id in a slot, given the slot's word.
#[inline(always)]
#[must_use]
pub const fn real_in(word: u64, slot: u32) -> u32 {
    (word >> (slot % SLOTS_PER_WORD * 16)) as u32 & 0xffff
}

/// The words of a ring of these real ids, the last one filled up with zeroes.
#[cfg(feature = "user")]
#[must_use]
pub fn words(reals: &[u32]) -> Vec<u64> {
    let word = |chunk: &[u32]| {
        let parts = (0..).zip(chunk);
        parts.fold(0, |word, (at, real)| {
            word | u64::from(*real & 0xffff) << (at * 16)
        })
    };
    reals.chunks(SLOTS_PER_WORD as usize).map(word).collect()
}

/// How the real server of a new connection is found; a value of [`Service::pick`](crate::service::Service::pick).
pub mod pick {
    /// The next slot of the ring: `rr`, `wrr`.
    pub const TURN: u8 = 0;
    /// The slot that a hash names: `sh`, `dh`, `mh`.
    pub const HASH: u8 = 1;
    /// The less loaded of two random slots: `twos`.
    pub const RANDOM: u8 = 2;
    /// The least loaded: `lc`, `wlc`, `sed`, `nq`, `fo`, `ovf`.
    pub const LEAST: u8 = 3;
}

/// What is hashed; a value of [`Service::hash`](crate::service::Service::hash).
pub mod hashed {
    /// The client's address.
    pub const CLIENT: u8 = 0;
    /// The client's address and port.
    pub const CLIENT_PORT: u8 = 1;
    /// The address that the client asks for.
    pub const DESTINATION: u8 = 2;
}

/// The hash of an address and a port (host byte order; 0 = none), 64 bits, for the `attempt`-th look into a ring. The same on every
/// node and in every version, so that nodes choose alike: anybody can compute it.
#[inline(always)]
#[must_use]
pub const fn slot_hash(address: &Addr, port: u16, attempt: u32) -> u64 {
    let [a, b, c, d] = address.0;
    let high = mix(join(a, b));
    let all = mix(high ^ join(c, d));
    mix(all ^ (attempt as u64) << 16 ^ port as u64)
}

/// Two words in network byte order as one number.
#[inline(always)]
const fn join(high: u32, low: u32) -> u64 {
    (u32::from_be(high) as u64) << 32 | u32::from_be(low) as u64
}

/// The finaliser of MurmurHash3 (64 bits).
#[inline(always)]
const fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_walk_the_ring_in_order_and_wrap() {
        let ring = Ring {
            offset: 12,
            length: 3,
        };
        let slots: Vec<_> = (0..7).map(|turn| ring.slot(turn)).collect();
        let expected = [12, 13, 14, 12, 13, 14, 12].map(Some);
        assert_eq!(slots, expected);
        assert_eq!(Ring::default().slot(5), None);
        assert_eq!(ring.words(), 3..4);
        assert_eq!(Ring::default().words(), 0..0);
    }

    #[cfg(feature = "user")]
    #[test]
    fn a_slot_is_read_back_as_it_was_written() {
        let reals = [1, 32_767, 3, 0, 5];
        let words = words(&reals);
        assert_eq!(words.len(), 2);
        for (slot, real) in (0..).zip(reals) {
            assert_eq!(real_in(words[slot as usize / 4], slot), real);
        }
    }

    #[test]
    fn the_hash_of_a_client_is_the_same_for_ever_and_spreads() {
        let v4 = |last: u32| Addr::from_v4((0xc633_6400 + last).to_be());
        assert_eq!(slot_hash(&v4(7), 0, 0), slot_hash(&v4(7), 0, 0));
        let differ = [
            slot_hash(&v4(7), 0, 0),
            slot_hash(&v4(8), 0, 0),
            slot_hash(&v4(7), 1, 0),
            slot_hash(&v4(7), 0, 1),
        ];
        for (at, one) in differ.iter().enumerate() {
            assert!(differ[at + 1..].iter().all(|other| one != other));
        }
        let mut counts = [0_u32; 10];
        for last in 0..10_000 {
            let ring = Ring {
                offset: 0,
                length: 10,
            };
            counts[ring.slot(slot_hash(&v4(last), 0, 0)).unwrap() as usize] += 1;
        }
        assert!(
            counts.iter().all(|count| (900..1_100).contains(count)),
            "{counts:?}"
        );
    }
}
