//! Everything that the packet program counts, read at one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use balancer_common::{stats::RealStats, verdict::Discard};

use crate::{dataplane::Dataplane, persistence::Client};

/// All counters, and how many entries there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Every discard reason.
    pub discards: BTreeMap<&'static str, u64>,
    /// Every real server, summed over the CPUs, and the first id that belongs to none.
    pub reals: BTreeMap<u32, RealStats>,
    /// Every service's turn counter, and that of the first id that belongs to none.
    pub turns: BTreeMap<u32, u64>,
    /// Entries of IPv4 connections whose handshake is over.
    pub rows_v4: i64,
    /// Entries of IPv6 connections whose handshake is over.
    pub rows_v6: i64,
    /// Handshakes under way.
    pub half_open: i64,
    /// Which server each client keeps, and its real id.
    pub kept: BTreeMap<Client, (IpAddr, u32)>,
    /// What each rule of a filter has counted, by its id.
    pub rules: BTreeMap<u32, u64>,
    /// Who has a token bucket, with the service's id.
    pub buckets: BTreeSet<(u32, IpAddr)>,
}

impl Dataplane {
    /// Reads all counters.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let discards = self.per_cpu::<u64>("DISCARDS");
        let reals = self.per_cpu::<RealStats>("REAL_STATS");
        let turns = self.array::<u64>("TURNS");
        let (rows, half_open) = self.count_rows();
        Snapshot {
            discards: Discard::ALL
                .iter()
                .map(|reason| {
                    let values = discards.get(&(*reason as u32), 0).expect("read DISCARDS");
                    (reason.name(), values.iter().sum())
                })
                .collect(),
            reals: (0..=self.reals)
                .map(|id| (id, sum(&reals.get(&id, 0).expect("read REAL_STATS"))))
                .collect(),
            turns: (0..=self.services)
                .map(|id| (id, turns.get(&id, 0).expect("read TURNS")))
                .collect(),
            rows_v4: rows[0] as i64,
            rows_v6: rows[1] as i64,
            half_open: half_open as i64,
            kept: self
                .all_kept()
                .into_iter()
                .map(|(client, kept)| (client, (kept.server, kept.real)))
                .collect(),
            rules: (1..=self.rules).map(|id| (id, self.counted(id))).collect(),
            buckets: self.token_buckets(),
        }
    }
}

pub(crate) fn sum(per_cpu: &[RealStats]) -> RealStats {
    let mut total = RealStats::default();
    for stats in per_cpu {
        total.connections += stats.connections;
        for (direction, of_cpu) in total.directions.iter_mut().zip(stats.directions) {
            direction.packets += of_cpu.packets;
            direction.bytes += of_cpu.bytes;
        }
    }
    total
}
