//! A packet's connection: its row, or what makes one.

use aya_ebpf::programs::XdpContext;
use balancer_common::{
    addr::UDP,
    conntrack::{FlowKey, REFRESH_JIFFIES, direction},
    real_server::state,
    settings::{Interface, interface_flags},
    tcp::{self, State, flags},
    verdict::Discard,
    wire::Ethernet,
};

use crate::{
    maps::{may_be_ours, now, settings, state_of},
    open::{Opened, open},
    packet::header_mut,
    parse::{Ip, Transport, facts, fault},
    table::{Family, Row, Scratch, forget, is_expired, other_row, scratch},
};

/// Where a packet goes and as what.
pub struct Steering<A> {
    /// The packet's row, or the scratch's where it has none.
    pub row: *mut Row<A>,
    /// Whether a row was made of the scratch's just now, and should learn the way out.
    pub is_new: bool,
}

/// What a packet's row is to it.
enum Followed {
    /// The packet goes on by the row.
    Steers,
    /// The packet begins a new connection, and the row goes when that has found its real server.
    IsReplaced,
    /// The row is deleted, and the packet may begin a new connection.
    IsGone,
}

/// Finds the packet's connection, or makes it.
#[inline(always)]
pub fn track<H: Family, T: Transport>(
    ctx: &XdpContext,
    ip: &Ip,
    key: &FlowKey<H::Address>,
    interface: &Interface,
) -> Result<Steering<H::Address>, Discard> {
    let mut replaces = 0;
    if let Some(row) = H::rows().get_ptr_mut(key) {
        let header = header_mut::<H>(ctx, Ethernet::LENGTH)?;
        let l4 = header_mut::<T>(ctx, ip.l4_offset)?;
        // A packet that goes no further changes nothing.
        if header.hops() <= 1 {
            return Err(Discard::TimeExceeded);
        }
        if let Some(fault) = fault::<H, T>(ctx, header, l4) {
            return Err(fault);
        }
        match follow::<H>(key, row, l4.flags(), interface)? {
            Followed::Steers => return Ok(Steering { row, is_new: false }),
            Followed::IsReplaced => replaces = 1,
            Followed::IsGone => {}
        }
    }
    if !may_be_ours(key.destination) && !may_be_ours(key.source) {
        return Err(Discard::NoService);
    }
    let scratch = scratch::<H>()?;
    scratch.key = *key;
    scratch.facts = facts::<H, T>(ctx, ip, scratch, replaces)?;
    let opened = open::<H>(scratch)?;
    Ok(Steering {
        row: &raw mut scratch.row,
        is_new: opened == Opened::Connection,
    })
}

/// Takes a packet along its row: refreshes it and follows the TCP state.
#[inline(always)]
fn follow<H: Family>(
    key: &FlowKey<H::Address>,
    pointer: *mut Row<H::Address>,
    packet_flags: u8,
    interface: &Interface,
) -> Result<Followed, Discard> {
    // SAFETY: the map gave this pointer just now, and rows stay mapped while a program runs. A row may be
    // deleted and given to another flow meanwhile; only idle rows are, so no packet of theirs is under way.
    let row = unsafe { &mut *pointer };
    if interface.flags & interface_flags::RESETS != 0
        && row.direction == direction::ORIGINAL
        && state::is_reset(state_of(row.real))
    {
        return give_up::<H>(key, pointer, packet_flags);
    }
    let now = now();
    if now.wrapping_sub(row.last_seen) > REFRESH_JIFFIES {
        let settings = settings().ok_or(Discard::NoService)?;
        let scratch = scratch::<H>()?;
        scratch.key = *key;
        if is_expired::<H>(scratch, row, now, settings) {
            forget::<H>(scratch, pointer);
            return Ok(Followed::IsGone);
        }
        row.last_seen = now;
    }
    if key.protocol == u32::from(UDP)
        && row.state == State::UdpUnreplied as u8
        && row.direction == direction::REPLY
    {
        let scratch = scratch::<H>()?;
        scratch.key.protocol = key.protocol;
        set_state::<H>(scratch, row, State::Udp as u8);
    }
    if packet_flags & (flags::SYN | flags::FIN | flags::RST) != 0 {
        let scratch = scratch::<H>()?;
        scratch.key.protocol = key.protocol;
        if !turn::<H>(scratch, row, packet_flags) {
            return Ok(Followed::IsReplaced);
        }
    }
    Ok(Followed::Steers)
}

/// Ends the connection of a client's packet whose real server has failed. TCP clients are told, datagrams and SYNs go
/// to another real server.
#[inline(always)]
fn give_up<H: Family>(
    key: &FlowKey<H::Address>,
    pointer: *mut Row<H::Address>,
    packet_flags: u8,
) -> Result<Followed, Discard> {
    if opens(packet_flags) {
        return Ok(Followed::IsReplaced);
    }
    let scratch = scratch::<H>()?;
    scratch.key = *key;
    forget::<H>(scratch, pointer);
    if key.protocol == u32::from(UDP) {
        return Ok(Followed::IsGone);
    }
    Err(real_reset(packet_flags))
}

/// Why a client's TCP packet whose real server has failed leaves early. A reset is never answered.
#[inline(always)]
const fn real_reset(packet_flags: u8) -> Discard {
    if packet_flags & flags::RST != 0 {
        Discard::StrayReset
    } else {
        Discard::RealReset
    }
}

/// Whether a segment with these flags asks for a new connection.
#[inline(always)]
const fn opens(packet_flags: u8) -> bool {
    packet_flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN
}

/// Follows a packet that may change the connection's state. `false` where a new connection is to begin in its place.
#[inline(never)]
fn turn<H: Family>(
    scratch: &mut Scratch<H::Address>,
    row: &mut Row<H::Address>,
    packet_flags: u8,
) -> bool {
    if opens(packet_flags) && row.direction == direction::ORIGINAL {
        // The old connection is closing or closed, or its real server takes no new ones.
        if tcp::may_be_reused(row.state) || state_of(row.real) != state::TAKES_NEW {
            return false;
        }
    }
    let state = tcp::next(row.state, packet_flags, row.direction);
    if state != row.state {
        set_state::<H>(scratch, row, state);
    }
    true
}

/// Brings both rows of a connection to another state.
#[inline(never)]
fn set_state<H: Family>(scratch: &mut Scratch<H::Address>, row: &mut Row<H::Address>, state: u8) {
    row.state = state;
    if let Some(other) = other_row::<H>(scratch, row) {
        // SAFETY: as in `follow`.
        unsafe { (*other).state = state };
    }
}
