//! Packets without a row: new connections and handshakes. Touches keys and maps only, never the packet.

use balancer_common::{
    addr::{Address, UDP},
    conntrack::{FlowKey, direction},
    half_open::HalfOpen,
    settings::Settings,
    tcp::{self, State, flags},
    verdict::Discard,
};

use crate::{
    classify::classify,
    half_open::{lock, may_have},
    maps::{now, settings, usage},
    parse::Parsed,
    schedule::schedule,
    table::{Family, Scratch, insert, remove_reply, scratch},
};

/// The connection of a packet that had no row. Its translation is in the scratch.
pub struct Opened {
    /// The real server's id.
    pub real: u32,
    /// [`direction`].
    pub direction: u8,
    /// Whether the connection has rows now.
    pub has_row: bool,
}

/// Opens a connection, or takes a handshake further.
#[inline(always)]
pub fn open<H: Family>(packet: &Parsed<H::Address>) -> Result<Opened, Discard> {
    let settings = settings().ok_or(Discard::NoService)?;
    if packet.key.protocol == u32::from(UDP) {
        return open_datagrams::<H>(packet, settings);
    }
    if packet.flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN {
        return open_handshake::<H>(packet, settings);
    }
    if classify::<H>(&packet.key, settings).is_some() {
        return continue_original::<H>(packet, settings);
    }
    continue_reply::<H>(packet, settings)
}

/// The first datagram of a client: both rows at once.
#[inline(never)]
fn open_datagrams<H: Family>(
    packet: &Parsed<H::Address>,
    settings: &Settings,
) -> Result<Opened, Discard> {
    let key = &packet.key;
    let service = classify::<H>(key, settings).ok_or(Discard::NoService)?;
    refuse_fault(packet)?;
    refuse_when_full(settings)?;
    let now = now();
    let scratch = scratch::<H>()?;
    let real = schedule(key, service, scratch, |scratch| {
        make_room::<H>(key, scratch, now, settings)
    })?;
    let real = insert::<H>(key, scratch, real, State::Udp as u8, now)?;
    Ok(Opened {
        real,
        direction: direction::ORIGINAL,
        has_row: true,
    })
}

/// A client's SYN: a record of the handshake, or the one that its first copy made.
#[inline(never)]
fn open_handshake<H: Family>(
    packet: &Parsed<H::Address>,
    settings: &Settings,
) -> Result<Opened, Discard> {
    let key = &packet.key;
    let service = classify::<H>(key, settings).ok_or(Discard::NoService)?;
    refuse_fault(packet)?;
    refuse_when_full(settings)?;
    let now = now();
    let timeout = settings.timeouts.half_open;
    let scratch = scratch::<H>()?;
    let mut locked = lock(&key.source.widen(), key.source_port, settings.seed)?;
    if let Some(record) = locked.original(key, now, timeout) {
        if record.is_under_way() {
            record.last_seen = now;
            let opened = towards_real(key, record, scratch);
            locked.unlock();
            return Ok(opened);
        }
        // The earlier handshake has ended: its record is this one's place.
        record.state = 0;
    }
    let scheduled = schedule(key, service, scratch, |scratch| {
        match locked.reply(&scratch.reply_key, now, timeout) {
            Some(record) if record.is_under_way() => return Err(Discard::Collision),
            _ => {}
        }
        make_room::<H>(key, scratch, now, settings)
    });
    if let (Ok(real), Some(record)) = (scheduled, locked.victim(now, timeout)) {
        let translation = &scratch.translation;
        record.client = key.source.widen();
        record.vip = key.destination.widen();
        record.real = translation.destination.widen();
        record.client_port = key.source_port;
        record.vip_port = key.destination_port;
        record.real_port = translation.destination_port;
        record.state = State::SynSent as u8;
        record.real_id = real;
        record.last_seen = now;
        record.sequence = 0;
    }
    locked.unlock();
    scheduled.map(|real| Opened {
        real,
        direction: direction::ORIGINAL,
        has_row: false,
    })
}

/// Any other packet of a client to a service: the handshake's last step, or no connection of ours.
#[inline(never)]
fn continue_original<H: Family>(
    packet: &Parsed<H::Address>,
    settings: &Settings,
) -> Result<Opened, Discard> {
    let key = &packet.key;
    let client = key.source.widen();
    if !may_have(&client, key.source_port, settings.seed) {
        return Err(without_connection(packet.flags));
    }
    let now = now();
    let mut locked = lock(&client, key.source_port, settings.seed)?;
    let outcome = match locked.original(key, now, settings.timeouts.half_open) {
        Some(record) => acknowledge::<H>(packet, record, now),
        None => Err(without_connection(packet.flags)),
    };
    locked.unlock();
    outcome
}

/// Takes a client's packet along its handshake. The acknowledgement of the real server's SYN|ACK completes it:
/// the connection moves to the table.
#[inline(always)]
fn acknowledge<H: Family>(
    packet: &Parsed<H::Address>,
    record: &mut HalfOpen,
    now: u32,
) -> Result<Opened, Discard> {
    refuse_fault(packet)?;
    let scratch = scratch::<H>()?;
    let opened = towards_real(&packet.key, record, scratch);
    if packet.flags & flags::RST != 0 {
        record.end(State::Closed, now);
    } else if record.state == State::SynReceived as u8
        && packet.flags & flags::ACK != 0
        && tcp::completes_handshake(packet.acknowledgement, record.sequence)
    {
        let state = tcp::next(State::Established as u8, packet.flags, direction::ORIGINAL);
        insert::<H>(&packet.key, scratch, record.real_id, state, now)?;
        record.end(State::Established, now);
        return Ok(Opened {
            has_row: true,
            ..opened
        });
    }
    Ok(opened)
}

/// A packet to no service: the real server's part of a handshake, or not ours.
#[inline(never)]
fn continue_reply<H: Family>(
    packet: &Parsed<H::Address>,
    settings: &Settings,
) -> Result<Opened, Discard> {
    let key = &packet.key;
    let client = key.destination.widen();
    if !may_have(&client, key.destination_port, settings.seed) {
        return Err(Discard::NoService);
    }
    let now = now();
    let mut locked = lock(&client, key.destination_port, settings.seed)?;
    let outcome = match locked.reply(key, now, settings.timeouts.half_open) {
        Some(record) => answer::<H>(packet, record, now),
        None => Err(Discard::NoService),
    };
    locked.unlock();
    outcome
}

/// Takes a real server's packet along its handshake.
#[inline(always)]
fn answer<H: Family>(
    packet: &Parsed<H::Address>,
    record: &mut HalfOpen,
    now: u32,
) -> Result<Opened, Discard> {
    refuse_fault(packet)?;
    if packet.flags & flags::RST != 0 {
        record.end(State::Closed, now);
    } else if record.is_under_way() && packet.flags & flags::SYN != 0 {
        record.state = State::SynReceived as u8;
        record.sequence = packet.sequence;
        record.last_seen = now;
    }
    scratch::<H>()?.translation.between(
        &packet.key,
        H::Address::narrow(record.vip),
        record.vip_port,
        packet.key.destination,
        packet.key.destination_port,
    );
    Ok(Opened {
        real: record.real_id,
        direction: direction::REPLY,
        has_row: false,
    })
}

/// Steers a client's packet by its handshake's record.
#[inline(always)]
fn towards_real<A: Address>(
    key: &FlowKey<A>,
    record: &HalfOpen,
    scratch: &mut Scratch<A>,
) -> Opened {
    scratch
        .translation
        .dnat(key, A::narrow(record.real), record.real_port);
    Opened {
        real: record.real_id,
        direction: direction::ORIGINAL,
        has_row: false,
    }
}

/// Why a client's TCP packet that opens nothing leaves early.
#[inline(always)]
fn without_connection(packet_flags: u8) -> Discard {
    if packet_flags & flags::RST != 0 {
        Discard::StrayReset
    } else if packet_flags & flags::SYN != 0 {
        Discard::StraySynAck
    } else {
        Discard::NoConnection
    }
}

/// Refuses a packet of ours that must not be forwarded, before it makes any state.
#[inline(always)]
fn refuse_fault<A>(packet: &Parsed<A>) -> Result<(), Discard> {
    match packet.fault {
        Some(fault) => Err(fault),
        None => Ok(()),
    }
}

/// Refuses new connections while the table holds as many as it may.
#[inline(always)]
fn refuse_when_full(settings: &Settings) -> Result<(), Discard> {
    let usage = usage().ok_or(Discard::TableFull)?;
    // SAFETY: `usage` points to the map's only value.
    let connections = unsafe { (*usage).connections(settings) };
    if connections >= settings.max_connections {
        Err(Discard::TableFull)
    } else {
        Ok(())
    }
}

/// Makes sure that the real server's answers to this connection are told from every other's: a spent connection on
/// the same reply tuple is removed, a live one (of another service with the same real server) is in the way.
#[inline(always)]
fn make_room<H: Family>(
    key: &FlowKey<H::Address>,
    scratch: &mut Scratch<H::Address>,
    now: u32,
    settings: &Settings,
) -> Result<(), Discard> {
    let Some(pointer) = H::rows().get_ptr(&scratch.reply_key) else {
        return Ok(());
    };
    // SAFETY: the map gave this pointer just now; see `track::follow`.
    let other = unsafe { &*pointer };
    let is_spent = tcp::may_be_reused(other.state)
        || other.is_expired(now, &settings.timeouts)
        || other.translation.answers(key);
    if !is_spent {
        return Err(Discard::Collision);
    }
    remove_reply::<H>(scratch, pointer);
    Ok(())
}
