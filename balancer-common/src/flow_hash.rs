//! Where a flow's entry may lie in the connection table: two buckets on one page of memory, by a keyed hash.
//!
//! The hash is NH of UMAC (RFC 4418 section 5.2.2): each pair of words, with secrets added, is multiplied, and the
//! products are added up. For two different flows that were chosen without knowledge of the seed it gives the same 64
//! bits with a probability of at most 2^-32, whatever the flows; what follows the sum (shifts, multiplications by odd numbers)
//! only spreads those bits. So nobody who knows this function but not the seed can aim at a bucket. Who could still do so,
//! by watching which of its connections are displaced, would fill eight places with established connections of its own:
//! newcomers to that pair of buckets are refused then, and no assured connection is displaced.

use crate::{
    addr::{Address, product},
    conntrack::FlowKey,
    plain_data,
};

/// The secrets of the hash: random for each load of the packet program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Seed {
    /// For ports and protocol.
    pub ports: [u32; 2],
    /// For the addresses; IPv4 uses two.
    pub addresses: [u32; 8],
}

const _: () = assert!(size_of::<Seed>() == 40);
plain_data!(Seed);

/// The two buckets of a flow, by their indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// Where the entry is looked for first.
    pub first: u32,
    /// Where it is when the first was fuller.
    pub second: u32,
}

/// The flow's hash, 64 bits.
#[inline(always)]
#[must_use]
pub fn hash<A: Address>(key: &FlowKey<A>, seed: &Seed) -> u64 {
    let addresses = A::hash_pair(key.source, key.destination, &seed.addresses);
    keyed(addresses, key.ports.0, key.protocol, seed)
}

/// A hash of the client alone, given the key of one of its packets, 64 bits.
#[inline(always)]
#[must_use]
pub fn client_hash<A: Address>(key: &FlowKey<A>, seed: &Seed) -> u64 {
    let addresses = A::hash_pair(key.source, key.source, &seed.addresses);
    keyed(addresses, u32::from(key.ports.source()), key.protocol, seed)
}

/// The hash of what addresses, ports and protocol make.
#[inline(always)]
const fn keyed(addresses: u64, ports: u32, protocol: u32, seed: &Seed) -> u64 {
    let sum = addresses.wrapping_add(product(ports, seed.ports[0], protocol, seed.ports[1]));
    (sum ^ (sum >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The first bucket of a hash in a table of `buckets` buckets.
#[inline(always)]
#[must_use]
pub const fn first_bucket(hash: u64, buckets: u32) -> u32 {
    (((hash >> 32) * buckets as u64) >> 32) as u32
}

/// Buckets of which a flow's two are neighbours: a page of memory for IPv4, since a look at another page costs more than
/// the bucket itself. Tables have a multiple of it.
pub const NEIGHBOURS: u32 = 32;

/// The second bucket of a hash whose first bucket is `first`: another one of its neighbours.
#[inline(always)]
#[must_use]
pub const fn second_bucket(hash: u64, first: u32) -> u32 {
    first ^ (1 + (((hash & 0xffff_ffff) * (NEIGHBOURS as u64 - 1)) >> 32) as u32)
}

/// Both buckets of a flow in a table of `buckets` buckets.
#[inline(always)]
#[must_use]
pub fn buckets_of<A: Address>(key: &FlowKey<A>, seed: &Seed, buckets: u32) -> Buckets {
    let hash = hash(key, seed);
    let first = first_bucket(hash, buckets);
    Buckets {
        first,
        second: second_bucket(hash, first),
    }
}

/// Number of buckets of a table that is to hold so many connections: two entries each, at four fifths of its places. On
/// the way there it refuses one connection in 220; up to nine tenths one in 1,800; up to three quarters one in 100,000.
#[inline(always)]
#[must_use]
pub const fn buckets_for(connections: u32) -> u32 {
    let buckets = (connections as u64 * 2 * 5).div_ceil(4 * crate::conntrack::WAYS as u64);
    let buckets = buckets.next_multiple_of(NEIGHBOURS as u64);
    if buckets > u32::MAX as u64 {
        u32::MAX - (NEIGHBOURS - 1)
    } else if buckets == 0 {
        NEIGHBOURS
    } else {
        buckets as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::{TCP, UDP},
        conntrack::{Ports, WAYS, prefers_first},
    };

    /// A small linear generator: the tests need many numbers, not randomness.
    fn numbers(mut state: u64) -> impl FnMut() -> u32 {
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 ^ (state as u32).rotate_left(7)
        }
    }

    fn seed() -> Seed {
        let mut next = numbers(42);
        Seed {
            ports: [next(), next()],
            addresses: core::array::from_fn(|_| next()),
        }
    }

    fn keys() -> impl Iterator<Item = FlowKey<u32>> {
        // One server, clients in rows, ports in rows: what a load test and a NAT in front of many clients look like.
        (0_u32..).map(|flow| FlowKey {
            source: (0xc612_0001 + flow / 1024).to_be(),
            destination: u32::from_ne_bytes([192, 0, 2, 80]),
            ports: Ports::new((32_768 + (flow % 1024) as u16).to_be(), 80_u16.to_be()),
            protocol: TCP.into(),
        })
    }

    /// How many of the flows of so many connections find no place in a table that was made for `room`.
    fn refused(connections: u32, room: u32) -> u32 {
        let buckets = buckets_for(room);
        let mut table: Vec<Vec<FlowKey<u32>>> = vec![Vec::new(); buckets as usize];
        let buckets_of = |key: &FlowKey<u32>| {
            let at = buckets_of(key, &seed(), buckets);
            [at.first as usize, at.second as usize]
        };
        let mut refused = 0;
        for key in keys().take(2 * connections as usize) {
            let [first, second] = buckets_of(&key);
            let free = |at: usize| WAYS - table[at].len();
            let chosen = if prefers_first(free(first), free(second)) {
                first
            } else {
                second
            };
            if free(chosen) > 0 {
                table[chosen].push(key);
                continue;
            }
            // One of the eight goes to its other bucket.
            let moved = [first, second]
                .into_iter()
                .flat_map(|at| (0..WAYS).map(move |way| (at, way)))
                .find_map(|(at, way)| {
                    let [a, b] = buckets_of(&table[at][way]);
                    let other = if a == at { b } else { a };
                    (free(other) > 0).then_some((at, way, other))
                });
            match moved {
                Some((at, way, other)) => {
                    let aside = std::mem::replace(&mut table[at][way], key);
                    table[other].push(aside);
                }
                None => refused += 1,
            }
        }
        refused
    }

    #[test]
    fn a_table_holds_what_it_is_sized_for() {
        // Entries, of 400,000 in a full table.
        for (connections, most) in [(100_000, 0), (140_000, 4), (180_000, 200), (200_000, 1_200)] {
            let refused = refused(connections, 200_000);
            assert!(refused <= most, "{refused} of {connections}");
        }
    }

    #[test]
    fn flows_that_differ_in_one_bit_lie_apart() {
        let (seed, buckets) = (seed(), 1 << 16);
        let key = keys().next().unwrap();
        let own = buckets_of(&key, &seed, buckets);
        let mut others = Vec::new();
        for bit in 0..32 {
            let flip = |value: u32| value ^ 1 << bit;
            others.extend([
                FlowKey {
                    source: flip(key.source),
                    ..key
                },
                FlowKey {
                    destination: flip(key.destination),
                    ..key
                },
                FlowKey {
                    ports: Ports(flip(key.ports.0)),
                    ..key
                },
            ]);
        }
        others.push(FlowKey {
            protocol: UDP.into(),
            ..key
        });
        let near = others
            .iter()
            .filter(|other| {
                let at = buckets_of(other, &seed, buckets);
                at.first == own.first || at.second == own.second
            })
            .count();
        assert_eq!(near, 0);
    }

    #[test]
    fn another_seed_puts_flows_elsewhere() {
        let other = Seed {
            ports: [1, 2],
            addresses: [3; 8],
        };
        let same = keys()
            .take(1000)
            .filter(|key| {
                buckets_of(key, &seed(), 4096).first == buckets_of(key, &other, 4096).first
            })
            .count();
        assert!(same < 5, "{same}");
    }

    #[test]
    fn buckets_lie_in_the_table() {
        for buckets in [32, 96, 1024, u32::MAX - 31] {
            for hash in [0, 1, u64::MAX, 0x8000_0000_0000_0000, 0xffff_ffff] {
                let first = first_bucket(hash, buckets);
                let second = second_bucket(hash, first);
                assert!(first < buckets && second < buckets);
                assert_ne!(first, second);
                assert_eq!(first / NEIGHBOURS, second / NEIGHBOURS);
            }
        }
        assert_eq!(buckets_for(0), 32);
        assert_eq!(buckets_for(u32::MAX) % NEIGHBOURS, 0);
        assert_eq!(buckets_for(1_048_576) as usize * WAYS * 32, 83_886_080);
    }

    #[test]
    fn ipv6_flows_spread_as_well() {
        let (seed, buckets) = (seed(), 1 << 14);
        let mut used = vec![0_u32; buckets as usize];
        for flow in 0_u32..1 << 14 {
            let key = FlowKey {
                source: [0x2001_0db8_u32.to_be(), 0, 0, flow.to_be()],
                destination: [
                    0x2001_0db8_u32.to_be(),
                    0x80_u32.to_be(),
                    0,
                    0x80_u32.to_be(),
                ],
                ports: Ports::new(40_000_u16.to_be(), 80_u16.to_be()),
                protocol: TCP.into(),
            };
            used[buckets_of(&key, &seed, buckets).first as usize] += 1;
        }
        assert!(used.iter().all(|count| *count < 12));
    }
}
