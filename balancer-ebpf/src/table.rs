//! The connection table: rows inserted and deleted as a pair, and the room to build them in.

use aya_ebpf::maps::{HashMap, PerCpuArray, lpm_trie::Key};
use balancer_common::{
    addr::{Addr, Address},
    conntrack::{ConntrackEntry, FlowKey, direction},
    service::{Service, ServiceKey},
    settings::Settings,
    verdict::Discard,
    wire::{IpHeader, Ipv4, Ipv6},
};

use crate::{
    atomic,
    maps::{CONNTRACK_V4, CONNTRACK_V6, SCRATCH_V4, SCRATCH_V6, SERVICES_V4, SERVICES_V6, usage},
    parse::Facts,
};

/// A row of one family's connection table.
pub type Row<A> = ConntrackEntry<A>;

/// An address family with its maps.
pub trait Family: IpHeader {
    /// The connection table.
    fn rows() -> &'static HashMap<FlowKey<Self::Address>, Row<Self::Address>>;
    /// The services.
    fn services() -> &'static HashMap<ServiceKey<Self::Address>, Service>;
    /// Room to build a connection in.
    fn scratch() -> &'static PerCpuArray<Scratch<Self::Address>>;
}

impl Family for Ipv4 {
    #[inline(always)]
    fn rows() -> &'static HashMap<FlowKey<u32>, Row<u32>> {
        &CONNTRACK_V4
    }

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<u32>, Service> {
        &SERVICES_V4
    }

    #[inline(always)]
    fn scratch() -> &'static PerCpuArray<Scratch<u32>> {
        &SCRATCH_V4
    }
}

impl Family for Ipv6 {
    #[inline(always)]
    fn rows() -> &'static HashMap<FlowKey<[u32; 4]>, Row<[u32; 4]>> {
        &CONNTRACK_V6
    }

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<[u32; 4]>, Service> {
        &SERVICES_V6
    }

    #[inline(always)]
    fn scratch() -> &'static PerCpuArray<Scratch<[u32; 4]>> {
        &SCRATCH_V6
    }
}

/// Room to build one connection in, and what subprograms are told of the packet under way: the keys and rows of IPv6 do
/// not fit on a BPF stack of 512 bytes, and what lies on a caller's stack no subprogram may decide on (see
/// CONTRIBUTING.md).
#[repr(C)]
pub struct Scratch<A> {
    /// The packet's key.
    pub key: FlowKey<A>,
    /// What a packet without a row is asked for.
    pub facts: Facts,
    /// What the packet under way is steered by, where it has no row; it becomes the connection's original row.
    pub row: Row<A>,
    /// The connection's reply row.
    reply: Row<A>,
    /// The key under which answers to the packet arrive.
    pub reply_key: FlowKey<A>,
    /// The key under which the packet's source is looked up among this host's addresses. Its second field lies at an odd
    /// half of a whole word, where LLVM may write whole words, which the verifier refuses on a stack.
    pub host_key: Key<Addr>,
    /// The other key of a connection that is being looked at or deleted.
    other_key: FlowKey<A>,
}

/// This CPU's scratch.
#[inline(always)]
pub fn scratch<H: Family>() -> Result<&'static mut Scratch<H::Address>, Discard> {
    let scratch = H::scratch().get_ptr_mut(0).ok_or(Discard::TableFull)?;
    // SAFETY: this CPU's own value, no other program of ours runs on this CPU until this one has ended, and no
    // caller holds two references at once.
    Ok(unsafe { &mut *scratch })
}

/// Whether a connection has been idle for longer than its timeout: it lives while either direction does.
#[inline(never)]
pub fn is_expired<H: Family>(
    scratch: &mut Scratch<H::Address>,
    row: &Row<H::Address>,
    now: u32,
    settings: &Settings,
) -> bool {
    if !row.is_expired(now, &settings.timeouts) {
        return false;
    }
    match other_row::<H>(scratch, row) {
        // SAFETY: the map gave this pointer just now; see `track::follow`.
        Some(other) => unsafe { (*other).is_expired(now, &settings.timeouts) },
        None => true,
    }
}

/// The other direction's row. The scratch holds the key of a packet of the same protocol.
#[inline(always)]
pub fn other_row<H: Family>(
    scratch: &mut Scratch<H::Address>,
    row: &Row<H::Address>,
) -> Option<*mut Row<H::Address>> {
    row.translation
        .reply_key(scratch.key.protocol, &mut scratch.other_key);
    H::rows().get_ptr_mut(&scratch.other_key)
}

/// Deletes a connection: both rows, counted once by whoever deletes the original one. `key` is that of `row`.
#[inline(always)]
fn remove<H: Family>(
    key: &FlowKey<H::Address>,
    row: *const Row<H::Address>,
    other_key: &mut FlowKey<H::Address>,
) {
    // SAFETY: callers pass a row that the map gave in this run of the program; see `track::follow`.
    let is_original = unsafe {
        (*row).translation.reply_key(key.protocol, other_key);
        (*row).direction == direction::ORIGINAL
    };
    let this = H::rows().remove(key).is_ok();
    let that = H::rows().remove(&*other_key).is_ok();
    let removed_original = if is_original { this } else { that };
    if removed_original && let Some(usage) = usage() {
        // SAFETY: `usage` points to the map's only value.
        atomic::fetch_add(unsafe { &raw mut (*usage).removed }, 1);
    }
}

/// Deletes the connection of the scratch's packet, `row` being its row.
#[inline(never)]
pub fn forget<H: Family>(scratch: &mut Scratch<H::Address>, row: *const Row<H::Address>) {
    remove::<H>(&scratch.key, row, &mut scratch.other_key);
}

/// Deletes the rows under the scratch's packet's key, if there are any: another connection begins in their place.
#[inline(never)]
pub fn replace<H: Family>(scratch: &mut Scratch<H::Address>) {
    if let Some(row) = H::rows().get_ptr(&scratch.key) {
        remove::<H>(&scratch.key, row, &mut scratch.other_key);
    }
}

/// Deletes the connection that holds the scratch's reply key, `row` being its row.
#[inline(always)]
pub fn remove_reply<H: Family>(scratch: &mut Scratch<H::Address>, row: *const Row<H::Address>) {
    remove::<H>(&scratch.reply_key, row, &mut scratch.other_key);
}

impl<A: Address> Scratch<A> {
    /// Fills in all but the translation of the packet's own row.
    #[inline(always)]
    pub fn begin(&mut self, real: u32, direction: u8) {
        self.row.egress.generation = 0; // not looked up yet
        self.row.real = real;
        self.row.direction = direction;
    }
}

/// Inserts the connection that the scratch's row makes of its key: the reply's row first, so that no packet can be
/// answered before its answer is known. Where another CPU was faster, its rows are the connection's, and the
/// scratch's row becomes a copy of its original one.
#[inline(always)]
pub fn insert<H: Family>(
    scratch: &mut Scratch<H::Address>,
    state: u8,
    now: u32,
) -> Result<(), Discard> {
    const NOEXIST: u64 = 1;
    const EEXIST: i32 = -17;
    let (key, row, reply) = (&scratch.key, &mut scratch.row, &mut scratch.reply);
    row.state = state;
    row.last_seen = now;
    row.translation
        .reply_key(key.protocol, &mut scratch.reply_key);
    reply.translation.reply(&row.translation, key);
    reply.egress.generation = 0;
    reply.last_seen = now;
    reply.real = row.real;
    reply.state = state;
    reply.direction = direction::REPLY;
    let is_mine = match H::rows().insert(&scratch.reply_key, &scratch.reply, NOEXIST) {
        Ok(()) => true,
        Err(EEXIST) => {
            // Another CPU's row for this connection is as good; another connection's is in the way.
            let row = H::rows().get_ptr(&scratch.reply_key).ok_or(Discard::Busy)?;
            // SAFETY: the map gave this pointer just now; see `track::follow`.
            if !unsafe { (*row).translation.answers(key) } {
                return Err(Discard::Collision);
            }
            false
        }
        Err(_) => return Err(Discard::TableFull),
    };
    let outcome = match H::rows().insert(key, &scratch.row, NOEXIST) {
        Ok(()) => {
            if let Some(usage) = usage() {
                // SAFETY: `usage` points to the map's only value.
                atomic::fetch_add(unsafe { &raw mut (*usage).added }, 1);
            }
            return Ok(());
        }
        Err(EEXIST) => match H::rows().get_ptr(key) {
            Some(winner) => {
                // SAFETY: as above.
                let winner = unsafe { &*winner };
                if winner.translation == scratch.row.translation {
                    return Ok(());
                }
                scratch.row.translation = winner.translation;
                scratch.row.real = winner.real;
                Ok(())
            }
            None => Err(Discard::Busy),
        },
        Err(_) => Err(Discard::TableFull),
    };
    // The connection is not the one that this reply row was made for.
    if is_mine {
        let _ = H::rows().remove(&scratch.reply_key);
    }
    outcome
}
