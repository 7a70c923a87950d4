//! Which real server a client keeps: asked when it opens a connection, noted when the connection is complete. See
//! `balancer_common::persistence`. Touches maps and the scratch only.

use core::ptr;

use aya_ebpf::{maps::LruHashMap, programs::XdpContext};
use balancer_common::{
    addr::{Addr, Address, UDP},
    conntrack::is_older,
    persistence::{
        MAX_RUNNING_CLIENTS, Pending, PersistenceEntry, PersistenceKey, RunningClient, Stickiness,
        hash,
    },
    real_server::state,
    settings::Settings,
};

use crate::{
    atomic,
    family::{Family, scratch},
    maps::{MEMBERS, PENDING, PERSISTENCE, PERSISTENCE_UDP, REALS, STICKINESS, now, settings},
    packet::header_anew,
    parse::Transport,
    scratch::{NONE, Scratch},
    table::{Entry, real_of},
};

/// What a service says of its clients' persistence, if it is persistent.
#[inline(always)]
fn stickiness(service: u32) -> Option<&'static Stickiness> {
    STICKINESS.get(service).filter(|row| row.timeout != 0)
}

/// What clients keep that have shown by TCP, or by UDP, that they exist.
type Entries = LruHashMap<PersistenceKey, PersistenceEntry>;

/// The id of the real server of the scratch's service that the packet's client keeps, or [`NONE`]; whether that takes the connection is
/// for the caller to see. A handshake says more of a client than datagrams do. Where both say nothing, the one that another connection of
/// the client got a moment ago.
#[inline(always)]
pub fn kept<A: Address>(scratch: &mut Scratch<A>) -> u64 {
    let (Some(row), Some(settings)) = (stickiness(scratch.service.id), settings()) else {
        return NONE;
    };
    aim(scratch, row, scratch.key.source);
    scratch.member.service = scratch.service.id;
    let timeout = row.timeout;
    let mut id = remembered(scratch, &PERSISTENCE, timeout);
    if id == NONE {
        id = remembered(scratch, &PERSISTENCE_UDP, timeout);
    }
    if id == NONE {
        id = pending(scratch, settings);
    }
    id
}

/// The id of the real server that the scratch's client keeps by its entry there, if it has one that is not over, and that real server takes
/// its connections; else [`NONE`].
#[inline(always)]
fn remembered<A: Address>(scratch: &mut Scratch<A>, entries: &Entries, timeout: u32) -> u64 {
    let Some(entry) = entries.get_ptr(&scratch.client_key) else {
        return NONE;
    };
    // SAFETY: the map gave this pointer; a value that another CPU is writing names a server that is not found below.
    let entry = unsafe { &*entry };
    if is_older(scratch.now, entry.last_used, timeout) {
        return NONE;
    }
    atomic::copy(&raw mut scratch.member.server, &entry.server);
    let id = of_service(scratch, entry.real);
    match REALS.get(id as u32) {
        Some(real) if state::takes_known(real.state) => id,
        _ => NONE,
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

/// The id of the scratch's service's real server on the server that the client's first connection got, a moment ago, or [`NONE`].
#[inline(always)]
fn pending<A: Address>(scratch: &mut Scratch<A>, settings: &Settings) -> u64 {
    let hash = hash(&scratch.client_key, &settings.seed);
    let Some(word) = PENDING.get(Pending::index(hash)) else {
        return NONE;
    };
    let word = Pending(*word);
    if !word.is_of(hash, scratch.now, settings.pending) {
        return NONE;
    }
    let Some(real) = REALS.get(word.real()) else {
        return NONE;
    };
    atomic::copy(&raw mut scratch.member.server, &real.address);
    scratch.choice.is_pending = 1;
    of_service(scratch, word.real())
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
pub fn keep<H: Family, T: Transport>(original: *const Entry<H::Address>) -> u64 {
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
    let entries = if T::PROTOCOL == UDP {
        &PERSISTENCE_UDP
    } else {
        &PERSISTENCE
    };
    if let Some(entry) = entries.get_ptr_mut(&scratch.client_key) {
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
    let key = &scratch.client_key;
    u64::from(entries.insert(key, &scratch.kept, 0).is_ok())
}

/// Renews the entries of the clients that a frame of [`RunningClient`]s names, as far as they still keep the server that is named there.
/// In place: user space could only write an entry as a whole, and with it a server that the client has left meanwhile.
#[inline(always)]
pub fn renew(ctx: &XdpContext) {
    const WORDS: usize = size_of::<RunningClient>() / 4;
    let now = now();
    for number in 0..MAX_RUNNING_CLIENTS {
        let offset = number * size_of::<RunningClient>();
        let Some(words) = header_anew::<[[u8; 4]; WORDS]>(ctx, offset) else {
            break;
        };
        let [c0, c1, c2, c3, g0, g1, s0, s1, s2, s3, is_udp, _] = words.map(u32::from_ne_bytes);
        // Not in the scratch: packets that come in meanwhile use it.
        let key = PersistenceKey {
            client: Addr([c0, c1, c2, c3]),
            group: u64::from(g1) << 32 | u64::from(g0),
        };
        let server = Addr([s0, s1, s2, s3]);
        if is_udp == 0 {
            renew_in(&PERSISTENCE, &key, server, now);
        } else {
            renew_in(&PERSISTENCE_UDP, &key, server, now);
        }
    }
}

#[inline(always)]
fn renew_in(entries: &Entries, key: &PersistenceKey, server: Addr, now: u32) {
    if let Some(entry) = entries.get_ptr_mut(key) {
        // SAFETY: the map gave this pointer, and all write the fields as wholes.
        let kept = unsafe { (*entry).server.0 };
        // One branch, not one for each word.
        let words = kept.into_iter().zip(server.0);
        if words.fold(0, |differs, (one, other)| differs | (one ^ other)) == 0 {
            // SAFETY: as above.
            unsafe { (*entry).last_used = now };
        }
    }
}
