//! The real server for a new connection: the one that its client keeps, else the scheduler's choice, else the least loaded of those
//! that are left. Touches maps and the scratch only.

use core::{mem, ptr};

use aya_ebpf::helpers::bpf_get_prandom_u32;
use balancer_common::{
    addr::Address,
    branchless::{is_below, pick as pick_number},
    conntrack::forwarding,
    load::{MOST_COMPARED, Measure, NEVER, RealLoad, lowest},
    real_server::{RealServer, state},
    scheduler::{SLOTS_PER_WORD, hashed, pick, real_in, slot_hash},
    service::{self, Service},
    trace::offer,
    verdict::Discard,
};

use crate::{
    atomic,
    maps::{REALS, RINGS, TURNS, load_of, loads, one_of},
    persistence::kept,
    scratch::{Choice, NONE, Scratch},
    table::aim,
};

/// Begins the search for the real server of the scratch's packet, a new connection.
#[inline(always)]
pub fn begin<A: Address>(scratch: &mut Scratch<A>, is_trace: u64) {
    scratch.choice.is_trace = is_trace as u32;
    scratch.choice.is_pending = 0;
    scratch.choice.slot = 0;
    let answers = scratch.service.flags & service::REJECT != 0;
    scratch.choice.full = 0;
    scratch.reason = if answers {
        Discard::NoRealReject
    } else {
        Discard::NoReal
    } as u32;
}

/// Why no real server was found.
#[inline(always)]
pub fn reason<A: Address>(scratch: &Scratch<A>) -> Discard {
    if scratch.choice.full != 0 {
        if scratch.reason == Discard::NoRealReject as u32 {
            return Discard::RealsFullReject;
        }
        if scratch.reason == Discard::NoReal as u32 {
            return Discard::RealsFull;
        }
    }
    // SAFETY: `begin` and `offer_to` alone write it.
    unsafe { mem::transmute::<u32, Discard>(scratch.reason) }
}

/// Offers the scratch's packet to one real server after the other, by the offer `first` and the one after it, and writes the first that
/// `fits` and the answers' key there. Whether there was one; else the reason of the last that was refused stands in the scratch.
#[inline(always)]
pub fn offer_to<A: Address>(
    scratch: &mut Scratch<A>,
    first: u32,
    mut fits: impl FnMut(&mut Scratch<A>) -> Result<(), Discard>,
) -> bool {
    // In memory: the verifier would follow each reason in a register through all offers that are left.
    let reason = &raw mut scratch.reason;
    let refuse = |why: Discard| {
        // SAFETY: the scratch's field.
        unsafe { ptr::write_volatile(reason, why as u32) }
    };
    for offer in first..first + 2 {
        let id = candidate(scratch, offer);
        if id == NONE {
            continue;
        }
        let Some(real) = REALS.get(id as u32) else {
            continue;
        };
        if !takes(real, &scratch.service, offer) {
            continue;
        }
        let address = A::narrow(real.address);
        // A client in the real server's own network would be answered directly, past the balancer.
        let is_hairpin =
            address == scratch.key.source || address.shares(scratch.key.source, &real.network_mask);
        let may_hairpin = scratch.service.flags & service::HAIRPIN != 0 && real.may_have_full_nat();
        if is_hairpin && !may_hairpin && real.forwarding == forwarding::NAT {
            refuse(Discard::Hairpin);
            continue;
        }
        let is_full_nat = is_hairpin || real.forwarding != forwarding::NAT;
        aim(
            scratch,
            address,
            real.port_of(scratch.key.ports.destination()),
        );
        scratch.source.is_full_nat = u32::from(is_full_nat);
        // Which source it has is looked for when the real server is known.
        let fits = if is_full_nat { Ok(()) } else { fits(scratch) };
        match fits {
            Ok(()) => {
                scratch.real = id as u32;
                scratch.offer = offer;
                return true;
            }
            Err(refusal) => refuse(refusal),
        }
    }
    false
}

/// Whether a real server takes a connection of this service by this offer. A ring that was given to another service while this packet was
/// under way names that one's real servers.
#[inline(always)]
fn takes(real: &RealServer, service: &Service, offer: u32) -> bool {
    let takes = if offer == offer::KEPT {
        state::takes_known(real.state)
    } else {
        real.state == state::TAKES_NEW
    };
    takes && real.service == service.id
}

/// The id of the real server for an offer, or [`NONE`].
#[inline(always)]
fn candidate<A: Address>(scratch: &mut Scratch<A>, offer: u32) -> u64 {
    match offer {
        offer::KEPT if scratch.service.flags & service::PERSISTENT == 0 => NONE,
        offer::KEPT => kept(scratch),
        offer::SCHEDULER => chosen(scratch),
        offer::LEAST => scratch.choice.least[0],
        _ => scratch.choice.least[1],
    }
}

/// The scheduler's choice; none where that is the least loaded.
#[inline(never)]
fn chosen<A: Address>(scratch: &mut Scratch<A>) -> u64 {
    match scratch.service.pick {
        pick::TURN => by_turn(scratch),
        pick::HASH => by_hash(scratch),
        pick::RANDOM => by_chance(scratch),
        _ => NONE,
    }
}

/// The real server in a slot, unless it is full.
#[inline(always)]
fn in_slot(choice: &mut Choice, slot: Option<u32>) -> u64 {
    let Some(slot) = slot else {
        return NONE;
    };
    choice.slot = slot;
    match real_at(slot) {
        Some(id) => unless_full(choice, id),
        None => NONE,
    }
}

/// A real server, unless it is full.
#[inline(always)]
fn unless_full(choice: &mut Choice, id: u32) -> u64 {
    let Some(load) = load_of(id) else {
        return NONE;
    };
    let full = read(load).is_full();
    choice.full |= full;
    if full != 0 { NONE } else { u64::from(id) }
}

/// The real id in a slot of `RINGS`.
#[inline(always)]
fn real_at(slot: u32) -> Option<u32> {
    let word = RINGS.get(slot / SLOTS_PER_WORD)?;
    Some(real_in(*word, slot))
}

/// Reads a load: other CPUs add to it.
#[inline(always)]
fn read(load: *const RealLoad) -> RealLoad {
    // SAFETY: callers pass one of `REAL_LOADS`.
    unsafe {
        RealLoad {
            counted: ptr::read_volatile(&raw const (*load).counted),
            ended: ptr::read_volatile(&raw const (*load).ended),
            weight: ptr::read_volatile(&raw const (*load).weight),
            upper: ptr::read_volatile(&raw const (*load).upper),
            resume: ptr::read_volatile(&raw const (*load).resume),
            full: ptr::read_volatile(&raw const (*load).full),
        }
    }
}

/// The next slot's, in turn.
#[inline(always)]
fn by_turn<A: Address>(scratch: &mut Scratch<A>) -> u64 {
    let turn = turn(scratch);
    in_slot(&mut scratch.choice, scratch.service.ring.slot(turn))
}

/// The number of the service's next turn.
#[inline(always)]
fn turn<A: Address>(scratch: &Scratch<A>) -> u64 {
    match TURNS.get_ptr_mut(scratch.service.id) {
        // SAFETY: the map gave this pointer.
        Some(turns) if scratch.choice.is_trace != 0 => unsafe { ptr::read_volatile(turns) },
        Some(turns) => atomic::fetch_add(turns, 1),
        None => 0,
    }
}

/// That of the slot that the client's hash names; where that takes no new connections, of another one, and at last one of those that do.
#[inline(always)]
fn by_hash<A: Address>(scratch: &mut Scratch<A>) -> u64 {
    let Scratch {
        service,
        choice,
        key,
        ..
    } = scratch;
    let address = if service.hash == hashed::DESTINATION {
        key.destination
    } else {
        key.source
    };
    let port = if service.hash == hashed::CLIENT_PORT {
        u16::from_be(key.ports.source())
    } else {
        0
    };
    let address = address.widen();
    for attempt in 0..LOOKS {
        let Some(slot) = service.ring.slot(slot_hash(&address, port, attempt)) else {
            break;
        };
        choice.slot = slot;
        let Some(id) = real_at(slot) else {
            continue;
        };
        let takes = |real: &RealServer| takes(real, service, offer::SCHEDULER);
        if REALS.get(id).is_some_and(takes) {
            let id = unless_full(choice, id);
            if id != NONE {
                return id;
            }
        }
    }
    let slot = service.available.slot(slot_hash(&address, port, LOOKS));
    let id = in_slot(choice, slot);
    choice.slot = u32::MAX;
    id
}

/// How often a hash is looked up in the ring, before only those that take new connections count. A client's next choice stays the same
/// when others fail.
const LOOKS: u32 = 3;

/// The less loaded of two random slots'.
#[inline(always)]
fn by_chance<A: Address>(scratch: &mut Scratch<A>) -> u64 {
    // SAFETY: the helper only gives a number.
    let random = || u64::from(unsafe { bpf_get_prandom_u32() });
    let ring = scratch.service.ring;
    let one = in_slot(&mut scratch.choice, ring.slot(random()));
    let other = in_slot(&mut scratch.choice, ring.slot(random()));
    let cost = |id: u64| match load_of(id as u32) {
        Some(load) if id != NONE => Measure::WLC.cost(&read(load)),
        _ => NONE,
    };
    if cost(other) < cost(one) { other } else { one }
}

/// Writes the two least loaded of those that take new connections to the choice. Of more than [`MOST_COMPARED`] some are compared: the
/// first ones where the order decides, else the next ones with each connection.
#[inline(always)]
pub fn compare<A: Address>(scratch: &mut Scratch<A>) {
    let service = scratch.service;
    scratch.choice.available = service.available;
    scratch.choice.measure = service.measure;
    scratch.choice.first = 0;
    let length = service.available.length;
    if length > MOST_COMPARED && !service.measure.is_in_order() {
        let turn = turn(scratch) * u64::from(MOST_COMPARED / SLOTS_PER_WORD);
        scratch.choice.first = turn.checked_rem(words(length).into()).unwrap_or(0) as u32;
    }
    compare_list(&mut scratch.choice);
}

/// The words that so many slots take.
const fn words(slots: u32) -> u32 {
    slots.div_ceil(SLOTS_PER_WORD)
}

/// As [`compare`], given the list. Four real servers at a time and without branches among them: the verifier follows each branch to the
/// program's end.
#[inline(never)]
fn compare_list(choice: &mut Choice) -> u64 {
    choice.least = [NONE; 2];
    let (available, first, measure) = (choice.available, choice.first, choice.measure);
    let words = words(available.length);
    let start = available.offset / SLOTS_PER_WORD;
    let Some(loads) = loads() else {
        return 0;
    };
    let mut lowest_costs = [NEVER; 2];
    for step in 0..MOST_COMPARED / SLOTS_PER_WORD {
        if step >= words {
            break;
        }
        let at = around(first + step, words);
        let Some(word) = RINGS.get(start + at) else {
            break;
        };
        for lane in 0..SLOTS_PER_WORD {
            let load = read(one_of(loads, real_in(*word, lane)));
            let slot = at * SLOTS_PER_WORD + lane;
            let is_member = is_below(slot.into(), available.length.into());
            choice.full |= load.is_full() & is_member as u32;
            let cost = measure.cost(&load) | u64::from(step * SLOTS_PER_WORD + lane);
            lowest_costs = lowest(lowest_costs, pick_number(is_member, cost, NEVER));
        }
    }
    for (which, cost) in lowest_costs.into_iter().enumerate() {
        if cost >= NEVER {
            break;
        }
        let position = cost as u32 & (MOST_COMPARED - 1);
        let at = around(first + position / SLOTS_PER_WORD, words);
        if let Some(word) = RINGS.get(start + at) {
            choice.least[which] = u64::from(real_in(*word, position));
        }
    }
    1
}

/// A word's place in a list of `words` words, which `at` goes round at most once.
#[inline(always)]
fn around(at: u32, words: u32) -> u32 {
    pick_number(
        is_below(at.into(), words.into()),
        at.into(),
        at.wrapping_sub(words).into(),
    ) as u32
}
