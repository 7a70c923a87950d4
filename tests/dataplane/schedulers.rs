//! How each scheduler chooses among real servers that have so many connections.

mod chance;
mod hashing;
mod ipvs;
mod least;
mod limits;
mod mixed;

use std::net::IpAddr;

use balancer_common::load::Measure;
use balancer_tests::{
    addresses::{R, R6},
    dataplane::{Dataplane, Options, Side::Outside, run, run_with},
    expected::{Expected, redirected},
    packet::Packet,
    services::{Schedule, ServiceHandle},
};

use crate::syn;

/// Those that compare all real servers.
const LEAST: [Measure; 6] = [
    Measure::LC,
    Measure::WLC,
    Measure::SED,
    Measure::NQ,
    Measure::FO,
    Measure::OVF,
];

/// A service with many real servers: all of one address, each on a port of its own.
struct Farm {
    service: ServiceHandle,
    address: IpAddr,
    reals: Vec<u32>,
    /// A client's packet that opens a connection to it.
    syn: Packet,
}

/// The port of the first real server.
const FIRST_PORT: u16 = 9_000;

impl Farm {
    fn new(lb: &mut Dataplane, count: u16, first: Packet) -> Self {
        let address = if first.source.is_ipv4() { R } else { R6 };
        let reals: Vec<_> = (0..count)
            .map(|at| lb.add_real(address, FIRST_PORT + at))
            .collect();
        let (vip, port) = (first.destination, first.destination_port);
        Self {
            service: lb.add_service(first.protocol(), vip, port, &reals),
            address,
            reals,
            syn: first,
        }
    }

    /// The client's packet from another port.
    fn syn(&self, port: u16) -> Packet {
        self.syn.clone().client_port(port)
    }

    /// A packet goes to the real server with this number.
    fn delivered(&self, at: usize, packet: &Packet) -> Expected {
        let port = FIRST_PORT + at as u16;
        redirected(&packet.delivered(self.address, port)).original(self.reals[at], packet)
    }

    /// A packet opens a connection to the real server with this number; no turn is taken.
    fn opened(&self, at: usize, packet: &Packet) -> Expected {
        let expected = self.delivered(at, packet).connected(self.reals[at]);
        if packet.protocol() == 17 {
            expected.pair_of(packet)
        } else {
            expected.half_open(1)
        }
    }

    /// A packet opens a connection to the real server whose turn it is.
    fn in_turn(&self, at: usize, packet: &Packet) -> Expected {
        self.opened(at, packet).passed_over(self.service, 1)
    }

    /// The number of the real server that a new connection from this port gets, if any.
    fn choice(&self, lb: &Dataplane, port: u16) -> Option<usize> {
        self.choice_for(lb, &self.syn(port))
    }

    /// The number of the real server that a packet gets, if any.
    fn choice_for(&self, lb: &Dataplane, packet: &Packet) -> Option<usize> {
        let (_, out) = lb.send(Outside, &packet.bytes());
        let port = packet.transport_offset() + 2;
        let port = u16::from_be_bytes([*out.get(port)?, *out.get(port + 1)?]);
        let at = usize::from(port.checked_sub(FIRST_PORT)?);
        let expected = packet.delivered(self.address, port).bytes();
        (at < self.reals.len() && out == expected).then_some(at)
    }
}

/// A farm of each family.
fn farms(lb: &mut Dataplane, count: u16) -> [Farm; 2] {
    [syn(), syn().v6()].map(|first| Farm::new(lb, count, first))
}

#[test]
fn rr_and_wrr_give_each_real_server_exactly_its_share_whatever_the_loads() {
    run_with(Options::ROOMY, |lb| {
        for farm in farms(lb, 3) {
            for (at, real) in farm.reals.iter().enumerate() {
                lb.set_load(*real, 1_000 * at as u32, 7);
            }
            let equal = [0, 1, 2].repeat(2);
            let weighted = [0, 0, 1, 0, 2, 0, 1].repeat(2);
            let mut port = 10_000;
            for ring in [equal, weighted] {
                // Turns that were taken before count, too.
                lb.set_ring(farm.service, &[farm.reals[0]]);
                while lb.snapshot().turns[&farm.service.id] % ring.len() as u64 != 0 {
                    port += 1;
                    assert_eq!(farm.choice(lb, port), Some(0));
                }
                let ids: Vec<_> = ring.iter().map(|at| farm.reals[*at]).collect();
                lb.set_ring(farm.service, &ids);
                for at in ring {
                    port += 1;
                    let syn = farm.syn(port);
                    lb.step(Outside, &syn, farm.in_turn(at, &syn));
                }
            }
        }
    });
}

#[test]
fn datagrams_are_scheduled_alike() {
    run(|lb| {
        let ping = Packet::udp(b"ping");
        for first in [ping.clone(), ping.v6()] {
            let farm = Farm::new(lb, 3, first);
            lb.set_schedule(farm.service, Schedule::least(Measure::LC));
            for (port, at) in (20_000..).zip([0, 1, 2, 0, 1, 2]) {
                let ping = farm.syn(port);
                lb.step(Outside, &ping, farm.opened(at, &ping));
            }
        }
    });
}
