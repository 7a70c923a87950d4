//! The rows of `NEXT_HOPS`: found, made and changed.

use core::ptr;

use balancer_common::{
    addr::Address,
    next_hop::{NEXT_HOPS as ROWS, NextHop, NextHopRef, PROBES, place},
};

use crate::{
    atomic,
    maps::NEXT_HOPS,
    table::{Found, word},
};

/// Stores a next hop in its row, and in the entry which row that is. Where other CPUs write in the rows just now, nothing is
/// stored, and the next packet asks again.
#[inline(always)]
pub fn remember<A: Address>(hop: &NextHop, found: Found<A>, routes: u32) {
    let first = place(&hop.address, hop.ifindex);
    let mut chosen = first;
    let mut is_known = false;
    let mut version = 0;
    for probe in 0..PROBES {
        let index = (first + probe) & (ROWS - 1);
        let Some(row) = NEXT_HOPS.get_ptr(index) else {
            return;
        };
        // SAFETY: the map gave this pointer; rows never move. The version is read first: what was compared is what it was the
        // version of.
        let row = unsafe {
            version = ptr::read_volatile(&raw const (*row).version);
            &*row
        };
        if version == 0 {
            chosen = index;
            break;
        }
        // One way for each size that packets may have: routes by one gateway may differ in it.
        if row.ifindex == hop.ifindex
            && row.mtu == hop.mtu
            && row.address.0.difference(hop.address.0) == 0
        {
            chosen = index;
            is_known = true;
            break;
        }
    }
    let Some(row) = NEXT_HOPS.get_ptr_mut(chosen) else {
        return;
    };
    if !is_known && version != 0 {
        // None of the rows is free: the first one's next hop gives way.
        // SAFETY: as above.
        version = unsafe { ptr::read_volatile(&raw const (*row).version) };
    }
    if version & 1 != 0 {
        return;
    }
    let mut stored = version;
    // SAFETY: as above.
    let stands = is_known && unsafe { is_alike(&*row, hop) };
    if !stands {
        // SAFETY: as above.
        if !atomic::exchange(unsafe { &raw mut (*row).version }, version, version + 1) {
            return;
        }
        // SAFETY: the odd version makes the row this CPU's.
        unsafe {
            atomic::copy(&raw mut (*row).ifindex, &hop.ifindex);
            atomic::copy(&raw mut (*row).mtu, &hop.mtu);
            atomic::copy(&raw mut (*row).macs, &hop.macs);
            atomic::copy(&raw mut (*row).address, &hop.address);
        }
        stored = version + 2;
        // SAFETY: as above.
        atomic::exchange(unsafe { &raw mut (*row).version }, version + 1, stored);
    }
    // SAFETY: an entry of the table, which never moves.
    let next_hop = unsafe { &raw mut (*found.entry).next_hop };
    // SAFETY: as above.
    let before = unsafe { ptr::read_volatile(next_hop) };
    if word(found.entry).is_same_entry(found.word) {
        let known = NextHopRef::new(chosen, routes, stored, found.word.serial());
        // Not written over what the next connection in the place keeps there, its client's address perhaps.
        atomic::exchange(next_hop.cast(), before.0, known.0);
    }
}

/// Whether both have the same MAC addresses.
#[inline(always)]
fn is_alike(one: &NextHop, other: &NextHop) -> bool {
    (one.macs[0] ^ other.macs[0]) | (one.macs[1] ^ other.macs[1]) | (one.macs[2] ^ other.macs[2])
        == 0
}
