//! Which real server a new connection gets.

use balancer_common::{real_server::state, verdict::Discard};
use balancer_tests::{
    addresses::{GATEWAY, LB_INSIDE, R, R2, R6, R26, REAL, V, V6},
    dataplane::{
        Dataplane, Options,
        Side::{Inside, Outside},
        run, run_with,
    },
    expected::{answered, dropped, passed, redirected, transmitted},
    packet::{
        Packet,
        flag::{ACK, RST},
    },
};

use crate::syn;

/// The real ids that `count` new connections get.
fn selections(lb: &Dataplane, count: u16) -> Vec<u32> {
    for port in 0..count {
        lb.pass_through(Outside, &syn().client_port(20_000 + port));
    }
    let mut handshakes = lb.half_open();
    handshakes.sort_by_key(|handshake| handshake.client_port);
    handshakes
        .iter()
        .map(|handshake| handshake.real_id)
        .collect()
}

#[test]
fn new_connections_alternate_strictly() {
    run_with(Options::ROOMY, |lb| {
        let first = lb.add_real(R, 8080);
        let second = lb.add_real(R2, 8080);
        lb.add_service(6, V, 80, &[first, second]);
        let expected: Vec<_> = [first, second].into_iter().cycle().take(200).collect();
        assert_eq!(selections(lb, 200), expected);
    });
}

#[test]
fn new_connections_follow_a_weighted_ring_in_its_order() {
    run_with(Options::ROOMY, |lb| {
        let first = lb.add_real(R, 8080);
        let second = lb.add_real(R2, 8080);
        lb.add_service(6, V, 80, &[first, first, second, first]);
        let expected: Vec<_> = [first, first, second, first]
            .into_iter()
            .cycle()
            .take(200)
            .collect();
        assert_eq!(selections(lb, 200), expected);
    });
}

#[test]
fn datagrams_of_new_clients_alternate_too() {
    run(|lb| {
        let first = lb.add_real(R6, 8053);
        let second = lb.add_real(R26, 8053);
        let service = lb.add_service(17, V6, 53, &[first, second]);
        for (port, real, address) in [
            (1, first, R6),
            (2, second, R26),
            (3, first, R6),
            (4, second, R26),
        ] {
            let ping = Packet::udp(b"ping").v6().client_port(port);
            lb.step(
                Outside,
                &ping,
                redirected(&ping.delivered(address, 8053))
                    .original(real, &ping)
                    .selected(service, real)
                    .pair_v6(),
            );
        }
    });
}

#[test]
fn a_service_without_real_servers_drops_where_it_shall_not_reject() {
    run(|lb| {
        let web = lb.add_service(6, V, 80, &[]);
        let dns = lb.add_service(17, V, 53, &[]);
        for (packet, service) in [(syn(), web), (Packet::udp(b"ping"), dns)] {
            let expected = dropped(Discard::NoReal).passed_over(service, 1);
            lb.step(Outside, &packet, expected);
        }
    });
}

#[test]
fn a_real_server_that_takes_no_more_is_passed_over_before_the_ring_is_new() {
    run(|lb| {
        let first = lb.add_real(R, 8080);
        let second = lb.add_real(R2, 8080);
        let service = lb.add_service(6, V, 80, &[first, second]);
        for state in [state::DRAINING, state::REMOVED, state::FREE] {
            lb.set_real_state(first, state);
            let syn = syn().client_port(1000 + state as u16);
            lb.step(
                Outside,
                &syn,
                redirected(&syn.delivered(R2, 8080))
                    .original(second, &syn)
                    .selected(service, second)
                    .half_open(1),
            );
        }
        lb.set_real_state(second, state::DRAINING);
        lb.step(
            Outside,
            &syn(),
            dropped(Discard::NoReal).passed_over(service, 1),
        );
    });
}

#[test]
fn a_service_on_every_port_keeps_the_port() {
    run(|lb| {
        let real = lb.add_real(R, 0);
        let service = lb.add_service(6, V, 0, &[real]);
        let real6 = lb.add_real(R6, 0);
        let service6 = lb.add_service(6, V6, 0, &[real6]);
        // The second look-up is made only when some service asks for it.
        let packet = syn().to_port(8765);
        lb.step(
            Outside,
            &packet,
            passed(Discard::NoService, &packet.bytes()),
        );
        lb.change_settings(|settings| settings.any_port = 1);
        for port in [1, 80, 8765, 65535] {
            let packet = syn().to_port(port);
            lb.step(
                Outside,
                &packet,
                redirected(&packet.delivered(R, port))
                    .original(real, &packet)
                    .selected(service, real)
                    .half_open(1),
            );
            let answer = crate::syn_ack(&packet, R, port);
            lb.step(
                Inside,
                &answer,
                redirected(&answer.returned(V, port)).reply(real, &answer),
            );
            let packet = packet.v6();
            lb.step(
                Outside,
                &packet,
                redirected(&packet.delivered(R6, port))
                    .original(real6, &packet)
                    .selected(service6, real6)
                    .half_open(1),
            );
        }
        // Another protocol is another service.
        let ping = Packet::udp(b"ping");
        lb.step(Outside, &ping, passed(Discard::NoService, &ping.bytes()));
    });
}

#[test]
fn a_service_on_one_port_goes_before_the_one_on_every_port() {
    run(|lb| {
        let every = lb.add_real(R, 0);
        lb.add_service(6, V, 0, &[every]);
        let one = lb.add_real(R2, 8080);
        let service = lb.add_service(6, V, 80, &[one]);
        lb.change_settings(|settings| settings.any_port = 1);
        lb.step(
            Outside,
            &syn(),
            redirected(&syn().delivered(R2, 8080))
                .original(one, &syn())
                .selected(service, one)
                .half_open(1),
        );
    });
}

#[test]
fn case_69_a_real_server_that_asks_its_own_vip_is_never_given_itself() {
    run(|lb| {
        let web = lb.web();
        let mut hairpin = syn();
        hairpin.source = R;
        hairpin.mac_destination = LB_INSIDE;
        hairpin.mac_source = REAL;
        lb.step(
            Inside,
            &hairpin,
            answered(Discard::Hairpin, &hairpin.reset(RST | ACK, 0, 1001))
                .passed_over(web.service, 1),
        );
        // Its turn again, and it is the least loaded, too: the next one is taken.
        let second = lb.add_real(R2, 8080);
        lb.set_ring(web.service, &[web.real, web.real, second]);
        lb.step(
            Inside,
            &hairpin,
            transmitted(&hairpin.delivered(R2, 8080))
                .original(second, &hairpin)
                .selected(web.service, second)
                .half_open(1),
        );
        assert_ne!(hairpin.mac_source, GATEWAY);
    });
}

#[test]
fn a_client_in_the_real_servers_own_network_is_refused() {
    run(|lb| {
        // R2 would answer R directly, and a neighbour of both, too: neither expects that answer.
        let web = lb.web();
        let second = lb.add_real(R2, 8080);
        lb.set_ring(web.service, &[web.real, second]);
        let datagrams = [lb.add_real(R, 8080), lb.add_real(R2, 8080)];
        for (real, bits) in [(web.real, 24), (second, 24), (web.real6, 64)] {
            lb.set_network(real, bits);
        }
        for real in datagrams {
            lb.set_network(real, 24);
        }
        let service_udp = lb.add_service(17, V, 80, &datagrams);
        let beside = |mut packet: Packet, source: &str| {
            packet.source = source.parse().expect("an address");
            packet.mac_destination = LB_INSIDE;
            packet.mac_source = REAL;
            packet
        };
        for (syn, service) in [
            (beside(syn(), "192.168.0.2"), web.service),
            (beside(syn(), "192.168.0.77"), web.service),
            (beside(syn().v6(), "fd00:1::77"), web.service6),
        ] {
            let reset = syn.reset(RST | ACK, 0, 1001);
            lb.step(
                Inside,
                &syn,
                answered(Discard::Hairpin, &reset).passed_over(service, 1),
            );
        }
        let datagram = beside(Packet::udp(b"ping").to_port(80), "192.168.0.77");
        lb.step(
            Inside,
            &datagram,
            answered(Discard::Hairpin, &datagram.port_unreachable()).passed_over(service_udp, 1),
        );
        // One of the next network is served, and so is everybody by a real server elsewhere.
        let next = beside(syn(), "192.168.1.77").client_port(40_002);
        lb.step(
            Inside,
            &next,
            transmitted(&next.delivered(R, 8080))
                .original(web.real, &next)
                .selected(web.service, web.real)
                .half_open(1),
        );
        lb.set_network(second, 0);
        let syn = beside(syn(), "192.168.0.77");
        lb.step(
            Inside,
            &syn,
            transmitted(&syn.delivered(R2, 8080))
                .original(second, &syn)
                .selected(web.service, second)
                .half_open(1),
        );
    });
}

#[test]
fn a_ring_never_leads_to_another_services_real_server() {
    run(|lb| {
        let own = lb.add_real(R, 8080);
        let foreign = lb.add_real(R2, 8080);
        let other = lb.add_service(6, V, 443, &[foreign]);
        let service = lb.add_service(6, V, 80, &[own, foreign]);
        // The slot was the service's when the packet read where its ring is, and is another's by now.
        lb.set_real_service(foreign, other.id);
        for port in 41_000..41_003 {
            let fresh = syn().client_port(port);
            lb.pass_through(Outside, &fresh);
        }
        assert!(lb.half_open().iter().all(|open| open.real_id == own));
        lb.set_ring(service, &[foreign]);
        lb.set_real_service(foreign, other.id);
        lb.step(
            Outside,
            &syn().client_port(42_000),
            dropped(Discard::NoReal).passed_over(service, 1),
        );
    });
}
