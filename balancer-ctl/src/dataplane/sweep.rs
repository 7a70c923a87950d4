//! The sweep: the daemon's pass over the connection tables. It ends connections that exceeded their idle timeout,
//! counts the others, and finds removed real servers that no entry refers to any more.
//!
//! Forwarding does not depend on it: the packet program itself replaces entries that ended or expired. A sweep makes
//! the numbers in `status` and `list` right, frees real ids, and renews which server those clients keep that have a connection.
//!
//! A sweep is spread over many calls of `run_maintenance`. An entry may move to its other bucket meanwhile and be
//! missed once, so a real id counts as unused after two sweeps in a row that found no entry of it.

use std::{
    collections::{HashMap, HashSet},
    mem,
    time::{Duration, Instant},
};

use balancer_common::persistence::{RunningClient, Stickiness};

use super::conntrack::{ConnectionCounts, Conntrack, ExpiryClock, SweepResult};
use crate::{dataplane::plan::tables::TableChange, model};

/// A step ends after the slice in which it has run for this long.
const STEP_TIME_LIMIT: Duration = Duration::from_millis(4);

/// Buckets swept between two readings of the clock: even if all their connections end, that takes a millisecond or two.
const BUCKETS_PER_SLICE: usize = 1 << 10;

/// The longest pause between two sweeps.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The longest pause after a sweep that took much CPU time.
const MAX_PAUSE_AFTER_WORK: Duration = Duration::from_secs(60);

/// A pause lasts at least this many times the CPU time of the work before it, so that such work takes 1 % of a CPU at
/// most.
pub const PAUSE_PER_CPU_TIME: u32 = 100;

/// The pause after a sweep that took `cpu_time`. A connection may stay that much longer than its timeout. `persistence` is the shortest
/// timeout of what a client keeps, if there is one.
pub fn pause_after(
    timeouts: &model::Timeouts,
    persistence: Option<Duration>,
    cpu_time: Duration,
) -> Duration {
    let model::Timeouts { tcp, tcp_fin, udp } = *timeouts;
    let shortest = tcp.min(tcp_fin).min(udp);
    let shortest = persistence.map_or(shortest, |timeout| shortest.min(timeout));
    let pause = (shortest / 8).min(MAX_PAUSE);
    pause.max((cpu_time * PAUSE_PER_CPU_TIME).min(MAX_PAUSE_AFTER_WORK))
}

/// A sweep in progress.
#[derive(Debug)]
pub struct Sweep {
    /// The next bucket; IPv6's buckets are numbered after IPv4's.
    next_bucket: usize,
    result: SweepResult,
    /// Real ids that were removed when this sweep began.
    removed: HashSet<u32>,
    /// CPU time that it took.
    cpu_time: Duration,
    /// What became of the clients with running connections.
    renewed: anyhow::Result<()>,
}

/// What a complete sweep found.
#[derive(Debug)]
pub struct SweepOutcome {
    /// Removed real ids that no entry refers to.
    pub unreferenced: HashSet<u32>,
    /// Connections that did not expire.
    pub counts: ConnectionCounts,
    /// Whether any of them has full NAT.
    pub has_full_nat: bool,
    /// CPU time that it took.
    pub cpu_time: Duration,
    /// The first error of what renews clients; those that were found after it are not renewed.
    pub renewed: anyhow::Result<()>,
}

impl Sweep {
    /// A sweep that begins now. `removed` are the real ids whose entries it looks for; no packet may still be in the
    /// packet program that chose one of them before it was removed. `reals` is the number of real ids, `persistent` are the services whose
    /// clients are to be renewed, by id.
    pub fn start(
        removed: HashSet<u32>,
        reals: usize,
        persistent: HashMap<u32, Stickiness>,
    ) -> Self {
        Self {
            next_bucket: 0,
            result: SweepResult::empty(reals, persistent),
            removed,
            cpu_time: Duration::ZERO,
            renewed: Ok(()),
        }
    }

    /// Call this before `changes` are made: packets may choose a rewritten real id and put entries into buckets that
    /// were swept already, so this sweep no longer says anything about it. A service that says something else of its clients from now on
    /// may be another one, and its clients others.
    pub fn about_to_change(&mut self, changes: &[TableChange]) {
        remove_rewritten(&mut self.removed, changes);
        for change in changes {
            if let TableChange::SetStickiness { service, .. } = change {
                self.result.persistent.remove(service);
            }
        }
    }

    /// Sweeps for about [`STEP_TIME_LIMIT`], and hands clients with a running connection to `renew`, as long as that succeeds. `Some` when
    /// the sweep has ended.
    pub fn step(
        &mut self,
        conntrack: &Conntrack,
        now: &ExpiryClock,
        mut renew: impl FnMut(&[RunningClient]) -> anyhow::Result<()>,
    ) -> Option<SweepOutcome> {
        let started = Instant::now();
        let (v4, v6) = (conntrack.v4.buckets(), conntrack.v6.buckets());
        while self.next_bucket < v4 + v6 {
            if started.elapsed() >= STEP_TIME_LIMIT {
                self.cpu_time += started.elapsed();
                return None;
            }
            let result = &mut self.result;
            if let Some(next) = self.next_bucket.checked_sub(v4) {
                conntrack.sweep(
                    &conntrack.v6,
                    1,
                    next..next + BUCKETS_PER_SLICE,
                    now,
                    result,
                );
                self.next_bucket += BUCKETS_PER_SLICE;
            } else {
                let end = (self.next_bucket + BUCKETS_PER_SLICE).min(v4);
                conntrack.sweep(&conntrack.v4, 0, self.next_bucket..end, now, result);
                self.next_bucket = end;
            }
            let running = mem::take(&mut self.result.running);
            if self.renewed.is_ok() && !running.is_empty() {
                self.renewed = renew(&running);
            }
        }
        self.cpu_time += started.elapsed();
        let is_referenced = |id: &u32| {
            self.result
                .referenced
                .get(*id as usize)
                .is_some_and(|is| *is)
        };
        self.removed.retain(|id| !is_referenced(id));
        if self.result.expired > 0 {
            tracing::debug!(ended = self.result.expired, cpu_time = ?self.cpu_time, "connections were idle for too long");
        }
        Some(SweepOutcome {
            unreferenced: mem::take(&mut self.removed),
            counts: mem::take(&mut self.result.counts),
            has_full_nat: self.result.has_full_nat,
            cpu_time: self.cpu_time,
            renewed: mem::replace(&mut self.renewed, Ok(())),
        })
    }
}

/// Removes from `ids` the real ids that `changes` rewrite.
pub fn remove_rewritten(ids: &mut HashSet<u32>, changes: &[TableChange]) {
    for change in changes {
        if let TableChange::SetReal { id, real: _ } = change {
            ids.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::{
        real_server::{RealServer, state},
        scheduler::Ring,
    };

    use super::*;

    #[test]
    fn a_real_id_that_is_rewritten_during_a_sweep_does_not_count_as_unused() {
        let mut sweep = Sweep::start(HashSet::from([1, 2]), 8, HashMap::new());
        // `add-real` in the middle of the pass, then `del-real`.
        for state in [state::TAKES_NEW, state::REMOVED] {
            let real = RealServer {
                state,
                ..RealServer::default()
            };
            sweep.about_to_change(&[
                TableChange::SetReal { id: 1, real },
                TableChange::WriteRing {
                    ring: Ring::default(),
                    reals: vec![2],
                },
            ]);
        }
        assert_eq!(sweep.removed, HashSet::from([2]));
    }

    #[test]
    fn a_service_whose_persistence_changes_during_a_sweep_is_not_renewed_by_it() {
        let row = Stickiness::default();
        let mut sweep = Sweep::start(HashSet::new(), 8, HashMap::from([(1, row), (2, row)]));
        sweep.about_to_change(&[TableChange::SetStickiness {
            service: 1,
            stickiness: row,
        }]);
        let left: Vec<_> = sweep.result.persistent.keys().copied().collect();
        assert_eq!(left, [2]);
    }

    #[test]
    fn the_pause_is_a_part_of_the_shortest_timeout_and_longer_after_much_cpu_time() {
        let seconds = Duration::from_secs;
        let of = |tcp, tcp_fin, udp, cpu_time| {
            let timeouts = model::Timeouts {
                tcp: seconds(tcp),
                tcp_fin: seconds(tcp_fin),
                udp: seconds(udp),
            };
            pause_after(&timeouts, None, Duration::from_millis(cpu_time))
        };
        assert_eq!(of(900, 120, 300, 0), seconds(10));
        assert_eq!(of(900, 120, 300, 100), seconds(10));
        assert_eq!(of(900, 120, 8, 0), seconds(1));
        assert_eq!(of(2, 120, 8, 0), Duration::from_millis(250));
        assert_eq!(of(2, 120, 8, 50), seconds(5));
        assert_eq!(of(900, 120, 300, 400), seconds(40));
        assert_eq!(of(900, 120, 300, 4000), seconds(60));
        let timeouts = model::Timeouts {
            tcp: seconds(900),
            tcp_fin: seconds(120),
            udp: seconds(300),
        };
        let of = |persistence| pause_after(&timeouts, Some(seconds(persistence)), Duration::ZERO);
        assert_eq!(of(300), seconds(10));
        assert_eq!(of(16), seconds(2));
    }
}
