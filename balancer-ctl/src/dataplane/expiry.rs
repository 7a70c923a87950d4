//! Expiry: the daemon's walk through the connection tables.
//!
//! A connection is a pair of rows. It goes when *both* directions have been idle for longer than their timeout, both rows in one
//! go. A row whose other half is missing (the daemon or the machine died in between) goes when it is idle. The
//! packet program ignores idle pairs by itself, so a dead daemon costs room, not correctness.
//!
//! The walk is spread over many calls of `tend`; between two of them only the kernel's cursor is kept.

use std::{
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use aya::Pod;
use balancer_common::{
    addr::Address,
    conntrack::{ConntrackEntry, FlowKey, Timeouts, direction},
    settings::{Settings, Usage},
};

use super::{
    census::{self, Census, partner},
    maps::Maps,
    settings::SettingsRow,
    table::{Table, Walk},
};
use crate::{model, plan::tables::Change};

/// How long one call may go on before it stops after the chunk of rows at hand.
const LONGEST: Duration = Duration::from_millis(4);

/// Rows read at a time: few enough that even if all of them are idle, their deletion takes only some milliseconds.
const SLICE: u32 = 1 << 10;

/// The longest rest between two walks.
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Connections deleted between two updates of their number. A connection that begins under an old tuple right
/// between look and deletion would be lost; few at a time keep that moment below a millisecond.
const PAIRS_AT_ONCE: usize = 64;

/// How long to rest between two walks: a connection may stay for so much longer than its timeout. A walk through a large table
/// costs a CPU its time, and the daemon answers nobody meanwhile.
pub fn rest(timeouts: &model::Timeouts) -> Duration {
    let model::Timeouts { tcp, tcp_fin, udp } = *timeouts;
    (tcp.min(tcp_fin).min(udp) / 8).min(LONGEST_REST)
}

/// Where the walk stands.
#[derive(Debug)]
pub struct Expiry {
    v4: Walk<FlowKey<u32>, ConntrackEntry<u32>>,
    v6: Walk<FlowKey<[u32; 4]>, ConntrackEntry<[u32; 4]>>,
    /// Counters when this walk began.
    began: (Usage, Settings),
    /// Connections met so far, those deleted by this walk not counted.
    found: u64,
    /// The same by real id.
    census: Census,
    /// Real ids that were removed when this walk began, and that it has not met.
    candidates: HashSet<u32>,
}

/// What a whole walk has shown.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Removed real ids that no connection refers to.
    pub unused: Vec<u32>,
    /// Connections by real id.
    pub census: Census,
}

impl Expiry {
    /// A walk that begins now. `removed` are the real ids to look out for; no packet may be under way that chose one of
    /// them before it was removed.
    pub fn begin(
        maps: &Maps,
        settings: &SettingsRow,
        removed: HashSet<u32>,
        reals: usize,
        now: u32,
    ) -> io::Result<Self> {
        let mut candidates = removed;
        let present = settings.get();
        let usage = maps.usage.get(&0)?.unwrap_or_default();
        // Before the tables: a handshake that completes meanwhile was seen here.
        forget_half_open(maps, &mut candidates, now, &present.timeouts)?;
        Ok(Self {
            v4: Walk::new(SLICE),
            v6: Walk::new(SLICE),
            began: (usage, present),
            found: 0,
            census: vec![[0; 2]; reals],
            candidates,
        })
    }

    /// These changes are about to be made: a real id that is written may be chosen by packets whose connections lie
    /// where the walk has been, so this walk says nothing about it any more.
    pub fn about_to_change(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::SetReal { id, .. } = change {
                self.candidates.remove(id);
            }
        }
    }

    /// Goes on for a bounded time. `Some` when the walk has ended.
    pub fn step(
        &mut self,
        maps: &Maps,
        settings: &SettingsRow,
        now: u32,
    ) -> io::Result<Option<Outcome>> {
        let started = Instant::now();
        while started.elapsed() < LONGEST {
            let timeouts = settings.get().timeouts;
            let mut sweep = Sweep {
                settings,
                found: &mut self.found,
                census: &mut self.census,
                candidates: &mut self.candidates,
                now,
                timeouts,
            };
            if !self.v4.is_over() {
                sweep.chunk(&maps.conntrack_v4, &mut self.v4)?;
            } else if !self.v6.is_over() {
                sweep.chunk(&maps.conntrack_v6, &mut self.v6)?;
            } else {
                return self.end(maps, settings, now).map(Some);
            }
        }
        Ok(None)
    }

    fn end(&mut self, maps: &Maps, settings: &SettingsRow, now: u32) -> io::Result<Outcome> {
        let timeouts = settings.get().timeouts;
        forget_half_open(maps, &mut self.candidates, now, &timeouts)?;
        let usage = maps.usage.get(&0)?.unwrap_or_default();
        let present = settings.get();
        let correction = correction(self.found, self.began, (usage, present));
        if correction != 0 {
            tracing::debug!(correction, "number of connections corrected");
            settings.update(|settings| {
                settings.removed_by_daemon =
                    settings.removed_by_daemon.wrapping_add_signed(correction);
            })?;
        }
        Ok(Outcome {
            unused: self.candidates.drain().collect(),
            census: std::mem::take(&mut self.census),
        })
    }
}

/// Takes real ids out of `candidates` that handshakes refer to.
fn forget_half_open(
    maps: &Maps,
    candidates: &mut HashSet<u32>,
    now: u32,
    timeouts: &Timeouts,
) -> io::Result<()> {
    if candidates.is_empty() {
        return Ok(());
    }
    census::half_open(maps, now, timeouts, |record| {
        candidates.remove(&record.real_id);
    })
}

/// By how much `removed_by_daemon` is wrong, after a walk between two readings of the counters that met `found`
/// connections and left them. After a clean life it is not; a daemon killed between deleting and counting leaves a difference.
///
/// While packets flow the walk may miss what was added and meet what was removed meanwhile, so only a difference
/// beyond that is certain.
fn correction(found: u64, began: (Usage, Settings), ended: (Usage, Settings)) -> i64 {
    let added = ended.0.added.wrapping_sub(began.0.added) as i64;
    let removed = ended.0.removed.wrapping_sub(began.0.removed) as i64;
    let counted = ended
        .0
        .added
        .wrapping_sub(ended.0.removed)
        .wrapping_sub(ended.1.removed_by_daemon) as i64;
    let least = found as i64 - removed;
    let most = found as i64 + added;
    counted - counted.clamp(least, most)
}

/// One chunk of rows under the broom.
struct Sweep<'a> {
    settings: &'a SettingsRow,
    found: &'a mut u64,
    census: &'a mut Census,
    candidates: &'a mut HashSet<u32>,
    now: u32,
    timeouts: Timeouts,
}

impl Sweep<'_> {
    fn chunk<A>(
        &mut self,
        table: &Table<FlowKey<A>, ConntrackEntry<A>>,
        walk: &mut Walk<FlowKey<A>, ConntrackEntry<A>>,
    ) -> io::Result<()>
    where
        A: Address,
        FlowKey<A>: Pod,
        ConntrackEntry<A>: Pod,
    {
        let mut idle = Vec::new();
        if let Some(batch) = walk.next(table)? {
            for (key, row) in batch {
                if row.is_expired(self.now, &self.timeouts) {
                    idle.push((key, row));
                } else {
                    self.keep(&row);
                }
            }
        }
        for rows in idle.chunks(PAIRS_AT_ONCE) {
            let mut removed = 0;
            for (key, row) in rows {
                match partner(table, key, row)? {
                    Some(other) if !other.is_expired(self.now, &self.timeouts) => self.keep(row),
                    Some(_) => removed += u64::from(delete_pair(table, key, row)?),
                    None => removed += u64::from(delete_orphan(table, key, row)?),
                }
            }
            if removed > 0 {
                self.settings.update(|settings| {
                    settings.removed_by_daemon = settings.removed_by_daemon.wrapping_add(removed);
                })?;
            }
        }
        Ok(())
    }

    fn keep<A>(&mut self, row: &ConntrackEntry<A>) {
        if row.direction == direction::ORIGINAL {
            *self.found += 1;
            census::count_row(self.census, row);
        }
        self.candidates.remove(&row.real);
    }
}

/// Deletes both rows of a connection. Returns whether this call deleted the original one: whoever does counts the
/// connection as gone.
pub fn delete_pair<A>(
    table: &Table<FlowKey<A>, ConntrackEntry<A>>,
    key: &FlowKey<A>,
    row: &ConntrackEntry<A>,
) -> io::Result<bool>
where
    A: Address,
    FlowKey<A>: Pod,
    ConntrackEntry<A>: Pod,
{
    let mut other = *key;
    row.translation.reply_key(key.protocol, &mut other);
    let this = table.delete(key)?;
    let that = table.delete(&other)?;
    Ok(if row.direction == direction::ORIGINAL {
        this
    } else {
        that
    })
}

/// Deletes a row whose other half is missing, or is another connection's.
fn delete_orphan<A>(
    table: &Table<FlowKey<A>, ConntrackEntry<A>>,
    key: &FlowKey<A>,
    row: &ConntrackEntry<A>,
) -> io::Result<bool>
where
    A: Address,
    FlowKey<A>: Pod,
    ConntrackEntry<A>: Pod,
{
    Ok(table.delete(key)? && row.direction == direction::ORIGINAL)
}

#[cfg(test)]
mod tests {
    use balancer_common::real_server::{RealServer, state};

    use super::*;

    const fn reading(added: u64, removed: u64, by_daemon: u64) -> (Usage, Settings) {
        let timeouts = Timeouts {
            established: 1,
            closing: 1,
            udp: 1,
            udp_unreplied: 1,
            half_open: 1,
        };
        let settings = Settings {
            any_port: 0,
            timeouts,
            max_connections: 0,
            removed_by_daemon: by_daemon,
            seed: 0,
        };
        (Usage { added, removed }, settings)
    }

    #[test]
    fn a_real_id_that_is_written_during_the_walk_is_not_called_unused() {
        let mut expiry = Expiry {
            v4: Walk::new(1),
            v6: Walk::new(1),
            began: reading(0, 0, 0),
            found: 0,
            census: Vec::new(),
            candidates: HashSet::from([1, 2]),
        };
        // `add-real` in the middle of the walk, then `del-real`.
        for state in [state::TAKES_NEW, state::REMOVED] {
            let real = RealServer {
                state,
                ..RealServer::default()
            };
            expiry.about_to_change(&[
                Change::SetReal { id: 1, real },
                Change::WriteRing {
                    offset: 2,
                    reals: vec![2],
                },
            ]);
        }
        assert_eq!(expiry.candidates, HashSet::from([2]));
    }

    #[test]
    fn walks_rest_for_a_part_of_the_shortest_timeout() {
        let seconds = Duration::from_secs;
        let of = |tcp, tcp_fin, udp| {
            rest(&model::Timeouts {
                tcp: seconds(tcp),
                tcp_fin: seconds(tcp_fin),
                udp: seconds(udp),
            })
        };
        assert_eq!(of(900, 120, 300), seconds(10));
        assert_eq!(of(900, 120, 8), seconds(1));
        assert_eq!(of(2, 120, 8), Duration::from_millis(250));
    }

    #[test]
    fn a_number_that_is_right_is_left_alone() {
        assert_eq!(correction(7, reading(10, 1, 2), reading(10, 1, 2)), 0);
        // The walk itself removed three.
        assert_eq!(correction(4, reading(10, 1, 2), reading(10, 1, 5)), 0);
    }

    #[test]
    fn connections_deleted_but_not_counted_are_counted_now() {
        assert_eq!(correction(5, reading(10, 1, 2), reading(10, 1, 2)), 2);
        assert_eq!(correction(9, reading(10, 1, 2), reading(10, 1, 2)), -2);
    }

    #[test]
    fn what_traffic_explains_is_no_error() {
        // Twenty were added and four removed while the walk met 7..=27.
        let (began, ended) = (reading(10, 1, 2), reading(30, 5, 2));
        for found in 3..=27 {
            assert_eq!(correction(found, began, ended), 0, "{found}");
        }
        assert_eq!(correction(2, began, ended), 1);
        assert_eq!(correction(28, began, ended), -1);
    }
}
