//! The real server for a new connection.

use balancer_common::{
    addr::Address,
    conntrack::direction,
    real_server::state,
    service::{self, Service},
    verdict::Discard,
};

use crate::{
    atomic,
    maps::{REAL_STATS, REALS, RINGS, TURNS},
    table::Scratch,
};

/// How many places of the ring are tried when a real server does not fit (it was removed a moment ago, it is the
/// client itself, or it serves the client's port already).
const TRIES: u32 = 4;

/// Gives the next turn of the service's ring to the scratch's packet, a new connection, and writes its row there,
/// skipping real servers that `fits` refuses with a reason. With none left the last reason stands.
#[inline(always)]
pub fn schedule<A: Address>(
    service: &Service,
    scratch: &mut Scratch<A>,
    mut fits: impl FnMut(&mut Scratch<A>) -> Result<(), Discard>,
) -> Result<(), Discard> {
    let none = if service.flags & service::REJECT != 0 {
        Discard::NoRealReject
    } else {
        Discard::NoReal
    };
    let turns = TURNS.get_ptr_mut(service.id).ok_or(none)?;
    let mut reason = none;
    for _ in 0..TRIES {
        let slot = service.ring.slot(atomic::fetch_add(turns, 1)).ok_or(none)?;
        let real_id = *RINGS.get(slot).ok_or(none)?;
        let real = REALS.get(real_id).ok_or(none)?;
        if real.state != state::TAKES_NEW {
            continue;
        }
        let address = A::narrow(real.address);
        // A client in the real server's own network would be answered directly, past the balancer.
        if address == scratch.key.source || address.shares(scratch.key.source, &real.network_mask) {
            reason = Discard::Hairpin;
            continue;
        }
        let port = if real.port == 0 {
            scratch.key.destination_port
        } else {
            real.port
        };
        let key = &scratch.key;
        scratch.row.translation.dnat(key, address, port);
        scratch
            .row
            .translation
            .reply_key(key.protocol, &mut scratch.reply_key);
        match fits(scratch) {
            Ok(()) => {
                if let Some(stats) = REAL_STATS.get_ptr_mut(real_id) {
                    // SAFETY: this CPU's own value.
                    unsafe { (*stats).connections += 1 };
                }
                scratch.begin(real_id, direction::ORIGINAL);
                return Ok(());
            }
            Err(refusal) => reason = refusal,
        }
    }
    Err(reason)
}
