//! Fragments: what becomes of a datagram's first one is remembered, and later ones follow it. See `balancer_common::fragment`. Touches maps
//! and the scratch only.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use balancer_common::{
    addr::{Address as _, TCP, UDP},
    conntrack::{Class, Word, class},
    fragment::{PASSED, TIMEOUT},
    verdict::{Discard, Outcome},
    wire::{Extension, extension_kind},
};

use crate::{
    family::{Family, Fragments, scratch},
    headers::FIRST,
    maps::settings,
    table::{Entry, Found, Key, Place, find_again, word},
    walk::is_ours,
};

/// Remembers which entry the scratch's packet has, if it is a first fragment: that of the scratch's key. `by_host`: the host's stack sends
/// it on.
#[inline(always)]
pub fn remember<H: Family>(by_host: bool) -> Result<(), Discard> {
    let scratch = scratch::<H>()?;
    if scratch.walk.fragment == FIRST {
        scratch.fragment.by_host = u32::from(by_host);
        remember_entry::<H>();
    }
    Ok(())
}

#[inline(never)]
fn remember_entry<H: Family>() -> u64 {
    let (Some(settings), Ok(scratch)) = (settings(), scratch::<H>()) else {
        return 0;
    };
    let Some(found) = find_again::<H>(scratch, Key::Own, settings) else {
        return 0;
    };
    scratch.fragment.place = scratch.place;
    scratch.fragment.word = found.word.0;
    if matches!(class(found.word.state()), Class::Assured | Class::Confirmed) {
        insert::<H>(H::fragments())
    } else {
        insert::<H>(H::unproven_fragments())
    }
}

/// Remembers that the scratch's packet is left to the host, if it is a first fragment, and that is what becomes of it for this reason. Only
/// where later ones would be asked for it.
#[inline(always)]
pub fn remember_passed<H: Family>(reason: Discard) -> Result<(), Discard> {
    let scratch = scratch::<H>()?;
    if scratch.walk.fragment == FIRST && reason.outcome() == Outcome::Pass {
        remember_place_of_none::<H>();
    }
    Ok(())
}

#[inline(never)]
fn remember_place_of_none<H: Family>() -> u64 {
    let Ok(scratch) = scratch::<H>() else {
        return 0;
    };
    if !is_ours(&scratch.fragment_key) {
        return 0;
    }
    scratch.fragment.place = PASSED;
    scratch.fragment.word = 0;
    scratch.fragment.by_host = 1;
    insert::<H>(H::unproven_fragments())
}

#[inline(always)]
fn insert<H: Family>(fragments: &Fragments<H::Address>) -> u64 {
    let Ok(scratch) = scratch::<H>() else {
        return 0;
    };
    // SAFETY: the helper only reads a clock.
    scratch.fragment.seen = unsafe { bpf_ktime_get_ns() };
    u64::from(
        fragments
            .insert(&scratch.fragment_key, &scratch.fragment, 0)
            .is_ok(),
    )
}

/// The entry that the datagram of a later fragment has, and whether the host's stack sent the first one on.
pub struct Followed<H: Family> {
    /// The entry.
    pub found: Found<H::Address>,
    /// See above.
    pub by_host: bool,
}

/// Finds the entry that the datagram of the scratch's later fragment has.
#[inline(always)]
pub fn follow<H: Family>() -> Result<Followed<H>, Discard> {
    let scratch = scratch::<H>()?;
    let key = &scratch.fragment_key;
    let protocol = key.protocol as u8;
    let may_be_tracked =
        protocol == TCP || protocol == UDP || extension_kind(protocol) != Extension::None;
    if !may_be_tracked || !is_ours(key) {
        return Err(Discard::Fragment);
    }
    let fragment = H::fragments()
        .get_ptr(key)
        .or_else(|| H::unproven_fragments().get_ptr(key))
        .ok_or(Discard::FragmentUnmatched)?;
    // SAFETY: the map gave this pointer; the map may give the value's place to another datagram meanwhile, whose entry has not this one's
    // addresses.
    let (place, seen, remembered, by_host) = unsafe {
        (
            (*fragment).place,
            (*fragment).seen,
            (*fragment).word,
            (*fragment).by_host,
        )
    };
    // SAFETY: the helper only reads a clock.
    if unsafe { bpf_ktime_get_ns() } - seen > TIMEOUT {
        return Err(Discard::FragmentUnmatched);
    }
    if place == PASSED {
        return Err(Discard::Fragment);
    }
    let entry = Place(place)
        .entry::<H>()
        .ok_or(Discard::FragmentUnmatched)?;
    let before = word(entry);
    let is_its = before.is_used()
        && before.is_same_entry(Word(remembered))
        && has_addresses::<H>(entry)
        && before.is_same_entry(word(entry));
    if !is_its {
        return Err(Discard::FragmentUnmatched);
    }
    Ok(Followed {
        found: Found {
            entry,
            word: before,
        },
        by_host: by_host != 0,
    })
}

/// Whether an entry has the addresses of the scratch's fragment.
#[inline(always)]
fn has_addresses<H: Family>(entry: *const Entry<H::Address>) -> bool {
    let Ok(scratch) = scratch::<H>() else {
        return false;
    };
    let key = &scratch.fragment_key;
    // SAFETY: an entry of the table, which never moves; who uses what it read looks at the word again.
    let entry = unsafe { &*entry };
    entry.source.difference(key.source) | entry.destination.difference(key.destination) == 0
}
