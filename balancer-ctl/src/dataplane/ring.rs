//! Scheduling rings: from real servers and weights to the order in which new connections are given out.
//!
//! The packet program takes the slot `turn % length` or `hash % length`, so a ring *is* the scheduler: one turn through it
//! gives every real server its exact share. Pure: no map, clock or socket here.

mod maglev;
mod shares;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use balancer_common::scheduler::{MAGLEV_SLOTS, MAX_RING};

/// Slots of the rings of [`RingKind::Source`] and [`RingKind::Destination`]; prime, as `maglev` wants it.
pub const SOURCE_SLOTS: u32 = 4_093;

/// How a ring is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingKind {
    /// `rr`: one slot each, in turn.
    Equal,
    /// `wrr`, `twos`: slots in proportion to weight, in turn.
    Weighted,
    /// `sh`: [`SOURCE_SLOTS`] in proportion to hash weight, for a hash of the client.
    Source,
    /// `dh`: as [`RingKind::Source`], with equal shares.
    Destination,
    /// `mh`: [`MAGLEV_SLOTS`] in proportion to hash weight.
    Maglev,
}

/// A real server as a ring takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What the slots hold.
    pub id: u32,
    /// Its address and port, which no other real server of the service has.
    pub address: SocketAddr,
    /// Its share of [`RingKind::Equal`] and [`RingKind::Weighted`]; 0 = none, as long as it takes no new connections.
    pub weight: u32,
    /// Its share of the other rings; 0 = none. It stays while a real server takes no new connections, so that no client
    /// of the others moves.
    pub hash_weight: u32,
}

/// How long the ring of [`RingKind::Weighted`] may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Longest {
    /// [`MAX_RING`].
    Exact,
    /// 64 for each real server, at least 1,024: thousands of services find room for theirs.
    Short,
}

impl Longest {
    fn of(self, reals: usize) -> u32 {
        const LEAST: u32 = 1024;
        const PER_REAL: u32 = 64;
        match (self, u32::try_from(reals)) {
            (Self::Short, Ok(reals)) => reals.saturating_mul(PER_REAL).clamp(LEAST, MAX_RING),
            (Self::Short, Err(_)) | (Self::Exact, _) => MAX_RING,
        }
    }
}

/// Builds the ring of `reals`, which are in the operator's order. Real servers of weight 0 are left out; the ring is empty
/// when none remains.
///
/// [`RingKind::Equal`] gives each one slot. [`RingKind::Weighted`] gives slots in proportion to weight, spread as evenly as they
/// go (weights 3 and 1 give A A B A). This is exact where the sum of the weights, over their greatest common divisor, is at
/// most what `longest` allows. Beyond, the ring is as long as that: a real server whose share is less than a slot
/// gets one, and each of the others is less than one slot away from its exact share of the rest. A slot is 0.003 % of the
/// service's connections with [`Longest::Exact`]. With [`Longest::Short`] it is less than 0.1 % with up to 16 real servers,
/// and with more of them (up to 512) 1/64 of an average real server's share.
///
/// The other rings have a fixed number of slots, filled by Maglev's method: see `maglev`. They do not depend on the
/// operator's order or on ids, so that every node has the same. Those of `sh` and `dh` are shorter than that of `mh`: 16 times as
/// many find room, and shares are still 16 times as fine as in the 256 slots that IPVS deals out by weight, most of which
/// change hands when a real server comes or goes.
#[must_use]
pub fn build(kind: RingKind, reals: &[Candidate], longest: Longest) -> Vec<u32> {
    let of_weight = |weight: fn(&Candidate) -> u32| {
        let weighted = reals.iter().map(|real| (weight(real), real));
        weighted
            .filter(|(weight, _)| *weight > 0)
            .map(|(weight, real)| (weight, *real))
            .collect::<Vec<_>>()
    };
    match kind {
        RingKind::Equal => {
            let live = of_weight(|real| real.weight);
            live.into_iter().map(|(_, real)| real.id).collect()
        }
        RingKind::Weighted => {
            let live = of_weight(|real| real.weight);
            let weights: Vec<_> = live.iter().map(|(weight, _)| *weight).collect();
            smooth(&shares::slots(&weights, longest.of(weights.len())))
                .into_iter()
                .map(|index| live[index].1.id)
                .collect()
        }
        RingKind::Source => maglev::build(of_weight(|real| real.hash_weight), SOURCE_SLOTS),
        RingKind::Destination => {
            maglev::build(of_weight(|real| real.hash_weight.min(1)), SOURCE_SLOTS)
        }
        RingKind::Maglev => maglev::build(of_weight(|real| real.hash_weight), MAGLEV_SLOTS),
    }
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
mod tests;
