//! One family's connection table as memory: entries are read, found and given back without a system call, while the
//! packet program does the same. The rules are those of [`balancer_common::conntrack`]; the daemon holds no lock and changes
//! nothing but words, by compare-exchange.

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
};

use super::memory::Memory;

/// The connection table of one address family.
#[derive(Debug)]
pub struct Table<A: Address>
where
    Bucket<A>: Pod,
{
    buckets: Memory<Bucket<A>>,
    seed: Seed,
}

/// A place for an entry.
#[derive(Debug)]
pub struct Place<'a, A: Address> {
    entry: *mut ConntrackEntry<A>,
    table: PhantomData<&'a ()>,
}

impl<A: Address> Clone for Place<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: Address> Copy for Place<'_, A> {}

/// An entry as it was read, all of it one entry's.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a, A: Address> {
    /// Where it stands.
    pub place: Place<'a, A>,
    /// What stands there.
    pub entry: ConntrackEntry<A>,
}

impl<A: Address> Table<A>
where
    Bucket<A>: Pod,
{
    /// A table in which entries lie where `seed` puts them.
    pub const fn new(buckets: Memory<Bucket<A>>, seed: Seed) -> Self {
        Self { buckets, seed }
    }

    /// Number of buckets.
    pub const fn buckets(&self) -> usize {
        self.buckets.count()
    }

    /// Their size in bytes.
    pub const fn bytes(&self) -> u64 {
        self.buckets.bytes()
    }

    /// The places of these buckets; of those that there are.
    pub fn places(&self, buckets: Range<usize>) -> impl Iterator<Item = Place<'_, A>> {
        buckets
            .map_while(|index| self.buckets.value(index))
            .flat_map(|bucket| {
                // SAFETY: the bucket is within the mapping, and so are its entries.
                let first = unsafe { &raw mut (*bucket).entries }.cast::<ConntrackEntry<A>>();
                (0..WAYS).map(move |way| Place {
                    // SAFETY: as above.
                    entry: unsafe { first.add(way) },
                    table: PhantomData,
                })
            })
    }

    /// The places where a flow's entry may be.
    pub fn places_of(&self, key: &FlowKey<A>) -> impl Iterator<Item = Place<'_, A>> + use<'_, A> {
        let buckets = u32::try_from(self.buckets()).unwrap_or(u32::MAX);
        let buckets = buckets_of(key, &self.seed, buckets);
        [buckets.first, buckets.second]
            .into_iter()
            .flat_map(|bucket| self.places(bucket as usize..bucket as usize + 1))
    }

    /// The other entry of a connection, whose server (the real server of an original entry, the VIP of a reply's) is
    /// `server`.
    pub fn other(&self, one: &Found<'_, A>, server: A) -> Option<Found<'_, A>> {
        let word = one.entry.word;
        let key = one.entry.other_key(server, word);
        // Twice: an entry that goes from its second bucket to its first between two looks is missed once.
        (0..2).find_map(|_| {
            self.places_of(&key).find_map(|place| {
                let found = place.read_if(|place| place.ports() == key.ports)?;
                let other = found.entry.word;
                let is_other = other.is_original() != word.is_original()
                    && found.entry.real == one.entry.real
                    && found.entry.key(other) == key;
                is_other.then_some(found)
            })
        })
    }
}

impl<'a, A: Address> Place<'a, A> {
    fn atomic(&self, offset: usize) -> &'a AtomicU32 {
        debug_assert!(offset.is_multiple_of(4) && offset + 4 <= size_of::<ConntrackEntry<A>>());
        // SAFETY: the offset is that of an aligned word of the entry, which lies within the table's mapping; everybody
        // changes it as a whole.
        unsafe { AtomicU32::from_ptr(self.entry.cast::<u32>().byte_add(offset)) }
    }

    /// The entry's word. What is read after it is no older.
    pub fn word(&self) -> Word {
        let word = self.atomic(offset_of!(ConntrackEntry<A>, word));
        Word(word.load(Ordering::Acquire))
    }

    /// When the entry's last packet came, whoever's the entry is now.
    pub fn last_seen(&self) -> u32 {
        self.atomic(offset_of!(ConntrackEntry<A>, last_seen))
            .load(Ordering::Relaxed)
    }

    /// The entry's real id, whoever's the entry is now.
    pub fn real(&self) -> u16 {
        let offset = offset_of!(ConntrackEntry<A>, real);
        // SAFETY: as for words.
        let real = unsafe { AtomicU16::from_ptr(self.entry.cast::<u16>().byte_add(offset)) };
        real.load(Ordering::Relaxed)
    }

    fn ports(&self) -> Ports {
        let ports = self.atomic(offset_of!(ConntrackEntry<A>, ports));
        Ports(ports.load(Ordering::Relaxed))
    }

    /// The entry, if there is one that packets may use, and it stays the same while it is read.
    pub fn read(self) -> Option<Found<'a, A>> {
        self.read_if(|_| true)
    }

    /// As [`Self::read`], if a first look says that it is worth it.
    fn read_if(self, is_worth_it: impl FnOnce(&Self) -> bool) -> Option<Found<'a, A>> {
        let word = self.word();
        if !word.is_used() || !is_worth_it(&self) {
            return None;
        }
        let mut entry = MaybeUninit::<ConntrackEntry<A>>::uninit();
        for offset in (0..size_of::<ConntrackEntry<A>>()).step_by(4) {
            let value = self.atomic(offset).load(Ordering::Relaxed);
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
        Some(Found { place: self, entry })
    }

    /// Brings the word from `old` to `new`; whether this call did.
    pub fn change(&self, old: Word, new: Word) -> bool {
        self.atomic(offset_of!(ConntrackEntry<A>, word))
            .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}

#[cfg(test)]
impl<A: Address> Place<'_, A> {
    /// Writes all of an entry but its word, as the packet program does once it has taken the place.
    pub fn write(&self, entry: &ConntrackEntry<A>) {
        for offset in (0..size_of::<ConntrackEntry<A>>()).step_by(4) {
            if offset != offset_of!(ConntrackEntry<A>, word) {
                // SAFETY: within the entry, and aligned.
                let value = unsafe { (&raw const *entry).cast::<u32>().byte_add(offset).read() };
                self.atomic(offset).store(value, Ordering::Relaxed);
            }
        }
    }

    /// As if the entry's last packet had come then.
    pub fn set_last_seen(&self, last_seen: u32) {
        self.atomic(offset_of!(ConntrackEntry<A>, last_seen))
            .store(last_seen, Ordering::Relaxed);
    }
}

impl<A: Address> Found<'_, A> {
    /// Frees the place, as long as it is this entry's, in whatever state. Whether this call did.
    pub fn free(&self) -> bool {
        loop {
            let word = self.place.word();
            if !word.is_used() || !word.is_same_entry(self.entry.word) {
                return false;
            }
            if self.place.change(word, word.freed()) {
                return true;
            }
        }
    }

    /// The same entry as it is now; none when the place is another's or nobody's.
    pub fn again(&self) -> Option<Self> {
        let now = self.place.read()?;
        now.entry.word.is_same_entry(self.entry.word).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::{conntrack::TAKEN, direction};

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

    fn put(table: &Table<u32>, key: FlowKey<u32>, direction: u8, real: u16) {
        let place = table
            .places_of(&key)
            .find(|place| !place.word().is_used())
            .unwrap();
        let free = place.word();
        assert!(place.change(free, free.taken()));
        place.write(&ConntrackEntry {
            source: key.source,
            destination: key.destination,
            ports: key.ports,
            real,
            port: 80,
            ..ConntrackEntry::default()
        });
        let word = Word::new(free.taken(), 3, direction, false);
        assert!(place.change(free.taken(), word));
    }

    #[test]
    fn the_two_entries_of_a_connection_find_each_other() {
        let table = Table::<u32>::new(Memory::anonymous(64).unwrap(), SEED);
        let real = 7;
        put(&table, key(5), direction::ORIGINAL, 3);
        let reply = FlowKey {
            source: real,
            destination: 5,
            ports: Ports::new(80, 1),
            protocol: 6,
        };
        let original = table.places(0..64).find_map(Place::read).unwrap();
        assert!(table.other(&original, real).is_none());
        // Of another real server, or the same direction: not this connection's.
        put(&table, reply, direction::REPLY, 4);
        put(&table, reply, direction::ORIGINAL, 3);
        assert!(table.other(&original, real).is_none());
        put(&table, reply, direction::REPLY, 3);
        let other = table.other(&original, real).unwrap();
        assert_eq!(other.entry.key(other.entry.word), reply);
        assert_eq!(
            (other.entry.real, other.entry.word.direction()),
            (3, direction::REPLY)
        );
    }

    #[test]
    fn an_entry_that_is_being_written_or_changes_hands_is_not_read() {
        let table = Table::<u32>::new(Memory::anonymous(1).unwrap(), SEED);
        put(&table, key(1), direction::ORIGINAL, 0);
        let place = table.places(0..1).next().unwrap();
        let found = place.read().unwrap();
        assert_eq!(found.entry.key(found.entry.word), key(1));
        // Another state is the same entry, another word than was read.
        let closing = found.entry.word.with_state(6);
        assert!(place.change(found.entry.word, closing));
        assert!(!place.change(found.entry.word, found.entry.word.freed()));
        assert_eq!(found.again().unwrap().entry.word, closing);
        // Taken: nobody's until its word is written, and then another's.
        let taken = closing.taken();
        assert!(place.change(closing, taken));
        assert_eq!(taken.state(), TAKEN);
        assert!(place.read().is_none() && found.again().is_none() && !found.free());
        let next = Word::new(taken, 3, direction::ORIGINAL, false);
        assert!(place.change(taken, next));
        assert!(place.read().is_some() && found.again().is_none() && !found.free());
        let other = place.read().unwrap();
        assert!(other.free() && !other.free());
        assert_eq!(place.word(), next.freed());
    }
}
