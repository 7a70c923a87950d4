//! Fragments: what becomes of a datagram's first one is remembered, and later ones follow it. See `balancer_common::fragment`. Touches maps
//! and the scratch only.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use balancer_common::{
    addr::{Address as _, TCP, UDP},
    conntrack::{Class, Word, class},
    fragment::{Fragment, PASSED, TIMEOUT},
    verdict::{Discard, Outcome},
    wire::{Extension, extension_kind},
};

use crate::{
    atomic,
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
    // The unproven ones only where no proven one lives: who forges senders must not lead a known client's fragments astray.
    if recall_proven::<H>() == 0 && recall_unproven::<H>() == 0 {
        return Err(Discard::FragmentUnmatched);
    }
    if scratch.fragment.place == PASSED {
        return Err(Discard::Fragment);
    }
    Ok(Followed {
        found: remembered_entry::<H>(&scratch.fragment).ok_or(Discard::FragmentUnmatched)?,
        by_host: scratch.fragment.by_host != 0,
    })
}

/// Finds what became of the first fragment of the scratch's datagram, among those of connections that are assured or confirmed: 1 where
/// later ones may still follow it, and it is in the scratch then.
#[inline(never)]
fn recall_proven<H: Family>() -> u64 {
    recall::<H>(H::fragments())
}

/// As [`recall_proven`], among the others.
#[inline(never)]
fn recall_unproven<H: Family>() -> u64 {
    recall::<H>(H::unproven_fragments())
}

#[inline(always)]
fn recall<H: Family>(fragments: &Fragments<H::Address>) -> u64 {
    let Ok(scratch) = scratch::<H>() else {
        return 0;
    };
    let Some(fragment) = fragments.get_ptr(&scratch.fragment_key) else {
        return 0;
    };
    // SAFETY: the map gave this pointer; the map may give the value's place to another datagram meanwhile, whose entry has not this one's
    // addresses.
    atomic::copy(&raw mut scratch.fragment, unsafe { &*fragment });
    // SAFETY: the helper only reads a clock.
    if unsafe { bpf_ktime_get_ns() } - scratch.fragment.seen > TIMEOUT {
        return 0;
    }
    let lives =
        scratch.fragment.place == PASSED || remembered_entry::<H>(&scratch.fragment).is_some();
    u64::from(lives)
}

/// The entry that a datagram's first fragment had, if it is still there.
#[inline(always)]
fn remembered_entry<H: Family>(fragment: &Fragment) -> Option<Found<H::Address>> {
    let entry = Place(fragment.place).entry::<H>()?;
    let before = word(entry);
    let is_its = before.is_used()
        && before.is_same_entry(Word(fragment.word))
        && has_addresses::<H>(entry)
        && before.is_same_entry(word(entry));
    is_its.then_some(Found {
        entry,
        word: before,
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
