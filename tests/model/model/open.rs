//! New connections.

use std::net::IpAddr;

use balancer_common::{
    tcp::State,
    verdict::Discard::{self, *},
};

use super::{Model, Packet, Step, opens, segment, states::*};
use crate::wire::UDP;

/// States of a real server, as the balancer is told: see `balancer_common::real_server::state`.
const TAKES_NEW: u32 = 1;

impl Model {
    /// Opens the connection of a packet that has none: its number.
    pub(super) fn open(&mut self, frame: &[u8], packet: &Packet, flow: &Flow) -> Step<u64> {
        let segment = segment(frame, packet);
        let fault = self.fault(frame, packet);
        let (address, port) = flow.destination;
        let Some(service) = self.world.service(address, port, flow.protocol) else {
            return Err(self.without_service(flow, segment, fault));
        };
        let is_udp = packet.protocol == UDP;
        if !is_udp && !opens(segment) {
            return Err(if segment.has(RST) {
                StrayReset
            } else if segment.has(SYN) {
                StraySynAck
            } else {
                fault.unwrap_or(NoConnection)
            });
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        self.filters.screen(service, packet.source)?;
        let (real, reply) = self.choose(service, flow)?;
        // What stood in its place, and in its answers'.
        self.delete(flow);
        self.delete(&reply);
        let number = self.begun;
        self.begun += 1;
        self.traffic[real].connections += 1;
        self.flows.insert(*flow, (number, ORIGINAL));
        self.flows.insert(reply, (number, REPLY));
        self.connections.insert(
            number,
            Connection {
                number,
                flows: [*flow, reply],
                real,
                state: if is_udp {
                    State::UdpUnreplied
                } else {
                    State::SynSent
                },
                seen: [self.now; 2],
                kept: 0,
                heard: [false; 2],
                is_ended: false,
            },
        );
        Ok(number)
    }

    /// What is wrong with a packet that would open a connection. No packet from afar has such a source.
    fn fault(&self, frame: &[u8], packet: &Packet) -> Option<Discard> {
        let source = packet.source;
        let is_martian = match source {
            IpAddr::V4(v4) => matches!(v4.octets()[0], 0 | 127 | 224..),
            IpAddr::V6(v6) => v6.is_multicast() || v6.is_unspecified() || v6.is_loopback(),
        };
        packet.fault(frame).or_else(|| {
            if is_martian || source == packet.destination || self.world.is_hosts(source) {
                Some(Martian)
            } else {
                (packet.hops <= 1).then_some(TimeExceeded)
            }
        })
    }

    fn without_service(&self, flow: &Flow, segment: Segment, fault: Option<Discard>) -> Discard {
        let (address, port) = flow.source;
        if !self.world.answers_strays
            || self.world.is_hosts(flow.destination.0)
            || !self.world.is_from_real(address, port, flow.protocol)
        {
            return NoService;
        }
        if segment.has(RST) {
            return StrayReset;
        }
        match fault {
            None | Some(TimeExceeded) => StrayReply,
            Some(fault) => fault,
        }
    }

    /// The real server of a new connection, and the flow of its answers.
    fn choose(&mut self, service: usize, flow: &Flow) -> Step<(usize, Flow)> {
        let plan = &self.world.services[service];
        let turn = self.turns[service];
        self.turns[service] += 1;
        let mut reason = if plan.rejects { NoRealReject } else { NoReal };
        let first = match plan.ring.len() {
            0 => None,
            length => Some(plan.ring[(turn % length as u64) as usize]),
        };
        if let Some(real) = first {
            match self.offer(service, real, flow) {
                Some(Ok(reply)) => return Ok((real, reply)),
                Some(Err(refusal)) => reason = refusal,
                None => {}
            }
        }
        // The two that have the fewest connections, an active one counting 256.
        let mut least = plan.available.clone();
        least.sort_by_key(|real| {
            let [active, inactive] = self.load(*real);
            active * 256 + inactive
        });
        for real in least.into_iter().take(2) {
            match self.offer(service, real, flow) {
                Some(Ok(reply)) => return Ok((real, reply)),
                Some(Err(refusal)) => reason = refusal,
                None => {}
            }
        }
        Err(reason)
    }

    /// Connections of a real server: active, inactive.
    pub fn load(&self, real: usize) -> [u64; 2] {
        let mut load = [0; 2];
        for connection in self.connections.values() {
            if connection.real == real {
                let [active, inactive] = connection.load();
                load[0] += active;
                load[1] += inactive;
            }
        }
        load
    }

    /// Offers a connection to a real server: none where that takes none, else why not, or the flow of its answers.
    fn offer(&self, service: usize, id: usize, flow: &Flow) -> Option<Result<Flow, Discard>> {
        let real = &self.world.reals[id];
        if real.state != TAKES_NEW || real.service != service {
            return None;
        }
        if real.address == flow.source.0 || shares(real.address, flow.source.0, real.network) {
            return Some(Err(Hairpin));
        }
        let port = match real.port {
            0 => flow.destination.1,
            port => port,
        };
        let reply = Flow {
            source: (real.address, port),
            destination: flow.source,
            protocol: flow.protocol,
        };
        if let Some((other, _)) = self.connection(&reply) {
            let is_over =
                matches!(other.state, State::TimeWait | State::Closed) || other.is_idle(self.now);
            if other.flows[ORIGINAL] != *flow && !is_over {
                return Some(Err(Collision));
            }
        }
        Some(Ok(reply))
    }
}

/// Whether two addresses have so many leading bits in common; with 0 they never do.
fn shares(one: IpAddr, other: IpAddr, bits: u32) -> bool {
    let number = |address| match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 4),
        IpAddr::V6(v6) => (u128::from(v6), 6),
    };
    let ((one, family), (other, other_family)) = (number(one), number(other));
    bits != 0 && family == other_family && (one ^ other) >> (128 - bits) == 0
}
