//! IPv6 extension headers: looked through within bounds, and left as they are.

use balancer_common::verdict::Discard;
use balancer_tests::{
    addresses::{R6, V6},
    dataplane::{
        Side::{Inside, Outside},
        run,
    },
    expected::{answered, dropped, passed, redirected},
    packet::{
        Icmp, Packet,
        flag::{ACK, RST},
    },
};

use crate::{establish, syn, syn_ack};

/// A header of options with so many bytes in all, before `next`.
fn options(next: u8, length: usize) -> Vec<u8> {
    // PadN over the rest.
    let mut header = vec![next, (length / 8 - 1) as u8, 1, (length - 4) as u8];
    header.resize(length, 0);
    header
}

/// A routing header of this type, before `next`.
fn routing(next: u8, kind: u8, segments_left: u8) -> Vec<u8> {
    let mut header = vec![next, 2, kind, segments_left, 0, 0, 0, 0];
    header.resize(24, 0xdb);
    header
}

/// The packet with these extension headers, of which the first has the number `first`.
fn with(packet: &Packet, first: u8, headers: &[Vec<u8>]) -> Packet {
    Packet {
        extensions: Some((first, headers.concat())),
        ..packet.clone()
    }
}

/// Chains that are looked through, in front of `next`.
fn chains(next: u8) -> Vec<(u8, Vec<Vec<u8>>)> {
    let eight = (0..8).map(|number| options(if number < 7 { 60 } else { next }, 8));
    vec![
        (0, vec![options(next, 8)]),
        (60, vec![options(next, 16)]),
        (43, vec![routing(next, 4, 0)]),
        (43, vec![routing(next, 2, 0)]),
        (0, vec![options(60, 8), options(next, 24)]),
        (
            0,
            vec![
                options(43, 8),
                routing(44, 3, 0),
                vec![next, 0, 0, 0, 1, 2, 3, 4],
            ],
        ),
        (60, eight.collect()),
        (60, vec![options(next, 512 - 248)]),
        (0, vec![options(60, 256), options(next, 256)]),
    ]
}

#[test]
fn case_57_packets_are_balanced_behind_extension_headers() {
    run(|lb| {
        let web = lb.web();
        let dns = lb.dns();
        for (port, (first, headers)) in (41_000..).zip(chains(6)) {
            let plain = syn().v6().client_port(port);
            let packet = with(&plain, first, &headers);
            let expected = redirected(&packet.delivered(R6, 8080)).original(web.real6, &packet);
            let expected = expected.selected(web.service6, web.real6).half_open(1);
            lb.step(Outside, &packet, expected);
            // The answer has some, too, and the rest of the handshake.
            let answer = with(&syn_ack(&plain, R6, 8080), first, &headers);
            let out = answer.returned(V6, 80);
            lb.step(Inside, &answer, redirected(&out).reply(web.real6, &answer));
            let ack = with(&plain.clone().segment(ACK, 1001, 9001), first, &headers);
            let expected = redirected(&ack.delivered(R6, 8080)).original(web.real6, &ack);
            lb.step(Outside, &ack, expected.half_open(-1).pair_v6());
            let plain = plain.segment(ACK, 1001, 9001).data(b"x");
            let expected = redirected(&plain.delivered(R6, 8080)).original(web.real6, &plain);
            lb.step(Outside, &plain, expected);
        }
        for (port, (first, headers)) in (41_000..).zip(chains(17)) {
            let query = with(
                &Packet::udp(b"ping").v6().client_port(port),
                first,
                &headers,
            );
            let expected = redirected(&query.delivered(R6, 8053)).original(dns.real6, &query);
            let expected = expected.selected(dns.service6, dns.real6).pair_v6();
            lb.step(Outside, &query, expected);
            let mut bare = query.clone();
            bare.udp_length = Some(13);
            lb.step(Outside, &bare, dropped(Discard::UdpLength));
        }
    });
}

#[test]
fn case_57_59_what_cannot_be_looked_through_is_dropped_where_it_is_for_a_vip() {
    run(|lb| {
        lb.web();
        let nine: Vec<_> = (0..9)
            .map(|number| options(if number < 8 { 60 } else { 6 }, 8))
            .collect();
        for (first, headers) in [
            (60, nine),
            (0, vec![options(60, 264), options(6, 256)]),
            (43, vec![routing(6, 0, 0)]),
            (43, vec![routing(6, 0, 1)]),
        ] {
            let packet = with(&syn().v6(), first, &headers);
            lb.step(Outside, &packet, dropped(Discard::ExtensionHeaders));
            let mut strange = packet;
            strange.destination = "2001:db8:80::99".parse().expect("an address");
            lb.step(
                Outside,
                &strange,
                passed(Discard::NotTcpUdp, &strange.bytes()),
            );
        }
    });
}

#[test]
fn case_59_other_headers_pass() {
    run(|lb| {
        lb.web();
        // AH, ESP, nothing, mobility, HIP, an experiment: alone, and behind others.
        for next in [51, 50, 59, 135, 139, 253] {
            for packet in [
                with(&syn().v6(), next, &[options(6, 8)]),
                with(&syn().v6(), 0, &[options(next, 8), options(6, 8)]),
            ] {
                lb.step(
                    Outside,
                    &packet,
                    passed(Discard::NotTcpUdp, &packet.bytes()),
                );
            }
        }
        // Its destination is a router on its way.
        let packet = with(&syn().v6(), 43, &[routing(6, 4, 1)]);
        lb.step(
            Outside,
            &packet,
            passed(Discard::NotTcpUdp, &packet.bytes()),
        );
        // ICMP behind them is the host's.
        let mut ping = Packet::other(58, &[128, 0, 0, 0, 0, 1, 0, 1]).v6();
        ping.extensions = Some((60, options(58, 8)));
        lb.step(Outside, &ping, passed(Discard::NotTcpUdp, &ping.bytes()));
    });
}

#[test]
fn headers_that_are_cut_short_or_lead_astray_pass() {
    run(|lb| {
        lb.web();
        for (first, headers) in chains(6) {
            let whole = with(&syn().v6(), first, &headers);
            let length = whole.bytes().len();
            for cut in 54..length {
                let bytes = whole.bytes()[..cut].to_vec();
                lb.step_bytes(Outside, &bytes, passed(Discard::Malformed, &bytes));
                // The header says so as well.
                let mut honest = bytes;
                let payload = (cut - 54) as u16;
                honest[18..20].copy_from_slice(&payload.to_be_bytes());
                lb.step_bytes(Outside, &honest, passed(Discard::Malformed, &honest));
            }
        }
        // A length that leads out of the packet.
        let packet = with(&syn().v6(), 0, &[vec![6, 200, 1, 4, 0, 0, 0, 0]]);
        let bytes = packet.bytes();
        lb.step(Outside, &packet, passed(Discard::Malformed, &bytes));
        // Two fragment headers: the first says that it is one.
        let fragment = |next| vec![next, 0, 0, 1, 1, 2, 3, 4];
        let packet = with(&syn().v6(), 44, &[fragment(44), fragment(6)]);
        lb.step(Outside, &packet, dropped(Discard::FragmentTiny));
    });
}

#[test]
fn packets_behind_extension_headers_are_answered_like_others() {
    run(|lb| {
        let web = lb.web();
        let nobody = lb.add_service(17, V6, 99, &[]);
        lb.reject_without_reals(nobody, &[]);
        establish(lb, &syn().v6(), R6, 8080);
        for (first, headers) in chains(6) {
            let stray = syn().v6().client_port(45_000).segment(ACK, 1, 7_000);
            let packet = with(&stray, first, &headers);
            let reset = stray.reset(RST, 7_000, 0);
            lb.step(Outside, &packet, answered(Discard::NoConnection, &reset));
            let mut last = with(&syn().v6(), first, &headers);
            last.hops = 1;
            let error = last.error_in_its_stead(Icmp::TimeExceeded);
            let mut plain = error;
            plain.extensions = None;
            lb.step(Outside, &last, answered(Discard::TimeExceeded, &plain));
        }
        for (first, headers) in chains(17) {
            let packet = with(&Packet::udp(b"ping").v6().to_port(99), first, &headers);
            let error = packet.port_unreachable();
            let expected = answered(Discard::NoRealReject, &error).passed_over(nobody, 1);
            lb.step(Outside, &packet, expected);
        }
        // Its real server has failed.
        lb.fail_real(web.real6);
        let data = syn().v6().segment(ACK, 1001, 9001).data(b"x");
        let packet = with(&data, 60, &[options(6, 16)]);
        let reset = data.reset(RST, 9001, 0);
        let expected = answered(Discard::RealReset, &reset).pair_v6_deleted();
        lb.step(Outside, &packet, expected);
    });
}
