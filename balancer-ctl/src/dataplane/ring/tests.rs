//! `rr` and `wrr`; the rings for hashes are tested in `hashing`.

mod hashing;
mod simulation;

use proptest::prelude::*;

use super::{shares::slots, *};

/// Real servers with these ids and weights.
fn candidates(weights: &[(u32, u32)]) -> Vec<Candidate> {
    let candidate = |(id, weight): &(u32, u32)| Candidate {
        id: *id,
        address: SocketAddr::from(([10, 0, (id >> 8) as u8, *id as u8], 80)),
        weight: *weight,
        hash_weight: *weight,
    };
    weights.iter().map(candidate).collect()
}

fn weighted(weights: &[(u32, u32)], longest: Longest) -> Vec<u32> {
    build(RingKind::Weighted, &candidates(weights), longest)
}

/// The definition, step by step: slow and plainly right.
fn smooth_by_definition(weights: &[u32]) -> Vec<usize> {
    let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
    let mut credits = vec![0_i64; weights.len()];
    let mut ring = Vec::new();
    for _ in 0..total {
        for (credit, weight) in credits.iter_mut().zip(weights) {
            *credit += i64::from(*weight);
        }
        let mut best = 0;
        for index in 1..weights.len() {
            if credits[index] > credits[best] {
                best = index;
            }
        }
        credits[best] -= total;
        ring.push(best);
    }
    ring
}

fn letters(kind: RingKind, weights: &[u32]) -> String {
    let reals: Vec<_> = (0_u32..).zip(weights.iter().copied()).collect();
    build(kind, &candidates(&reals), Longest::Exact)
        .into_iter()
        .map(|id| char::from(b'A' + id as u8))
        .collect()
}

#[test]
fn rr_gives_each_real_server_one_slot_whatever_its_weight() {
    assert_eq!(letters(RingKind::Equal, &[1, 1]), "AB");
    assert_eq!(letters(RingKind::Equal, &[5, 1, 9]), "ABC");
    assert_eq!(letters(RingKind::Equal, &[5, 0, 9]), "AC");
    assert_eq!(letters(RingKind::Equal, &[]), "");
}

#[test]
fn wrr_is_smooth() {
    assert_eq!(letters(RingKind::Weighted, &[3, 1]), "AABA");
    assert_eq!(letters(RingKind::Weighted, &[5, 1, 1]), "AABACAA");
    assert_eq!(letters(RingKind::Weighted, &[1, 1, 1]), "ABC");
    assert_eq!(letters(RingKind::Weighted, &[1, 3]), "BABB");
}

#[test]
fn wrr_divides_weights_and_leaves_out_weight_zero() {
    assert_eq!(letters(RingKind::Weighted, &[300, 100]), "AABA");
    assert_eq!(letters(RingKind::Weighted, &[300, 0, 100]), "AACA");
    assert_eq!(letters(RingKind::Weighted, &[0, 0]), "");
    assert_eq!(letters(RingKind::Weighted, &[65_535]), "A");
}

#[test]
fn weights_too_large_for_a_ring_are_scaled_and_none_is_lost() {
    let shares = slots(&[65_535, 1, 65_534], MAX_RING);
    assert_eq!(shares.iter().sum::<u32>(), MAX_RING);
    assert_eq!(shares, [16_384, 1, 16_383]);
}

#[test]
fn a_ring_is_as_long_as_its_real_servers_need() {
    let lengths = [0, 1, 16, 17, 100, 512, 513, 5_000].map(|reals| Longest::Short.of(reals));
    assert_eq!(
        lengths,
        [1024, 1024, 1024, 1088, 6_400, MAX_RING, MAX_RING, MAX_RING]
    );
    // Primes without a common divisor.
    let ring = weighted(&[(1, 65_521), (2, 65_519), (3, 32_749)], Longest::Short);
    assert_eq!(ring.len(), 1024);
    // A sum that fits stays exact.
    let ring = weighted(&[(1, 1_000), (2, 21), (3, 3)], Longest::Short);
    let counts = [1, 2, 3].map(|id| ring.iter().filter(|slot| **slot == id).count());
    assert_eq!(counts, [1_000, 21, 3]);
    // Equal weights too, however many real servers there are.
    let many: Vec<_> = (0..30_000).map(|id| (id, 7)).collect();
    assert_eq!(weighted(&many, Longest::Short).len(), 30_000);
}

#[test]
fn the_longest_ring_is_exact_where_a_short_one_is_not() {
    let weights = [(1, 1_000), (2, 999), (3, 1)];
    let counts = |longest| {
        let ring = weighted(&weights, longest);
        [1, 2, 3].map(|id| ring.iter().filter(|slot| **slot == id).count())
    };
    assert_eq!(counts(Longest::Exact), [1_000, 999, 1]);
    assert_eq!(counts(Longest::Short), [512, 511, 1]);
    // Exact up to the last slot; scaled beyond.
    let lengths = [32_767, 32_768, 65_535].map(|weight| {
        let ring = weighted(&[(1, weight), (2, 1)], Longest::Exact);
        (ring.len(), ring.iter().filter(|slot| **slot == 2).count())
    });
    assert_eq!(lengths, [(32_768, 1), (32_768, 1), (32_768, 1)]);
    // Primes: 65521/65520 of an equal share is less than a slot more.
    assert_eq!(
        weighted(&[(1, 65_521), (2, 65_520)], Longest::Exact),
        [1, 2]
    );
}

#[test]
fn a_thousand_services_of_large_weights_find_room() {
    let ring = weighted(&[(1, 65_521), (2, 65_519)], Longest::Short);
    assert!(1_000 * ring.len() <= balancer_common::scheduler::RING_SLOTS as usize);
}

#[test]
fn a_thousand_real_servers_of_distinct_weights_fill_the_longest_ring() {
    let reals: Vec<_> = (0..1000).map(|id| (id, 65_535 - id * 65)).collect();
    let ring = weighted(&reals, Longest::Short);
    assert_eq!(ring.len(), MAX_RING as usize);
    assert!(reals.iter().all(|(id, _)| ring.contains(id)));
}

proptest! {
    #[test]
    fn the_order_is_that_of_the_definition(weights in proptest::collection::vec(1_u32..30, 1..12)) {
        prop_assert_eq!(smooth(&weights), smooth_by_definition(&weights));
    }

    #[test]
    fn every_real_server_gets_its_exact_share(
        weights in proptest::collection::vec(0_u32..20, 0..50),
        longest in prop_oneof![Just(Longest::Exact), Just(Longest::Short)],
    ) {
        let reals: Vec<_> = (0_u32..).zip(weights.iter().copied()).collect();
        let ring = weighted(&reals, longest);
        let total: u32 = weights.iter().sum();
        for (id, weight) in reals {
            let count = ring.iter().filter(|slot| **slot == id).count() as u64;
            prop_assert_eq!(count * u64::from(total), u64::from(weight) * ring.len() as u64);
        }
    }

    #[test]
    fn a_sum_that_fits_the_longest_ring_is_exact(weights in proptest::collection::vec(1_u32..1_000, 1..30), factor in 1_u32..60) {
        let reals: Vec<_> = (0_u32..).zip(weights.iter().map(|weight| weight * factor)).collect();
        let ring = weighted(&reals, Longest::Exact);
        let total: u32 = weights.iter().sum();
        prop_assert_eq!(total % ring.len() as u32, 0);
        for (id, weight) in reals {
            let count = ring.iter().filter(|slot| **slot == id).count() as u64;
            prop_assert_eq!(count * u64::from(total * factor), u64::from(weight) * ring.len() as u64);
        }
    }

    #[test]
    fn scaled_shares_are_less_than_a_slot_off(weights in proptest::collection::vec(1_u32..=65_535, 1..200)) {
        let most = 1000;
        let scaled = slots(&weights, most);
        let length: u32 = scaled.iter().sum();
        prop_assert!(length <= most);
        prop_assert!(scaled.iter().all(|count| *count >= 1));
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let light = weights.iter().filter(|weight| u64::from(**weight) * u64::from(length) < total).count() as f64;
        for (weight, count) in weights.iter().zip(&scaled) {
            let exact = f64::from(*weight) * f64::from(length) / total as f64;
            // Slots lifted to one are taken from the others, in proportion.
            let lifted = exact * light / f64::from(length);
            let error = f64::from(*count) - exact;
            prop_assert!(error.abs() < 1.0 + 2.0 * lifted || *count == 1, "{} {} {}", weight, count, exact);
        }
    }
}
