//! Where a packet goes and as what: its entry's fields, read once.

use core::ptr;

use balancer_common::{
    addr::Address, next_hop::NextHopRef, real_server::RealServer, verdict::Discard,
};

use crate::{
    maps::REALS,
    table::{Found, word},
};

/// What an entry says to its packets.
pub struct Steering {
    /// The real server's id.
    pub real_id: u32,
    /// The real server.
    pub real: &'static RealServer,
    /// What replaces the service's port, or the real server's; network byte order.
    pub port: u16,
    /// From the client to the real server, else back.
    pub is_original: bool,
    /// The next hop that the entry remembers.
    pub next_hop: NextHopRef,
}

impl Steering {
    /// Reads it from an entry.
    #[inline(always)]
    pub fn of<A: Address>(found: Found<A>) -> Result<Self, Discard> {
        let entry = found.entry;
        // SAFETY: an entry of the table, which never moves; what was read of another flow's is noticed below.
        let (real_id, port, next_hop) = unsafe {
            (
                u32::from(ptr::read_volatile(&raw const (*entry).real)),
                ptr::read_volatile(&raw const (*entry).port),
                ptr::read_volatile(&raw const (*entry).next_hop),
            )
        };
        if !word(entry).is_same_entry(found.word) {
            return Err(Discard::Busy);
        }
        Ok(Self {
            real_id,
            real: REALS.get(real_id).ok_or(Discard::Busy)?,
            port,
            is_original: found.word.is_original(),
            next_hop,
        })
    }
}
