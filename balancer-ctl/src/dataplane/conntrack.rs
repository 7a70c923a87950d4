//! The connections of both families, and the rules by which they are counted, expired and purged.

use std::{
    collections::HashMap,
    mem::size_of,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use aya::Pod;
use balancer_common::{
    addr::{Addr, Address},
    conntrack::{Bucket, REFRESH_JIFFIES, Timeouts, WAYS, Word, is_older},
    persistence::{RunningClient, Stickiness},
    real_server::RealServer,
    snat, tcp,
};

use super::{
    entry_filter::EntryFilter,
    loads::Loads,
    mapped_memory::MappedMemory,
    table::{EntrySlot, EntrySnapshot, EntryTable},
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
    /// The source addresses of connections with full NAT, by [`snat::index`].
    pub snat_addresses: MappedMemory<Addr>,
    /// Their loads.
    pub loads: Loads,
    /// Held while a connection is ended: one thread at a time does that.
    pub ends: Mutex<()>,
}

/// Numbers of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// By family: IPv4, IPv6.
    pub families: [u64; 2],
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
    /// Whether any connection has full NAT.
    pub has_full_nat: bool,
    /// The services whose clients keep their real servers and are to be renewed, by id.
    pub persistent: HashMap<u32, Stickiness>,
    /// Their clients that have a running connection, since this was emptied.
    pub running: Vec<RunningClient>,
}

impl SweepResult {
    /// No connections; `reals` is the number of real ids, `persistent` as in [`Self::persistent`].
    pub fn empty(reals: usize, persistent: HashMap<u32, Stickiness>) -> Self {
        Self {
            counts: ConnectionCounts::default(),
            referenced: vec![false; reals],
            expired: 0,
            has_full_nat: false,
            persistent,
            running: Vec::new(),
        }
    }
}

impl Conntrack {
    /// Counts all connections, including those that have expired and are not ended yet.
    pub fn count(&self) -> ConnectionCounts {
        ConnectionCounts {
            families: [count_family(&self.v4), count_family(&self.v6)],
        }
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
                if self.end_connection(table, &original, reply.as_ref()) {
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
        table.partner(one, &real, self.snat_address(one.entry.word))
    }

    /// The source address of a connection with full NAT.
    pub fn snat_address<A: Address>(&self, word: Word) -> A {
        let index = snat::index::<A>(word.snat_address());
        A::narrow(self.snat_addresses.read(index as usize).unwrap_or_default())
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
            result.has_full_nat |= word.is_full_nat();
            if word.is_original() {
                result.counts.families[family] += 1;
                if tcp::is_running(word.state()) && !result.persistent.is_empty() {
                    let client = self.running_client(slot, &result.persistent);
                    result.running.extend(client);
                }
            }
        }
    }

    /// The client of an original entry whose connection runs, if its service is among the `persistent` ones.
    fn running_client<A: Address>(
        &self,
        slot: EntrySlot<'_, A>,
        persistent: &HashMap<u32, Stickiness>,
    ) -> Option<RunningClient> {
        let entry = slot.read()?.entry;
        let real = self.reals.read(usize::from(entry.real))?;
        let row = persistent.get(&real.service)?;
        tcp::is_running(entry.word.state()).then(|| RunningClient {
            key: row.key(entry.source.widen()),
            server: real.address,
            is_udp: u32::from(entry.word.is_udp()),
            zero: 0,
        })
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
        Expiry::of(self.end_connection(table, one, other.as_ref()))
    }
}

impl Conntrack {
    /// Ends the connection of an original entry, unless the entry changed since it was read; returns whether it did.
    /// `reply` is its reply entry, looked up before: afterwards the same key may belong to another connection.
    pub fn end_connection<A: Address>(
        &self,
        table: &EntryTable<A>,
        original: &EntrySnapshot<'_, A>,
        reply: Option<&EntrySnapshot<'_, A>>,
    ) -> bool
    where
        Bucket<A>: Pod,
    {
        let (slot, word) = (original.slot, original.entry.word);
        let real = u32::from(original.entry.real);
        let family = u32::from(size_of::<A>() != size_of::<u32>());
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let place = [family, table.number(slot)];
        let exchange = |old, new| slot.compare_exchange(old, new);
        let is_mine = self.loads.end(place, word, real, exchange);
        drop(ends);
        if let Some(reply) = reply.filter(|_| is_mine) {
            reply.free();
        }
        is_mine
    }

    /// Finishes the end of the connection at which an earlier daemon was killed.
    pub fn finish_ending(&self) {
        self.loads.finish(|[family, place], old, new| match family {
            0 => exchange(&self.v4, place, old, new),
            _ => exchange(&self.v6, place, old, new),
        });
    }
}

/// Replaces the word of the entry with this number, if it is `old`; returns whether it did.
fn exchange<A: Address>(table: &EntryTable<A>, number: u32, old: Word, new: Word) -> bool
where
    Bucket<A>: Pod,
{
    let slot = table.slot(number);
    slot.is_some_and(|slot| slot.compare_exchange(old, new))
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

fn count_family<A: Address>(table: &EntryTable<A>) -> u64
where
    Bucket<A>: Pod,
{
    let words = table.slots(0..table.buckets()).map(|slot| slot.word());
    words
        .filter(|word| word.is_used() && word.is_original())
        .count() as u64
}

#[cfg(test)]
mod tests;
