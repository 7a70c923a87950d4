//! Which real server a client keeps: asked when it opens a connection, noted when the connection is complete. See
//! `balancer_common::persistence`. Touches maps and the scratch only.

use core::ptr;

use balancer_common::{
    addr::Address,
    conntrack::is_older,
    persistence::{Pending, Stickiness, hash},
    real_server::state,
    settings::Settings,
};

use crate::{
    atomic,
    family::{Family, scratch},
    maps::{MEMBERS, PENDING, PERSISTENCE, REALS, STICKINESS, now, settings},
    scratch::{NONE, Scratch},
    table::{Entry, real_of},
};

/// What a service says of its clients' persistence, if it is persistent.
#[inline(always)]
fn stickiness(service: u32) -> Option<&'static Stickiness> {
    STICKINESS.get(service).filter(|row| row.timeout != 0)
}

/// The id of the real server of the scratch's service that the packet's client keeps, or [`NONE`]; whether that takes the connection is
/// for the caller to see. Where it takes none, the one that another connection of the client got a moment ago.
#[inline(always)]
pub fn kept<A: Address>(scratch: &mut Scratch<A>) -> u64 {
    let (Some(row), Some(settings)) = (stickiness(scratch.service.id), settings()) else {
        return NONE;
    };
    aim(scratch, row, scratch.key.source);
    scratch.member.service = scratch.service.id;
    if let Some(entry) = PERSISTENCE.get_ptr(&scratch.client_key) {
        // SAFETY: the map gave this pointer; a value that another CPU is writing names a server that is not found below.
        let entry = unsafe { &*entry };
        if !is_older(scratch.now, entry.last_used, row.timeout) {
            atomic::copy(&raw mut scratch.member.server, &entry.server);
            let id = of_service(scratch, entry.real);
            if REALS
                .get(id as u32)
                .is_some_and(|real| state::takes_known(real.state))
            {
                return id;
            }
        }
    }
    match pending(scratch, settings) {
        Some(id) => of_service(scratch, id),
        None => NONE,
    }
}

/// The real server with this id, if it is one of the scratch's service on the scratch's server, else the service's own there, or [`NONE`].
#[inline(always)]
fn of_service<A: Address>(scratch: &Scratch<A>, id: u32) -> u64 {
    match REALS.get(id) {
        Some(real)
            if real.service == scratch.service.id && real.address == scratch.member.server =>
        {
            u64::from(id)
        }
        _ => match MEMBERS.get_ptr(&scratch.member) {
            // SAFETY: the map gave this pointer.
            Some(id) => u64::from(unsafe { *id }),
            None => NONE,
        },
    }
}

/// Writes the key of a client's entry.
#[inline(always)]
fn aim<A: Address>(scratch: &mut Scratch<A>, row: &Stickiness, client: A) {
    let key = row.key(client.widen());
    atomic::copy(&raw mut scratch.client_key.client, &key.client);
    scratch.client_key.group = key.group;
}

/// The real id that the client's first connection got, a moment ago. Its server is in the scratch then.
#[inline(always)]
fn pending<A: Address>(scratch: &mut Scratch<A>, settings: &Settings) -> Option<u32> {
    let hash = hash(&scratch.client_key, &settings.seed);
    let word = PENDING.get(Pending::index(hash))?;
    let word = Pending(*word);
    if !word.is_of(hash, scratch.now, settings.pending) {
        return None;
    }
    let real = REALS.get(word.real())?;
    atomic::copy(&raw mut scratch.member.server, &real.address);
    scratch.choice.is_pending = 1;
    Some(word.real())
}

/// Notes which real server a client's first connection got, for those that follow before it is complete.
#[inline(always)]
pub fn expect<A: Address>(scratch: &mut Scratch<A>, settings: &Settings) {
    let Some(row) = stickiness(scratch.service.id) else {
        return;
    };
    aim(scratch, row, scratch.key.source);
    let hash = hash(&scratch.client_key, &settings.seed);
    if let Some(word) = PENDING.get_ptr_mut(Pending::index(hash)) {
        // SAFETY: the map gave this pointer, and all write the word as a whole.
        unsafe { ptr::write_volatile(word, Pending::new(hash, scratch.real, scratch.now).0) };
    }
}

/// Notes that a client keeps the real server of a connection that is complete now, given its original entry. 1 where it does.
#[inline(never)]
pub fn keep<H: Family>(original: *const Entry<H::Address>) -> u64 {
    let (Ok(scratch), Some(real)) = (scratch::<H>(), real_of(original)) else {
        return 0;
    };
    let Some(row) = stickiness(real.service) else {
        return 0;
    };
    // SAFETY: an entry of the table, which never moves.
    let (client, id) = unsafe { ((*original).source, u32::from((*original).real)) };
    aim(scratch, row, client);
    let now = now();
    if let Some(entry) = PERSISTENCE.get_ptr_mut(&scratch.client_key) {
        // SAFETY: the map gave this pointer; readers compare the server with the real server's.
        unsafe {
            (*entry).last_used = now;
            if (*entry).real != id || (*entry).server != real.address {
                (*entry).real = id;
                atomic::copy(&raw mut (*entry).server, &real.address);
            }
        }
        return 1;
    }
    atomic::copy(&raw mut scratch.kept.server, &real.address);
    scratch.kept.last_used = now;
    scratch.kept.real = id;
    u64::from(
        PERSISTENCE
            .insert(&scratch.client_key, &scratch.kept, 0)
            .is_ok(),
    )
}
