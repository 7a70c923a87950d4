//! The connection table: finding entries, taking places, giving them back. The rules are those of
//! `balancer_common::conntrack`. Touches keys and maps only, never the packet.

use core::ptr;

use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use balancer_common::{
    addr::Address,
    conntrack::{
        Bucket, Class, ConntrackEntry, FREE, FlowKey, Ports, WAYS, Word, class, direction, idle,
        is_older, prefers_first, rank,
    },
    flow_hash::{first_bucket, hash, second_bucket},
    next_hop::NextHopRef,
    real_server::RealServer,
    service::{Service, ServiceKey},
    settings::Settings,
    tcp::State,
    wire::{IpHeader, Ipv4, Ipv6},
};

use crate::{
    atomic,
    maps::{
        CONNTRACK_V4, CONNTRACK_V6, REAL_PORTS_V4, REAL_PORTS_V6, REAL_STATS, REALS, SCRATCH_V4,
        SCRATCH_V6, SERVICES_V4, SERVICES_V6, settings,
    },
    scratch::{Scratch, scratch},
};

/// An entry of one family's connection table.
pub type Entry<A> = ConntrackEntry<A>;

/// An address family with its maps.
pub trait Family: IpHeader {
    /// Its place in `Settings::buckets`.
    const INDEX: usize;
    /// The connection table.
    fn table() -> &'static Array<Bucket<Self::Address>>;
    /// The services.
    fn services() -> &'static HashMap<ServiceKey<Self::Address>, Service>;
    /// The real servers' addresses and ports.
    fn real_ports() -> &'static HashMap<ServiceKey<Self::Address>, u32>;
    /// Room for what does not fit on the stack.
    fn scratch() -> &'static PerCpuArray<Scratch<Self::Address>>;
}

impl Family for Ipv4 {
    const INDEX: usize = 0;

    #[inline(always)]
    fn table() -> &'static Array<Bucket<u32>> {
        &CONNTRACK_V4
    }

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<u32>, Service> {
        &SERVICES_V4
    }

    #[inline(always)]
    fn real_ports() -> &'static HashMap<ServiceKey<u32>, u32> {
        &REAL_PORTS_V4
    }

    #[inline(always)]
    fn scratch() -> &'static PerCpuArray<Scratch<u32>> {
        &SCRATCH_V4
    }
}

impl Family for Ipv6 {
    const INDEX: usize = 1;

    #[inline(always)]
    fn table() -> &'static Array<Bucket<[u32; 4]>> {
        &CONNTRACK_V6
    }

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<[u32; 4]>, Service> {
        &SERVICES_V6
    }

    #[inline(always)]
    fn real_ports() -> &'static HashMap<ServiceKey<[u32; 4]>, u32> {
        &REAL_PORTS_V6
    }

    #[inline(always)]
    fn scratch() -> &'static PerCpuArray<Scratch<[u32; 4]>> {
        &SCRATCH_V6
    }
}

/// A place in the table: its bucket's index times [`WAYS`], and the entry in it. A number, so that subprograms can return
/// it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place(pub u64);

impl Place {
    /// No place.
    pub const NONE: Self = Self(u64::MAX);

    #[inline(always)]
    const fn new(bucket: u32, way: usize) -> Self {
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

/// Brings an entry's word from `old` to `new`; whether this call did.
#[inline(always)]
pub fn change<A: Address>(entry: *mut Entry<A>, old: Word, new: Word) -> bool {
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
fn any_way(way: usize) -> usize {
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
    let server = real_of(found.entry)?.other_side(found.word.direction());
    // SAFETY: as in `word`.
    let (entry, id) = unsafe { (&*found.entry, (*found.entry).real) };
    aim_at_other(
        &mut scratch.other_key,
        entry,
        H::Address::narrow(*server),
        found.word,
    );
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
/// stack.
#[inline(always)]
fn aim_at_other<A: Address>(key: &mut FlowKey<A>, entry: &Entry<A>, server: A, word: Word) {
    if word.is_original() {
        atomic::copy(&raw mut key.source, &server);
        atomic::copy(&raw mut key.destination, &entry.source);
        key.ports = Ports::new(entry.port, entry.ports.source());
    } else {
        atomic::copy(&raw mut key.source, &entry.destination);
        atomic::copy(&raw mut key.destination, &server);
        key.ports = Ports::new(entry.ports.destination(), entry.port);
    }
    key.protocol = word.protocol();
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

/// Why a connection's entries are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Purpose {
    /// The connection ends.
    Release,
    /// A newcomer takes the entry's place, if the connection is not assured.
    Take,
}

/// Takes the connection of an entry, which has the word `word`, back: the original entry first, and only who has won that
/// one the other. 1 where the place is what it was wanted for.
#[inline(never)]
fn take_back<H: Family>(
    scratch: &mut Scratch<H::Address>,
    entry: *mut Entry<H::Address>,
    word: u32,
    purpose: u32,
    now: u32,
) -> u64 {
    let Some(settings) = settings() else {
        return 0;
    };
    let own = Found {
        entry,
        word: Word(word),
    };
    if !own.word.is_used() {
        return 0;
    }
    let take = purpose == Purpose::Take as u32;
    let Some(other) = partner::<H>(scratch, own, settings) else {
        // Whoever took the other one back did not get to this one; or the original is just about to be written.
        return u64::from(!is_young(own, now) && give_up(own, take));
    };
    let state = state_of(own, other);
    let class = class(state);
    if take && class == Class::Assured && !are_idle(own, other, state, now, settings) {
        // It may have seemed over by the silence of its own direction: it does not any more.
        // SAFETY: as in `word`.
        unsafe { (*own.entry).last_seen = (*other.entry).last_seen };
        return 0;
    }
    u64::from(end_pair(own, other, take))
}

/// Frees a connection's places, the original's first, or takes that of `own` and frees the other. Whether this call did.
#[inline(always)]
fn end_pair<A: Address>(own: Found<A>, other: Found<A>, take: bool) -> bool {
    if own.word.is_original() {
        let is_mine = give_up(own, take);
        if is_mine {
            end_reply(other, false);
        }
        is_mine
    } else {
        give_up(other, false) && end_reply(own, take)
    }
}

/// Ends a connection, given its entries: a packet's, and the other one, unless that is gone and `other` is the packet's again.
/// Not an `Option`: its fields would be undefined in the other case (see `forward::Hop`).
#[inline(always)]
pub fn end<A: Address>(found: Found<A>, other: Found<A>) {
    if found.entry == other.entry {
        give_up(found, false);
    } else {
        end_pair(found, other, false);
    }
}

/// Whether an entry is a reply's that was written so short a time ago that its original may follow.
#[inline(always)]
pub fn is_young<A: Address>(found: Found<A>, now: u32) -> bool {
    // SAFETY: as in `word`.
    !found.word.is_original() && idle(now, unsafe { (*found.entry).last_seen }) <= 1
}

/// Frees an entry's place, or takes it.
#[inline(always)]
fn give_up<A: Address>(found: Found<A>, take: bool) -> bool {
    let after = if take {
        found.word.taken()
    } else {
        found.word.freed()
    };
    change(found.entry, found.word, after)
}

/// Frees, or takes, the place of a reply entry whose original is gone. Its state may have changed since it was found, once:
/// it follows the original's.
#[inline(always)]
fn end_reply<A: Address>(reply: Found<A>, take: bool) -> bool {
    if give_up(reply, take) {
        return true;
    }
    let now = Found {
        entry: reply.entry,
        word: word(reply.entry),
    };
    now.word.is_same_entry(reply.word) && give_up(now, take)
}

/// Ends an entry's connection: both places are free.
#[inline(always)]
pub fn release<H: Family>(scratch: &mut Scratch<H::Address>, found: Found<H::Address>, now: u32) {
    let purpose = Purpose::Release as u32;
    take_back::<H>(scratch, found.entry, found.word.0, purpose, now);
}

/// How many free places a bucket has.
#[inline(always)]
fn free_places<A: Address>(bucket: *const Bucket<A>) -> usize {
    let mut free = 0;
    for way in 0..WAYS {
        // SAFETY: the map gave this pointer, and the way is below `WAYS`.
        let word = word(unsafe { &raw const (*bucket).entries[way] });
        // Without a branch, which the verifier would follow both ways.
        free += usize::from(is_zero(u32::from(word.state())));
    }
    free
}

/// 1 for zero, else 0: without a branch.
#[inline(always)]
const fn is_zero(value: u32) -> u8 {
    ((value as u64).wrapping_sub(1) >> 63) as u8
}

/// The two buckets of the scratch's packet, or of the answers to it.
#[inline(always)]
fn buckets_of<H: Family>(
    scratch: &Scratch<H::Address>,
    which: u32,
    settings: &Settings,
) -> (u32, u32) {
    let hash = if which == Key::Own as u32 {
        scratch.hash
    } else {
        scratch.reply_hash
    };
    let buckets = settings.buckets[H::INDEX];
    let first = first_bucket(hash, buckets);
    (first, second_bucket(hash, first))
}

/// Takes a free place.
#[inline(never)]
fn take_free<H: Family>(which: u32) -> u64 {
    let (Some(settings), Ok(scratch)) = (settings(), scratch::<H>()) else {
        return 0;
    };
    let (first, second) = buckets_of::<H>(scratch, which, settings);
    let free = |index| H::table().get_ptr(index).map_or(0, free_places);
    let order = if prefers_first(free(first), free(second)) {
        [first, second]
    } else {
        [second, first]
    };
    for index in order {
        let place = take_free_of::<H>(index);
        if place.is_some() {
            return taken(scratch, which, place);
        }
    }
    0
}

/// Takes a free place of a bucket.
#[inline(always)]
fn take_free_of<H: Family>(index: u32) -> Place {
    let Some(bucket) = H::table().get_ptr_mut(index) else {
        return Place::NONE;
    };
    for way in 0..WAYS {
        // SAFETY: the map gave this pointer, and the way is below `WAYS`.
        let entry = unsafe { &raw mut (*bucket).entries[way] };
        let word = word(entry);
        if word.state() == FREE && change(entry, word, word.taken()) {
            return Place::new(index, any_way(way));
        }
    }
    Place::NONE
}

/// Compares a bucket's places with the best one to take, which lies in the scratch: its rank, times eight, plus its number, 0
/// to 3, plus `offset`. `refused` has a bit for each number that is not to be had. It lies there, since the verifier would
/// follow each outcome of a comparison in registers to the program's end.
#[inline(always)]
fn compare<A: Address>(
    bucket: *const Bucket<A>,
    offset: u64,
    refused: u64,
    now: u32,
    settings: &Settings,
    best: *mut u64,
) {
    for way in 0..WAYS {
        // SAFETY: the map gave this pointer, and the way is below `WAYS`.
        let entry = unsafe { &raw const (*bucket).entries[way] };
        let word = word(entry);
        // SAFETY: as in `word`.
        let silent = idle(now, unsafe { (*entry).last_seen });
        let rank = u64::from(rank(word, silent, settings.timeouts.of(word.state())));
        let number = offset + way as u64;
        // SAFETY: the scratch's field.
        unsafe {
            if refused >> number & 1 == 0 && rank << 3 > ptr::read_volatile(best) {
                ptr::write_volatile(best, rank << 3 | number);
            }
        }
    }
}

/// How many connections are asked for their place before a newcomer is refused.
const ATTEMPTS: u32 = 3;

/// Takes a place from a connection that is over or that may be displaced.
#[inline(never)]
fn take_from_another<H: Family>(which: u32) -> u64 {
    let (Some(settings), Ok(scratch)) = (settings(), scratch::<H>()) else {
        return 0;
    };
    let now = scratch.now;
    let (first, second) = buckets_of::<H>(scratch, which, settings);
    let mut refused = 0;
    for _ in 0..ATTEMPTS {
        let (Some(one), Some(other)) = (H::table().get_ptr(first), H::table().get_ptr(second))
        else {
            break;
        };
        let best = &raw mut scratch.best;
        // SAFETY: the scratch's field.
        let best = unsafe {
            ptr::write_volatile(best, 0);
            compare(one, 0, refused, now, settings, best);
            compare(other, WAYS as u64, refused, now, settings, best);
            ptr::read_volatile(best)
        };
        if best >> 3 == 0 {
            break;
        }
        let number = best & 7;
        refused |= 1 << number;
        let in_second = number >> 2;
        let index = u64::from(first) * (1 - in_second) + u64::from(second) * in_second;
        let place = Place(index * WAYS as u64 + (number & (WAYS as u64 - 1)));
        let Some(entry) = place.entry::<H>() else {
            break;
        };
        let purpose = Purpose::Take as u32;
        if take_back::<H>(scratch, entry, word(entry).0, purpose, now) != 0 {
            return taken(scratch, which, place);
        }
    }
    0
}

/// Takes a place where both buckets are full of assured connections: an entry there goes to its other bucket, if that has a
/// free place.
#[inline(never)]
fn make_free<H: Family>(which: u32) -> u64 {
    let (Some(settings), Ok(scratch)) = (settings(), scratch::<H>()) else {
        return 0;
    };
    let buckets = settings.buckets[H::INDEX];
    let (one, other) = buckets_of::<H>(scratch, which, settings);
    for number in 0..2 * WAYS {
        let index = if number < WAYS { one } else { other };
        let place = Place::new(index, any_way(number % WAYS));
        let Some(entry) = place.entry::<H>() else {
            break;
        };
        let old = word(entry);
        if !old.is_used() {
            continue;
        }
        // SAFETY: as in `word`.
        let hash = hash(&unsafe { (*entry).key(old) }, &settings.seed);
        let first = first_bucket(hash, buckets);
        let elsewhere = if first == index {
            second_bucket(hash, first)
        } else {
            first
        };
        let Some(copy) = take_free_of::<H>(elsewhere).entry::<H>() else {
            continue;
        };
        let claimed = word(copy);
        // SAFETY: as in `word`; the copy is ours until its word is written.
        unsafe {
            let from = &*entry;
            atomic::copy(&raw mut (*copy).source, &from.source);
            atomic::copy(&raw mut (*copy).destination, &from.destination);
            (*copy).ports = from.ports;
            (*copy).last_seen = from.last_seen;
            (*copy).real = from.real;
            (*copy).port = from.port;
            (*copy).next_hop = NextHopRef(0);
            (*copy).extra = from.extra;
        }
        if !word(entry).is_same_entry(old) {
            change(copy, claimed, claimed.freed());
            continue;
        }
        change(copy, claimed, old.moved_to(claimed));
        // Whoever changed the entry meanwhile goes on with the old one.
        if change(entry, old, old.taken()) {
            return taken(scratch, which, place);
        }
        for _ in 0..ATTEMPTS {
            let now = word(copy);
            if !now.is_same_entry(claimed) || change(copy, now, now.freed()) {
                break;
            }
        }
    }
    0
}

/// Takes a place for the scratch's packet, or for the answers to it: `which` is [`Key::Own`] or [`Key::Reply`]. It is in the
/// scratch then, and the caller's until its word is written. Whether there was one.
#[inline(always)]
pub fn take<H: Family>(which: Key) -> bool {
    let which = which as u32;
    take_free::<H>(which) != 0 || take_from_another::<H>(which) != 0 || make_free::<H>(which) != 0
}

/// Puts a place that was taken into the scratch: 1.
#[inline(always)]
fn taken<A: Address>(scratch: &mut Scratch<A>, which: u32, place: Place) -> u64 {
    if which == Key::Own as u32 {
        scratch.place = place.0;
    } else {
        scratch.reply_place = place.0;
    }
    1
}

/// Gives the place back that was taken for the answers to the scratch's packet.
#[inline(never)]
pub fn surrender<H: Family>() -> u64 {
    let Ok(scratch) = scratch::<H>() else {
        return 0;
    };
    let Some(entry) = Place(scratch.reply_place).entry::<H>() else {
        return 0;
    };
    let taken = word(entry);
    u64::from(change(entry, taken, taken.freed()))
}

/// Makes the scratch's connection in the places that were taken for it, and counts it: the reply's entry first, so that no
/// packet can be answered before its answer is known.
#[inline(never)]
pub fn connect<H: Family>() -> u64 {
    let Ok(scratch) = scratch::<H>() else {
        return 0;
    };
    let (Some(reply), Some(original)) = (
        Place(scratch.reply_place).entry::<H>(),
        Place(scratch.place).entry::<H>(),
    ) else {
        return 0;
    };
    let is_udp = scratch.state >= State::Udp as u32;
    let port = scratch.key.ports.destination();
    let (real, now) = (scratch.real, scratch.now);
    write(reply, &scratch.reply_key, real, port, now);
    write(original, &scratch.key, real, scratch.real_port as u16, now);
    for (entry, direction) in [(reply, direction::REPLY), (original, direction::ORIGINAL)] {
        let taken = word(entry);
        let state = scratch.state as u8;
        change(entry, taken, Word::new(taken, state, direction, is_udp));
    }
    if let Some(stats) = REAL_STATS.get_ptr_mut(real) {
        // SAFETY: this CPU's own value.
        unsafe { (*stats).connections += 1 };
    }
    1
}

/// Writes all of an entry but its word, whose place is the caller's.
#[inline(always)]
fn write<A: Address>(entry: *mut Entry<A>, key: &FlowKey<A>, real: u32, port: u16, now: u32) {
    // SAFETY: as in `word`; nobody reads an entry whose place was taken.
    unsafe {
        atomic::copy(&raw mut (*entry).source, &key.source);
        atomic::copy(&raw mut (*entry).destination, &key.destination);
        (*entry).ports = key.ports;
        (*entry).last_seen = now;
        (*entry).real = real as u16;
        (*entry).port = port;
        (*entry).next_hop = NextHopRef(0);
        (*entry).extra = 0;
    }
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
