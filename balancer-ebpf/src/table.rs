//! The connection table: finding entries and reading them; `places` takes and frees them. The rules are those of
//! `balancer_common::conntrack`. Touches keys and maps only, never the packet.

use core::ptr;

use balancer_common::{
    addr::{Addr, Address},
    conntrack::{Bucket, ConntrackEntry, FlowKey, Ports, WAYS, Word, is_older},
    flow_hash::{first_bucket, hash, second_bucket},
    real_server::RealServer,
    settings::Settings,
};

use crate::{
    atomic,
    family::Family,
    maps::{REALS, snat_address},
    scratch::Scratch,
};

/// An entry of one family's connection table.
pub type Entry<A> = ConntrackEntry<A>;

/// A place in the table: its bucket's index times [`WAYS`], and the entry in it. A number, so that subprograms can return
/// it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place(pub u64);

impl Place {
    /// No place.
    pub const NONE: Self = Self(u64::MAX);

    #[inline(always)]
    pub const fn new(bucket: u32, way: usize) -> Self {
        Self(bucket as u64 * WAYS as u64 + way as u64)
    }

    /// Whether this is one.
    #[inline(always)]
    pub const fn is_some(self) -> bool {
        self.0 != Self::NONE.0
    }

    /// The entry there.
    #[inline(always)]
    pub fn entry<H: Family>(self) -> Option<*mut Entry<H::Address>> {
        if !self.is_some() {
            return None;
        }
        let bucket = H::table().get_ptr_mut((self.0 / WAYS as u64) as u32)?;
        // SAFETY: the map gave this pointer, and the way is below `WAYS`.
        Some(unsafe {
            (&raw mut (*bucket).entries)
                .cast::<Entry<H::Address>>()
                .add(self.0 as usize & (WAYS - 1))
        })
    }
}

/// The word of an entry, read now.
#[inline(always)]
pub fn word<A: Address>(entry: *const Entry<A>) -> Word {
    // SAFETY: callers pass entries of the table, which never move; other CPUs change words as a whole.
    unsafe { ptr::read_volatile(&raw const (*entry).word) }
}

/// Brings an entry's word from `old` to `new`; whether this call did. A copy that may yet be undone stays as it is.
#[inline(always)]
pub fn change<A: Address>(entry: *mut Entry<A>, old: Word, new: Word) -> bool {
    change_copy(entry, old.settled(), new)
}

/// As [`change`], for who has made the copy.
#[inline(always)]
pub fn change_copy<A: Address>(entry: *mut Entry<A>, old: Word, new: Word) -> bool {
    // SAFETY: as in `word`.
    atomic::exchange(unsafe { &raw mut (*entry).word }.cast(), old.0, new.0)
}

/// The way in a bucket whose entry has this key, or [`WAYS`], and the entry's word from before its fields were read.
#[inline(always)]
fn way<A: Address>(bucket: *const Bucket<A>, key: &FlowKey<A>) -> (usize, Word) {
    for way in 0..WAYS {
        // SAFETY: the map gave this pointer, and the way is below `WAYS`.
        let entry = unsafe { &raw const (*bucket).entries[way] };
        let word = word(entry);
        if has_key(entry, key) && word.is_used() && word.protocol() == key.protocol {
            return (way, word);
        }
    }
    (WAYS, Word(0))
}

/// Whether an entry has this key's addresses and ports.
#[inline(always)]
fn has_key<A: Address>(entry: *const Entry<A>, key: &FlowKey<A>) -> bool {
    // SAFETY: as in `word`; who uses what it read looks at the word again.
    let entry = unsafe { &*entry };
    let ports = entry.ports.0 ^ key.ports.0;
    ports | entry.source.difference(key.source) | entry.destination.difference(key.destination) == 0
}

/// Makes a way a number of which the verifier knows no more than that it is one: else it would follow the rest of the
/// program for each way anew.
#[inline(always)]
pub fn any_way(way: usize) -> usize {
    #[repr(align(8))]
    struct Bytes([u8; 8]);
    let mut bytes = Bytes([0; 8]);
    // Not the first byte, whose value the verifier would remember, nor zero, which it remembers as well.
    let byte = &raw mut bytes.0[3];
    // SAFETY: a local.
    unsafe {
        ptr::write_volatile(byte, way as u8 + 1);
        (ptr::read_volatile(byte) as usize).wrapping_sub(1) & (WAYS - 1)
    }
}

/// An entry that was found, and its word from before its fields were read: as long as it is the same entry's
/// ([`Word::is_same_entry`]), the fields are what was looked for.
#[derive(Clone, Copy)]
pub struct Found<A: Address> {
    /// The entry.
    pub entry: *mut Entry<A>,
    /// Its word.
    pub word: Word,
}

/// The entry of a flow. Inlined, for the packets that most depend on it.
#[inline(always)]
pub fn find<H: Family>(
    key: &FlowKey<H::Address>,
    settings: &Settings,
) -> Option<Found<H::Address>> {
    let hash = hash(key, &settings.seed);
    let buckets = settings.buckets[H::INDEX];
    let first = first_bucket(hash, buckets);
    let mut bucket = H::table().get_ptr_mut(first)?;
    let (mut at, mut word) = way(bucket, key);
    if at == WAYS {
        bucket = H::table().get_ptr_mut(second_bucket(hash, first))?;
        (at, word) = way(bucket, key);
        if at == WAYS {
            return None;
        }
    }
    // SAFETY: the map gave this pointer, and the way is below `WAYS`.
    let entry = unsafe {
        (&raw mut (*bucket).entries)
            .cast::<Entry<H::Address>>()
            .add(any_way(at))
    };
    Some(Found { entry, word })
}

/// Looks in a bucket for the entry with this key, and writes its place to `place`: the caller's scratch's, since the verifier
/// would follow each place in a register to the program's end.
#[inline(always)]
fn search<H: Family>(index: u32, key: &FlowKey<H::Address>, place: *mut u64) {
    let Some(bucket) = H::table().get_ptr(index) else {
        return;
    };
    for way in 0..WAYS {
        // SAFETY: the map gave this pointer, and the way is below `WAYS`.
        let entry = unsafe { &raw const (*bucket).entries[way] };
        let word = word(entry);
        // SAFETY: a key in the scratch. Read anew for each entry: it would not fit in registers, only on the stack.
        let key = unsafe { ptr::read_volatile(key) };
        if has_key(entry, &key) && word.is_used() && word.protocol() == key.protocol {
            // SAFETY: the scratch's field.
            unsafe { ptr::write_volatile(place, Place::new(index, way).0) };
        }
    }
}

/// The place of the flow with this key, which lies in a scratch, as does `place`.
#[inline(never)]
fn place_of<H: Family>(key: &FlowKey<H::Address>, settings: &Settings, place: *mut u64) -> Place {
    let hash = hash(key, &settings.seed);
    let buckets = settings.buckets[H::INDEX];
    // SAFETY: the scratch's field.
    unsafe { ptr::write_volatile(place, Place::NONE.0) };
    let first = first_bucket(hash, buckets);
    search::<H>(first, key, place);
    // SAFETY: as above.
    let found = Place(unsafe { ptr::read_volatile(place) });
    if found.is_some() {
        return found;
    }
    search::<H>(second_bucket(hash, first), key, place);
    // SAFETY: as above.
    Place(unsafe { ptr::read_volatile(place) })
}

/// Which of the scratch's keys.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Key {
    /// The packet's.
    Own,
    /// That of answers to it.
    Reply,
}

/// As [`find`], for the slow path.
#[inline(always)]
pub fn find_again<H: Family>(
    scratch: &mut Scratch<H::Address>,
    which: Key,
    settings: &Settings,
) -> Option<Found<H::Address>> {
    let place = &raw mut scratch.place;
    let key = match which {
        Key::Own => &scratch.key,
        Key::Reply => &scratch.reply_key,
    };
    at::<H>(place_of::<H>(key, settings, place), key)
}

/// The entry at a place, if it has this key.
#[inline(always)]
pub fn at<H: Family>(place: Place, key: &FlowKey<H::Address>) -> Option<Found<H::Address>> {
    let entry = place.entry::<H>()?;
    let word = word(entry);
    (word.is_used() && word.protocol() == key.protocol && has_key(entry, key))
        .then_some(Found { entry, word })
}

/// The real server of an entry.
#[inline(always)]
pub fn real_of<A: Address>(entry: *const Entry<A>) -> Option<&'static RealServer> {
    // SAFETY: as in `word`; ids are checked by the map.
    REALS.get(u32::from(unsafe { (*entry).real }))
}

/// The other entry of the connection that `found` belongs to. Its key is left in the scratch.
#[inline(always)]
pub fn partner<H: Family>(
    scratch: &mut Scratch<H::Address>,
    found: Found<H::Address>,
    settings: &Settings,
) -> Option<Found<H::Address>> {
    // SAFETY: as in `word`.
    let id = unsafe { (*found.entry).real };
    aim_at_other::<H>(&mut scratch.other_key, found.entry, found.word.0);
    let (key, place) = (&scratch.other_key, &raw mut scratch.place);
    let mut found_at = place_of::<H>(key, settings, place);
    if !found_at.is_some() {
        // It may have been moved from the second bucket to the first between two looks.
        found_at = place_of::<H>(key, settings, place);
    }
    let other = at::<H>(found_at, key)?;
    // SAFETY: as in `word`.
    let is_partner = other.word.is_original() != found.word.is_original()
        && unsafe { (*other.entry).real } == id
        && word(found.entry).is_same_entry(found.word);
    is_partner.then_some(other)
}

/// Writes the key of a connection's other entry, as [`Entry::other_key`] gives it: a copy of an IPv6 key would go by the
/// stack. 1 where there is one.
#[inline(never)]
fn aim_at_other<H: Family>(
    key: &mut FlowKey<H::Address>,
    entry: *mut Entry<H::Address>,
    word: u32,
) -> u64 {
    let Some(real) = real_of(entry) else {
        return 0;
    };
    let word = Word(word);
    // SAFETY: as in `word`; so is the client's place.
    let (entry, client) = unsafe { (&*entry, &*Entry::client_place(entry)) };
    let narrow = |address: &Addr| H::Address::narrow(*address);
    if word.is_original() {
        atomic::copy(&raw mut key.source, &narrow(&real.address));
        if word.is_full_nat() {
            if let Some(address) = snat_address::<H::Address>(word.snat_address()) {
                atomic::copy(&raw mut key.destination, &narrow(address));
            }
            let real_port = real.port_of(entry.ports.destination());
            key.ports = Ports::new(real_port, entry.port);
        } else {
            atomic::copy(&raw mut key.destination, &entry.source);
            key.ports = Ports::new(entry.port, entry.ports.source());
        }
    } else {
        atomic::copy(&raw mut key.destination, &narrow(&real.vip));
        if word.is_full_nat() {
            atomic::copy(&raw mut key.source, client);
            let port = real.service_port_of(entry.ports.source());
            key.ports = Ports::new(entry.port, port);
        } else {
            atomic::copy(&raw mut key.source, &entry.destination);
            key.ports = Ports::new(entry.ports.destination(), entry.port);
        }
    }
    key.protocol = word.protocol();
    1
}

/// Writes the key under which the real server's answers to the scratch's packet would arrive.
#[inline(always)]
pub fn aim<A: Address>(scratch: &mut Scratch<A>, address: A, port: u16) {
    scratch.reply_key.source = address;
    scratch.reply_key.destination = scratch.key.source;
    scratch.reply_key.ports = Ports::new(port, scratch.key.ports.source());
    scratch.reply_key.protocol = scratch.key.protocol;
    scratch.real_port = u32::from(port);
}

/// Whether an entry has been idle for longer than the timeout of `state`.
#[inline(always)]
pub fn is_idle<A: Address>(
    entry: *const Entry<A>,
    state: u8,
    now: u32,
    settings: &Settings,
) -> bool {
    // SAFETY: as in `word`.
    let last_seen = unsafe { (*entry).last_seen };
    is_older(now, last_seen, settings.timeouts.of(state))
}

/// Whether both entries have been idle for longer than the timeout of `state`: a connection lives while either direction does.
#[inline(always)]
pub fn are_idle<A: Address>(
    one: Found<A>,
    other: Found<A>,
    state: u8,
    now: u32,
    settings: &Settings,
) -> bool {
    is_idle(one.entry, state, now, settings) && is_idle(other.entry, state, now, settings)
}

/// The state of the connection with these two entries: the original one's.
#[inline(always)]
pub fn state_of<A: Address>(one: Found<A>, other: Found<A>) -> u8 {
    if one.word.is_original() {
        one.word.state()
    } else {
        other.word.state()
    }
}
