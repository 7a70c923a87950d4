//! Fragments of both families: the first one is a packet with ports, the later ones go where it went.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use balancer_common::{fragment::MAX_FRAGMENTED, verdict::Discard};
use balancer_tests::{
    addresses::{C, C6, GATEWAY, LB_INSIDE, LB_OUTSIDE, R, R6, mac_of},
    dataplane::{
        Dataplane,
        Side::{Inside, Outside},
        Verdict, run,
    },
    expected::{answered, dropped, passed, redirected, transmitted},
    network::ip,
    packet::{Checksum, Icmp, Packet, Transport, flag::ACK},
};

use crate::{establish, syn};

/// Bytes behind the headers of a fragment.
const SIZE: usize = 1_448;

/// A datagram of 8 kB from the client to the VIP's port 53.
fn large() -> Packet {
    let payload: Vec<u8> = (0..8_000_u32).map(|byte| (byte * 7) as u8).collect();
    Packet::udp(&payload)
}

/// A DNS service of each family whose real server has answered the client: a large query, the large answer to it, and the real server's id.
fn asked(lb: &mut Dataplane) -> [(Packet, Packet, u32); 2] {
    let dns = lb.dns();
    [(large(), R, dns.real), (large().v6(), R6, dns.real6)].map(|(query, real, id)| {
        let small = query.clone().data(b"ping");
        lb.pass_through(Outside, &small);
        lb.pass_through(Inside, &small.answered(real, 8053));
        let answer = query.answered(real, 8053);
        (query, answer, id)
    })
}

fn vip(query: &Packet) -> IpAddr {
    query.destination
}

/// The fragments of a query, and as what they reach the real server.
fn query_fragments(query: &Packet, answer: &Packet) -> Vec<(Packet, Packet)> {
    let out = query.delivered(answer.source, 8053);
    query
        .fragments(SIZE)
        .into_iter()
        .zip(out.fragments(SIZE))
        .collect()
}

/// The fragments of an answer, and as what they reach the client.
fn answer_fragments(query: &Packet, answer: &Packet) -> Vec<(Packet, Packet)> {
    let out = answer.returned(vip(query), 53);
    answer
        .fragments(SIZE)
        .into_iter()
        .zip(out.fragments(SIZE))
        .collect()
}

#[test]
fn case_48_49_58_all_fragments_of_a_datagram_reach_the_same_side() {
    run(|lb| {
        for (query, answer, id) in asked(lb) {
            let fragments = query_fragments(&query, &answer);
            assert_eq!(fragments.len(), 6);
            for (fragment, out) in fragments {
                lb.step(Outside, &fragment, redirected(&out).original(id, &fragment));
            }
            for (fragment, out) in answer_fragments(&query, &answer) {
                lb.step(Inside, &fragment, redirected(&out).reply(id, &fragment));
            }
        }
    });
}

#[test]
fn a_first_fragment_opens_a_connection_and_later_ones_follow_it_in_any_order() {
    run(|lb| {
        let dns = lb.dns();
        for (query, real, id, service) in [
            (large(), R, dns.real, dns.service),
            (large().v6(), R6, dns.real6, dns.service6),
        ] {
            let answer = query.answered(real, 8053);
            let mut fragments = query_fragments(&query, &answer);
            let (first, out) = fragments.remove(0);
            let expected = redirected(&out).original(id, &first).selected(service, id);
            lb.step(Outside, &first, expected.pair_of(&first));
            fragments.reverse();
            // Twice: the network may copy them.
            for (fragment, out) in fragments.iter().chain(&fragments) {
                lb.step(Outside, fragment, redirected(out).original(id, fragment));
            }
        }
    });
}

#[test]
fn later_fragments_may_come_in_elsewhere() {
    run(|lb| {
        for (query, answer, id) in asked(lb) {
            let fragments = query_fragments(&query, &answer);
            lb.pass_through(Outside, &fragments[0].0);
            let (mut fragment, out) = fragments[1].clone();
            (fragment.mac_destination, fragment.mac_source) = (LB_INSIDE, GATEWAY);
            lb.step(Inside, &fragment, transmitted(&out).original(id, &fragment));
        }
    });
}

#[test]
fn fragments_of_segments_are_carried_like_those_of_datagrams() {
    run(|lb| {
        let web = lb.web();
        for (syn, real, id) in [(syn(), R, web.real), (syn().v6(), R6, web.real6)] {
            establish(lb, &syn, real, 8080);
            let data = syn.segment(ACK, 1001, 9001).data(&[9; 3_000]);
            let out = data.delivered(real, 8080).fragments(SIZE);
            for (fragment, out) in data.fragments(SIZE).iter().zip(&out) {
                lb.step(Outside, fragment, redirected(out).original(id, fragment));
            }
        }
    });
}

#[test]
fn case_50_a_later_fragment_without_its_first_is_dropped() {
    run(|lb| {
        for (query, answer, id) in asked(lb) {
            for (fragment, _) in query_fragments(&query, &answer).split_off(1) {
                lb.step(Outside, &fragment, dropped(Discard::FragmentUnmatched));
            }
            for (fragment, _) in answer_fragments(&query, &answer).split_off(1) {
                lb.step(Inside, &fragment, dropped(Discard::FragmentUnmatched));
            }
            // Another datagram's first, another sender's, another protocol's.
            let (first, _) = query_fragments(&query, &answer).remove(0);
            lb.pass_through(Outside, &first);
            let mut other = query.clone();
            other.id += 1;
            let (later, _) = query_fragments(&other, &answer).remove(1);
            lb.step(Outside, &later, dropped(Discard::FragmentUnmatched));
            let mut later = query.fragments(SIZE).remove(1);
            later.source = if C == query.source {
                "198.51.100.11".parse().expect("an address")
            } else {
                "2001:db8:c::11".parse().expect("an address")
            };
            lb.step(Outside, &later, dropped(Discard::FragmentUnmatched));
            let mut later = query.clone();
            later.transport = syn().transport;
            let later = later.fragments(SIZE).remove(2);
            lb.step(Outside, &later, dropped(Discard::FragmentUnmatched));
            // It still has its own.
            let (later, out) = query_fragments(&query, &answer).remove(1);
            lb.step(Outside, &later, redirected(&out).original(id, &later));
        }
    });
}

#[test]
fn later_fragments_follow_for_half_a_minute_and_as_long_as_there_is_a_connection() {
    run(|lb| {
        for (query, answer, _) in asked(lb) {
            let fragments = query_fragments(&query, &answer);
            lb.pass_through(Outside, &fragments[0].0);
            lb.pass_through(Outside, &fragments[1].0);
            lb.age_fragments();
            lb.step(
                Outside,
                &fragments[1].0,
                dropped(Discard::FragmentUnmatched),
            );
            lb.pass_through(Outside, &fragments[0].0);
            lb.delete_connection(&query);
            lb.step(
                Outside,
                &fragments[1].0,
                dropped(Discard::FragmentUnmatched),
            );
            // Somebody else has the places now.
            lb.pass_through(Outside, &query.clone().client_port(9).data(b"x"));
            lb.step(
                Outside,
                &fragments[1].0,
                dropped(Discard::FragmentUnmatched),
            );
        }
    });
}

#[test]
fn a_datagram_of_the_past_is_not_taken_for_a_later_one_with_its_number() {
    run(|lb| {
        for (query, answer, id) in asked(lb) {
            let fragments = query.fragments(SIZE);
            let (first, later) = (&fragments[0], &fragments[1]);
            // The same number half a minute later, to a port without a service.
            lb.pass_through(Outside, first);
            lb.age_fragments();
            let other = query.clone().to_port(54).fragments(SIZE).remove(0);
            lb.step(Outside, &other, passed(Discard::NoService, &other.bytes()));
            lb.step(Outside, later, passed(Discard::Fragment, &later.bytes()));
            // The same number at once, of a connection that follows the one that has ended.
            lb.pass_through(Outside, first);
            lb.delete_connection(&query);
            let other = query.clone().client_port(9);
            lb.pass_through(Outside, &other.fragments(SIZE)[0]);
            let (later, out) = query_fragments(&other, &answer).remove(1);
            lb.step(Outside, &later, redirected(&out).original(id, &later));
        }
    });
}

#[test]
fn fragments_of_what_is_not_balanced_pass() {
    run(|lb| {
        asked(lb);
        for whole in [large(), large().v6()] {
            // To a port of the VIP's without a service: its later fragments are known by the first.
            let other = whole.clone().to_port(54);
            let fragments = other.fragments(SIZE);
            let (first, later) = (&fragments[0], &fragments[3]);
            lb.step(Outside, later, dropped(Discard::FragmentUnmatched));
            lb.step(Outside, first, passed(Discard::NoService, &first.bytes()));
            lb.step(Outside, later, passed(Discard::Fragment, &later.bytes()));
            // A real server's own.
            let real = if whole.source.is_ipv4() { R } else { R6 };
            let own = whole.answered(real, 5_000);
            let fragments = own.fragments(SIZE);
            let (first, later) = (&fragments[0], &fragments[3]);
            lb.step(Inside, first, passed(Discard::NoService, &first.bytes()));
            lb.step(Inside, later, passed(Discard::Fragment, &later.bytes()));
            // Nobody's here.
            let mut strange = whole.clone();
            strange.destination = if whole.source.is_ipv4() {
                "192.0.2.99".parse().expect("an address")
            } else {
                "2001:db8:80::99".parse().expect("an address")
            };
            let fragments = strange.fragments(SIZE);
            let (first, later) = (&fragments[0], &fragments[3]);
            lb.step(Outside, later, passed(Discard::Fragment, &later.bytes()));
            lb.step(Outside, first, passed(Discard::NoService, &first.bytes()));
            // Other protocols' to the VIP: a long ping, IPsec.
            for protocol in [1, 58, 50, 132] {
                let mut ping = whole.clone();
                ping.transport = Transport::Other(protocol);
                let fragments = ping.fragments(SIZE);
                let (first, later) = (&fragments[0], &fragments[3]);
                let reason = if whole.source.is_ipv4() {
                    Discard::Fragment
                } else {
                    Discard::NotTcpUdp
                };
                lb.step(Outside, first, passed(reason, &first.bytes()));
                lb.step(Outside, later, passed(Discard::Fragment, &later.bytes()));
            }
        }
    });
}

#[test]
fn case_51_a_first_fragment_without_a_whole_transport_header_is_dropped() {
    run(|lb| {
        asked(lb);
        lb.web();
        for (whole, needed) in [(syn(), 20), (Packet::udp(b"ping"), 8)] {
            for whole in [whole.clone(), whole.v6()] {
                let mut first = whole.clone().data(&[1; 64]).fragments(64).remove(0);
                let bytes = first.payload.clone();
                for length in 0..needed {
                    first.payload = bytes[..length].to_vec();
                    lb.step(Outside, &first, dropped(Discard::FragmentTiny));
                    let mut strange = first.clone();
                    strange.destination = if whole.source.is_ipv4() { C } else { C6 };
                    lb.step(
                        Outside,
                        &strange,
                        passed(Discard::Malformed, &strange.bytes()),
                    );
                }
            }
        }
    });
}

#[test]
fn case_52_a_fragment_that_would_overwrite_a_tcp_header_is_dropped() {
    run(|lb| {
        lb.web();
        for (syn, real, elsewhere) in [(syn(), R, C), (syn().v6(), R6, C6)] {
            establish(lb, &syn, real, 8080);
            let data = syn.segment(ACK, 1001, 9001).data(&[9; 3_000]);
            lb.pass_through(Outside, &data.fragments(24)[0]);
            let second = data.fragments(8).remove(1);
            lb.step(Outside, &second, dropped(Discard::FragmentTiny));
            let page = data.answered(real, 8080).fragments(8).remove(1);
            lb.step(Inside, &page, dropped(Discard::FragmentTiny));
            let mut strange = second;
            strange.destination = elsewhere;
            lb.step(
                Outside,
                &strange,
                passed(Discard::Fragment, &strange.bytes()),
            );
        }
    });
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    run(|lb| {
        let [_, (query, answer, id)] = asked(lb);
        let mut whole = query.data(b"small");
        whole.extensions = Some((44, vec![17, 0, 0, 0, 0, 0, 0, 7]));
        let out = whole.delivered(answer.source, 8053);
        lb.step(Outside, &whole, redirected(&out).original(id, &whole));
        // No later one follows it.
        let mut later = whole.clone();
        later.extensions = Some((44, vec![17, 0, 0, 8, 0, 0, 0, 7]));
        lb.step(Outside, &later, dropped(Discard::FragmentUnmatched));
        // Its length has to be right, as a whole packet's.
        let mut long = whole;
        long.udp_length = Some(100);
        lb.step(Outside, &long, dropped(Discard::UdpLength));
    });
}

#[test]
fn what_must_not_be_forwarded_whole_must_not_in_fragments() {
    run(|lb| {
        let all = asked(lb);
        for (query, ..) in &all {
            let mut short = query.clone();
            short.udp_length = Some(7);
            let first = short.fragments(SIZE).remove(0);
            lb.step(Outside, &first, dropped(Discard::UdpLength));
            let later = short.fragments(SIZE).remove(1);
            lb.step(Outside, &later, dropped(Discard::FragmentUnmatched));
        }
        let [(query, answer, id), (query6, ..)] = all;
        let mut bare = query6;
        bare.checksum = Checksum::Given(0);
        let first = bare.fragments(SIZE).remove(0);
        lb.step(Outside, &first, dropped(Discard::UdpNoChecksum));
        // In IPv4 there may be none.
        let mut bare = query.clone();
        bare.checksum = Checksum::Given(0);
        for (fragment, out) in query_fragments(&bare, &answer) {
            lb.step(Outside, &fragment, redirected(&out).original(id, &fragment));
        }
        let mut routed = query_fragments(&query, &answer).remove(1).0;
        routed.ip_options = vec![131, 7, 4, 10, 0, 0, 1, 0];
        lb.step(Outside, &routed, dropped(Discard::SourceRoute));
    });
}

#[test]
fn only_a_first_fragment_is_answered() {
    run(|lb| {
        for (query, answer, _) in asked(lb) {
            let mut last = query.clone();
            last.hops = 1;
            let fragments = last.fragments(SIZE);
            // Quoted with its own header: the datagram's whole is known by it.
            let mut error = fragments[0].error_in_its_stead(Icmp::TimeExceeded);
            assert_eq!(
                error.payload.len(),
                8 + if query.source.is_ipv4() { 28 } else { 56 }
            );
            lb.step(
                Outside,
                &fragments[0],
                answered(Discard::TimeExceeded, &error),
            );
            lb.pass_through(Outside, &query.fragments(SIZE)[0]);
            lb.step(Outside, &fragments[1], dropped(Discard::Unanswered));
            // A reply's, in the VIP's name.
            let mut last = answer.clone();
            last.hops = 1;
            let first = last.fragments(SIZE).remove(0);
            error = first.error_in_its_stead(Icmp::TimeExceeded);
            error.source = vip(&query);
            error.sum_icmp();
            lb.step(Inside, &first, answered(Discard::TimeExceeded, &error));
        }
    });
}

#[test]
fn fragments_too_large_for_the_way_out_are_the_kernels_to_fragment_or_answered() {
    run(|lb| {
        let asked = asked(lb);
        ip("link set inside mtu 1300");
        lb.retire_routes();
        let (query, answer, id) = &asked[0];
        // The last one, which would fit, goes the way of the others: the host may put all together.
        for (fragment, mut out) in query_fragments(query, answer) {
            out.hops = 64;
            (out.mac_destination, out.mac_source) = (LB_OUTSIDE, GATEWAY);
            let expected = passed(Discard::ToFragment, &out.bytes());
            lb.step(Outside, &fragment, expected.original(*id, &fragment));
        }
        let (query, answer, _) = &asked[1];
        let fragments = query_fragments(query, answer);
        let error = fragments[0].0.error_in_its_stead(Icmp::TooBig(1300));
        lb.step(Outside, &fragments[0].0, answered(Discard::TooBig, &error));
        // Nothing goes out of order: what was not sent on is not remembered.
        lb.step(
            Outside,
            &fragments[1].0,
            dropped(Discard::FragmentUnmatched),
        );
    });
}

/// First fragments from so many senders, each to be remembered: most are for no service, the others are unanswered datagrams to one.
fn flood(lb: &Dataplane, query: &Packet, senders: u32) {
    for number in 0..senders {
        let port = if number.is_multiple_of(8) { 53 } else { 54 };
        let mut junk = query.clone().to_port(port).fragments(SIZE).remove(0);
        junk.source = match query.source {
            IpAddr::V4(_) => Ipv4Addr::from(0x0a00_0000 + number).into(),
            IpAddr::V6(_) => Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(number)).into(),
        };
        let (verdict, _) = lb.send(Outside, &junk.bytes());
        assert_ne!(verdict, Verdict::Aborted);
    }
}

#[test]
fn a_flood_of_first_fragments_pushes_out_no_datagram_of_a_confirmed_client() {
    run(|lb| {
        for (query, answer, id) in asked(lb) {
            // The client has sent after an answer.
            lb.pass_through(Outside, &query.clone().data(b"ping"));
            let mut fragments = query_fragments(&query, &answer);
            let (first, out) = fragments.remove(0);
            lb.step(Outside, &first, redirected(&out).original(id, &first));
            let mut replies = answer_fragments(&query, &answer);
            let (first, out) = replies.remove(0);
            lb.step(Inside, &first, redirected(&out).reply(id, &first));
            flood(lb, &query, 2 * MAX_FRAGMENTED);
            for (fragment, out) in fragments {
                lb.step(Outside, &fragment, redirected(&out).original(id, &fragment));
            }
            for (fragment, out) in replies {
                lb.step(Inside, &fragment, redirected(&out).reply(id, &fragment));
            }
        }
    });
}

#[test]
fn after_a_flood_of_first_fragments_newcomers_have_room() {
    run(|lb| {
        for (query, answer, id) in asked(lb) {
            lb.pass_through(Outside, &query.clone().data(b"ping"));
            flood(lb, &query, 2 * MAX_FRAGMENTED);
            for (fragment, out) in query_fragments(&query, &answer) {
                lb.step(Outside, &fragment, redirected(&out).original(id, &fragment));
            }
        }
    });
}

#[test]
fn a_record_of_another_datagram_is_not_taken_for_ones_own() {
    run(|lb| {
        let [(query, answer, _), _] = asked(lb);
        // Two clients' first datagrams.
        let of = |client: &str| Packet {
            source: client.parse().expect("an address"),
            ..query.clone()
        };
        let (query, other) = (of("198.51.100.76"), of("198.51.100.77"));
        lb.pass_through(Outside, &query.fragments(SIZE)[0]);
        lb.pass_through(Outside, &other.fragments(SIZE)[0]);
        // As another CPU may write them while they are read.
        lb.exchange_fragments();
        for query in [&query, &other] {
            let (later, _) = query_fragments(query, &answer).remove(1);
            lb.step(Outside, &later, dropped(Discard::FragmentUnmatched));
        }
    });
}

#[test]
fn headers_behind_the_fragment_header_are_only_in_the_first_fragment() {
    run(|lb| {
        let [_, (query, answer, id)] = asked(lb);
        // What fits a test run's frame.
        let query = query.data(&[5; 4_000]);
        let id_bytes = 77_u32.to_be_bytes();
        let options = [17, 0, 1, 4, 0, 0, 0, 0];
        let with = |packet: &Packet, first: bool, offset: u16, more: bool, payload: &[u8]| {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            let header = [&[60, 0, high, low], &id_bytes[..]].concat();
            let options: &[u8] = if first { &options } else { &[] };
            Packet {
                extensions: Some((44, [&header, options].concat())),
                transport: Transport::Other(17),
                payload: payload.to_vec(),
                ..packet.clone()
            }
        };
        let parts = |packet: &Packet| {
            let whole = packet.fragments(80_000).remove(0).payload;
            // Of the first one's 1,448 bytes eight are options.
            let first = with(packet, true, 0, true, &whole[..1_440]);
            let second = with(packet, false, 181, true, &whole[1_440..2_880]);
            let last = with(packet, false, 361, false, &whole[2_880..]);
            [first, second, last]
        };
        let out = parts(&query.delivered(answer.source, 8053));
        for (fragment, out) in parts(&query).iter().zip(&out) {
            lb.step(Outside, fragment, redirected(out).original(id, fragment));
        }
        // A long ping to the VIP, with such options.
        let mut ping = parts(&query);
        for fragment in &mut ping {
            fragment.id += 1;
            if let Some((_, headers)) = &mut fragment.extensions {
                headers[7] += 1;
                if let Some(next) = headers.get_mut(8) {
                    *next = 58;
                }
            }
        }
        lb.step(
            Outside,
            &ping[0],
            passed(Discard::NotTcpUdp, &ping[0].bytes()),
        );
        lb.step(
            Outside,
            &ping[1],
            passed(Discard::Fragment, &ping[1].bytes()),
        );
    });
}

#[test]
fn a_first_fragment_whose_headers_go_on_in_the_next_is_dropped() {
    run(|lb| {
        let [_, (query, ..)] = asked(lb);
        let fragment = [60, 0, 0, 1, 0, 0, 0, 9];
        let options = [17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for length in 0..options.len() {
            let mut first = query.clone();
            first.extensions = Some((44, [&fragment, &options[..length]].concat()));
            first.transport = Transport::Other(17);
            first.payload.clear();
            lb.step(Outside, &first, dropped(Discard::FragmentTiny));
            first.destination = C6;
            lb.step(Outside, &first, passed(Discard::Malformed, &first.bytes()));
        }
    });
}

#[test]
fn what_follows_the_packet_in_its_frame_is_no_fragment_header() {
    run(|lb| {
        let [_, (query, ..)] = asked(lb);
        for fragment in query.fragments(SIZE) {
            for length in 0..8 {
                let mut bytes = fragment.bytes();
                bytes[19] = length;
                bytes[18] = 0;
                lb.step_bytes(Outside, &bytes, passed(Discard::Malformed, &bytes));
            }
        }
    });
}

#[test]
fn a_router_may_complain_about_a_first_fragment() {
    run(|lb| {
        for (query, answer, id) in asked(lb) {
            let router = if query.source.is_ipv4() {
                "203.0.113.1"
            } else {
                "2001:db8:f::1"
            };
            let router = router.parse().expect("an address");
            let sent = answer.returned(vip(&query), 53);
            for (fragment, own) in sent.fragments(SIZE).iter().zip(answer.fragments(SIZE)) {
                let mut error = fragment.icmp_error(Outside, router, Icmp::TooBig(1300), 0);
                let mut out = own.icmp_error(Outside, router, Icmp::TooBig(1300), 0);
                // The builder takes a fragment for no transport header of its own.
                for (packet, about) in [(&mut error, fragment), (&mut out, &own)] {
                    packet.payload.extend(&about.payload[..24]);
                    // Quoted one hop later, and alike on both sides.
                    let hops_at = 8 + if query.source.is_ipv4() { 8 } else { 7 };
                    packet.payload[hops_at] = 60;
                    if query.source.is_ipv4() {
                        let header = &mut packet.payload[8..28];
                        header[10..12].fill(0);
                        let sum = header_sum(header);
                        header[10..12].copy_from_slice(&sum.to_be_bytes());
                    }
                    packet.sum_icmp();
                }
                out.destination = answer.source;
                out.hops -= 1;
                (out.mac_destination, out.mac_source) = (mac_of(answer.source), LB_INSIDE);
                out.sum_icmp();
                let is_first = fragment.payload == sent.fragments(SIZE)[0].payload;
                let expected = if is_first {
                    redirected(&out).original(id, &error)
                } else {
                    passed(Discard::IcmpUnmatched, &error.bytes())
                };
                lb.step(Outside, &error, expected);
            }
        }
    });
}

/// The checksum of an IPv4 header whose checksum field is zero.
fn header_sum(header: &[u8]) -> u16 {
    let halves = header.chunks(2);
    let mut sum: u32 = halves
        .map(|half| u32::from(half[0]) << 8 | u32::from(half[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[test]
fn fragments_that_are_cut_short_pass_and_leave_connections_alone() {
    run(|lb| {
        let all = asked(lb);
        let rows = (lb.rows_v4().len(), lb.rows_v6().len());
        for (query, answer, _) in &all {
            for (fragment, _) in query_fragments(query, answer) {
                let whole = fragment.bytes();
                for length in (14..whole.len().min(120)).chain([whole.len() - 1]) {
                    let (verdict, out) = lb.send(Outside, &whole[..length]);
                    assert_eq!(verdict, Verdict::Pass);
                    assert_eq!(out, whole[..length]);
                }
            }
        }
        assert_eq!(rows, (lb.rows_v4().len(), lb.rows_v6().len()));
    });
}
