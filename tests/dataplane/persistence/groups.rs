//! Services that share their clients: each client keeps a server, whatever port it asks for.

use std::net::IpAddr;

use balancer_common::real_server::state;
use balancer_tests::{
    addresses::{R, R2, R6, R26, V, V6},
    dataplane::{
        Dataplane,
        Side::{Inside, Outside},
        run,
    },
    expected::{Expected, redirected},
    packet::{Packet, flag::ACK},
    persistence::Client,
    services::ServiceHandle,
};

use super::{TIMEOUT, network};
use crate::{syn, syn_ack};

const GROUP: u64 = 99;

/// A service of the group: the port of its real servers, and their ids by number: 0 is at the first address.
struct Member {
    service: ServiceHandle,
    addresses: [IpAddr; 2],
    port: u16,
    reals: [u32; 2],
    /// A client's packet that opens a connection to it.
    first: Packet,
}

impl Member {
    fn add(lb: &mut Dataplane, first: Packet, port: u16, ring: &[usize]) -> Self {
        let (vip, addresses, prefix) = if first.source.is_ipv4() {
            (V, [R, R2], 32)
        } else {
            (V6, [R6, R26], 128)
        };
        let reals = addresses.map(|address| lb.add_real(address, port));
        let of_ring: Vec<_> = ring.iter().map(|at| reals[*at]).collect();
        let protocol = first.protocol();
        let service = lb.add_service(protocol, vip, first.destination_port, &of_ring);
        lb.set_persistence(service, TIMEOUT, prefix, GROUP);
        for real in of_ring {
            lb.add_member(real);
        }
        Self {
            service,
            addresses,
            port,
            reals,
            first,
        }
    }

    fn delivered(&self, at: usize, packet: &Packet) -> Expected {
        redirected(&packet.delivered(self.addresses[at], self.port))
            .original(self.reals[at], packet)
    }

    fn opens(&self, at: usize, packet: &Packet) -> Expected {
        let expected = self.delivered(at, packet);
        if self.service.protocol == 17 {
            expected.pair_of(packet)
        } else {
            expected.half_open(1)
        }
    }

    /// A new connection of the client goes to the server that it keeps.
    #[track_caller]
    fn kept(&self, lb: &mut Dataplane, at: usize, port: u16) {
        let packet = self.first.clone().client_port(port);
        let expected = self.opens(at, &packet).connected(self.reals[at]);
        lb.step(Outside, &packet, expected);
    }

    /// A new connection of the client goes to the server whose turn it is.
    #[track_caller]
    fn scheduled(&self, lb: &mut Dataplane, at: usize, port: u16) {
        let packet = self.first.clone().client_port(port);
        let expected = self.opens(at, &packet);
        lb.step(
            Outside,
            &packet,
            expected.selected(self.service, self.reals[at]),
        );
    }

    /// The connection is complete, and the client keeps its server.
    #[track_caller]
    fn completes(&self, lb: &mut Dataplane, at: usize, port: u16) {
        let mut packet = self.first.clone().client_port(port);
        let mut expected = self.delivered(at, &packet);
        if self.service.protocol == 17 {
            lb.pass_through(Inside, &packet.answered(self.addresses[at], self.port));
        } else {
            lb.pass_through(Inside, &syn_ack(&packet, self.addresses[at], self.port));
            packet = packet.segment(ACK, 1001, 9001);
            expected = self.delivered(at, &packet).pair_of(&packet).half_open(-1);
        }
        let (server, real) = (self.addresses[at], self.reals[at]);
        let client = self.client(packet.source);
        lb.step(Outside, &packet, expected.keeps(client, server, real));
    }

    /// The client, or network of clients, with this address, which has shown by this service's protocol that it exists.
    fn client(&self, address: IpAddr) -> Client {
        Client {
            protocol: self.service.protocol,
            group: GROUP,
            address,
        }
    }
}

/// The packets that open connections to three services, in both families.
fn firsts() -> [[Packet; 3]; 2] {
    let firsts = [syn(), syn().to_port(443), Packet::udp(b"ping").to_port(443)];
    [firsts.clone(), firsts.map(Packet::v6)]
}

#[test]
fn a_client_gets_the_same_server_on_other_ports_and_protocols() {
    for [web, secure, quic] in firsts() {
        run(|lb| {
            // Each one's turn is the other server's.
            let web = Member::add(lb, web, 8080, &[0, 1]);
            let secure = Member::add(lb, secure, 8443, &[1, 0]);
            let quic = Member::add(lb, quic, 8443, &[1, 0]);
            web.scheduled(lb, 0, 1_000);
            // While it is not complete.
            secure.kept(lb, 0, 1_001);
            quic.kept(lb, 0, 1_002);
            web.completes(lb, 0, 1_000);
            lb.forget_pending();
            // And then.
            secure.kept(lb, 0, 1_003);
            secure.completes(lb, 0, 1_003);
            quic.kept(lb, 0, 1_004);
            quic.completes(lb, 0, 1_004);
            web.kept(lb, 0, 1_005);
            web.completes(lb, 0, 1_005);
        });
    }
}

#[test]
fn where_the_clients_server_is_not_in_a_service_the_group_follows_once_it_is_complete() {
    for [web, secure, _] in firsts() {
        run(|lb| {
            let web = Member::add(lb, web, 8080, &[0, 1]);
            let secure = Member::add(lb, secure, 8443, &[1]);
            web.scheduled(lb, 0, 1_000);
            web.completes(lb, 0, 1_000);
            secure.scheduled(lb, 1, 1_001);
            web.kept(lb, 0, 1_002);
            secure.completes(lb, 1, 1_001);
            web.kept(lb, 1, 1_003);
            web.completes(lb, 1, 1_003);
            secure.kept(lb, 1, 1_004);
        });
    }
}

#[test]
fn what_datagrams_say_of_a_client_counts_where_no_handshake_says_otherwise() {
    for [web, _, quic] in firsts() {
        run(|lb| {
            let web = Member::add(lb, web, 8080, &[0, 1]);
            let quic = Member::add(lb, quic, 8443, &[1]);
            quic.scheduled(lb, 1, 1_000);
            quic.completes(lb, 1, 1_000);
            lb.forget_pending();
            web.kept(lb, 1, 1_001);
            lb.forget_pending();
            // A handshake with another server, and then both are asked.
            lb.set_ring(web.service, &[web.reals[0]]);
            lb.remove_member(web.reals[1]);
            web.scheduled(lb, 0, 1_002);
            web.completes(lb, 0, 1_002);
            lb.forget_pending();
            lb.set_ring(web.service, &web.reals);
            lb.add_member(web.reals[1]);
            web.kept(lb, 0, 1_003);
            // The service of datagrams has not that server: there, the other one still counts, and moves nobody else.
            quic.kept(lb, 1, 1_004);
            quic.completes(lb, 1, 1_004);
            web.kept(lb, 0, 1_005);
            // Until the handshake was too long ago.
            lb.age_kept(web.client(web.first.source), TIMEOUT + 1);
            web.kept(lb, 1, 1_006);
        });
    }
}

#[test]
fn clients_of_another_group_are_others() {
    run(|lb| {
        let [[first, other, _], _] = firsts();
        let first = Member::add(lb, first, 8080, &[0, 1]);
        let other = Member::add(lb, other, 8443, &[1, 0]);
        lb.set_persistence(other.service, TIMEOUT, 32, GROUP + (1 << 32));
        first.scheduled(lb, 0, 1_000);
        first.completes(lb, 0, 1_000);
        other.scheduled(lb, 1, 1_001);
    });
}

#[test]
fn services_of_a_group_may_tell_clients_apart_in_different_ways() {
    run(|lb| {
        let [[first, other, _], _] = firsts();
        let first = Member::add(lb, first, 8080, &[0, 1]);
        let other = Member::add(lb, other, 8443, &[1, 0]);
        lb.set_persistence(other.service, TIMEOUT, 24, GROUP);
        other.scheduled(lb, 1, 1_000);
        lb.pass_through(
            Inside,
            &syn_ack(&other.first.clone().client_port(1_000), R2, 8443),
        );
        let ack = other
            .first
            .clone()
            .client_port(1_000)
            .segment(ACK, 1001, 9001);
        let expected = other.delivered(1, &ack).pair_v4().half_open(-1);
        let client = other.client(network(ack.source, 24));
        let keeps = expected.keeps(client, R2, other.reals[1]);
        lb.step(Outside, &ack, keeps);
        // An address is not its network.
        first.scheduled(lb, 0, 1_001);
    });
}

#[test]
fn a_real_id_that_was_given_to_another_service_is_not_followed() {
    run(|lb| {
        let [[web, secure, _], _] = firsts();
        let web = Member::add(lb, web, 8080, &[0, 1]);
        let secure = Member::add(lb, secure, 8443, &[1, 0]);
        web.scheduled(lb, 0, 1_000);
        web.completes(lb, 0, 1_000);
        lb.forget_pending();
        // The real server is removed, and its id is that of another service's, on the same server.
        lb.delete_connection(&web.first.clone().client_port(1_000));
        lb.remove_member(web.reals[0]);
        lb.set_ring(web.service, &[web.reals[1]]);
        lb.set_real(web.reals[0], R, 9_000, state::TAKES_NEW);
        lb.add_service(6, V, 8_000, &[web.reals[0]]);
        web.scheduled(lb, 1, 1_001);
        // The server itself is still the client's.
        secure.kept(lb, 0, 1_002);
    });
}

#[test]
fn a_real_id_that_was_given_to_another_server_is_not_followed() {
    run(|lb| {
        let [[web, ..], _] = firsts();
        let web = Member::add(lb, web, 8080, &[0]);
        web.scheduled(lb, 0, 1_000);
        web.completes(lb, 0, 1_000);
        lb.forget_pending();
        lb.delete_connection(&web.first.clone().client_port(1_000));
        lb.remove_member(web.reals[0]);
        // The ids were swapped: the client's is R2's now, and R has the other one.
        lb.set_real(web.reals[0], R2, 8080, state::TAKES_NEW);
        lb.set_real(web.reals[1], R, 8080, state::TAKES_NEW);
        lb.set_ring(web.service, &[web.reals[0], web.reals[1]]);
        for real in web.reals {
            lb.add_member(real);
        }
        let syn = web.first.clone().client_port(1_001);
        lb.step(
            Outside,
            &syn,
            redirected(&syn.delivered(R, 8080))
                .original(web.reals[1], &syn)
                .connected(web.reals[1])
                .half_open(1),
        );
    });
}

#[test]
fn a_forged_handshake_on_one_port_does_not_move_the_client_of_the_others() {
    run(|lb| {
        let [[web, secure, _], _] = firsts();
        let web = Member::add(lb, web, 8080, &[0, 1]);
        let secure = Member::add(lb, secure, 8443, &[1]);
        web.scheduled(lb, 0, 1_000);
        web.completes(lb, 0, 1_000);
        secure.scheduled(lb, 1, 1_001);
        lb.pass_through(
            Inside,
            &syn_ack(&secure.first.clone().client_port(1_001), R2, 8443),
        );
        lb.pass_through(
            Outside,
            &secure
                .first
                .clone()
                .client_port(1_001)
                .segment(ACK, 1001, 5),
        );
        web.kept(lb, 0, 1_002);
    });
}
