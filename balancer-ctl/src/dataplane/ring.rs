//! Scheduling rings: from real servers and weights to the order in which new connections are given out.
//!
//! The packet program takes the slot `turn % length`, so a ring *is* the scheduler: one turn through it gives
//! every real server its exact share. Pure: no map, clock or socket here.

use std::collections::{BTreeMap, VecDeque};

use balancer_common::scheduler::MAX_RING;

use crate::model::Scheduler;

/// Builds the ring of `reals`, pairs of a real id and its weight in the operator's order. Real servers of
/// weight 0 are left out; the ring is empty when none remains.
///
/// `rr` gives each one slot. `wrr` gives slots in proportion to weight, spread as evenly as they go (weights 3
/// and 1 give A A B A). Weights whose sum, after division by their common divisor, is above what `longest` allows
/// are scaled: see `slots` for the error.
#[must_use]
pub fn build(scheduler: Scheduler, reals: &[(u32, u32)]) -> Vec<u32> {
    let live: Vec<_> = reals
        .iter()
        .copied()
        .filter(|(_, weight)| *weight > 0)
        .collect();
    match scheduler {
        Scheduler::Rr => live.into_iter().map(|(id, _)| id).collect(),
        Scheduler::Wrr => {
            let weights: Vec<_> = live.iter().map(|(_, weight)| *weight).collect();
            smooth(&slots(&weights, longest(weights.len())))
                .into_iter()
                .map(|index| live[index].0)
                .collect()
        }
    }
}

/// The longest ring for so many real servers, so that thousands of services find room for theirs.
///
/// One slot, the error that `slots` speaks of, is then less than 0.1 % of the service's connections with up to 16 real
/// servers, and with more of them (up to 512) 1/64 of an average real server's share.
fn longest(reals: usize) -> u32 {
    const LEAST: u32 = 1024;
    const PER_REAL: u32 = 64;
    u32::try_from(reals).map_or(MAX_RING, |reals| {
        reals.saturating_mul(PER_REAL).clamp(LEAST, MAX_RING)
    })
}

/// How many slots each of `weights` (all above 0) gets in a ring of at most `most` slots.
///
/// Where the weights over their greatest common divisor fit, those are the answer, exact. Otherwise the
/// ring has `most` slots: a weight too light for a slot gets one, and the rest of the ring is shared among the others by
/// largest remainder, so each of them is less than one slot away from its exact share of that rest. Where
/// there are more real servers than slots, the last ones get none.
fn slots(weights: &[u32], most: u32) -> Vec<u32> {
    let divided = divide_by_gcd(weights);
    if divided.iter().map(|weight| u64::from(*weight)).sum::<u64>() <= u64::from(most) {
        return divided;
    }
    if weights.len() > most as usize {
        return (0..weights.len())
            .map(|index| u32::from(index < most as usize))
            .collect();
    }
    divide_by_gcd(&scale(&divided, most))
}

/// Scales `weights`, whose sum is above `most` and whose number is not, to slots that add up to `most`.
fn scale(weights: &[u32], most: u32) -> Vec<u32> {
    let mut light = vec![false; weights.len()];
    // Lifting a light weight to one slot takes from the others, which may make another one light.
    let (rest, total) = loop {
        let lifted = light.iter().filter(|is_light| **is_light).count() as u64;
        let rest = u64::from(most) - lifted;
        let total: u64 = weights
            .iter()
            .zip(&light)
            .filter(|(_, is_light)| !**is_light)
            .map(|(weight, _)| u64::from(*weight))
            .sum();
        let mut changed = false;
        for (weight, is_light) in weights.iter().zip(&mut light) {
            if !*is_light && u64::from(*weight) * rest < total {
                *is_light = true;
                changed = true;
            }
        }
        if !changed {
            break (rest, total);
        }
    };
    let mut slots = vec![1; weights.len()];
    let mut remainders = Vec::new();
    let mut given = 0;
    for (index, weight) in weights
        .iter()
        .enumerate()
        .filter(|(index, _)| !light[*index])
    {
        let exact = u64::from(*weight) * rest;
        // At most `rest`, which fits.
        slots[index] = (exact / total) as u32;
        given += exact / total;
        remainders.push((exact % total, index));
    }
    // Equal remainders: the earlier real server first.
    remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, index) in remainders.into_iter().take((rest - given) as usize) {
        slots[index] += 1;
    }
    slots
}

fn divide_by_gcd(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter().map(|weight| weight / divisor).collect()
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Real servers of one weight: they take turns.
struct Rank {
    weight: i64,
    /// Index and times picked, the next to pick first.
    members: VecDeque<(usize, i64)>,
}

/// Smooth weighted round robin, the order known from nginx: at every step each real server's credit grows by its
/// weight, the one with the largest credit (the earlier of equals) is picked and pays the total.
///
/// At step `t` a credit is `t * weight - total * picked`. Among equal weights the largest credit is with whoever was
/// picked least and then comes first, that is, they take turns; so a step compares one candidate per distinct weight
/// instead of every real server.
fn smooth(weights: &[u32]) -> Vec<usize> {
    let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
    let mut by_weight: BTreeMap<u32, VecDeque<(usize, i64)>> = BTreeMap::new();
    for (index, weight) in weights
        .iter()
        .enumerate()
        .filter(|(_, weight)| **weight > 0)
    {
        by_weight.entry(*weight).or_default().push_back((index, 0));
    }
    let mut ranks: Vec<_> = by_weight
        .into_iter()
        .map(|(weight, members)| Rank {
            weight: i64::from(weight),
            members,
        })
        .collect();
    let mut ring = Vec::with_capacity(total as usize);
    for step in 1..=total {
        let mut best: Option<(i64, usize, usize)> = None;
        for (rank, Rank { weight, members }) in ranks.iter().enumerate() {
            // Never empty: who is picked goes back to the end.
            let Some((index, picked)) = members.front() else {
                continue;
            };
            let credit = step * weight - total * picked;
            if best.is_none_or(|(most, first, _)| credit > most || credit == most && *index < first)
            {
                best = Some((credit, *index, rank));
            }
        }
        let Some((_, index, rank)) = best else { break };
        ring.push(index);
        let members = &mut ranks[rank].members;
        if let Some((index, picked)) = members.pop_front() {
            members.push_back((index, picked + 1));
        }
    }
    ring
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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

    fn letters(scheduler: Scheduler, weights: &[u32]) -> String {
        let reals: Vec<_> = (0_u32..).zip(weights.iter().copied()).collect();
        build(scheduler, &reals)
            .into_iter()
            .map(|id| char::from(b'A' + id as u8))
            .collect()
    }

    #[test]
    fn rr_gives_each_real_server_one_slot_whatever_its_weight() {
        assert_eq!(letters(Scheduler::Rr, &[1, 1]), "AB");
        assert_eq!(letters(Scheduler::Rr, &[5, 1, 9]), "ABC");
        assert_eq!(letters(Scheduler::Rr, &[5, 0, 9]), "AC");
        assert_eq!(letters(Scheduler::Rr, &[]), "");
    }

    #[test]
    fn wrr_is_smooth() {
        assert_eq!(letters(Scheduler::Wrr, &[3, 1]), "AABA");
        assert_eq!(letters(Scheduler::Wrr, &[5, 1, 1]), "AABACAA");
        assert_eq!(letters(Scheduler::Wrr, &[1, 1, 1]), "ABC");
        assert_eq!(letters(Scheduler::Wrr, &[1, 3]), "BABB");
    }

    #[test]
    fn wrr_divides_weights_and_leaves_out_weight_zero() {
        assert_eq!(letters(Scheduler::Wrr, &[300, 100]), "AABA");
        assert_eq!(letters(Scheduler::Wrr, &[300, 0, 100]), "AACA");
        assert_eq!(letters(Scheduler::Wrr, &[0, 0]), "");
        assert_eq!(letters(Scheduler::Wrr, &[65_535]), "A");
    }

    #[test]
    fn weights_too_large_for_a_ring_are_scaled_and_none_is_lost() {
        let shares = slots(&[65_535, 1, 65_534], MAX_RING);
        assert_eq!(shares.iter().sum::<u32>(), MAX_RING);
        assert_eq!(shares, [16_384, 1, 16_383]);
    }

    #[test]
    fn a_ring_is_as_long_as_its_real_servers_need() {
        let lengths = [0, 1, 16, 17, 100, 512, 513, 5_000].map(longest);
        assert_eq!(
            lengths,
            [1024, 1024, 1024, 1088, 6_400, MAX_RING, MAX_RING, MAX_RING]
        );
        // Primes without a common divisor.
        let ring = build(Scheduler::Wrr, &[(1, 65_521), (2, 65_519), (3, 32_749)]);
        assert_eq!(ring.len(), 1024);
        // A sum that fits stays exact.
        let ring = build(Scheduler::Wrr, &[(1, 1_000), (2, 21), (3, 3)]);
        let counts = [1, 2, 3].map(|id| ring.iter().filter(|slot| **slot == id).count());
        assert_eq!(counts, [1_000, 21, 3]);
        // Equal weights too, however many real servers there are.
        let many: Vec<_> = (0..30_000).map(|id| (id, 7)).collect();
        assert_eq!(build(Scheduler::Wrr, &many).len(), 30_000);
    }

    #[test]
    fn a_thousand_services_of_large_weights_find_room() {
        let ring = build(Scheduler::Wrr, &[(1, 65_521), (2, 65_519)]);
        assert!(1_000 * ring.len() <= balancer_common::scheduler::RING_SLOTS as usize);
    }

    #[test]
    fn a_thousand_real_servers_of_distinct_weights_fill_the_longest_ring() {
        let reals: Vec<_> = (0..1000).map(|id| (id, 65_535 - id * 65)).collect();
        let ring = build(Scheduler::Wrr, &reals);
        assert_eq!(ring.len(), MAX_RING as usize);
        assert!(reals.iter().all(|(id, _)| ring.contains(id)));
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_definition(weights in proptest::collection::vec(1_u32..30, 1..12)) {
            prop_assert_eq!(smooth(&weights), smooth_by_definition(&weights));
        }

        #[test]
        fn every_real_server_gets_its_exact_share(weights in proptest::collection::vec(0_u32..20, 0..50)) {
            let reals: Vec<_> = (0_u32..).zip(weights.iter().copied()).collect();
            let ring = build(Scheduler::Wrr, &reals);
            let total: u32 = weights.iter().sum();
            for (id, weight) in reals {
                let count = ring.iter().filter(|slot| **slot == id).count() as u64;
                prop_assert_eq!(count * u64::from(total), u64::from(weight) * ring.len() as u64);
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
}
