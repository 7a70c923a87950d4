//! The daemon's pass over the connection tables: it ends what is idle for too long, counts what is not, and finds removed
//! real servers that no entry refers to any more.
//!
//! Nobody waits for it: whoever needs a place takes one from a connection that is over or idle for too long. It makes the
//! numbers in `status` and `list` right, and gives real ids back.
//!
//! A pass is spread over many calls of `tend`. An entry may move to its other bucket meanwhile and be missed once, so a real id
//! counts as unused after two passes in a row that met no entry of it.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::conntrack::{ConnectionCounts, Conntrack, ExpiryClock, SweepResult};
use crate::{dataplane::plan::tables::TableChange, model};

/// How long one call may go on before it stops after the buckets at hand.
const LONGEST: Duration = Duration::from_millis(4);

/// Buckets swept between two looks at the time: even if all their connections end, that takes a millisecond or two.
const SLICE: usize = 1 << 10;

/// The longest pause between two passes.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The longest pause after a pass that had much to do.
const MAX_PAUSE_AFTER_WORK: Duration = Duration::from_secs(60);

/// A pause lasts this many times as long as the pass before it took of a CPU: passes take a hundredth of a CPU at most.
const PAUSE_PER_WORK: u32 = 100;

/// The pause after a pass that took `worked` of a CPU. A connection may stay that much longer than its timeout.
pub fn pause_after(timeouts: &model::Timeouts, worked: Duration) -> Duration {
    let model::Timeouts { tcp, tcp_fin, udp } = *timeouts;
    let pause = (tcp.min(tcp_fin).min(udp) / 8).min(MAX_PAUSE);
    pause.max((worked * PAUSE_PER_WORK).min(MAX_PAUSE_AFTER_WORK))
}

/// A pass under way.
#[derive(Debug)]
pub struct Sweep {
    /// The next bucket: of IPv4's, then of IPv6's.
    next: usize,
    met: SweepResult,
    /// Real ids that were removed when this pass began.
    removed: HashSet<u32>,
    /// How much of a CPU it took.
    worked: Duration,
}

/// What a whole pass has shown.
#[derive(Debug)]
pub struct SweepOutcome {
    /// Removed real ids that it met no entry of.
    pub unmet: HashSet<u32>,
    /// Connections that go on.
    pub count: ConnectionCounts,
    /// How much of a CPU it took.
    pub worked: Duration,
}

impl Sweep {
    /// A pass that begins now. `removed` are the real ids to look out for; no packet may be under way that chose one of them
    /// before it was removed.
    pub fn begin(removed: HashSet<u32>, reals: usize) -> Self {
        Self {
            next: 0,
            met: SweepResult::nothing(reals),
            removed,
            worked: Duration::ZERO,
        }
    }

    /// These changes are about to be made: a real id that is written may be chosen by packets whose entries lie where the
    /// pass has been, so it says nothing about it any more.
    pub fn about_to_change(&mut self, changes: &[TableChange]) {
        forget_changed(&mut self.removed, changes);
    }

    /// Goes on for a bounded time. `Some` when the pass has ended.
    pub fn step(&mut self, conntrack: &Conntrack, now: &ExpiryClock) -> Option<SweepOutcome> {
        let started = Instant::now();
        let (v4, v6) = (conntrack.v4.buckets(), conntrack.v6.buckets());
        while self.next < v4 + v6 {
            if started.elapsed() >= LONGEST {
                self.worked += started.elapsed();
                return None;
            }
            let met = &mut self.met;
            if let Some(next) = self.next.checked_sub(v4) {
                conntrack.sweep(&conntrack.v6, 1, next..next + SLICE, now, met);
                self.next += SLICE;
            } else {
                let end = (self.next + SLICE).min(v4);
                conntrack.sweep(&conntrack.v4, 0, self.next..end, now, met);
                self.next = end;
            }
        }
        self.worked += started.elapsed();
        let is_met = |id: &u32| self.met.reals.get(*id as usize).is_some_and(|is| *is);
        self.removed.retain(|id| !is_met(id));
        if self.met.ended > 0 {
            tracing::debug!(ended = self.met.ended, worked = ?self.worked, "connections were idle for too long");
        }
        Some(SweepOutcome {
            unmet: std::mem::take(&mut self.removed),
            count: std::mem::take(&mut self.met.count),
            worked: self.worked,
        })
    }
}

/// Takes real ids that are about to be written out of `ids`.
pub fn forget_changed(ids: &mut HashSet<u32>, changes: &[TableChange]) {
    for change in changes {
        if let TableChange::SetReal { id, real: _ } = change {
            ids.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::real_server::{RealServer, state};

    use super::*;

    #[test]
    fn a_real_id_that_is_written_during_the_pass_is_not_called_unused() {
        let mut sweep = Sweep::begin(HashSet::from([1, 2]), 8);
        // `add-real` in the middle of the pass, then `del-real`.
        for state in [state::TAKES_NEW, state::REMOVED] {
            let real = RealServer {
                state,
                ..RealServer::default()
            };
            sweep.about_to_change(&[
                TableChange::SetReal { id: 1, real },
                TableChange::WriteRing {
                    offset: 2,
                    reals: vec![2],
                },
            ]);
        }
        assert_eq!(sweep.removed, HashSet::from([2]));
    }

    #[test]
    fn passes_rest_for_a_part_of_the_shortest_timeout_and_longer_after_much_work() {
        let seconds = Duration::from_secs;
        let of = |tcp, tcp_fin, udp, worked| {
            let timeouts = model::Timeouts {
                tcp: seconds(tcp),
                tcp_fin: seconds(tcp_fin),
                udp: seconds(udp),
            };
            pause_after(&timeouts, Duration::from_millis(worked))
        };
        assert_eq!(of(900, 120, 300, 0), seconds(10));
        assert_eq!(of(900, 120, 300, 100), seconds(10));
        assert_eq!(of(900, 120, 8, 0), seconds(1));
        assert_eq!(of(2, 120, 8, 0), Duration::from_millis(250));
        assert_eq!(of(2, 120, 8, 50), seconds(5));
        assert_eq!(of(900, 120, 300, 400), seconds(40));
        assert_eq!(of(900, 120, 300, 4000), seconds(60));
    }
}
