//! A packet's connection: its row, or what makes one.

use balancer_common::{
    conntrack::{Egress, REFRESH_JIFFIES, direction},
    nat::Translation,
    settings::Settings,
    tcp::{self, flags},
    verdict::Discard,
};

use crate::{
    maps::{REALS, now, settings},
    open::open,
    parse::Parsed,
    table::{Family, Row, forget, scratch},
};

/// Where a packet goes and as what.
///
/// The pointers lead into the packet's row, or into the scratch where it has none.
pub struct Steering<A> {
    /// What its addresses and ports become.
    pub translation: *const Translation<A>,
    /// The way out that was looked up before, or room for it.
    pub egress: *mut Egress,
    /// The real server's id.
    pub real: u32,
    /// Whether a row was made of what stands in the scratch, and should learn the way out.
    pub has_new_row: bool,
    /// [`direction`].
    pub direction: u8,
}

/// Finds the packet's connection, or makes it.
#[inline(always)]
pub fn track<H: Family>(packet: &Parsed<H::Address>) -> Result<Steering<H::Address>, Discard> {
    if let Some(row) = H::rows().get_ptr_mut(&packet.key) {
        if let Some(steering) = follow::<H>(packet, row)? {
            return Ok(steering);
        }
    }
    let opened = open::<H>(packet)?;
    let scratch = scratch::<H>()?;
    scratch.egress.generation = 0;
    Ok(Steering {
        translation: &raw const scratch.translation,
        egress: &raw mut scratch.egress,
        real: opened.real,
        has_new_row: opened.has_row,
        direction: opened.direction,
    })
}

/// Takes a packet along its row: refreshes it and follows the TCP state. `None` where the row is spent and a
/// new connection may begin.
#[inline(always)]
fn follow<H: Family>(
    packet: &Parsed<H::Address>,
    pointer: *mut Row<H::Address>,
) -> Result<Option<Steering<H::Address>>, Discard> {
    // SAFETY: the map gave this pointer just now, and rows stay mapped while a program runs. A row may be
    // deleted and given to another flow meanwhile; only idle rows are, so no packet of theirs is under way.
    let row = unsafe { &mut *pointer };
    let now = now();
    if now.wrapping_sub(row.last_seen) > REFRESH_JIFFIES {
        let settings = settings().ok_or(Discard::NoService)?;
        if row.is_expired(now, &settings.timeouts)
            && is_pair_expired::<H>(packet, row, now, settings)
        {
            forget::<H>(&packet.key, pointer);
            return Ok(None);
        }
        row.last_seen = now;
    }
    if packet.flags & (flags::SYN | flags::FIN | flags::RST) != 0 {
        if opens_anew::<H::Address>(packet, row) {
            forget::<H>(&packet.key, pointer);
            return Ok(None);
        }
        let state = tcp::next(row.state, packet.flags, row.direction);
        if state != row.state {
            row.state = state;
            settle::<H>(packet.key.protocol, row);
        }
    }
    if let Some(fault) = packet.fault {
        return Err(fault);
    }
    Ok(Some(Steering {
        translation: &raw const row.translation,
        egress: &raw mut row.egress,
        real: row.real,
        has_new_row: false,
        direction: row.direction,
    }))
}

/// Whether a packet on an existing connection is a client's SYN that must open a new one: the old one is closing
/// or closed, or its real server takes no new connections.
#[inline(always)]
fn opens_anew<A>(packet: &Parsed<A>, row: &Row<A>) -> bool {
    if packet.flags & (flags::SYN | flags::ACK | flags::RST) != flags::SYN
        || row.direction != direction::ORIGINAL
    {
        return false;
    }
    tcp::may_be_reused(row.state) || !takes_new(row.real)
}

/// Whether the real server takes new connections.
#[inline(always)]
fn takes_new(real: u32) -> bool {
    match REALS.get(real) {
        Some(real) => real.state == balancer_common::real_server::state::TAKES_NEW,
        None => false,
    }
}

/// Whether the other direction has been idle for as long: a connection lives while either direction does.
#[inline(never)]
fn is_pair_expired<H: Family>(
    packet: &Parsed<H::Address>,
    row: &Row<H::Address>,
    now: u32,
    settings: &Settings,
) -> bool {
    match other::<H>(packet.key.protocol, row) {
        // SAFETY: as in `follow`.
        Some(other) => unsafe { (*other).is_expired(now, &settings.timeouts) },
        None => true,
    }
}

/// Writes a row's state to the other direction's row.
#[inline(never)]
fn settle<H: Family>(protocol: u32, row: &Row<H::Address>) {
    if let Some(other) = other::<H>(protocol, row) {
        // SAFETY: as in `follow`.
        unsafe { (*other).state = row.state };
    }
}

/// The other direction's row.
#[inline(always)]
fn other<H: Family>(protocol: u32, row: &Row<H::Address>) -> Option<*mut Row<H::Address>> {
    let scratch = scratch::<H>().ok()?;
    row.translation.reply_key(protocol, &mut scratch.reply_key);
    H::rows().get_ptr_mut(&scratch.reply_key)
}
