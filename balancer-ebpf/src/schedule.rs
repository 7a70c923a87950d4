//! The real server for a new connection.

use core::{mem, ptr};

use balancer_common::{addr::Address, real_server::state, service, verdict::Discard};

use crate::{
    atomic,
    maps::{REALS, RINGS, TURNS},
    scratch::Scratch,
    table::aim,
};

/// How many places of the ring are tried when a real server does not fit (it was removed a moment ago, it is the
/// client itself, or it serves the client's port already).
const TRIES: u32 = 4;

/// Gives the next turn of the service's ring to the scratch's packet, a new connection, and writes its real server and the
/// answers' key there, skipping real servers that `fits` refuses with a reason. With none left the last reason stands.
#[inline(always)]
pub fn schedule<A: Address>(
    scratch: &mut Scratch<A>,
    mut fits: impl FnMut(&mut Scratch<A>) -> Result<(), Discard>,
) -> Result<(), Discard> {
    let service = scratch.service;
    let none = if service.flags & service::REJECT != 0 {
        Discard::NoRealReject
    } else {
        Discard::NoReal
    };
    let turns = TURNS.get_ptr_mut(service.id).ok_or(none)?;
    // In memory: the verifier would follow each reason in a register through all tries that are left.
    let reason = &raw mut scratch.reason;
    let refuse = |why: Discard| {
        // SAFETY: the scratch's field.
        unsafe { ptr::write_volatile(reason, why as u32) }
    };
    refuse(none);
    for _ in 0..TRIES {
        let slot = service.ring.slot(atomic::fetch_add(turns, 1)).ok_or(none)?;
        let real_id = *RINGS.get(slot).ok_or(none)?;
        let real = REALS.get(real_id).ok_or(none)?;
        // A ring that was given to another service while this packet was under way names that one's real servers.
        if real.state != state::TAKES_NEW || real.service != service.id {
            continue;
        }
        let address = A::narrow(real.address);
        // A client in the real server's own network would be answered directly, past the balancer.
        if address == scratch.key.source || address.shares(scratch.key.source, &real.network_mask) {
            refuse(Discard::Hairpin);
            continue;
        }
        let port = if real.port == 0 {
            scratch.key.ports.destination()
        } else {
            real.port
        };
        aim(scratch, address, port);
        match fits(scratch) {
            Ok(()) => {
                scratch.real = real_id;
                return Ok(());
            }
            Err(refusal) => refuse(refusal),
        }
    }
    // SAFETY: the scratch's field, which `refuse` alone writes.
    Err(unsafe { mem::transmute::<u32, Discard>(ptr::read_volatile(reason)) })
}
