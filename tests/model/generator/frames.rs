//! Frames as clients, real servers and routers send them.

use std::net::IpAddr;

use balancer_common::tcp::State;
use balancer_tests::{
    addresses::{GATEWAY, LB_INSIDE, LB_OUTSIDE, REAL, T, T6},
    dataplane::Side,
    packet::{Icmp, Packet},
};

use super::{Generator, reversed};
use crate::{
    model::{
        Model,
        states::{ACK, Connection, FIN, Flow, ORIGINAL, REPLY, RST, SYN},
    },
    wire::{TCP, UDP},
    world::{STRANGERS_V4, STRANGERS_V6},
};

/// A packet of a flow that comes in by a side.
pub fn packet(side: Side, flow: Flow) -> Packet {
    let mut packet = if flow.protocol == TCP {
        Packet::tcp(ACK, 1001, 9001)
    } else {
        Packet::udp(b"ping")
    };
    (packet.source, packet.source_port) = flow.source;
    (packet.destination, packet.destination_port) = flow.destination;
    (packet.mac_destination, packet.mac_source) = match side {
        Side::Outside => (LB_OUTSIDE, GATEWAY),
        Side::Inside => (LB_INSIDE, REAL),
    };
    packet
}

impl Generator {
    /// A packet on which oddities are built.
    pub(super) fn plain(&mut self, model: &Model) -> (Side, Packet) {
        let (side, mut packet) = match self.random.below(100) {
            0..62 => match self.connection(model).cloned() {
                Some(connection) => self.next(&connection),
                None => self.first(model),
            },
            62..84 => self.first(model),
            84..92 => match self.connection(model).cloned() {
                Some(connection) => self.error(&connection),
                None => self.first(model),
            },
            92..97 => self.stray(model),
            _ => self.other(model),
        };
        packet.id = 1 + self.random.below(4) as u16;
        (side, packet)
    }

    /// The next packet of a connection, or one that somebody forges.
    fn next(&mut self, connection: &Connection) -> (Side, Packet) {
        let direction = match connection.state {
            State::SynSent | State::UdpUnreplied | State::Closing => REPLY,
            State::SynReceived | State::TimeWait | State::UdpUnconfirmed => ORIGINAL,
            _ => self.random.below(2),
        };
        let direction = if self.random.percent(75) {
            direction
        } else {
            self.random.below(2)
        };
        let side = [Side::Outside, Side::Inside][direction];
        let packet = packet(side, connection.flows[direction]);
        if connection.flows[ORIGINAL].protocol == UDP {
            return (side, packet);
        }
        let kept = connection.kept;
        let random = &mut self.random;
        let any = random.next() as u32;
        let (flags, sequence, acknowledgement) = if random.percent(55) {
            match (connection.state, direction) {
                (State::SynSent | State::PickedUp, ORIGINAL) => (SYN, 1000, 0),
                (State::SynSent, _) => (SYN | ACK, 9000, 1001),
                (State::SynReceived, ORIGINAL) => (ACK, 1001, kept.wrapping_add(1)),
                (State::SynReceived, _) => (SYN | ACK, kept, 1001),
                (State::Closing | State::FinOriginal, REPLY) => (ACK | FIN, 9001, kept),
                (State::TimeWait | State::Closed, ORIGINAL) => (SYN, any, 0),
                _ => (ACK | random.of(&[0, 0, 0, FIN]), 1001, 9001),
            }
        } else {
            let flags = match direction {
                ORIGINAL => random.of(&[SYN, SYN, ACK, ACK, ACK, ACK | FIN, FIN, RST, RST | ACK]),
                _ => random.of(&[
                    SYN | ACK,
                    SYN | ACK,
                    ACK,
                    ACK,
                    ACK | FIN,
                    FIN,
                    RST,
                    RST | ACK,
                ]),
            };
            let flags = if random.percent(12) { any as u8 } else { flags };
            let near = random.below(4) as u32;
            let numbers = [
                1001,
                9001,
                kept,
                kept.wrapping_add(near),
                any,
                kept ^ 1 << 20,
            ];
            (flags, random.of(&numbers), random.of(&numbers))
        };
        let data = [0, 0, 0, 1, 5, 32][random.below(6)];
        let packet = packet.segment(flags, sequence, acknowledgement);
        (side, packet.data(&vec![any as u8; data]))
    }

    /// A packet from a client to a service, or to what was one.
    fn first(&mut self, model: &Model) -> (Side, Packet) {
        let services = &model.world.services;
        let (vip, port, protocol) = services[self.random.below(services.len())].key;
        let client = self.stranger(vip);
        let port = match port {
            0 => self.random.of(&[80, 8080, 0, 53]),
            port => port,
        };
        let client_port = 40_000 + self.random.below(5) as u16;
        let packet = packet(
            Side::Outside,
            Flow {
                source: (client, client_port),
                destination: (vip, port),
                protocol,
            },
        );
        if protocol == UDP {
            return (Side::Outside, packet);
        }
        let flags = match self.random.below(100) {
            0..85 => SYN,
            85..90 => ACK,
            90..92 => RST,
            92..94 => SYN | ACK,
            _ => self.random.next() as u8,
        };
        let sequence = self.random.next() as u32;
        (Side::Outside, packet.segment(flags, sequence, 7000))
    }

    /// An address of a family that is no service's, a client's most often.
    fn stranger(&mut self, like: IpAddr) -> IpAddr {
        let all = if like.is_ipv4() {
            &STRANGERS_V4[..]
        } else {
            &STRANGERS_V6[..]
        };
        match self.random.below(100) {
            0..75 => self.random.of(&all[..3]),
            75..90 => self.random.of(&all[3..9]),
            // One of the real servers, or the VIP itself.
            90..94 => like,
            94..97 => self.random.of(&crate::world::reals_like(like)),
            _ => self.random.of(all),
        }
    }

    /// A real server's packet of no connection.
    fn stray(&mut self, model: &Model) -> (Side, Packet) {
        let reals = &model.world.reals;
        let real = &reals[self.random.below(reals.len())];
        let client = self.stranger(real.address);
        let protocol = self.random.of(&[TCP, UDP]);
        let port = self.random.of(&[real.port, real.port, real.port, 9]);
        let packet = packet(
            Side::Inside,
            Flow {
                source: (real.address, port),
                destination: (client, 40_000 + self.random.below(9) as u16),
                protocol,
            },
        );
        if protocol == UDP {
            return (Side::Inside, packet);
        }
        let flags = self.random.of(&[ACK, SYN | ACK, RST, FIN, SYN]);
        let sequence = self.random.next() as u32;
        (Side::Inside, packet.segment(flags, sequence, 1001))
    }

    /// A packet that is nobody's here, or no TCP or UDP.
    fn other(&mut self, model: &Model) -> (Side, Packet) {
        let (side, mut packet) = self.first(model);
        match self.random.below(4) {
            0 => packet.destination_port = self.random.next() as u16,
            1 => packet.destination = self.stranger(packet.source),
            2 => {
                let protocol = self.random.of(&[1, 58, 50, 47, 132, 59, 0, 44]);
                packet.transport = balancer_tests::packet::Transport::Other(protocol);
            }
            _ => {
                let tag = |random: &mut crate::random::Random| {
                    (random.of(&[0x8100, 0x88a8]), random.of(&[0, 0x2000, 100]))
                };
                for _ in 0..=self.random.below(4) {
                    packet.tags.push(tag(&mut self.random));
                }
            }
        }
        (side, packet)
    }

    /// An ICMP error about a packet of a connection.
    fn error(&mut self, connection: &Connection) -> (Side, Packet) {
        let direction = self.random.below(2);
        // What the one who complains has seen: the packet as it left the balancer.
        let seen = reversed(connection.flows[1 - direction]);
        let side = [Side::Inside, Side::Outside][direction];
        let mut about = packet(side, seen);
        if self.random.percent(40) {
            let any = self.random.next() as u32;
            about = about.data(&any.to_be_bytes());
        }
        about.id = self.random.next() as u16;
        about.hops = 60;
        if self.random.percent(5) {
            about.checksum = balancer_tests::packet::Checksum::Given(self.random.of(&[0, 0x1234]));
        }
        if self.random.percent(10) {
            if about.source.is_ipv4() {
                about.ip_options = vec![1; 4];
                about.fragment = self.random.of(&[0, 0x2000, 5, 1]);
            } else {
                about = self.behind_extensions(about);
            }
        }
        let router = if about.source.is_ipv4() { T } else { T6 };
        let source = match self.random.below(10) {
            0..4 => router,
            4..7 => seen.destination.0,
            7 => connection.flows[REPLY].source.0,
            _ => self.stranger(about.source),
        };
        let icmp = self.random.of(&[
            Icmp::PortUnreachable,
            Icmp::TimeExceeded,
            Icmp::TooBig(1300),
        ]);
        let quoted = self.random.of(&[8, 8, 12, 17, 18, 20, 24, 64, 7, 0]);
        let mut error = about.icmp_error(side, source, icmp, quoted);
        if self.random.percent(10) {
            error.payload[0] = self.random.below(16) as u8;
            error.sum_icmp();
        }
        if self.random.percent(4) {
            error.destination = self.stranger(error.source);
        }
        (side, error)
    }
}
