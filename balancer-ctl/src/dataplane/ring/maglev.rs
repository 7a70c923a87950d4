//! Rings for a hash of the packet, by the method of Maglev (Eisenbud et al., NSDI 2016, section 3.4).
//!
//! Every node builds the same ring from the same real servers, whatever their order and whenever it learns of them: a connection
//! whose packets reach another node goes to the same real server. So everything here is an interface between nodes of
//! different versions: what it gives for the same real servers never changes. Tests hold digests of it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    net::SocketAddr,
};

use super::{
    Candidate,
    shares::{divide_by_gcd, scale},
};

/// A slot that nobody has taken yet.
const FREE: u32 = u32::MAX;

/// Builds the ring of `length` slots, a prime, of `reals` and their weights above 0; it is empty when there are none.
///
/// Each real server prefers the slots in an order of its own, from its address and port. They take turns, and at its turn each
/// takes the free slot that it likes best. So when one is added or removed, few slots change hands but its own: 0.7 % of
/// 65,537 slots when one of 100 equal real servers is removed, 3 % of 4,093.
///
/// The next turn is that of the real server whose turns so far, and a half, are least over its weight (the earlier address of
/// equals), until it has as many slots as its weight comes to by [`scale`]: less than one away from its exact share, and at
/// least one. Of more real servers than slots, the last by address get none.
pub(super) fn build(mut reals: Vec<(u32, Candidate)>, length: u32) -> Vec<u32> {
    reals.sort_by_key(|(_, real)| real.address);
    reals.truncate(length as usize);
    if reals.is_empty() {
        return Vec::new();
    }
    let weights: Vec<_> = reals.iter().map(|(weight, _)| *weight).collect();
    let shares = scale(&weights, length);
    let weights = divide_by_gcd(&weights);
    let mut walks: Vec<_> = reals
        .iter()
        .map(|(_, real)| Walk::of(real.address, length))
        .collect();
    let mut taken = vec![0; reals.len()];
    let mut next: BinaryHeap<_> = weights
        .iter()
        .enumerate()
        .map(|(index, weight)| Reverse((turn(0, *weight), index)))
        .collect();
    let mut slots = vec![FREE; length as usize];
    while let Some(mut first) = next.peek_mut() {
        let Reverse((_, index)) = *first;
        // Shares add up to the length, so there is a free slot, and the walk comes to each.
        let place = walks[index].find(|place| slots[*place] == FREE);
        let Some(place) = place else { break };
        slots[place] = reals[index].1.id;
        taken[index] += 1;
        if taken[index] == shares[index] {
            PeekMut::pop(first);
        } else {
            first.0.0 = turn(taken[index], weights[index]);
        }
    }
    slots
}

/// When a real server of this weight, which has taken so many slots, takes the next: (2 taken + 1) / weight, in fixed point.
fn turn(taken: u32, weight: u32) -> u64 {
    ((2 * u64::from(taken) + 1) << 40) / u64::from(weight)
}

/// The slots in the order in which a real server prefers them: a permutation, as the length is a prime.
struct Walk {
    place: u32,
    step: u32,
    length: u32,
}

impl Walk {
    fn of(address: SocketAddr, length: u32) -> Self {
        let (place, step) = hashes(address);
        // Both are less than the length, which fits.
        Self {
            place: (place % u64::from(length)) as u32,
            step: (step % u64::from(length - 1)) as u32 + 1,
            length,
        }
    }
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let place = self.place;
        self.place += self.step;
        if self.place >= self.length {
            self.place -= self.length;
        }
        Some(place as usize)
    }
}

/// Two hashes of a real server's address and port, where its walk begins and its step: the address as the 128 bits of IPv6
/// (IPv4 as `::ffff:a.b.c.d`), first the upper half, then the lower, then the port, mixed in one after the other.
fn hashes(address: SocketAddr) -> (u64, u64) {
    let bits = match address {
        SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped(),
        SocketAddr::V6(v6) => *v6.ip(),
    }
    .to_bits();
    let words = [(bits >> 64) as u64, bits as u64, address.port().into()];
    let first = words.into_iter().fold(0, |hash, word| mix(hash ^ word));
    (first, mix(first))
}

/// One step of SplitMix64 (Steele et al., 2014).
const fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
