//! The connections of both families, and the rules by which they are counted, expired and purged.

use std::ops::Range;

use aya::Pod;
use balancer_common::{
    addr::Address,
    conntrack::{Bucket, REFRESH_JIFFIES, Timeouts, WAYS, is_older},
    real_server::RealServer,
    tcp::State,
};

use super::{
    entry_filter::EntryFilter,
    mapped_memory::MappedMemory,
    table::{EntrySnapshot, EntryTable},
};

/// Jiffies beyond its timeout after which the daemon ends an idle connection: by then a packet that reached the packet
/// program just in time has refreshed it.
const EXPIRY_SLACK: u32 = 2 * REFRESH_JIFFIES;

/// The connection tables, and the real servers that their entries refer to.
#[derive(Debug)]
pub struct Conntrack {
    /// IPv4.
    pub v4: EntryTable<u32>,
    /// IPv6.
    pub v6: EntryTable<[u32; 4]>,
    /// Real servers by real id.
    pub reals: MappedMemory<RealServer>,
}

/// Numbers of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// By family: IPv4, IPv6.
    pub families: [u64; 2],
    /// By real id: `[active, inactive]`.
    pub reals: Vec<[u64; 2]>,
}

/// The time and the timeouts by which connections expire.
#[derive(Clone, Copy, Debug)]
pub struct ExpiryClock {
    /// The present time: the low 32 bits of jiffies.
    pub jiffies: u32,
    /// Idle timeouts in jiffies.
    pub timeouts: Timeouts,
}

impl ExpiryClock {
    /// Whether a direction of a connection in `state` has exceeded its idle timeout; `last_seen` is in jiffies.
    fn is_idle(&self, state: u8, last_seen: u32) -> bool {
        let timeout = self.timeouts.of(state).saturating_add(EXPIRY_SLACK);
        is_older(self.jiffies, last_seen, timeout)
    }
}

/// What a sweep found so far.
#[derive(Debug)]
pub struct SweepResult {
    /// Connections that did not expire.
    pub counts: ConnectionCounts,
    /// By real id, whether any entry refers to it.
    pub referenced: Vec<bool>,
    /// Connections that the sweep ended.
    pub expired: u64,
}

impl SweepResult {
    /// No connections; `reals` is the number of real ids.
    pub fn empty(reals: usize) -> Self {
        Self {
            counts: ConnectionCounts {
                families: [0; 2],
                reals: vec![[0; 2]; reals],
            },
            referenced: vec![false; reals],
            expired: 0,
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
    /// Counts all connections, including those that have expired and are not ended yet.
    pub fn count(&self) -> ConnectionCounts {
        let mut count = SweepResult::empty(self.reals.count()).counts;
        count_family(&self.v4, 0, &mut count);
        count_family(&self.v6, 1, &mut count);
        count
    }

    /// Number of entries that both tables can hold.
    pub const fn capacity(&self) -> usize {
        WAYS * (self.v4.buckets() + self.v6.buckets())
    }

    /// Ends all connections that match the filter of their family. Returns how many.
    pub fn purge(&self, v4: Option<&EntryFilter<u32>>, v6: Option<&EntryFilter<[u32; 4]>>) -> u64 {
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

    fn purge_family<A: Address>(&self, table: &EntryTable<A>, wanted: &EntryFilter<A>) -> u64
    where
        Bucket<A>: Pod,
    {
        let mut purged = 0;
        for slot in table.slots(0..table.buckets()) {
            if !slot.word().is_original() {
                continue;
            }
            let mut found = slot.read().filter(|found| wanted.matches(&found.entry));
            while let Some(original) = found {
                let reply = self.partner(table, &original);
                if end_connection(&original, reply.as_ref()) {
                    purged += 1;
                    break;
                }
                // Its state changed meanwhile, or it is gone.
                found = original.reread();
            }
        }
        purged
    }

    /// The other entry of a connection.
    pub fn partner<'a, A: Address>(
        &self,
        table: &'a EntryTable<A>,
        one: &EntrySnapshot<'_, A>,
    ) -> Option<EntrySnapshot<'a, A>>
    where
        Bucket<A>: Pod,
    {
        let real = self.reals.read(usize::from(one.entry.real))?;
        let server = if one.entry.word.is_original() {
            real.address
        } else {
            real.vip
        };
        table.partner(one, A::narrow(server))
    }

    /// Ends the expired connections in these buckets of a family's table, and counts the others in `result`.
    pub fn sweep<A: Address>(
        &self,
        table: &EntryTable<A>,
        family: usize,
        buckets: Range<usize>,
        now: &ExpiryClock,
        result: &mut SweepResult,
    ) where
        Bucket<A>: Pod,
    {
        for slot in table.slots(buckets) {
            let word = slot.word();
            if !word.is_used() {
                continue;
            }
            let (real, last_seen) = (slot.real(), slot.last_seen());
            if now.is_idle(word.state(), last_seen)
                && let Some(found) = slot.read()
            {
                match self.expire(table, &found, now) {
                    Expiry::Expired => {
                        result.expired += u64::from(word.is_original());
                        continue;
                    }
                    Expiry::LeftToOriginal => continue,
                    Expiry::Alive => {}
                }
            }
            if let Some(is_referenced) = result.referenced.get_mut(usize::from(real)) {
                *is_referenced = true;
            }
            if word.is_original() {
                result.counts.add(family, real, word.state());
            }
        }
    }

    /// Ends the connection of an entry that seems to have expired, if its other direction has, too.
    fn expire<A: Address>(
        &self,
        table: &EntryTable<A>,
        one: &EntrySnapshot<'_, A>,
        now: &ExpiryClock,
    ) -> Expiry
    where
        Bucket<A>: Pod,
    {
        let entry = &one.entry;
        let state = entry.word.state();
        if !now.is_idle(state, entry.last_seen) {
            return Expiry::Alive;
        }
        let other = self.partner(table, one);
        if !entry.word.is_original() {
            if other.is_some() {
                return Expiry::LeftToOriginal;
            }
            // Only who takes an orphan's slot changes its word.
            return Expiry::of(one.slot.compare_exchange(entry.word, entry.word.freed()));
        }
        let is_heard = |reply: &EntrySnapshot<'_, A>| !now.is_idle(state, reply.entry.last_seen);
        if other.as_ref().is_some_and(is_heard) {
            return Expiry::Alive;
        }
        Expiry::of(end_connection(one, other.as_ref()))
    }
}

/// What happened to an entry that seemed to have expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    /// Its slot is free.
    Expired,
    /// It stays: its connection is not idle, or changed meanwhile.
    Alive,
    /// It is a reply entry: its fate is decided at the original entry.
    LeftToOriginal,
}

impl Expiry {
    const fn of(is_ended: bool) -> Self {
        if is_ended { Self::Expired } else { Self::Alive }
    }
}

/// Ends the connection of an original entry, unless the entry changed since it was read; returns whether it did.
/// `reply` is its reply entry, looked up before: afterwards the same key may belong to another connection.
fn end_connection<A: Address>(
    original: &EntrySnapshot<'_, A>,
    reply: Option<&EntrySnapshot<'_, A>>,
) -> bool {
    let word = original.entry.word;
    if !original.slot.compare_exchange(word, word.freed()) {
        return false;
    }
    if let Some(reply) = reply {
        reply.free();
    }
    true
}

fn count_family<A: Address>(table: &EntryTable<A>, family: usize, count: &mut ConnectionCounts)
where
    Bucket<A>: Pod,
{
    for slot in table.slots(0..table.buckets()) {
        let word = slot.word();
        if word.is_used() && word.is_original() {
            count.add(family, slot.real(), word.state());
        }
    }
}

#[cfg(test)]
mod tests;
