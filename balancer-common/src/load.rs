//! How many connections a real server has, and what they weigh against a new one.
//!
//! Both numbers stand in one word, which the packet program changes by one atomic addition for each transition of a
//! connection, made by whoever has won the transition. What the daemon ends it counts in a word of its own: it alone writes
//! that, so that a daemon that was killed between the two steps can finish the second one exactly.

use core::num::NonZero;

use crate::{
    branchless::{is_below, is_zero, mask, not_negative, pick},
    plain_data,
    tcp::State,
};

/// Active and inactive connections as one number: `active * 2^32 + inactive`, modulo 2^64. Additions of different CPUs may be seen
/// in another order than they were earned in, so each number may be below zero for a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Load(pub u64);

impl Load {
    /// What a connection in `state`, or [`FREE`](crate::conntrack::FREE), counts: established TCP is active, all else, UDP too, is
    /// inactive (as in IPVS). One that is over counts no more: it stays until somebody needs its place, which may be never.
    #[inline(always)]
    #[must_use]
    pub const fn of(state: u8) -> Self {
        const NONE: u32 =
            1 << crate::conntrack::FREE | 1 << State::TimeWait as u32 | 1 << State::Closed as u32;
        let counts = (!NONE >> (state & 0xf) & 1) as u64;
        let is_active = (state == State::Established as u8) as u64;
        Self(counts << (is_active * 32))
    }

    /// What is to be added where a connection goes from the state `before` to `after`.
    #[inline(always)]
    #[must_use]
    pub const fn step(before: u8, after: u8) -> u64 {
        Self::of(after).0.wrapping_sub(Self::of(before).0)
    }

    /// Both numbers, `[active, inactive]`.
    #[inline(always)]
    #[must_use]
    pub fn counts(self) -> [u32; 2] {
        let inactive = self.0 as u32 as i32 as i64;
        let active = (self.0 as i64).wrapping_sub(inactive) >> 32;
        [not_negative(active) as u32, not_negative(inactive) as u32]
    }
}

/// The load of a real server and what limits it: a value of `REAL_LOADS`, by real id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RealLoad {
    /// A [`Load`]: what the packet program has counted.
    pub counted: u64,
    /// A [`Load`]: what the daemon has ended of it. Only the daemon writes this.
    pub ended: u64,
    /// The weight by which the real server takes new connections.
    pub weight: u32,
    /// It is full with this many connections; 0 = never.
    pub upper: u32,
    /// Once full, it takes new ones again below this many.
    pub resume: u32,
    /// 1 while it is full. The packet program writes this.
    pub full: u32,
}

const _: () = assert!(size_of::<RealLoad>() == 32);
plain_data!(RealLoad);

impl RealLoad {
    /// Its connections, `[active, inactive]`.
    #[inline(always)]
    #[must_use]
    pub fn counts(&self) -> [u32; 2] {
        Load(self.counted.wrapping_sub(self.ended)).counts()
    }

    /// Below how many connections a real server that was full with `upper` takes new ones again, if the operator sets no `lower` (0):
    /// three quarters, as in IPVS.
    #[must_use]
    pub const fn resume_below(upper: u32, lower: u32) -> u32 {
        if lower != 0 {
            lower
        } else {
            ((upper as u64 * 3).div_ceil(4)) as u32
        }
    }

    /// What `full` is to be once the real server has got its last of `connections`. It was not full before, or the connection is of a
    /// client that keeps it.
    #[inline(always)]
    #[must_use]
    pub fn full_after(&self, connections: u32) -> u32 {
        let reached = Self { full: 0, ..*self };
        let before = connections.wrapping_sub(1);
        reached.is_full_with(connections) | self.full & self.is_full_with(before)
    }

    /// Whether it is full: 1 or 0. Without branches.
    #[inline(always)]
    #[must_use]
    pub fn is_full(&self) -> u32 {
        let [active, inactive] = self.counts();
        self.is_full_with(active + inactive)
    }

    /// Whether it is full with `connections`: 1 or 0. Without branches.
    #[inline(always)]
    fn is_full_with(&self, connections: u32) -> u32 {
        let limit = pick(
            u64::from(self.full & 1),
            self.resume.into(),
            self.upper.into(),
        );
        let has_limit = 1 ^ is_zero(self.upper.into());
        let has_reached = 1 ^ is_below(connections.into(), limit);
        (has_limit & has_reached) as u32
    }
}

/// A connection that the daemon is about to end: the one value of `ENDING`. Should the daemon be killed, the next one finds here what is
/// left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Ending {
    /// What [`RealLoad::ended`] is to be then.
    pub ended: u64,
    /// The family's table: 0 IPv4, 1 IPv6.
    pub family: u32,
    /// The original entry's place in it, counted from the first entry.
    pub place: u32,
    /// The word with which the daemon takes that place.
    pub word: u32,
    /// The real server's id.
    pub real: u32,
    /// 1 while there is something to finish.
    pub is_set: u32,
    /// Always zero.
    pub zero: u32,
}

const _: () = assert!(size_of::<Ending>() == 32);
plain_data!(Ending);

/// How real servers are compared: a set of rules, each the number of a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Measure(pub u32);

impl Measure {
    /// An active connection counts 256, an inactive one 1; else active ones count 1, and the new one with them.
    const OVERHEAD: u32 = 0;
    /// What is counted is divided by the weight.
    const PER_WEIGHT: u32 = 1;
    /// Whoever has no active connection comes first.
    const IDLE_FIRST: u32 = 2;
    /// The first in the list wins, whatever is counted.
    const IN_ORDER: u32 = 3;
    /// Whoever has more active connections than its weight is left out.
    const UP_TO_WEIGHT: u32 = 4;

    /// `lc`: the fewest connections.
    pub const LC: Self = Self::of(&[Self::OVERHEAD]);
    /// `wlc`: the fewest connections per weight. Also who is taken where another scheduler's choice does not fit, and of two by `twos`.
    pub const WLC: Self = Self::of(&[Self::OVERHEAD, Self::PER_WEIGHT]);
    /// `sed`: the shortest expected delay, (active + 1) per weight.
    pub const SED: Self = Self::of(&[Self::PER_WEIGHT]);
    /// `nq`: the first without an active connection, else as `sed`.
    pub const NQ: Self = Self::of(&[Self::PER_WEIGHT, Self::IDLE_FIRST]);
    /// `fo`: the first in the list, which the daemon orders by weight.
    pub const FO: Self = Self::of(&[Self::IN_ORDER]);
    /// `ovf`: the first in the list, ordered by weight, that has no more active connections than its weight.
    pub const OVF: Self = Self::of(&[Self::IN_ORDER, Self::UP_TO_WEIGHT]);

    const fn of(rules: &[u32]) -> Self {
        let mut all = 0;
        let mut at = 0;
        while at < rules.len() {
            all |= 1 << rules[at];
            at += 1;
        }
        Self(all)
    }

    /// 1 where the rule holds, else 0.
    #[inline(always)]
    fn has(self, rule: u32) -> u64 {
        u64::from(self.0 >> rule & 1)
    }

    /// Whether the order of the list decides.
    #[inline(always)]
    #[must_use]
    pub const fn is_in_order(self) -> bool {
        self.0 >> Self::IN_ORDER & 1 != 0
    }

    /// What a new connection would cost at a real server with this load, the less the better; [`NEVER`] where it takes none. The
    /// lowest [`POSITION_BITS`] bits are zero: they are the place in the list, so that of equals the first wins.
    ///
    /// Two costs per weight differ if the exact ones do, for weights up to 2,896; of heavier real servers, those count as equal that differ
    /// by less than 128 in 2^30 connections per weight. Without branches: the packet program asks up to [`MOST_COMPARED`] times in a row.
    #[inline(always)]
    #[must_use]
    pub fn cost(self, load: &RealLoad) -> u64 {
        let [active, inactive] = load.counts();
        let (active, inactive, weight) = (active as u64, inactive as u64, load.weight as u64);
        let overhead = active * 256 + inactive;
        let number = pick(self.has(Self::OVERHEAD), overhead, active + 1);
        let divisor = pick(self.has(Self::PER_WEIGHT), weight, 1) | is_zero(weight);
        // SAFETY: a weight of zero was made one. A test would be a branch.
        let divisor = unsafe { NonZero::new_unchecked(divisor) };
        // At most 2^24 connections: below 2^33. A cost is below 2^63.
        let per_weight = (number << 30) / divisor;
        let is_first = self.has(Self::IN_ORDER) | self.has(Self::IDLE_FIRST) & is_zero(active);
        let cost = per_weight & !mask(is_first);
        let is_above = is_below(weight, active);
        let never =
            u64::from(load.is_full()) | is_zero(weight) | self.has(Self::UP_TO_WEIGHT) & is_above;
        pick(never, NEVER, cost & NEVER)
    }
}

/// How many real servers are compared at a time. A service with more compares the next ones for the next connection.
pub const MOST_COMPARED: u32 = 1 << POSITION_BITS;
/// Bits of a cost that hold the place in the list.
pub const POSITION_BITS: u32 = 7;
/// The cost of who takes no new connection.
pub const NEVER: u64 = (u64::MAX >> 1) & !(MOST_COMPARED as u64 - 1);

/// The two lowest of the two lowest costs so far, in order, and another cost. Without branches.
#[inline(always)]
#[must_use]
pub fn lowest(so_far: [u64; 2], cost: u64) -> [u64; 2] {
    let [first, second] = so_far;
    let is_less = is_below(cost, first);
    let (first, rest) = (pick(is_less, cost, first), pick(is_less, first, cost));
    [first, pick(is_below(rest, second), rest, second)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::FREE;

    fn load(active: u64, inactive: u64, weight: u32) -> RealLoad {
        RealLoad {
            counted: (active << 32) + inactive,
            weight,
            ..RealLoad::default()
        }
    }

    #[test]
    fn a_connections_life_adds_up_to_nothing_whatever_the_order() {
        let (opening, active, closing) = (
            State::SynReceived as u8,
            State::Established as u8,
            State::Closing as u8,
        );
        let steps = [
            (FREE, opening),
            (opening, active),
            (active, closing),
            (closing, FREE),
        ];
        let mut load = Load(0);
        let expected = [[0, 1], [1, 0], [0, 1], [0, 0]];
        for ((before, after), counts) in steps.into_iter().zip(expected) {
            load.0 = load.0.wrapping_add(Load::step(before, after));
            assert_eq!(load.counts(), counts);
        }
        // Seen in another order: no number is ever above what it was.
        for first in 0..4 {
            let mut load = Load(5 << 32 | 7);
            for at in 0..4 {
                let (before, after) = steps[(first + at) % 4];
                load.0 = load.0.wrapping_add(Load::step(before, after));
            }
            assert_eq!(load.counts(), [5, 7]);
        }
        assert_eq!(Load(Load::step(active, FREE)).counts(), [0, 0]);
        assert_eq!(Load(Load::step(opening, FREE)).counts(), [0, 0]);
        // One more active than there are inactive ones left.
        assert_eq!(Load(Load::step(opening, active)).counts(), [1, 0]);
        assert_eq!(Load::step(opening, closing), 0);
        assert_eq!(Load::of(State::Udp as u8).counts(), [0, 1]);
        for over in [State::TimeWait, State::Closed] {
            assert_eq!(Load::of(over as u8).counts(), [0, 0]);
        }
    }

    #[test]
    fn a_real_server_is_full_at_its_upper_limit_and_takes_new_ones_below_the_lower() {
        assert_eq!(RealLoad::resume_below(10, 0), 8);
        assert_eq!(RealLoad::resume_below(1, 0), 1);
        assert_eq!(RealLoad::resume_below(10, 3), 3);
        for (full, connections, is_full) in [
            (0, 9, 0),
            (0, 10, 1),
            (0, 11, 1),
            (1, 9, 1),
            (1, 8, 1),
            (1, 7, 0),
            (1, 0, 0),
        ] {
            let load = RealLoad {
                upper: 10,
                resume: 8,
                full,
                ..RealLoad::default()
            };
            assert_eq!(
                load.is_full_with(connections),
                is_full,
                "{full} {connections}"
            );
        }
        assert_eq!(RealLoad::default().is_full_with(u32::MAX), 0);
        for (full, connections, after) in [
            (0, 9, 0),
            (0, 10, 1),
            (1, 11, 1),
            // One of a client that keeps it.
            (1, 9, 1),
            (1, 8, 0),
            (1, 1, 0),
        ] {
            let load = RealLoad {
                upper: 10,
                resume: 8,
                full,
                ..RealLoad::default()
            };
            assert_eq!(load.full_after(connections), after, "{full} {connections}");
        }
    }

    #[test]
    fn costs_order_real_servers_as_ipvs_does() {
        let order = |measure: Measure, loads: &[RealLoad]| -> Option<usize> {
            let costs = loads.iter().map(|load| measure.cost(load)).enumerate();
            let (at, cost) = costs.min_by_key(|(at, cost)| cost | *at as u64)?;
            (cost != NEVER).then_some(at)
        };
        let cases: [(Measure, &[RealLoad], Option<usize>); 15] = [
            (Measure::LC, &[load(2, 0, 9), load(1, 200, 1)], Some(1)),
            (Measure::LC, &[load(1, 0, 9), load(0, 255, 1)], Some(1)),
            (Measure::LC, &[load(0, 256, 1), load(1, 0, 1)], Some(0)),
            (Measure::WLC, &[load(3, 0, 2), load(1, 0, 1)], Some(1)),
            (Measure::WLC, &[load(2, 0, 3), load(1, 0, 1)], Some(0)),
            // Equal fractions: the first.
            (Measure::WLC, &[load(3, 3, 3), load(1, 1, 1)], Some(0)),
            (Measure::WLC, &[load(1, 1, 1), load(3, 3, 3)], Some(0)),
            (Measure::SED, &[load(1, 99, 1), load(3, 0, 3)], Some(1)),
            (Measure::SED, &[load(0, 0, 1), load(1, 0, 3)], Some(1)),
            (Measure::NQ, &[load(1, 0, 3), load(0, 9, 1)], Some(1)),
            (Measure::NQ, &[load(2, 0, 3), load(1, 0, 1)], Some(0)),
            (Measure::FO, &[load(900, 0, 3), load(0, 0, 1)], Some(0)),
            (Measure::OVF, &[load(4, 0, 3), load(1, 0, 1)], Some(1)),
            (Measure::OVF, &[load(3, 0, 3), load(0, 0, 1)], Some(0)),
            (Measure::OVF, &[load(4, 0, 3), load(2, 0, 1)], None),
        ];
        for (number, (measure, loads, expected)) in cases.into_iter().enumerate() {
            assert_eq!(order(measure, loads), expected, "case {number}");
        }
        let full = RealLoad {
            upper: 1,
            resume: 1,
            ..load(1, 0, 1)
        };
        for measure in [
            Measure::LC,
            Measure::WLC,
            Measure::SED,
            Measure::NQ,
            Measure::FO,
        ] {
            assert_eq!(order(measure, &[full, load(100, 0, 1)]), Some(1));
            assert_eq!(order(measure, &[full, load(0, 0, 0)]), None);
        }
    }

    #[test]
    fn the_two_lowest_costs_are_kept_in_order() {
        for costs in [
            [1, 2, 3],
            [3, 2, 1],
            [2, 3, 1],
            [1, 1, 2],
            [NEVER, 5, NEVER],
        ] {
            let mut sorted = costs;
            sorted.sort_unstable();
            let found = costs.into_iter().fold([NEVER; 2], lowest);
            assert_eq!(found, sorted[..2], "{costs:?}");
        }
    }

    #[test]
    fn costs_do_not_overflow_in_the_largest_table() {
        let most = 1 << 24;
        let heavy = Measure::WLC.cost(&load(most, 0, 1));
        let lighter = Measure::WLC.cost(&load(most - 1, 0, 1));
        assert!(lighter < heavy && heavy < NEVER);
    }
}
