//! A packet's connection: its entry, and what the packet makes of it.

use core::ptr;

use aya_ebpf::{EbpfContext as _, bindings::xdp_md, programs::XdpContext};
use balancer_common::{
    addr::{Address, UDP},
    conntrack::{FlowKey, REFRESH_JIFFIES, Word, idle},
    direction,
    real_server::state,
    settings::Settings,
    tcp::{self, Segment, State, flags},
    verdict::Discard,
    wire::Ethernet,
};

use crate::{
    answer::answer_as,
    atomic,
    encoded::Encoded,
    family::{Family, scratch},
    maps::{may_be_ours, now, settings},
    packet::header_mut,
    parse::{Ip, Transport, fault, segment},
    persistence::keep,
    places::{count, end, is_young},
    scratch::{Scratch, Transition},
    table::{Entry, Found, are_idle, change, partner, real_of, state_of, word},
};

/// Takes the packet along its entry, if it has one; nothing where it has none, or one whose connection is over, and may open a connection.
#[inline(always)]
pub fn track<H: Family, T: Transport>(
    ctx: &XdpContext,
    ip: &Ip,
    key: &FlowKey<H::Address>,
    entry: Option<Found<H::Address>>,
    settings: &Settings,
) -> Result<Option<Found<H::Address>>, Discard> {
    if let Some(found) = entry {
        let header = header_mut::<H>(ctx, Ethernet::LENGTH)?;
        let l4 = header_mut::<T>(ctx, ip.l4_offset)?;
        // A packet that goes no further changes nothing.
        if header.hops() <= 1 {
            let real = real_of(found.entry).ok_or(Discard::Busy)?;
            answer_as::<H>(ctx, ip, &real.vip, 0)?;
            return Err(Discard::TimeExceeded);
        }
        if let Some(fault) = fault::<H, T>(ctx, header, l4, ip.payload(header)) {
            return Err(fault);
        }
        if follow::<H, T>(ctx, ip, found, l4.flags(), settings)? {
            return Ok(Some(found));
        }
    } else if !may_be_ours(key.destination) && !may_be_ours(key.source) {
        return Err(Discard::NoService);
    }
    Ok(None)
}

/// Takes a packet along its entry. `false` where it may begin a new connection instead.
#[inline(always)]
fn follow<H: Family, T: Transport>(
    ctx: &XdpContext,
    ip: &Ip,
    found: Found<H::Address>,
    packet_flags: u8,
    settings: &Settings,
) -> Result<bool, Discard> {
    const SPECIAL: u8 = flags::SYN | flags::FIN | flags::RST;
    let entry = found.entry;
    let real = real_of(entry).ok_or(Discard::Busy)?;
    let now = now();
    // SAFETY: an entry of the table, which never moves.
    let idle = idle(now, unsafe { (*entry).last_seen });
    let state = found.word.state();
    if !tcp::is_steady(state, found.word.direction())
        || packet_flags & SPECIAL != 0
        || real.state >= state::REMOVED
        || found.word.is_ended()
        || idle > settings.timeouts.of(state)
    {
        let offset = ip.l4_offset as u64;
        return turn::<H, T>(ctx.as_ptr().cast(), entry, found.word.0, offset).goes_on();
    }
    if idle > REFRESH_JIFFIES {
        // SAFETY: as above.
        unsafe { (*entry).last_seen = now };
    }
    Ok(true)
}

/// Whether an original packet's connection is over, so that a packet that opens a connection opens a new one. `real` is its real
/// server's state.
#[inline(always)]
pub fn is_over(word: Word, real: u32) -> bool {
    const UNANSWERED: u32 = 1 << State::SynSent as u32 | 1 << State::PickedUp as u32;
    let state = word.state();
    tcp::may_be_reused(state)
        || state::is_reset(real)
        || word.is_ended()
        || UNANSWERED >> state & 1 != 0 && !state::takes_known(real)
        || word.is_udp() && state::is_removed(real)
}

/// Takes a packet along an entry, which has the word `word`, if there is more to it than for most: the connection may come to another
/// state, end, or be over. `l4_offset` is its transport header's offset in bytes.
#[inline(never)]
fn turn<H: Family, T: Transport>(
    ctx: *mut xdp_md,
    entry: *mut Entry<H::Address>,
    word: u32,
    l4_offset: u64,
) -> Encoded {
    let found = Found {
        entry,
        word: Word(word),
    };
    if let Ok(scratch) = scratch::<H>() {
        scratch.walk.l4_offset = l4_offset as u32;
        scratch.walk.protocol = u32::from(T::PROTOCOL);
    }
    Encoded::step(try_turn::<H, T>(&XdpContext::new(ctx), found))
}

#[inline(always)]
fn try_turn<H: Family, T: Transport>(
    ctx: &XdpContext,
    found: Found<H::Address>,
) -> Result<bool, Discard> {
    let settings = settings().ok_or(Discard::NoService)?;
    let scratch = scratch::<H>()?;
    let segment = segment::<H, T>(ctx, &scratch.walk).ok_or(Discard::Malformed)?;
    let real = real_of(found.entry).ok_or(Discard::Busy)?.state;
    let is_original = found.word.is_original();
    let opens = is_original && (T::PROTOCOL == UDP || tcp::opens(segment.flags));
    let other = partner::<H>(scratch, found, settings).unwrap_or(found);
    if opens && is_over(found.word, real) {
        // A connection of TCP goes when its successor has found a real server.
        if T::PROTOCOL == UDP {
            end(found, other);
        }
        return Ok(false);
    }
    if is_original && (state::is_reset(real) || found.word.is_ended()) {
        let reason = give_up::<H>(found, segment);
        end(found, other);
        return Err(reason);
    }
    let now = now();
    if other.entry == found.entry {
        if is_young(found, now) {
            return Err(Discard::Busy);
        }
        end(found, other);
        return Ok(false);
    }
    let state = state_of(found, other);
    if are_idle(found, other, state, now, settings) {
        if !opens {
            end(found, other);
        }
        return Ok(false);
    }
    // The datagrams of a real server that was removed keep no connection.
    let is_left = T::PROTOCOL == UDP && state::is_removed(real);
    // SAFETY: an entry of the table, which never moves.
    unsafe {
        if !is_left
            && (state < State::Established as u8
                || idle(now, (*found.entry).last_seen) > REFRESH_JIFFIES)
        {
            (*found.entry).last_seen = now;
        }
    }
    scratch.transition.segment = segment;
    scratch.transition.is_complete = 0;
    if is_original {
        advance::<T, _>(scratch, found, other, true);
        if scratch.transition.is_complete != 0 {
            keep::<H, T>(found.entry);
        }
    } else {
        advance::<T, _>(scratch, other, found, false);
    }
    Ok(true)
}

/// Why a client's segment whose real server has failed, or whose connection the operator has ended, leaves early. Who has not acknowledged the real server's SYN|ACK may
/// speak in another's name: the answer to it is limited. A reset is never answered.
#[inline(always)]
fn give_up<H: Family>(found: Found<H::Address>, segment: Segment) -> Discard {
    let state = found.word.state();
    if segment.flags & flags::RST != 0 {
        return Discard::StrayReset;
    }
    let completes = state == State::SynReceived as u8
        && segment.flags & flags::ACK != 0
        && tcp::completes_handshake(segment.acknowledgement, number(found.entry));
    if tcp::has_shown_client(state) || completes {
        return Discard::RealReset;
    }
    if segment.flags & flags::SYN != 0 {
        return Discard::StraySynAck;
    }
    Discard::NoConnection
}

/// The number that the connection waits for, see [`tcp::next_number`].
#[inline(always)]
fn number<A: Address>(original: *const Entry<A>) -> u32 {
    // SAFETY: an entry of the table, which never moves.
    unsafe { ptr::read_volatile(&raw const (*original).extra) }
}

/// How often a change is tried that another CPU is faster with.
const TRIES: u32 = 3;

/// Brings the connection to the state that it has after the scratch's segment, and counts the change.
#[inline(always)]
fn advance<T: Transport, A: Address>(
    scratch: &mut Scratch<A>,
    original: Found<A>,
    reply: Found<A>,
    is_original: bool,
) {
    // SAFETY: an entry of the table, which never moves; after a change it is the entry's that was there.
    let real = u32::from(unsafe { (*original.entry).real });
    let step = &raw mut scratch.transition;
    for _ in 0..TRIES {
        let before = word(original.entry);
        if !before.is_same_entry(original.word) {
            break;
        }
        let number = number(original.entry);
        if !word(original.entry).is_same_entry(original.word) {
            // What the next connection in the place keeps there.
            break;
        }
        // SAFETY: the scratch's field. Volatile, so that all that the verifier has learned in the subprogram is forgotten.
        let (after, next_number) = unsafe {
            (*step).words[0] = before.0;
            (*step).numbers[0] = number;
            transition::<T>(step, u64::from(is_original));
            (
                Word(ptr::read_volatile(&raw const (*step).words[1])),
                ptr::read_volatile(&raw const (*step).numbers[1]),
            )
        };
        if next_number != number {
            // Before the word, since an opening connection's place may be given away as soon as that has changed.
            // Not written over what the next connection in the place keeps there, its client's address perhaps.
            // SAFETY: an entry of the table, which never moves.
            atomic::exchange(
                unsafe { &raw mut (*original.entry).extra },
                number,
                next_number,
            );
        }
        if after == before {
            mirror(original, reply);
            break;
        }
        if change(original.entry, before, after) {
            count(real, before.state(), after.state());
            // SAFETY: the scratch's field, read anew as above.
            let segment = unsafe { ptr::read_volatile(&raw const (*step).segment) };
            scratch.transition.is_complete =
                tcp::shows_client(before.state(), number, segment.acknowledgement);
            mirror(original, reply);
            break;
        }
    }
}

/// Writes the word and the number that a connection has after the segment to the transition. A subprogram that reads all from memory: what
/// the verifier learns of a segment on one way through the states would else make that way another one to the program's end.
#[inline(never)]
fn transition<T: Transport>(step: *mut Transition, is_original: u64) -> u64 {
    let is_original = is_original != 0;
    // SAFETY: the scratch's field.
    let read = || unsafe { ptr::read_volatile(step) };
    // SAFETY: as above.
    let write = |word: Word| unsafe { ptr::write_volatile(&raw mut (*step).words[1], word.0) };
    let given = read();
    let (before, number) = (Word(given.words[0]), given.numbers[0]);
    let state = next::<T>(before.state(), number, given.segment, is_original);
    write(before.with_state(state));
    // Read anew after each decision.
    let given = read();
    let (before, after) = (Word(given.words[0]), Word(given.words[1]));
    if after.state() == before.state() {
        write(hear(before, given.segment, is_original));
    }
    let given = read();
    let [before, after] = given.words.map(|word| Word(word).state());
    let number = given.numbers[0];
    let number = tcp::next_number(before, after, number, given.segment, is_original);
    // SAFETY: as above.
    unsafe { (*step).numbers[1] = number };
    1
}

/// The state after a packet.
#[inline(always)]
fn next<T: Transport>(state: u8, number: u32, segment: Segment, is_original: bool) -> u8 {
    match (T::PROTOCOL == UDP, is_original) {
        (true, true) => tcp::next_udp(state, direction::ORIGINAL),
        (true, false) => tcp::next_udp(state, direction::REPLY),
        (false, true) => tcp::next_original(state, number, segment),
        (false, false) => tcp::next_reply(state, number, segment),
    }
}

/// After a reset: a side that goes on shows that it does not believe it, and when both do the connection is established.
#[inline(always)]
fn hear(word: Word, segment: Segment, is_original: bool) -> Word {
    if !tcp::is_reset(word.state()) || segment.flags & (flags::RST | flags::SYN) != 0 {
        return word;
    }
    let heard = word.hear(if is_original {
        direction::ORIGINAL
    } else {
        direction::REPLY
    });
    if heard.is_heard() {
        word.with_state(State::Established as u8)
    } else {
        heard
    }
}

/// How often a reply entry is compared with its connection's state: the connection's next packet compares again.
const MIRROR_TRIES: u32 = 4;

/// Brings a reply entry to its connection's state, which another CPU may be changing: compares anew after each change, so
/// that whoever writes last has written the last state.
#[inline(always)]
fn mirror<A: Address>(original: Found<A>, reply: Found<A>) {
    for _ in 0..MIRROR_TRIES {
        let [now, before] = [word(original.entry), word(reply.entry)];
        if !now.is_same_entry(original.word)
            || !before.is_same_entry(reply.word)
            || before.state() == now.state()
        {
            break;
        }
        change(reply.entry, before, before.with_state(now.state()));
    }
}
