//! Packets without an entry, and those whose connection is over: new connections. Touches the packet only to read its key.
//!
//! The steps are subprograms that tell each other all they must know by the scratch, one after the other: the verifier
//! follows each of them once, where it would follow nested ones once for each way to reach them.

use aya_ebpf::{EbpfContext as _, bindings::xdp_md, programs::XdpContext};
use balancer_common::{
    addr::{Address as _, UDP},
    conntrack::Word,
    direction,
    flow_hash::{client_hash, hash},
    scheduler::pick,
    service,
    settings::Settings,
    tcp::{self, State, flags},
    trace::{Answer, offer},
    verdict::Discard,
    wire::{Tcp, Udp},
};

use crate::{
    classify::{classify, failover_real, is_from_real},
    encoded::Encoded,
    family::{Family, scratch},
    filter::screen,
    lock,
    maps::{REALS, is_hosts, now, settings},
    parse::{Transport, examine},
    persistence::expect,
    places::{connect, displace, release, surrender, take, write},
    schedule::{self, offer_to},
    scratch::{Facts, Scratch},
    snat::{is_full_nat, reserve},
    table::{Found, Key, Place, are_idle, at, find_again, partner, real_of, state_of, word},
    track::is_over,
};

/// Opens a connection for a packet. The place of its original entry is in the scratch then; none where the packet is to be
/// translated by the scratch's own entry.
#[inline(always)]
pub fn open<H: Family>(ctx: &XdpContext) -> Result<(), Discard> {
    if !look_at::<H>(ctx.as_ptr().cast()).goes_on()? {
        return Ok(());
    }
    screen::<H>(0).goes_on()?;
    if !begin::<H>().goes_on()? {
        // Another CPU has opened it a moment ago.
        return Ok(());
    }
    // One after the other, not in one subprogram, where the verifier would follow each way through the first one to the second.
    if choose::<H>(0) == 0 {
        compare::<H>();
        if choose_least::<H>() == 0 {
            end::<H>();
            return Err(schedule::reason(scratch::<H>()?));
        }
    }
    if is_full_nat::<H>()
        && let Err(reason) = reserve::<H>(ctx.as_ptr().cast()).goes_on()
    {
        end::<H>();
        return Err(reason);
    }
    settle::<H>();
    if clear::<H>() == 0 {
        end::<H>();
        return Err(Discard::Busy);
    }
    if !take::<H>(Key::Reply) {
        end::<H>();
        return Err(Discard::TableFull);
    }
    if !take::<H>(Key::Own) {
        surrender::<H>();
        end::<H>();
        return Err(Discard::TableFull);
    }
    connect::<H>();
    end::<H>();
    Ok(())
}

/// Finds out what [`open`] would do with a packet, and does nothing of it.
#[inline(always)]
pub fn ask<H: Family>(ctx: &XdpContext) -> Answer {
    let mut answer = Answer {
        reason: Discard::COUNT,
        ..Answer::default()
    };
    if let Err(reason) = try_ask::<H>(ctx, &mut answer) {
        answer.reason = reason as u32;
    }
    if let Ok(scratch) = scratch::<H>() {
        answer.rule = scratch.screening.rule;
    }
    answer
}

#[inline(always)]
fn try_ask<H: Family>(ctx: &XdpContext, answer: &mut Answer) -> Result<(), Discard> {
    scratch::<H>()?.screening.rule = 0;
    if !look_at::<H>(ctx.as_ptr().cast()).goes_on()? {
        return Err(Discard::NoService);
    }
    answer.has_connection = has_connection::<H>() as u32;
    if answer.has_connection == 0 {
        screen::<H>(1).goes_on()?;
        if choose::<H>(1) == 0 {
            compare::<H>();
            if choose_least::<H>() == 0 {
                return Err(schedule::reason(scratch::<H>()?));
            }
        }
    }
    let scratch = scratch::<H>()?;
    answer.real = scratch.real;
    answer.offer = scratch.offer;
    answer.is_pending = scratch.choice.is_pending;
    answer.slot = scratch.choice.slot;
    answer.is_full_nat = scratch.source.is_full_nat;
    Ok(())
}

/// Whether the scratch's packet has a connection that is not over: 1, and its real server's id is in the scratch, else 0.
#[inline(never)]
fn has_connection<H: Family>() -> u64 {
    let (Some(settings), Ok(scratch)) = (settings(), scratch::<H>()) else {
        return 0;
    };
    scratch.now = now();
    scratch.has_predecessor = 0;
    if !exists::<H>(scratch, settings) {
        return 0;
    }
    match at::<H>(Place(scratch.place), &scratch.key) {
        Some(found) => {
            // SAFETY: an entry of the table, which never moves.
            scratch.real = u32::from(unsafe { (*found.entry).real });
            scratch.source.is_full_nat = u32::from(found.word.is_full_nat());
            1
        }
        None => 0,
    }
}

/// Reads the packet into the scratch. A discard where it opens no connection, whatever it is for; `false` where it is to be
/// translated without one.
#[inline(never)]
fn look_at<H: Family>(ctx: *mut xdp_md) -> Encoded {
    let ctx = XdpContext::new(ctx);
    let protocol = scratch::<H>().map_or(0, |scratch| scratch.walk.protocol);
    let looked = if protocol == u32::from(UDP) {
        try_look_at::<H, Udp>(&ctx)
    } else {
        try_look_at::<H, Tcp>(&ctx)
    };
    Encoded::step(looked)
}

#[inline(always)]
fn try_look_at<H: Family, T: Transport>(ctx: &XdpContext) -> Result<bool, Discard> {
    let settings = settings().ok_or(Discard::NoService)?;
    let scratch = scratch::<H>()?;
    examine::<H, T>(ctx, scratch).ok_or(Discard::Malformed)?;
    let Some(service) = classify::<H>(&scratch.key, settings) else {
        // A real server answers the host's own probes as well.
        if is_hosts(scratch, scratch.key.destination) {
            return Err(Discard::NoService);
        }
        if passes_as_service::<H>(scratch) {
            return scratch.facts.fault.map_or(Ok(false), Err);
        }
        return Err(not_for_a_service::<H>(scratch, settings));
    };
    let packet_flags = scratch.facts.flags as u8;
    if T::PROTOCOL != UDP && !tcp::opens(packet_flags) {
        // An entry that was just being moved is there by now; TCP sends again.
        if find_again::<H>(scratch, Key::Own, settings).is_some() {
            return Err(Discard::Busy);
        }
        // A hash names the real server that the connection is with, whoever has opened it.
        if service.pick != pick::HASH || !tcp::continues(packet_flags) {
            return Err(without_connection(&scratch.facts));
        }
    }
    if let Some(fault) = scratch.facts.fault {
        return Err(fault);
    }
    scratch.service = service;
    Ok(true)
}

/// Whether a real server's segment without an entry goes to its client as the service's: see [`FailoverReal`](balancer_common::failover::FailoverReal).
/// The entry by which it is translated, this once, is in the scratch then.
#[inline(always)]
fn passes_as_service<H: Family>(scratch: &mut Scratch<H::Address>) -> bool {
    if !tcp::continues(scratch.facts.flags as u8) {
        return false;
    }
    let Some(failover_real) = failover_real::<H>(&scratch.key) else {
        return false;
    };
    let entry = &raw mut scratch.passing;
    write(
        entry,
        &scratch.key,
        failover_real.real,
        failover_real.port,
        0,
    );
    if let Some(real) = REALS.get(failover_real.real) {
        scratch.icmp_answer.source = H::Address::narrow(real.vip);
    }
    // SAFETY: the scratch's field.
    unsafe {
        (*entry).word = Word::new(Word(0), State::Established as u8, direction::REPLY, false);
    }
    scratch.place = Place::NONE.0;
    true
}

/// The entry of the scratch's packet after [`open`].
#[inline(always)]
pub fn opened<H: Family>(scratch: &mut Scratch<H::Address>) -> Option<Found<H::Address>> {
    let place = Place(scratch.place);
    if place.is_some() {
        // Another newcomer may have taken the place already.
        return at::<H>(place, &scratch.key);
    }
    let entry = &raw mut scratch.passing;
    Some(Found {
        entry,
        word: word(entry),
    })
}

/// Takes the client's lock. `false`, without the lock, where the scratch's packet has a connection after all.
#[inline(never)]
fn begin<H: Family>() -> Encoded {
    Encoded::step(try_begin::<H>())
}

#[inline(always)]
fn try_begin<H: Family>() -> Result<bool, Discard> {
    let settings = settings().ok_or(Discard::NoService)?;
    let scratch = scratch::<H>()?;
    scratch.hash = hash(&scratch.key, &settings.seed);
    scratch.client = client_hash(&scratch.key, &settings.seed);
    scratch.now = now();
    scratch.has_predecessor = 0;
    lock::take(scratch.client)?;
    let exists = exists::<H>(scratch, settings);
    if exists {
        lock::release(scratch.client);
    }
    Ok(!exists)
}

/// Gives the client's lock back.
#[inline(never)]
fn end<H: Family>() -> u64 {
    if let Ok(scratch) = scratch::<H>() {
        lock::release(scratch.client);
    }
    0
}

/// Whether the scratch's packet has a connection that is not over; its place is in the scratch then.
#[inline(always)]
fn exists<H: Family>(scratch: &mut Scratch<H::Address>, settings: &Settings) -> bool {
    let Some(found) = find_again::<H>(scratch, Key::Own, settings) else {
        return false;
    };
    scratch.has_predecessor = 1;
    let place = scratch.place;
    let Some(real) = real_of(found.entry) else {
        return false;
    };
    if is_over(found.word, real.state) {
        return false;
    }
    let lives = match partner::<H>(scratch, found, settings) {
        Some(other) => {
            let state = state_of(found, other);
            !are_idle(found, other, state, scratch.now, settings)
        }
        None => false,
    };
    scratch.place = place;
    lives
}

/// Chooses the real server that the client of a new connection keeps, or that the scheduler names: 1 where there is one that fits.
#[inline(never)]
fn choose<H: Family>(is_trace: u64) -> u64 {
    let Ok(scratch) = scratch::<H>() else {
        return 0;
    };
    schedule::begin(scratch, is_trace);
    offered::<H>(scratch, offer::KEPT)
}

/// Finds the least loaded real servers.
#[inline(never)]
fn compare<H: Family>() -> u64 {
    if let Ok(scratch) = scratch::<H>() {
        schedule::compare(scratch);
    }
    0
}

/// Chooses the least loaded one that fits: 1 where there is one.
#[inline(never)]
fn choose_least<H: Family>() -> u64 {
    match scratch::<H>() {
        Ok(scratch) => offered::<H>(scratch, offer::LEAST),
        Err(_) => 0,
    }
}

#[inline(always)]
fn offered<H: Family>(scratch: &mut Scratch<H::Address>, first: u32) -> u64 {
    let Some(settings) = settings() else {
        return 0;
    };
    u64::from(offer_to(scratch, first, |scratch| {
        is_free::<H>(scratch, settings)
    }))
}

/// What follows from the choice of the real server.
#[inline(never)]
fn settle<H: Family>() -> u64 {
    let (Some(settings), Ok(scratch)) = (settings(), scratch::<H>()) else {
        return 0;
    };
    if scratch.service.flags & service::PERSISTENT != 0 && scratch.offer != offer::KEPT {
        expect(scratch, settings);
    }
    scratch.reply_hash = hash(&scratch.reply_key, &settings.seed);
    scratch.state = if scratch.key.protocol == u32::from(UDP) {
        State::UdpUnreplied
    } else if tcp::opens(scratch.facts.flags as u8) {
        State::SynSent
    } else {
        State::PickedUp
    } as u32;
    1
}

/// Ends what is over: the connection that the new one follows, and another one on the same reply tuple. 0 where that goes on after all.
#[inline(never)]
fn clear<H: Family>() -> u64 {
    let (Some(settings), Ok(scratch)) = (settings(), scratch::<H>()) else {
        return 0;
    };
    if scratch.has_predecessor == 0 {
        return 1;
    }
    for which in [Key::Own, Key::Reply] {
        if let Some(old) = find_again::<H>(scratch, which, settings) {
            let now = scratch.now;
            if which == Key::Reply && scratch.source.is_full_nat != 0 {
                // It may have come to life meanwhile.
                if !displace::<H>(scratch, old, now) {
                    return 0;
                }
            } else {
                release::<H>(scratch, old, now);
            }
        }
    }
    1
}

/// Makes sure that the real server's answers to this connection are told from every other's: a live connection on the same
/// reply tuple (of another service with the same real server) is in the way, one that is over ends.
#[inline(always)]
fn is_free<H: Family>(
    scratch: &mut Scratch<H::Address>,
    settings: &Settings,
) -> Result<(), Discard> {
    let Some(found) = find_again::<H>(scratch, Key::Reply, settings) else {
        return Ok(());
    };
    scratch.has_predecessor = 1;
    let Some(other) = partner::<H>(scratch, found, settings) else {
        return Ok(());
    };
    let state = state_of(found, other);
    // The predecessor's ends anyway.
    if scratch.other_key == scratch.key
        || tcp::may_be_reused(state)
        || are_idle(found, other, state, scratch.now, settings)
    {
        return Ok(());
    }
    Err(Discard::Collision)
}

/// Why a packet to no service leaves early: the host's, or a real server's without a connection.
#[inline(always)]
fn not_for_a_service<H: Family>(scratch: &Scratch<H::Address>, settings: &Settings) -> Discard {
    if settings.answer_stray_replies == 0 || !is_from_real::<H>(&scratch.key) {
        return Discard::NoService;
    }
    if scratch.facts.flags & u32::from(flags::RST) != 0 {
        return Discard::StrayReset;
    }
    match scratch.facts.fault {
        // Its destination is no address of this host's: nothing else may be said in that name.
        None | Some(Discard::TimeExceeded) => Discard::StrayReply,
        Some(fault) => fault,
    }
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
