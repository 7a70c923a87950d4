//! The reference: what the balancer does with a packet, said in plain Rust over whole frames and full sums. Written from the documents (what
//! the discards' sentences, the states' diagram and the packet cases say), for one CPU, a roomy table and services whose
//! real servers take turns.

mod answer;
mod filter;
mod icmp;
mod open;
mod parse;
pub mod states;
mod translate;

use std::{collections::HashMap, net::IpAddr};

use balancer_common::{
    tcp::State,
    verdict::Discard::{self, *},
};
use balancer_tests::{
    addresses::{LB_INSIDE, LB_OUTSIDE},
    dataplane::{Side, Verdict},
};

use self::{
    filter::Filters,
    parse::{Kind, Packet, Part, parse},
    states::{ACK, Connection, Flow, ORIGINAL, RST, SYN, Segment, completes},
};
use crate::{
    wire::{TCP, UDP, address, be16, be32},
    world::World,
};

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// Why it left early.
    pub reason: Option<Discard>,
    /// The frame; what is dropped has none.
    pub frame: Option<Vec<u8>>,
    /// Reasons for which it may be dropped instead: the balancer may take a stranger's address for one of its own, by a filter.
    pub or: &'static [Discard],
}

impl Outcome {
    fn dropped(reason: Discard) -> Self {
        Self {
            verdict: Verdict::Drop,
            reason: Some(reason),
            frame: None,
            or: &[],
        }
    }

    fn passed(reason: Discard, frame: Vec<u8>) -> Self {
        Self {
            verdict: Verdict::Pass,
            reason: Some(reason),
            frame: Some(frame),
            or: &[],
        }
    }
}

/// Packets and bytes of a real server by direction, and connections that it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets and bytes by direction.
    pub directions: [[u64; 2]; 2],
    /// Connections.
    pub connections: u64,
}

/// What tells a datagram's fragments: source, destination, number, and the protocol that they name.
type Datagram = (IpAddr, IpAddr, u32, u8);

/// What became of a datagram's first fragment.
#[derive(Clone, Copy, Debug)]
enum Memory {
    /// It was left to the host.
    Passed,
    /// It went along a connection.
    Sent(Sent),
}

/// How a first fragment went.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// The connection's number.
    number: u64,
    /// Its direction.
    direction: usize,
    /// Whether the host's stack has sent it on.
    by_host: bool,
}

/// The balancer.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it is told.
    pub world: World,
    /// What it is told of clients.
    pub filters: Filters,
    /// Its clock in jiffies, which stands still but for what tests let pass.
    pub now: u64,
    /// All connections by number.
    pub connections: HashMap<u64, Connection>,
    flows: HashMap<Flow, (u64, usize)>,
    /// Datagrams of connections that both sides have spoken in.
    proven: HashMap<Datagram, Memory>,
    /// The others, which never stand in for one of those.
    unproven: HashMap<Datagram, Memory>,
    begun: u64,
    /// How often each service has taken a turn.
    pub turns: Vec<u64>,
    /// By real id.
    pub traffic: Vec<Traffic>,
    /// Whether it has answered as often as it may.
    pub is_exhausted: bool,
}

/// What a step leads to: a packet on its way, or gone.
type Step<T> = Result<T, Discard>;

impl Model {
    /// One that has seen no packet.
    pub fn new(world: World) -> Self {
        Self {
            filters: Filters::default(),
            now: 1 << 40,
            connections: HashMap::new(),
            flows: HashMap::new(),
            proven: HashMap::new(),
            unproven: HashMap::new(),
            begun: 0,
            turns: vec![0; world.services.len()],
            traffic: vec![Traffic::default(); world.reals.len()],
            is_exhausted: false,
            world,
        }
    }

    /// All datagrams' beginnings are too long ago.
    pub fn age_fragments(&mut self) {
        self.proven.clear();
        self.unproven.clear();
    }

    /// The connection of a flow, and the flow's direction.
    pub fn connection(&self, flow: &Flow) -> Option<(&Connection, usize)> {
        let (number, direction) = self.flows.get(flow)?;
        Some((&self.connections[number], *direction))
    }

    /// The operator ends the connection of a client's flow.
    pub fn end_connection(&mut self, flow: &Flow) {
        if let Some((number, ORIGINAL)) = self.flows.get(flow) {
            self.connections.get_mut(number).expect("it").is_ended = true;
        }
    }

    /// The connection of a flow is no more.
    pub fn delete(&mut self, flow: &Flow) {
        if let Some((number, _)) = self.flows.get(flow) {
            let connection = self.connections.remove(number).expect("it");
            for flow in connection.flows {
                self.flows.remove(&flow);
            }
        }
    }

    /// Takes a frame that comes in by a side.
    pub fn take(&mut self, side: Side, frame: &[u8]) -> Outcome {
        let is_v6 = be16(frame, 12) == Some(0x86dd);
        let (result, packet) = self.steer(side, frame, is_v6);
        let reason = match result {
            Ok(outcome) => return outcome,
            Err(reason) => reason,
        };
        let mut outcome = match reason {
            NoConnection | RealReset | StrayReply | NoRealReject | Hairpin | TimeExceeded
            | TooBig => {
                let answer = packet.and_then(|packet| self.answer(side, frame, &packet, reason));
                answer.unwrap_or_else(|| Outcome::dropped(Unanswered))
            }
            OtherMac | NotIp | Malformed | NotTcpUdp | IcmpUnmatched | Fragment | MappedAddress
            | NoService => match self.host_fault(frame, reason) {
                Some(fault) => Outcome::dropped(fault),
                None => Outcome::passed(reason, frame.to_vec()),
            },
            _ => Outcome::dropped(reason),
        };
        outcome.or = match reason {
            NotTcpUdp if is_v6 => &[ExtensionHeaders],
            Fragment => &[FragmentUnmatched, FragmentTiny],
            Malformed => &[FragmentTiny],
            _ => &[],
        };
        // Whose addresses the filter knows it takes for what they are.
        let header = if is_v6 { 22 } else { 26 };
        let size = if is_v6 { 16 } else { 4 };
        let is_stranger =
            |at: usize| frame.len() < at + size || !self.world.is_known(address(frame, at, is_v6));
        if !is_stranger(header) && !is_stranger(header + size) {
            outcome.or = &[];
        }
        outcome
    }

    /// Why a frame that is left to the host must not go there: it comes in the host's own name.
    fn host_fault(&self, frame: &[u8], reason: Discard) -> Option<Discard> {
        if reason == OtherMac && frame[0] & 1 == 0 {
            return None;
        }
        let mut at = 12;
        for _ in 0..3 {
            match be16(frame, at)? {
                0x0800 if frame.len() >= at + 22 => {
                    let source = address(frame, at + 14, false);
                    return self.world.is_hosts(source).then_some(Martian);
                }
                0x86dd if frame.len() >= at + 42 => {
                    let source = address(frame, at + 10, true);
                    return self.world.is_hosts(source).then_some(Martian);
                }
                // A tag that names no VLAN.
                0x8100 | 0x88a8 if be16(frame, at + 2)? & 0xfff == 0 => {
                    be16(frame, at + 4)?;
                    at += 4;
                }
                _ => return None,
            }
        }
        Some(NestedTags)
    }

    /// Takes a frame on its way; its packet, for who has to answer it.
    fn steer(&mut self, side: Side, frame: &[u8], is_v6: bool) -> (Step<Outcome>, Option<Packet>) {
        let own = match side {
            Side::Outside => LB_OUTSIDE,
            Side::Inside => LB_INSIDE,
        };
        if frame[..6] != own {
            return (Err(OtherMac), None);
        }
        if !is_v6 && be16(frame, 12) != Some(0x0800) {
            return (Err(NotIp), None);
        }
        match parse(frame, is_v6, |address| self.world.is_ours(address)) {
            Err(reason) => (Err(reason), None),
            Ok(Kind::Icmp(packet)) => (self.carry_error(side, frame, &packet), None),
            Ok(Kind::Beginning(packet, reason)) => {
                self.note_passed(&packet, reason);
                (Err(reason), None)
            }
            Ok(Kind::Later(packet)) => (self.carry_later(side, frame, &packet), None),
            Ok(Kind::Transport(packet)) => (self.carry(side, frame, &packet), Some(packet)),
        }
    }

    fn carry(&mut self, side: Side, frame: &[u8], packet: &Packet) -> Step<Outcome> {
        let flow = Flow {
            source: (packet.source, port(frame, packet, 0)),
            destination: (packet.destination, port(frame, packet, 2)),
            protocol: packet.protocol,
        };
        let (number, direction) = match self.follow(frame, packet, &flow)? {
            Some(found) => found,
            None => match self.open(frame, packet, &flow) {
                Ok(number) => (number, ORIGINAL),
                Err(reason) => {
                    self.note_passed(packet, reason);
                    return Err(reason);
                }
            },
        };
        let connection = self.connections[&number].clone();
        self.send(side, frame, packet, &connection, direction)
    }

    /// Takes a packet along its connection; none where it has none, or one that is over.
    fn follow(&mut self, frame: &[u8], packet: &Packet, flow: &Flow) -> Step<Option<(u64, usize)>> {
        let Some((number, direction)) = self.flows.get(flow).copied() else {
            return Ok(None);
        };
        if packet.hops <= 1 {
            return Err(TimeExceeded);
        }
        if let Some(fault) = packet.fault(frame) {
            return Err(fault);
        }
        let now = self.now;
        let segment = segment(frame, packet);
        let connection = self.connections.get_mut(&number).expect("it");
        let real = self.world.reals[connection.real].state;
        let is_udp = packet.protocol == UDP;
        let is_from_client = direction == ORIGINAL;
        let opens = is_from_client && (is_udp || opens(segment));
        let is_removed = matches!(real, 4 | 6);
        let is_reset = real >= 5;
        let takes_known = matches!(real, 1 | 2);
        let is_over = matches!(connection.state, State::TimeWait | State::Closed)
            || is_reset
            || connection.is_ended
            || matches!(connection.state, State::SynSent | State::PickedUp) && !takes_known
            || is_udp && is_removed;
        if opens && is_over {
            if is_udp {
                self.delete(flow);
            }
            return Ok(None);
        }
        if is_from_client && (is_reset || connection.is_ended) {
            let reason = refusal(connection, segment);
            self.delete(flow);
            return Err(reason);
        }
        if connection.is_idle(now) {
            if !opens {
                self.delete(flow);
            }
            return Ok(None);
        }
        // A real server that was removed keeps no client by its datagrams.
        if !(is_udp && is_removed) {
            connection.seen[direction] = now;
        }
        connection.advance(direction, segment);
        Ok(Some((number, direction)))
    }

    /// Remembers a datagram whose beginning is left to the host.
    fn note_passed(&mut self, packet: &Packet, reason: Discard) {
        let is_passed = matches!(reason, Malformed | NotTcpUdp | NoService);
        if packet.part == Part::First && is_passed && self.has_ours(packet) {
            self.unproven.insert(datagram(packet), Memory::Passed);
        }
    }

    /// Whether a VIP or a real server has sent a packet, or is to get it.
    fn has_ours(&self, packet: &Packet) -> bool {
        self.world.is_ours(packet.source) || self.world.is_ours(packet.destination)
    }

    /// Takes a later fragment where the datagram's first one went.
    fn carry_later(&mut self, side: Side, frame: &[u8], packet: &Packet) -> Step<Outcome> {
        // What follows the fragment header may be a header that only the first one has.
        let may_be_ours = matches!(packet.fragmented, TCP | UDP)
            || packet.is_v6 && matches!(packet.fragmented, 0 | 43 | 44 | 60);
        if !may_be_ours || !self.has_ours(packet) {
            return Err(Fragment);
        }
        let lives = |memory: &&Memory| match memory {
            Memory::Passed => true,
            Memory::Sent(sent) => self.connections.contains_key(&sent.number),
        };
        let key = datagram(packet);
        let memory = self.proven.get(&key).filter(lives);
        let memory = memory.or_else(|| self.unproven.get(&key).filter(lives));
        let sent = match memory {
            None => return Err(FragmentUnmatched),
            Some(Memory::Passed) => return Err(Fragment),
            Some(Memory::Sent(sent)) => *sent,
        };
        let connection = self.connections[&sent.number].clone();
        if packet.hops <= 1 {
            return Err(TimeExceeded);
        }
        if let Some(fault) = packet.options {
            return Err(fault);
        }
        if !sent.by_host {
            return self.send(side, frame, packet, &connection, sent.direction);
        }
        self.pass_on(frame, packet, &connection, sent.direction)
    }
}

/// Why a client's segment whose connection was ended leaves early: who has not acknowledged the SYN|ACK may speak in another's name.
fn refusal(connection: &Connection, segment: Segment) -> Discard {
    let is_known = match connection.state {
        State::Established
        | State::FinOriginal
        | State::FinReply
        | State::Closing
        | State::TimeWait => true,
        State::SynReceived => {
            segment.has(ACK) && completes(segment.acknowledgement, connection.kept)
        }
        _ => false,
    };
    if segment.has(RST) {
        StrayReset
    } else if is_known {
        RealReset
    } else if segment.has(SYN) {
        StraySynAck
    } else {
        NoConnection
    }
}

/// Whether a segment asks for a connection.
const fn opens(segment: Segment) -> bool {
    segment.flags & (states::FIN | SYN | RST | ACK) == SYN
}

/// A port of a packet, `at` bytes behind the start of its transport header.
fn port(frame: &[u8], packet: &Packet, at: usize) -> u16 {
    be16(frame, packet.transport + at).expect("ports")
}

fn datagram(packet: &Packet) -> Datagram {
    let (source, destination) = (packet.source, packet.destination);
    (source, destination, packet.id, packet.fragmented)
}

/// What a packet says to its connection.
fn segment(frame: &[u8], packet: &Packet) -> Segment {
    if packet.protocol == UDP {
        return Segment {
            flags: 0,
            sequence: 0,
            acknowledgement: 0,
            data: 0,
        };
    }
    let at = packet.transport;
    let data = packet.end().saturating_sub(at + packet.header(frame));
    Segment {
        flags: frame[at + 13],
        sequence: be32(frame, at + 4).expect("a header"),
        acknowledgement: be32(frame, at + 8).expect("a header"),
        data: data as u32,
    }
}
