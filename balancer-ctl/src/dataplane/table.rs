//! One family's connection table, mapped into memory: entries are read, looked up and freed without a system call,
//! while the packet program does the same. The rules are those of [`balancer_common::conntrack`]; the daemon takes no
//! lock and changes nothing but words, by compare-exchange.

use std::{
    marker::PhantomData,
    mem::{MaybeUninit, offset_of, size_of},
    ops::Range,
    sync::atomic::{AtomicU16, AtomicU32, Ordering, fence},
};

use aya::Pod;
use balancer_common::{
    addr::Address,
    conntrack::{Bucket, ConntrackEntry, FlowKey, Ports, WAYS, Word},
    flow_hash::{Seed, buckets_of},
    real_server::RealServer,
};

use super::mapped_memory::MappedMemory;

/// The connection table of one address family.
#[derive(Debug)]
pub struct EntryTable<A: Address>
where
    Bucket<A>: Pod,
{
    buckets: MappedMemory<Bucket<A>>,
    seed: Seed,
}

/// A slot for an entry in a bucket.
#[derive(Debug)]
pub struct EntrySlot<'a, A: Address> {
    entry: *mut ConntrackEntry<A>,
    table: PhantomData<&'a ()>,
}

impl<A: Address> Clone for EntrySlot<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: Address> Copy for EntrySlot<'_, A> {}

/// A consistent copy of an entry.
#[derive(Clone, Copy, Debug)]
pub struct EntrySnapshot<'a, A: Address> {
    /// Where it was read.
    pub slot: EntrySlot<'a, A>,
    /// The copy.
    pub entry: ConntrackEntry<A>,
}

impl<A: Address> EntryTable<A>
where
    Bucket<A>: Pod,
{
    /// A table whose entries are placed by a hash with `seed`.
    pub const fn new(buckets: MappedMemory<Bucket<A>>, seed: Seed) -> Self {
        Self { buckets, seed }
    }

    /// Number of buckets.
    pub const fn buckets(&self) -> usize {
        self.buckets.count()
    }

    /// Size of all buckets in bytes.
    pub const fn bytes(&self) -> u64 {
        self.buckets.bytes()
    }

    /// The slots of these buckets; indices beyond the last bucket are skipped.
    pub fn slots(&self, buckets: Range<usize>) -> impl Iterator<Item = EntrySlot<'_, A>> {
        buckets
            .map_while(|index| self.buckets.pointer(index))
            .flat_map(|bucket| {
                // SAFETY: the bucket is within the mapping, and so are its entries.
                let first = unsafe { &raw mut (*bucket).entries }.cast::<ConntrackEntry<A>>();
                (0..WAYS).map(move |way| EntrySlot {
                    // SAFETY: as above.
                    entry: unsafe { first.add(way) },
                    table: PhantomData,
                })
            })
    }

    /// The number of a slot, counted from the first entry.
    pub fn number(&self, slot: EntrySlot<'_, A>) -> u32 {
        let first = self.buckets.pointer(0).map_or(0, |bucket| bucket as usize);
        let offset = (slot.entry as usize).saturating_sub(first);
        u32::try_from(offset / size_of::<ConntrackEntry<A>>()).unwrap_or(u32::MAX)
    }

    /// The slot with a number.
    pub fn slot(&self, number: u32) -> Option<EntrySlot<'_, A>> {
        let bucket = number as usize / WAYS;
        self.slots(bucket..bucket + 1).nth(number as usize % WAYS)
    }

    /// The slots where a flow's entry may be: those of its two buckets.
    pub fn candidate_slots(
        &self,
        key: &FlowKey<A>,
    ) -> impl Iterator<Item = EntrySlot<'_, A>> + use<'_, A> {
        let buckets = u32::try_from(self.buckets()).unwrap_or(u32::MAX);
        let buckets = buckets_of(key, &self.seed, buckets);
        [buckets.first, buckets.second]
            .into_iter()
            .flat_map(|bucket| self.slots(bucket as usize..bucket as usize + 1))
    }

    /// The other entry of a connection, whose real server is `real`. `snat_address` stands in `SNAT_ADDRESSES` where the entry says; it has
    /// no meaning without full NAT.
    pub fn partner(
        &self,
        one: &EntrySnapshot<'_, A>,
        real: &RealServer,
        snat_address: A,
    ) -> Option<EntrySnapshot<'_, A>> {
        let word = one.entry.word;
        let key = one.entry.other_key(real, snat_address, word);
        // Twice: an entry that moves from its second bucket to its first during the look-up is missed once.
        (0..2).find_map(|_| {
            self.candidate_slots(&key).find_map(|slot| {
                let found = slot.read_if(|slot| slot.ports() == key.ports)?;
                let other = found.entry.word;
                let is_other = other.is_original() != word.is_original()
                    && found.entry.real == one.entry.real
                    && found.entry.key(other) == key;
                is_other.then_some(found)
            })
        })
    }
}

impl<'a, A: Address> EntrySlot<'a, A> {
    fn word_at(&self, offset: usize) -> &'a AtomicU32 {
        debug_assert!(offset.is_multiple_of(4) && offset + 4 <= size_of::<ConntrackEntry<A>>());
        // SAFETY: the offset is that of an aligned word of the entry, which lies within the table's mapping; everybody
        // changes it as a whole.
        unsafe { AtomicU32::from_ptr(self.entry.cast::<u32>().byte_add(offset)) }
    }

    /// The entry's word. Reads after this call see nothing older (acquire).
    pub fn word(&self) -> Word {
        let word = self.word_at(offset_of!(ConntrackEntry<A>, word));
        Word(word.load(Ordering::Acquire))
    }

    /// When the entry's last packet came, in jiffies. The slot may have changed hands since its word was read.
    pub fn last_seen(&self) -> u32 {
        self.word_at(offset_of!(ConntrackEntry<A>, last_seen))
            .load(Ordering::Relaxed)
    }

    /// The entry's real id. The slot may have changed hands since its word was read.
    pub fn real(&self) -> u16 {
        let offset = offset_of!(ConntrackEntry<A>, real);
        // SAFETY: as for words.
        let real = unsafe { AtomicU16::from_ptr(self.entry.cast::<u16>().byte_add(offset)) };
        real.load(Ordering::Relaxed)
    }

    fn ports(&self) -> Ports {
        let ports = self.word_at(offset_of!(ConntrackEntry<A>, ports));
        Ports(ports.load(Ordering::Relaxed))
    }

    /// Copies the entry; `None` if the slot is not in use, or changed hands while it was read.
    pub fn read(self) -> Option<EntrySnapshot<'a, A>> {
        self.read_if(|_| true)
    }

    /// As [`Self::read`], but only if `is_worth_it`, a cheap check, says so.
    fn read_if(self, is_worth_it: impl FnOnce(&Self) -> bool) -> Option<EntrySnapshot<'a, A>> {
        let word = self.word();
        if !word.is_used() || !is_worth_it(&self) {
            return None;
        }
        let mut entry = MaybeUninit::<ConntrackEntry<A>>::uninit();
        for offset in (0..size_of::<ConntrackEntry<A>>()).step_by(4) {
            let value = self.word_at(offset).load(Ordering::Relaxed);
            // SAFETY: within the entry, and aligned.
            unsafe {
                entry
                    .as_mut_ptr()
                    .cast::<u32>()
                    .byte_add(offset)
                    .write(value)
            };
        }
        fence(Ordering::Acquire);
        if !self.word().is_same_entry(word) {
            return None;
        }
        // SAFETY: every word was written, and every bit pattern is an entry.
        let mut entry = unsafe { entry.assume_init() };
        entry.word = word;
        Some(EntrySnapshot { slot: self, entry })
    }

    /// Replaces the word `old` by `new`; returns whether it did. A copy that may yet be undone stays as it is.
    pub fn compare_exchange(&self, old: Word, new: Word) -> bool {
        self.word_at(offset_of!(ConntrackEntry<A>, word))
            .compare_exchange(old.settled().0, new.0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}

#[cfg(test)]
impl<A: Address> EntrySlot<'_, A> {
    /// Writes all of an entry but its word, as the packet program does once it has taken the slot.
    pub fn write(&self, entry: &ConntrackEntry<A>) {
        for offset in (0..size_of::<ConntrackEntry<A>>()).step_by(4) {
            if offset != offset_of!(ConntrackEntry<A>, word) {
                // SAFETY: within the entry, and aligned.
                let value = unsafe { (&raw const *entry).cast::<u32>().byte_add(offset).read() };
                self.word_at(offset).store(value, Ordering::Relaxed);
            }
        }
    }

    /// Sets when the entry's last packet came, in jiffies.
    pub fn set_last_seen(&self, last_seen: u32) {
        self.word_at(offset_of!(ConntrackEntry<A>, last_seen))
            .store(last_seen, Ordering::Relaxed);
    }
}

impl<A: Address> EntrySnapshot<'_, A> {
    /// Frees the slot if it still holds this entry, in any state; returns whether it did.
    pub fn free(&self) -> bool {
        loop {
            let word = self.slot.word();
            if !word.is_used() || !word.is_same_entry(self.entry.word) {
                return false;
            }
            if self.slot.compare_exchange(word, word.freed()) {
                return true;
            }
        }
    }

    /// Reads the same entry again; `None` when the slot is free or another entry's.
    pub fn reread(&self) -> Option<Self> {
        let now = self.slot.read()?;
        now.entry.word.is_same_entry(self.entry.word).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::{addr::Addr, conntrack::TAKEN, direction};

    use super::*;

    const SEED: Seed = Seed {
        ports: [11, 12],
        addresses: [21, 22, 23, 24, 25, 26, 27, 28],
    };

    fn key(client: u32) -> FlowKey<u32> {
        FlowKey {
            source: client,
            destination: 9,
            ports: Ports::new(1, 2),
            protocol: 6,
        }
    }

    fn put(table: &EntryTable<u32>, key: FlowKey<u32>, direction: u8, real: u16) {
        let slot = table
            .candidate_slots(&key)
            .find(|slot| !slot.word().is_used())
            .unwrap();
        let free = slot.word();
        assert!(slot.compare_exchange(free, free.taken()));
        slot.write(&ConntrackEntry {
            source: key.source,
            destination: key.destination,
            ports: key.ports,
            real,
            port: 80,
            ..ConntrackEntry::default()
        });
        let word = Word::new(free.taken(), 3, direction, false);
        assert!(slot.compare_exchange(free.taken(), word));
    }

    #[test]
    fn the_two_entries_of_a_connection_find_each_other() {
        let table = EntryTable::<u32>::new(MappedMemory::anonymous(64).unwrap(), SEED);
        let real = 7;
        let row = RealServer {
            address: Addr::from_v4(real),
            ..RealServer::default()
        };
        put(&table, key(5), direction::ORIGINAL, 3);
        let reply = FlowKey {
            source: real,
            destination: 5,
            ports: Ports::new(80, 1),
            protocol: 6,
        };
        let original = table.slots(0..64).find_map(EntrySlot::read).unwrap();
        assert!(table.partner(&original, &row, 0).is_none());
        // Entries of another real server or of the same direction do not belong to this connection.
        put(&table, reply, direction::REPLY, 4);
        put(&table, reply, direction::ORIGINAL, 3);
        assert!(table.partner(&original, &row, 0).is_none());
        put(&table, reply, direction::REPLY, 3);
        let other = table.partner(&original, &row, 0).unwrap();
        assert_eq!(other.entry.key(other.entry.word), reply);
        assert_eq!(
            (other.entry.real, other.entry.word.direction()),
            (3, direction::REPLY)
        );
    }

    #[test]
    fn an_entry_that_is_being_written_or_changes_hands_is_not_read() {
        let table = EntryTable::<u32>::new(MappedMemory::anonymous(1).unwrap(), SEED);
        put(&table, key(1), direction::ORIGINAL, 0);
        let slot = table.slots(0..1).next().unwrap();
        let found = slot.read().unwrap();
        assert_eq!(found.entry.key(found.entry.word), key(1));
        // Another state is the same entry, another word than was read.
        let closing = found.entry.word.with_state(6);
        assert!(slot.compare_exchange(found.entry.word, closing));
        assert!(!slot.compare_exchange(found.entry.word, found.entry.word.freed()));
        assert_eq!(found.reread().unwrap().entry.word, closing);
        // A taken slot holds no entry until its word is written, and then another one.
        let taken = closing.taken();
        assert!(slot.compare_exchange(closing, taken));
        assert_eq!(taken.state(), TAKEN);
        assert!(slot.read().is_none() && found.reread().is_none() && !found.free());
        let next = Word::new(taken, 3, direction::ORIGINAL, false);
        assert!(slot.compare_exchange(taken, next));
        assert!(slot.read().is_some() && found.reread().is_none() && !found.free());
        let other = slot.read().unwrap();
        assert!(other.free() && !other.free());
        assert_eq!(slot.word(), next.freed());
    }
}
