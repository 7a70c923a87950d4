//! Where a packet goes and as what: its entry's fields, read once.

use core::ptr;

use balancer_common::{
    addr::Address as _, conntrack::Word, next_hop::NextHopRef, real_server::RealServer,
    verdict::Discard,
};

use crate::{
    atomic,
    family::{Family, scratch},
    maps::{REALS, snat_address},
    table::{Entry, Found, word},
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
    /// Whether the client's side is replaced as well, by the scratch's peer.
    pub is_full_nat: bool,
    /// The next hop that the entry remembers.
    pub next_hop: NextHopRef,
}

impl Steering {
    /// Reads it from an entry, which has full NAT only if `FULL_NAT`.
    #[inline(always)]
    pub fn of<H: Family, const FULL_NAT: bool>(found: Found<H::Address>) -> Result<Self, Discard> {
        let entry = found.entry;
        // SAFETY: an entry of the table, which never moves; what was read of another flow's is noticed below.
        let (real_id, mut port, next_hop, ports) = unsafe {
            (
                u32::from(ptr::read_volatile(&raw const (*entry).real)),
                ptr::read_volatile(&raw const (*entry).port),
                ptr::read_volatile(&raw const (*entry).next_hop),
                (*entry).ports,
            )
        };
        let is_full_nat = FULL_NAT && found.word.is_full_nat();
        if is_full_nat {
            meet_peer::<H>(entry, found.word.0);
        }
        if !word(entry).is_same_entry(found.word) {
            return Err(Discard::Busy);
        }
        let real = REALS.get(real_id).ok_or(Discard::Busy)?;
        if is_full_nat {
            port = if found.word.is_original() {
                real.port_of(ports.destination())
            } else {
                real.service_port_of(ports.source())
            };
        }
        Ok(Self {
            real_id,
            real,
            port,
            is_original: found.word.is_original(),
            is_full_nat,
            next_hop: if Entry::<H::Address>::has_next_hop(found.word) || !FULL_NAT {
                next_hop
            } else {
                NextHopRef(0)
            },
        })
    }
}

/// Writes to the scratch what the client's side of an entry's packets becomes: 1 where it is known.
#[inline(never)]
fn meet_peer<H: Family>(entry: *mut Entry<H::Address>, word: u32) -> u64 {
    let Ok(scratch) = scratch::<H>() else {
        return 0;
    };
    let word = Word(word);
    // SAFETY: as above.
    scratch.peer.port = u32::from(unsafe { (*entry).port });
    if word.is_original() {
        let Some(address) = snat_address::<H::Address>(word.snat_address()) else {
            return 0;
        };
        atomic::copy(&raw mut scratch.peer.address, &H::Address::narrow(*address));
    } else {
        // SAFETY: as above.
        atomic::copy(&raw mut scratch.peer.address, unsafe {
            &*Entry::client_place(entry)
        });
    }
    1
}
