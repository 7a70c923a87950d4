//! Packets without a row: new connections and handshakes. Touches keys and maps only, never the packet.

use balancer_common::{
    addr::{Address, UDP},
    conntrack::direction,
    half_open::HalfOpen,
    real_server::state,
    settings::Settings,
    tcp::{self, State, flags},
    verdict::Discard,
};

use crate::{
    classify::classify,
    half_open::{lock, may_have},
    maps::{now, settings, state_of, usage},
    parse::Facts,
    schedule::schedule,
    table::{Family, Scratch, insert, is_expired, remove_reply, replace},
};

/// How far a packet's connection has come. What the packet is steered by lies in the scratch's row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// A handshake is under way: there are no rows.
    Handshake,
    /// The connection has its rows now.
    Connection,
}

/// A `Result<Opened, Discard>` as one number. LLVM returns that type as a word with an undefined half, into which it
/// may put a leftover pointer, and the verifier refuses to see pointers shifted.
#[derive(Clone, Copy)]
struct Encoded(u32);

impl Encoded {
    const HANDSHAKE: u32 = Discard::COUNT;
    const CONNECTION: u32 = Discard::COUNT + 1;

    #[inline(always)]
    fn new(result: Result<Opened, Discard>) -> Self {
        Self(match result {
            Ok(Opened::Handshake) => Self::HANDSHAKE,
            Ok(Opened::Connection) => Self::CONNECTION,
            Err(reason) => reason as u32,
        })
    }

    #[inline(always)]
    fn result(self) -> Result<Opened, Discard> {
        match self.0 {
            Self::HANDSHAKE => Ok(Opened::Handshake),
            Self::CONNECTION => Ok(Opened::Connection),
            // SAFETY: `new` is the only way to make one, and made this number of a `Discard`.
            reason => Err(unsafe { core::mem::transmute::<u32, Discard>(reason) }),
        }
    }
}

/// Opens a connection for the scratch's packet, or takes its handshake further.
#[inline(always)]
pub fn open<H: Family>(scratch: &mut Scratch<H::Address>) -> Result<Opened, Discard> {
    const HANDSHAKE: u32 = (flags::SYN | flags::ACK | flags::RST | flags::FIN) as u32;
    let settings = settings().ok_or(Discard::NoService)?;
    if scratch.key.protocol == u32::from(UDP) {
        return open_datagrams::<H>(scratch, settings).result();
    }
    if scratch.facts.flags & HANDSHAKE == u32::from(flags::SYN) {
        return open_handshake::<H>(scratch, settings).result();
    }
    if classify::<H>(&scratch.key, settings).is_some() {
        return continue_original::<H>(scratch, settings).result();
    }
    continue_reply::<H>(scratch, settings).result()
}

/// The first datagram of a client: both rows at once.
#[inline(never)]
fn open_datagrams<H: Family>(scratch: &mut Scratch<H::Address>, settings: &Settings) -> Encoded {
    Encoded::new(try_open_datagrams::<H>(scratch, settings))
}

#[inline(always)]
fn try_open_datagrams<H: Family>(
    scratch: &mut Scratch<H::Address>,
    settings: &Settings,
) -> Result<Opened, Discard> {
    let service = classify::<H>(&scratch.key, settings).ok_or(Discard::NoService)?;
    refuse_fault(&scratch.facts)?;
    refuse_when_full(settings)?;
    let now = now();
    schedule(service, scratch, |scratch| {
        make_room::<H>(scratch, now, settings)
    })?;
    insert::<H>(scratch, State::UdpUnreplied as u8, now)?;
    Ok(Opened::Connection)
}

/// A client's SYN: a record of the handshake, or the one that its first copy made.
#[inline(never)]
fn open_handshake<H: Family>(scratch: &mut Scratch<H::Address>, settings: &Settings) -> Encoded {
    Encoded::new(try_open_handshake::<H>(scratch, settings))
}

#[inline(always)]
fn try_open_handshake<H: Family>(
    scratch: &mut Scratch<H::Address>,
    settings: &Settings,
) -> Result<Opened, Discard> {
    let service = classify::<H>(&scratch.key, settings).ok_or(Discard::NoService)?;
    refuse_fault(&scratch.facts)?;
    let replaces = scratch.facts.replaces != 0;
    if !replaces {
        refuse_when_full(settings)?;
    }
    let now = now();
    let timeout = settings.timeouts.half_open;
    let client = scratch.key.source.widen();
    let mut locked = lock(&client, scratch.key.source_port, settings.seed)?;
    if let Some(record) = locked.original(scratch, now, timeout) {
        // A SYN sent again is for another real server when the first one has not answered and takes no more, or has
        // failed.
        let is_answered = record.state == State::SynReceived as u8;
        let real = state_of(record.real_id);
        let is_good = real == state::TAKES_NEW || is_answered && !state::is_reset(real);
        if record.is_under_way() && is_good {
            record.last_seen = now;
            towards_real(record, scratch);
            if replaces {
                replace::<H>(scratch);
            }
            locked.unlock();
            return Ok(Opened::Handshake);
        }
        // The earlier handshake has ended or leads nowhere: its record is this one's place.
        record.state = 0;
    }
    let scheduled = schedule(service, scratch, |scratch| {
        match locked.same_reply(scratch, now, timeout) {
            Some(record) if record.is_under_way() => return Err(Discard::Collision),
            _ => {}
        }
        make_room::<H>(scratch, now, settings)
    });
    if scheduled.is_ok() {
        if replaces {
            replace::<H>(scratch);
        }
        locked.overwrite(scratch, now, timeout);
    }
    locked.unlock();
    scheduled.map(|()| Opened::Handshake)
}

/// Any other packet of a client to a service: the handshake's last step, or no connection of ours.
#[inline(never)]
fn continue_original<H: Family>(scratch: &mut Scratch<H::Address>, settings: &Settings) -> Encoded {
    let (client, port) = (scratch.key.source.widen(), scratch.key.source_port);
    if !may_have(&client, port, settings.seed) {
        return Encoded::new(Err(without_connection(&scratch.facts)));
    }
    let now = now();
    let mut locked = match lock(&client, port, settings.seed) {
        Ok(locked) => locked,
        Err(reason) => return Encoded::new(Err(reason)),
    };
    let outcome = match locked.original(scratch, now, settings.timeouts.half_open) {
        Some(record) if is_of_use(record) => acknowledge::<H>(scratch, record, now, settings),
        _ => Err(without_connection(&scratch.facts)),
    };
    let outcome = Encoded::new(outcome);
    locked.unlock();
    outcome
}

/// Takes a client's packet along its handshake. The acknowledgement of the real server's SYN|ACK completes it:
/// the connection moves to the table.
#[inline(always)]
fn acknowledge<H: Family>(
    scratch: &mut Scratch<H::Address>,
    record: &mut HalfOpen,
    now: u32,
    settings: &Settings,
) -> Result<Opened, Discard> {
    let facts = &scratch.facts;
    refuse_fault(facts)?;
    let completes = record.state == State::SynReceived as u8
        && facts.flags & u32::from(flags::ACK) != 0
        && facts.flags & u32::from(flags::RST) == 0
        && tcp::completes_handshake(facts.acknowledgement, record.sequence);
    if state::is_reset(state_of(record.real_id)) {
        record.state = 0;
        // Who has not seen the SYN|ACK may speak in another's name: the answer to it is limited.
        return Err(if completes {
            Discard::RealReset
        } else {
            without_connection(facts)
        });
    }
    let packet_flags = facts.flags;
    towards_real(record, scratch);
    if packet_flags & u32::from(flags::RST) != 0 {
        record.end(State::Closed, now);
        return Ok(Opened::Handshake);
    }
    if !completes {
        return Ok(Opened::Handshake);
    }
    // Other handshakes may have taken the last places since this one began.
    refuse_when_full(settings)?;
    let state = tcp::next(
        State::Established as u8,
        packet_flags as u8,
        direction::ORIGINAL,
    );
    insert::<H>(scratch, state, now)?;
    record.end(State::Established, now);
    Ok(Opened::Connection)
}

/// A packet to no service: the real server's part of a handshake, or not ours.
#[inline(never)]
fn continue_reply<H: Family>(scratch: &mut Scratch<H::Address>, settings: &Settings) -> Encoded {
    let (client, port) = (
        scratch.key.destination.widen(),
        scratch.key.destination_port,
    );
    if !may_have(&client, port, settings.seed) {
        return Encoded::new(Err(Discard::NoService));
    }
    let now = now();
    let mut locked = match lock(&client, port, settings.seed) {
        Ok(locked) => locked,
        Err(reason) => return Encoded::new(Err(reason)),
    };
    let outcome = match locked.reply(scratch, now, settings.timeouts.half_open) {
        Some(record) if is_of_use(record) => answer::<H>(scratch, record, now),
        _ => Err(Discard::NoService),
    };
    let outcome = Encoded::new(outcome);
    locked.unlock();
    outcome
}

/// Takes a real server's packet along its handshake.
#[inline(always)]
fn answer<H: Family>(
    scratch: &mut Scratch<H::Address>,
    record: &mut HalfOpen,
    now: u32,
) -> Result<Opened, Discard> {
    let facts = &scratch.facts;
    refuse_fault(facts)?;
    if facts.flags & u32::from(flags::RST) != 0 {
        // After its SYN|ACK the real server also answers a wrong acknowledgement with a reset, and goes on waiting for
        // the right one (RFC 9293 section 3.10.7.4): only a reset that continues its own sequence ends the handshake.
        let continues = facts.sequence == record.sequence.wrapping_add(1);
        if record.state != State::SynReceived as u8 || continues {
            record.end(State::Closed, now);
        }
    } else if record.is_under_way() && facts.flags & u32::from(flags::SYN) != 0 {
        record.state = State::SynReceived as u8;
        record.sequence = facts.sequence;
        record.last_seen = now;
    }
    let vip = H::Address::narrow(record.vip);
    let key = &scratch.key;
    scratch.row.translation.between(
        key,
        vip,
        record.vip_port,
        key.destination,
        key.destination_port,
    );
    scratch.begin(record.real_id, direction::REPLY);
    Ok(Opened::Handshake)
}

/// Steers a client's packet by its handshake's record.
#[inline(always)]
fn towards_real<A: Address>(record: &HalfOpen, scratch: &mut Scratch<A>) {
    scratch
        .row
        .translation
        .dnat(&scratch.key, A::narrow(record.real), record.real_port);
    scratch.begin(record.real_id, direction::ORIGINAL);
}

/// Whether a packet may still be steered by a record. One that lingers after its handshake must not keep a
/// connection alive whose rows were purged with their real server.
#[inline(always)]
fn is_of_use(record: &HalfOpen) -> bool {
    record.is_under_way() || matches!(state_of(record.real_id), state::TAKES_NEW | state::DRAINING)
}

/// Why a client's TCP packet that opens nothing leaves early.
#[inline(always)]
fn without_connection(facts: &Facts) -> Discard {
    if facts.flags & u32::from(flags::RST) != 0 {
        return Discard::StrayReset;
    }
    if facts.flags & u32::from(flags::SYN) != 0 {
        return Discard::StraySynAck;
    }
    facts.fault.unwrap_or(Discard::NoConnection)
}

/// Refuses a packet of ours that must not be forwarded, before it makes any state.
#[inline(always)]
fn refuse_fault(facts: &Facts) -> Result<(), Discard> {
    match facts.fault {
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
        || other.translation.answers(&scratch.key)
        || is_expired::<H>(scratch, other, now, settings);
    if !is_spent {
        return Err(Discard::Collision);
    }
    remove_reply::<H>(scratch, pointer);
    Ok(())
}
