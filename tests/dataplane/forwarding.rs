//! The way out: routes, neighbours, hop counts, interfaces.

use std::net::IpAddr;

use balancer_common::verdict::Discard;
use balancer_tests::{
    addresses::{C, GATEWAY, LB_INSIDE, LB_OUTSIDE, R, R6, REAL, V, V6},
    dataplane::{
        Side::{Inside, Outside},
        run,
    },
    expected::{answered, dropped, passed, redirected, transmitted},
    network::{ip, sysctl},
    packet::{
        Icmp, Packet,
        flag::{ACK, PSH, SYN},
    },
};

use crate::{establish, syn, syn_ack};

#[test]
fn two_hops_are_enough() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let mut data = syn().segment(ACK, 1001, 9001).data(b"x");
        // One for us, one for the real server.
        data.hops = 2;
        let out = data.delivered(R, 8080);
        assert_eq!(out.hops, 1);
        lb.step(Outside, &data, redirected(&out).original(web.real, &data));
    });
}

#[test]
fn a_packet_whose_hops_end_here_passes_when_it_is_not_ours() {
    run(|lb| {
        lb.web();
        let mut packet = syn().to_port(22);
        packet.hops = 1;
        lb.step(
            Outside,
            &packet,
            passed(Discard::NoService, &packet.bytes()),
        );
    });
}

#[test]
fn case_67_without_a_neighbour_the_kernel_gets_the_translated_packet() {
    run(|lb| {
        let web = lb.web();
        ip(&format!("neigh del {R} dev inside"));
        // Translated, but neither hop count nor MAC addresses: the kernel routes it on.
        let mut out = syn().delivered(R, 8080);
        out.hops = 64;
        (out.mac_destination, out.mac_source) = (LB_OUTSIDE, GATEWAY);
        lb.step(
            Outside,
            &syn(),
            passed(Discard::NoNeighbour, &out.bytes())
                .original(web.real, &syn())
                .selected(web.service, web.real)
                .half_open(1),
        );
        ip(&format!(
            "neigh add {R} lladdr 02:00:00:00:00:12 dev inside nud permanent"
        ));
        let out = redirected(&syn().delivered(R, 8080)).original(web.real, &syn());
        lb.step(Outside, &syn(), out);
    });
}

#[test]
fn case_67_a_connection_is_not_poisoned_by_a_missing_neighbour() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let data = syn().segment(PSH | ACK, 1001, 9001).data(b"x");
        lb.pass_through(Outside, &data);
        ip(&format!("neigh del {R} dev inside"));
        lb.retire_routes();
        let mut out = data.delivered(R, 8080);
        out.hops = 64;
        (out.mac_destination, out.mac_source) = (LB_OUTSIDE, GATEWAY);
        for _ in 0..2 {
            let expected = passed(Discard::NoNeighbour, &out.bytes());
            lb.step(Outside, &data, expected.original(web.real, &data));
        }
        ip(&format!(
            "neigh add {R} lladdr 02:00:00:00:00:12 dev inside nud permanent"
        ));
        let expected = redirected(&data.delivered(R, 8080)).original(web.real, &data);
        lb.step(Outside, &data, expected);
    });
}

#[test]
fn case_67_every_other_answer_of_the_route_look_up_has_its_own_reason() {
    for (kind, reason) in [
        ("blackhole", Discard::Blackhole),
        ("unreachable", Discard::Unreachable),
        ("prohibit", Discard::Prohibited),
        ("local", Discard::NotForwarded),
    ] {
        run(|lb| {
            let web = lb.web();
            let device = if kind == "local" { "dev lo" } else { "" };
            ip(&format!("route add {kind} {R}/32 {device}"));
            lb.step(
                Outside,
                &syn(),
                dropped(reason)
                    .original(web.real, &syn())
                    .selected(web.service, web.real)
                    .half_open(1),
            );
            // A packet of ours is never passed half rewritten, whatever its family.
            let syn = syn().v6();
            ip(&format!("route add {kind} {R6}/128 dev lo"));
            lb.step(
                Outside,
                &syn,
                dropped(reason)
                    .original(web.real6, &syn)
                    .selected(web.service6, web.real6)
                    .half_open(1),
            );
        });
    }
}

#[test]
fn case_67_forwarding_switched_off_has_its_own_reason() {
    run(|lb| {
        let web = lb.web();
        sysctl("ipv4/conf/outside/forwarding", "0");
        sysctl("ipv6/conf/outside/forwarding", "0");
        lb.step(
            Outside,
            &syn(),
            dropped(Discard::ForwardingOff)
                .original(web.real, &syn())
                .selected(web.service, web.real)
                .half_open(1),
        );
        let syn = syn().v6();
        lb.step(
            Outside,
            &syn,
            dropped(Discard::ForwardingOff)
                .original(web.real6, &syn)
                .selected(web.service6, web.real6)
                .half_open(1),
        );
    });
}

#[test]
fn case_47_a_packet_too_large_for_the_way_out_is_answered_or_left_to_the_kernel_to_fragment() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        establish(lb, &syn().v6(), R6, 8080);
        ip("link set inside mtu 1300");
        lb.retire_routes();
        let mut data = syn().segment(ACK, 1001, 9001).data(&[0; 1261]);
        assert_eq!(data.ip_length(), 1301);
        // Quoted as the client sent it: its destination is the VIP still, and no hop is gone.
        for data in [
            data.clone(),
            data.clone().v6(),
            data.clone().tcp_options(&[1; 8]),
        ] {
            let error = data.error_in_its_stead(Icmp::TooBig(1300));
            lb.step(Outside, &data, answered(Discard::TooBig, &error));
        }
        lb.exhaust_answers(true);
        lb.step(Outside, &data, dropped(Discard::Unanswered));
        lb.exhaust_answers(false);
        data.fragment = 0;
        let mut out = data.delivered(R, 8080);
        out.hops = 64;
        (out.mac_destination, out.mac_source) = (LB_OUTSIDE, GATEWAY);
        let expected = passed(Discard::ToFragment, &out.bytes()).original(web.real, &data);
        lb.step(Outside, &data, expected);
        let fits = syn().segment(ACK, 1001, 9001).data(&[0; 1260]);
        let expected = redirected(&fits.delivered(R, 8080)).original(web.real, &fits);
        lb.step(Outside, &fits, expected);
    });
}

#[test]
fn case_47_a_real_servers_packet_too_large_for_the_way_out_is_answered_from_the_vip() {
    run(|lb| {
        lb.web();
        ip("link set outside mtu 1300");
        lb.retire_routes();
        for (syn, vip, real) in [(syn(), V, R), (syn().v6(), V6, R6)] {
            establish(lb, &syn, real, 8080);
            let page = syn
                .answered(real, 8080)
                .segment(ACK, 9001, 1001)
                .data(&[7; 1261]);
            let mut error = page.error_in_its_stead(Icmp::TooBig(1300));
            error.source = vip;
            error.sum_icmp();
            lb.step(Inside, &page, answered(Discard::TooBig, &error));
        }
    });
}

#[test]
fn case_47_a_syn_too_large_for_the_way_out_is_answered() {
    run(|lb| {
        let web = lb.web();
        ip("link set inside mtu 1300");
        lb.retire_routes();
        let syn = syn().data(&[0; 1300]);
        let error = syn.error_in_its_stead(Icmp::TooBig(1300));
        // The connection is opened, as any that does not reach its real server at once.
        let expected = answered(Discard::TooBig, &error);
        let expected = expected.selected(web.service, web.real).half_open(1);
        lb.step(Outside, &syn, expected);
    });
}

#[test]
fn case_68_one_interface_for_both_sides_transmits_both_ways() {
    run(|lb| {
        let web = lb.web();
        // One-armed: the clients come in by the interface behind which the real servers are.
        let arrives = |mut packet: Packet| {
            (packet.mac_destination, packet.mac_source) = (LB_INSIDE, GATEWAY);
            packet
        };
        ip("route replace default via 192.168.0.9 dev inside");
        ip("route replace default via fd00:1::9 dev inside");
        ip("neigh add 192.168.0.9 lladdr 02:00:00:00:00:01 dev inside nud permanent");
        ip("neigh add fd00:1::9 lladdr 02:00:00:00:00:01 dev inside nud permanent");
        for (syn, vip, address, real, service) in [
            (syn(), V, R, web.real, web.service),
            (syn().v6(), V6, R6, web.real6, web.service6),
        ] {
            let syn = arrives(syn);
            lb.step(
                Inside,
                &syn,
                transmitted(&syn.delivered(address, 8080))
                    .original(real, &syn)
                    .selected(service, real)
                    .half_open(1),
            );
            let answer = syn_ack(&syn, address, 8080);
            let mut out = answer.returned(vip, 80);
            out.mac_source = LB_INSIDE;
            lb.step(Inside, &answer, transmitted(&out).reply(real, &answer));
            let ack = syn.clone().segment(ACK, 1001, 9001);
            let expected = transmitted(&ack.delivered(address, 8080))
                .original(real, &ack)
                .half_open(-1);
            let expected = if vip == V {
                expected.pair_v4()
            } else {
                expected.pair_v6()
            };
            lb.step(Inside, &ack, expected);
            let expected = transmitted(&ack.delivered(address, 8080)).original(real, &ack);
            lb.step(Inside, &ack, expected);
        }
    });
}

#[test]
fn case_68_a_way_out_by_an_unknown_interface_drops_the_packet() {
    run(|lb| {
        let web = lb.web();
        let inside = lb.inside;
        lb.devices().remove(inside).expect("remove from DEVICES");
        lb.step(
            Outside,
            &syn(),
            dropped(Discard::NoEgress)
                .original(web.real, &syn())
                .selected(web.service, web.real)
                .half_open(1),
        );
        lb.devices()
            .insert(inside, inside, None, 0)
            .expect("insert into DEVICES");
        let expected = redirected(&syn().delivered(R, 8080)).original(web.real, &syn());
        lb.step(Outside, &syn(), expected);
    });
}

#[test]
fn a_connection_keeps_its_next_hop_until_routes_change() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let data = syn().segment(PSH | ACK, 1001, 9001).data(b"x");
        let page = syn()
            .answered(R, 8080)
            .segment(PSH | ACK, 9001, 1002)
            .data(b"y");
        let send_both = |lb: &mut balancer_tests::dataplane::Dataplane, real_mac, gateway_mac| {
            let mut out = data.delivered(R, 8080);
            out.mac_destination = real_mac;
            lb.step(Outside, &data, redirected(&out).original(web.real, &data));
            let mut out = page.returned(V, 80);
            out.mac_destination = gateway_mac;
            lb.step(Inside, &page, redirected(&out).reply(web.real, &page));
        };
        send_both(lb, REAL, GATEWAY);
        ip(&format!(
            "neigh replace {R} lladdr 02:00:00:00:00:77 dev inside nud permanent"
        ));
        ip("neigh replace 203.0.113.1 lladdr 02:00:00:00:00:78 dev outside nud permanent");
        send_both(lb, REAL, GATEWAY);
        lb.retire_routes();
        send_both(lb, [2, 0, 0, 0, 0, 0x77], [2, 0, 0, 0, 0, 0x78]);
        ip(&format!(
            "neigh replace {R} lladdr 02:00:00:00:00:12 dev inside nud permanent"
        ));
        send_both(lb, [2, 0, 0, 0, 0, 0x77], [2, 0, 0, 0, 0, 0x78]);
        // A stranger's route costs nobody a look-up; the route to the client only the replies; a neighbour its own packets.
        lb.retire_route("100.64.0.1".parse().expect("an address"));
        send_both(lb, [2, 0, 0, 0, 0, 0x77], [2, 0, 0, 0, 0, 0x78]);
        ip("neigh replace 203.0.113.1 lladdr 02:00:00:00:00:01 dev outside nud permanent");
        lb.retire_route(C);
        send_both(lb, [2, 0, 0, 0, 0, 0x77], [2, 0, 0, 0, 0, 1]);
        let hops = lb.next_hops();
        let hop = hops
            .iter()
            .find(|(_, hop)| IpAddr::from(hop.address) == R)
            .expect("the real server's next hop is its own address");
        assert!(
            hops.iter()
                .any(|(_, hop)| IpAddr::from(hop.address).to_string() == "203.0.113.1"),
            "the client's is the gateway: {hops:?}"
        );
        lb.retire_next_hop(hop.0);
        send_both(lb, REAL, [2, 0, 0, 0, 0, 1]);
    });
}

#[test]
fn a_handshake_remembers_its_next_hop() {
    run(|lb| {
        let web = lb.web();
        lb.pass_through(Outside, &syn());
        ip(&format!(
            "neigh replace {R} lladdr 02:00:00:00:00:77 dev inside nud permanent"
        ));
        let mut out = syn().segment(SYN, 1000, 0).delivered(R, 8080);
        lb.step(Outside, &syn(), redirected(&out).original(web.real, &syn()));
        lb.retire_routes();
        out.mac_destination = [2, 0, 0, 0, 0, 0x77];
        lb.step(Outside, &syn(), redirected(&out).original(web.real, &syn()));
    });
}
