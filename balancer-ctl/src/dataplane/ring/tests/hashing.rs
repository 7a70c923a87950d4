//! `sh`, `dh` and `mh`: shares, independence of order and of what takes new connections, and what nodes agree on.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{super::*, candidates};

/// The kinds whose slots go by hash weight, each with its length.
const BY_WEIGHT: [(RingKind, u32); 2] = [
    (RingKind::Source, SOURCE_SLOTS),
    (RingKind::Maglev, MAGLEV_SLOTS),
];

fn ring(kind: RingKind, reals: &[Candidate]) -> Vec<u32> {
    build(kind, reals, Longest::Short)
}

fn counts(ring: &[u32]) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for id in ring {
        *counts.entry(*id).or_default() += 1;
    }
    counts
}

fn is_prime(number: u32) -> bool {
    (2..number)
        .take_while(|divisor| divisor * divisor <= number)
        .all(|divisor| !number.is_multiple_of(divisor))
}

#[test]
fn lengths_are_primes() {
    assert!(is_prime(SOURCE_SLOTS));
    assert!(is_prime(MAGLEV_SLOTS));
    assert!(!is_prime(SOURCE_SLOTS - 4));
}

#[test]
fn without_real_servers_a_ring_is_empty() {
    for kind in [RingKind::Source, RingKind::Destination, RingKind::Maglev] {
        assert!(ring(kind, &[]).is_empty());
        assert!(ring(kind, &candidates(&[(1, 0), (2, 0)])).is_empty());
    }
}

#[test]
fn a_single_real_server_has_every_slot() {
    for weight in [1, 65_535, u32::MAX] {
        for (kind, length) in BY_WEIGHT {
            let ring = ring(kind, &candidates(&[(7, weight), (8, 0)]));
            assert_eq!(ring, vec![7; length as usize]);
        }
    }
}

#[test]
fn slots_go_by_hash_weight() {
    let reals = candidates(&[(1, 100), (2, 200), (3, 300), (4, 0)]);
    let of = |kind| Vec::from_iter(counts(&ring(kind, &reals)));
    assert_eq!(of(RingKind::Source), [(1, 682), (2, 1_364), (3, 2_047)]);
    assert_eq!(
        of(RingKind::Maglev),
        [(1, 10_923), (2, 21_846), (3, 32_768)]
    );
    // `dh` does not look at it.
    assert_eq!(
        of(RingKind::Destination),
        [(1, 1_365), (2, 1_364), (3, 1_364)]
    );
    // Only how weights compare matters.
    for (kind, _) in BY_WEIGHT {
        assert_eq!(
            ring(kind, &reals),
            ring(kind, &candidates(&[(1, 1), (2, 2), (3, 3)]))
        );
    }
}

#[test]
fn a_real_server_that_is_too_light_for_a_slot_gets_one() {
    let reals = candidates(&[(1, 65_535), (2, 1), (3, 65_535), (4, 1)]);
    let counts = counts(&ring(RingKind::Source, &reals));
    assert_eq!(
        Vec::from_iter(counts),
        [(1, 2_046), (2, 1), (3, 2_045), (4, 1)]
    );
}

#[test]
fn of_more_real_servers_than_slots_the_first_by_address_get_one() {
    let mut reals = candidates(&Vec::from_iter((0..5_000).map(|id| (id, 5_000 - id))));
    reals.reverse();
    let counts = counts(&ring(RingKind::Source, &reals));
    assert!(counts.into_iter().eq((0..SOURCE_SLOTS).map(|id| (id, 1))));
}

#[test]
fn the_port_tells_real_servers_of_one_address_apart() {
    let mut reals = candidates(&[(1, 1), (1, 1)]);
    reals[1].id = 2;
    reals[1].address.set_port(81);
    let ring = ring(RingKind::Maglev, &reals);
    assert_eq!(Vec::from_iter(counts(&ring)), [(1, 32_769), (2, 32_768)]);
    assert!(!ring[..20].iter().all(|id| *id == ring[0]));
}

#[test]
fn a_real_server_that_takes_no_new_connections_keeps_its_slots() {
    let up = candidates(&[(1, 3), (2, 2), (3, 1)]);
    let mut drained = up.clone();
    drained[1].weight = 0;
    for kind in [RingKind::Source, RingKind::Destination, RingKind::Maglev] {
        assert_eq!(ring(kind, &up), ring(kind, &drained));
    }
    for kind in [RingKind::Equal, RingKind::Weighted] {
        assert!(!ring(kind, &drained).contains(&2));
    }
}

/// FNV-1a over the slots' four bytes, most significant first: not the hash that fills the ring.
fn digest(ring: &[u32]) -> u64 {
    ring.iter()
        .flat_map(|slot| slot.to_be_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Never change these: nodes of different versions share connections. Another method needs a name of its own.
#[test]
fn rings_are_the_same_on_every_node_and_in_every_version() {
    let reals = [
        ("192.0.2.1:80", 1),
        ("192.0.2.2:80", 2),
        ("192.0.2.2:8080", 3),
        ("198.51.100.250:80", 7),
        ("10.0.0.1:0", 4),
        ("[2001:db8::1]:443", 5),
        ("[2001:db8:ffff::8000:1]:443", 6),
        ("[::ffff:192.0.2.9]:80", 0),
    ];
    let reals: Vec<_> = (1..)
        .zip(reals)
        .map(|(id, (address, weight))| Candidate {
            id,
            address: address.parse().unwrap(),
            weight: 1,
            hash_weight: weight,
        })
        .collect();
    let rings = [RingKind::Source, RingKind::Destination, RingKind::Maglev].map(|kind| {
        let ring = ring(kind, &reals);
        (ring[..8].to_vec(), digest(&ring))
    });
    assert_eq!(
        rings,
        [
            (vec![4, 3, 1, 6, 4, 4, 6, 4], 9_236_556_931_654_939_532),
            (vec![4, 3, 1, 6, 1, 4, 6, 2], 7_415_491_049_215_670_082),
            (vec![4, 7, 5, 2, 3, 6, 6, 4], 3_817_698_397_499_805_222),
        ]
    );
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<[u16; 8]>(), any::<u16>()).prop_map(SocketAddr::from),
    ]
}

fn reals() -> impl Strategy<Value = Vec<Candidate>> {
    let weights = prop_oneof![0_u32..4, 0_u32..=65_535];
    proptest::collection::btree_map(address(), weights, 0..60).prop_map(|reals| {
        let candidate = |(id, (address, hash_weight))| Candidate {
            id,
            address,
            weight: 1,
            hash_weight,
        };
        (0..).zip(reals).map(candidate).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_order_in_which_the_operator_lists_them_does_not_matter(
        (reals, shuffled) in reals().prop_flat_map(|reals| (Just(reals.clone()), Just(reals).prop_shuffle())),
    ) {
        for kind in [RingKind::Source, RingKind::Destination, RingKind::Maglev] {
            prop_assert_eq!(ring(kind, &reals), ring(kind, &shuffled));
        }
    }

    #[test]
    fn every_slot_is_filled_and_every_share_is_less_than_a_slot_off(reals in reals()) {
        let total: u64 = reals.iter().map(|real| u64::from(real.hash_weight)).sum();
        for (kind, length) in BY_WEIGHT {
            let ring = ring(kind, &reals);
            prop_assert_eq!(ring.len(), if total == 0 { 0 } else { length as usize });
            let counts = counts(&ring);
            // Each takes less than a slot from the others together.
            let light = counts.values().filter(|count| **count == 1).count() as f64;
            for real in &reals {
                let count = f64::from(counts.get(&real.id).copied().unwrap_or(0));
                let exact = f64::from(real.hash_weight) * f64::from(length) / total as f64;
                let taken = light * exact / f64::from(length);
                prop_assert!(
                    total == 0 || count == 1.0 && exact < 1.0 || (count - exact).abs() < 1.0 + taken,
                    "{} of {}", count, exact
                );
            }
        }
    }
}
