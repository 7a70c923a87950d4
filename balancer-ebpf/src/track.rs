//! A packet's connection: its row, or what makes one.

use aya_ebpf::programs::XdpContext;
use balancer_common::{
    conntrack::{FlowKey, REFRESH_JIFFIES, direction},
    tcp::{self, flags},
    verdict::Discard,
    wire::Ethernet,
};

use crate::{
    maps::{may_be_ours, now, settings, takes_new},
    open::{Opened, open},
    packet::header_mut,
    parse::{Ip, Transport, facts},
    table::{Family, Row, forget, is_expired, other_row, scratch},
};

/// Where a packet goes and as what.
pub struct Steering<A> {
    /// The packet's row, or the scratch's where it has none.
    pub row: *mut Row<A>,
    /// Whether a row was made of the scratch's just now, and should learn the way out.
    pub is_new: bool,
}

/// Finds the packet's connection, or makes it.
#[inline(always)]
pub fn track<H: Family, T: Transport>(
    ctx: &XdpContext,
    ip: &Ip,
    key: &FlowKey<H::Address>,
) -> Result<Steering<H::Address>, Discard> {
    if let Some(row) = H::rows().get_ptr_mut(key) {
        let hops = header_mut::<H>(ctx, Ethernet::LENGTH)?.hops();
        let l4 = header_mut::<T>(ctx, ip.l4_offset)?;
        // A packet that goes no further changes nothing.
        if hops <= 1 {
            return Err(Discard::TimeExceeded);
        }
        if let Some(fault) = l4.fault::<H>(Ethernet::LENGTH + ip.length - ip.l4_offset) {
            return Err(fault);
        }
        if follow::<H>(key, row, l4.flags())? {
            return Ok(Steering { row, is_new: false });
        }
    }
    if !may_be_ours(key.destination) && !may_be_ours(key.source) {
        return Err(Discard::NoService);
    }
    let facts = facts::<H, T>(ctx, ip)?;
    let opened = open::<H>(key, &facts)?;
    let row = &raw mut scratch::<H>()?.row;
    Ok(Steering {
        row,
        is_new: opened == Opened::Connection,
    })
}

/// Takes a packet along its row: refreshes it and follows the TCP state. `false` where the row is spent, deleted
/// now, and a new connection may begin.
#[inline(always)]
fn follow<H: Family>(
    key: &FlowKey<H::Address>,
    pointer: *mut Row<H::Address>,
    packet_flags: u8,
) -> Result<bool, Discard> {
    // SAFETY: the map gave this pointer just now, and rows stay mapped while a program runs. A row may be
    // deleted and given to another flow meanwhile; only idle rows are, so no packet of theirs is under way.
    let row = unsafe { &mut *pointer };
    let now = now();
    if now.wrapping_sub(row.last_seen) > REFRESH_JIFFIES {
        let settings = settings().ok_or(Discard::NoService)?;
        if is_expired::<H>(key.protocol, row, now, settings) {
            forget::<H>(key, pointer);
            return Ok(false);
        }
        row.last_seen = now;
    }
    if packet_flags & (flags::SYN | flags::FIN | flags::RST) != 0 {
        return Ok(turn::<H>(key, row, packet_flags));
    }
    Ok(true)
}

/// Follows a packet that may change the connection's state. `false` where a new connection begins: the row is
/// deleted.
#[inline(never)]
fn turn<H: Family>(key: &FlowKey<H::Address>, row: &mut Row<H::Address>, packet_flags: u8) -> bool {
    let opens = packet_flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN;
    if opens && row.direction == direction::ORIGINAL {
        // The old connection is closing or closed, or its real server takes no new ones.
        if tcp::may_be_reused(row.state) || !takes_new(row.real) {
            forget::<H>(key, row);
            return false;
        }
    }
    let state = tcp::next(row.state, packet_flags, row.direction);
    if state != row.state {
        row.state = state;
        if let Some(other) = other_row::<H>(key.protocol, row) {
            // SAFETY: as in `follow`.
            unsafe { (*other).state = state };
        }
    }
    true
}
