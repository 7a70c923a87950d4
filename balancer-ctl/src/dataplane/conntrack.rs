//! The connections of both families: counted, ended, listed, with what their real servers say of them.

use std::ops::Range;

use aya::Pod;
use balancer_common::{
    addr::Address,
    conntrack::{Bucket, REFRESH_JIFFIES, Timeouts, WAYS, is_older},
    real_server::RealServer,
    tcp::State,
};

use super::{
    list::Wanted,
    memory::Memory,
    table::{Found, Table},
};

/// How much longer than its timeout a connection is idle when the daemon ends it: a packet that began its way through the
/// packet program just in time has ended it by then.
const SLACK: u32 = 2 * REFRESH_JIFFIES;

/// The connection tables, and the real servers that their entries name.
#[derive(Debug)]
pub struct Conntrack {
    /// IPv4.
    pub v4: Table<u32>,
    /// IPv6.
    pub v6: Table<[u32; 4]>,
    /// Real servers by real id.
    pub reals: Memory<RealServer>,
}

/// How many connections there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// By family: IPv4, IPv6.
    pub families: [u64; 2],
    /// By real id: `[active, inactive]`.
    pub reals: Vec<[u64; 2]>,
}

/// When connections count as expired.
#[derive(Clone, Copy, Debug)]
pub struct ExpiryClock {
    /// The packet program's clock.
    pub jiffies: u32,
    /// Idle timeouts.
    pub timeouts: Timeouts,
}

impl ExpiryClock {
    /// Whether a direction of a connection in `state` is idle for too long.
    fn is_idle(&self, state: u8, last_seen: u32) -> bool {
        let timeout = self.timeouts.of(state).saturating_add(SLACK);
        is_older(self.jiffies, last_seen, timeout)
    }
}

/// What a sweep has met.
#[derive(Debug)]
pub struct SweepResult {
    /// Connections that go on.
    pub count: ConnectionCounts,
    /// By real id, whether any entry refers to it.
    pub reals: Vec<bool>,
    /// Connections that were ended.
    pub ended: u64,
}

impl SweepResult {
    /// Nothing yet; of so many real ids.
    pub fn nothing(reals: usize) -> Self {
        Self {
            count: ConnectionCounts {
                families: [0; 2],
                reals: vec![[0; 2]; reals],
            },
            reals: vec![false; reals],
            ended: 0,
        }
    }
}

impl ConnectionCounts {
    fn add(&mut self, family: usize, real: u16, state: u8) {
        self.families[family] += 1;
        if let Some(counts) = self.reals.get_mut(usize::from(real)) {
            counts[usize::from(state != State::Established as u8)] += 1;
        }
    }
}

impl Conntrack {
    /// Counts all connections, those that are idle for too long and not ended yet among them.
    pub fn count(&self) -> ConnectionCounts {
        let mut count = SweepResult::nothing(self.reals.count()).count;
        count_family(&self.v4, 0, &mut count);
        count_family(&self.v6, 1, &mut count);
        count
    }

    /// Number of places in both tables.
    pub const fn places(&self) -> usize {
        WAYS * (self.v4.buckets() + self.v6.buckets())
    }

    /// Ends all connections that are wanted, of either family. How many.
    pub fn purge(&self, v4: Option<&Wanted<u32>>, v6: Option<&Wanted<[u32; 4]>>) -> u64 {
        let pass = || {
            let v4 = v4.map_or(0, |wanted| self.purge_family(&self.v4, wanted));
            let v6 = v6.map_or(0, |wanted| self.purge_family(&self.v6, wanted));
            v4 + v6
        };
        let mut all = 0;
        loop {
            // An entry that moved meanwhile may have been missed.
            let purged = pass();
            all += purged;
            if purged == 0 {
                return all;
            }
        }
    }

    fn purge_family<A: Address>(&self, table: &Table<A>, wanted: &Wanted<A>) -> u64
    where
        Bucket<A>: Pod,
    {
        let mut purged = 0;
        for place in table.places(0..table.buckets()) {
            if !place.word().is_original() {
                continue;
            }
            let mut found = place.read().filter(|found| wanted.matches(&found.entry));
            while let Some(original) = found {
                let reply = self.other(table, &original);
                if take_back(&original, reply.as_ref()) {
                    purged += 1;
                    break;
                }
                // It is in another state now, or is gone.
                found = original.again();
            }
        }
        purged
    }

    /// The other entry of a connection.
    pub fn other<'a, A: Address>(
        &self,
        table: &'a Table<A>,
        one: &Found<'_, A>,
    ) -> Option<Found<'a, A>>
    where
        Bucket<A>: Pod,
    {
        let real = self.reals.read(usize::from(one.entry.real))?;
        let server = if one.entry.word.is_original() {
            real.address
        } else {
            real.vip
        };
        table.other(one, A::narrow(server))
    }

    /// Ends what is idle for too long in these buckets of a family's table, and notes what is not.
    pub fn sweep<A: Address>(
        &self,
        table: &Table<A>,
        family: usize,
        buckets: Range<usize>,
        now: &ExpiryClock,
        met: &mut SweepResult,
    ) where
        Bucket<A>: Pod,
    {
        for place in table.places(buckets) {
            let word = place.word();
            if !word.is_used() {
                continue;
            }
            let (real, last_seen) = (place.real(), place.last_seen());
            if now.is_idle(word.state(), last_seen)
                && let Some(found) = place.read()
            {
                match self.expire(table, &found, now) {
                    Fate::Ended => {
                        met.ended += u64::from(word.is_original());
                        continue;
                    }
                    Fate::Partners => continue,
                    Fate::Lives => {}
                }
            }
            if let Some(is_met) = met.reals.get_mut(usize::from(real)) {
                *is_met = true;
            }
            if word.is_original() {
                met.count.add(family, real, word.state());
            }
        }
    }

    /// Ends the connection of an entry that seems idle for too long, if its other direction is, too.
    fn expire<A: Address>(&self, table: &Table<A>, one: &Found<'_, A>, now: &ExpiryClock) -> Fate
    where
        Bucket<A>: Pod,
    {
        let entry = &one.entry;
        let state = entry.word.state();
        if !now.is_idle(state, entry.last_seen) {
            return Fate::Lives;
        }
        let other = self.other(table, one);
        if !entry.word.is_original() {
            if other.is_some() {
                return Fate::Partners;
            }
            // Nobody else changes the word of an orphan but who takes it.
            return Fate::of(one.place.change(entry.word, entry.word.freed()));
        }
        let is_heard = |reply: &Found<'_, A>| !now.is_idle(state, reply.entry.last_seen);
        if other.as_ref().is_some_and(is_heard) {
            return Fate::Lives;
        }
        Fate::of(take_back(one, other.as_ref()))
    }
}

/// What becomes of an entry that is idle for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its place is free.
    Ended,
    /// It stays.
    Lives,
    /// That of its original entry.
    Partners,
}

impl Fate {
    const fn of(is_ended: bool) -> Self {
        if is_ended { Self::Ended } else { Self::Lives }
    }
}

/// Ends the connection of an original entry, unless it was changed since it was read. Whether this call did. `reply`
/// is its reply entry, found before: afterwards the same key may be another connection's.
fn take_back<A: Address>(original: &Found<'_, A>, reply: Option<&Found<'_, A>>) -> bool {
    let word = original.entry.word;
    if !original.place.change(word, word.freed()) {
        return false;
    }
    if let Some(reply) = reply {
        reply.free();
    }
    true
}

fn count_family<A: Address>(table: &Table<A>, family: usize, count: &mut ConnectionCounts)
where
    Bucket<A>: Pod,
{
    for place in table.places(0..table.buckets()) {
        let word = place.word();
        if word.is_used() && word.is_original() {
            count.add(family, place.real(), word.state());
        }
    }
}

#[cfg(test)]
mod tests;
