//! Places in the connection table: taking them, giving them back, and making a connection in them. The rules are those of
//! `balancer_common::conntrack`.

use core::ptr;

use balancer_common::{
    addr::{Address, UDP},
    conntrack::{Bucket, Class, FREE, FlowKey, WAYS, Word, class, idle, prefers_first, rank},
    direction,
    flow_hash::{first_bucket, hash, second_bucket},
    load::Load,
    next_hop::NextHopRef,
    settings::Settings,
};

use crate::{
    atomic,
    family::{Family, scratch},
    maps::{REAL_STATS, load_of, settings},
    scratch::Scratch,
    table::{
        Entry, Found, Key, Place, any_way, are_idle, change, change_copy, partner, state_of, word,
    },
};

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

/// Frees an entry's place, or takes it. Who does so with an original entry ends the connection, and counts that.
#[inline(always)]
fn give_up<A: Address>(found: Found<A>, take: bool) -> bool {
    let after = if take {
        found.word.taken()
    } else {
        found.word.freed()
    };
    // SAFETY: as in `word`; after a change it is the entry's that was there.
    let real = u32::from(unsafe { (*found.entry).real });
    let is_changed = change(found.entry, found.word, after);
    if is_changed && found.word.is_original() {
        count(real, found.word.state(), FREE);
    }
    is_changed
}

/// Counts a transition of a real server's connection, which this CPU has won.
#[inline(always)]
pub fn count(real: u32, before: u8, after: u8) {
    if let Some(load) = load_of(real) {
        // SAFETY: the map gave this pointer.
        atomic::fetch_add(
            unsafe { &raw mut (*load).counted },
            Load::step(before, after),
        );
    }
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

/// Ends an entry's connection as a newcomer does that needs the place: unless it is assured and not idle. Whether it has.
#[inline(always)]
pub fn displace<H: Family>(
    scratch: &mut Scratch<H::Address>,
    found: Found<H::Address>,
    now: u32,
) -> bool {
    let purpose = Purpose::Take as u32;
    if take_back::<H>(scratch, found.entry, found.word.0, purpose, now) == 0 {
        return false;
    }
    let taken = word(found.entry);
    change(found.entry, taken, taken.freed())
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
            if old.is_full_nat() && !old.is_original() {
                atomic::copy(Entry::client_place(copy), &*Entry::client_place(entry));
            }
        }
        if !word(entry).is_same_entry(old) {
            change(copy, claimed, claimed.freed());
            continue;
        }
        // Nobody else changes a copy, so that a connection that ends or changes meanwhile does so at one place.
        let copied = old.copied_to(claimed);
        change(copy, claimed, copied);
        let is_mine = change(entry, old, old.taken());
        // Whoever changed the entry meanwhile goes on with the old one.
        let after = if is_mine {
            copied.settled()
        } else {
            copied.freed()
        };
        change_copy(copy, copied, after);
        if is_mine {
            return taken(scratch, which, place);
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
    let is_udp = scratch.key.protocol == u32::from(UDP);
    let (real, now) = (scratch.real, scratch.now);
    let mut ports = [scratch.key.ports.destination(), scratch.real_port as u16];
    let is_full_nat = scratch.source.is_full_nat != 0;
    if is_full_nat {
        ports = [
            scratch.key.ports.source(),
            scratch.reply_key.ports.destination(),
        ];
    }
    write(reply, &scratch.reply_key, real, ports[0], now);
    write(original, &scratch.key, real, ports[1], now);
    if is_full_nat {
        atomic::copy(Entry::client_place(reply), &scratch.key.source);
    }
    let state = scratch.state as u8;
    // Before anybody can end it.
    count(real, FREE, state);
    fill_up(real);
    for (entry, direction) in [(reply, direction::REPLY), (original, direction::ORIGINAL)] {
        let taken = word(entry);
        let mut new = Word::new(taken, state, direction, is_udp);
        if is_full_nat {
            new = new.with_full_nat(scratch.source.address);
        }
        change(entry, taken, new);
    }
    if let Some(stats) = REAL_STATS.get_ptr_mut(real) {
        // SAFETY: this CPU's own value.
        unsafe { (*stats).connections += 1 };
    }
    1
}

/// Notes whether a real server that has got a connection is full.
#[inline(always)]
fn fill_up(real: u32) {
    let Some(load) = load_of(real) else {
        return;
    };
    // SAFETY: the map gave this pointer; other CPUs and the daemon write whole words.
    unsafe {
        if (*load).upper == 0 {
            return;
        }
        let row = ptr::read_volatile(load);
        let [active, inactive] = row.counts();
        ptr::write_volatile(&raw mut (*load).full, row.full_after(active + inactive));
    }
}

/// Writes all of an entry but its word, whose place is the caller's.
#[inline(always)]
pub fn write<A: Address>(entry: *mut Entry<A>, key: &FlowKey<A>, real: u32, port: u16, now: u32) {
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
        // An entry that was here may have kept its client in them.
        atomic::copy(&raw mut (*entry).spare, &A::Spare::default());
    }
}
