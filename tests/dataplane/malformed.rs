//! Frames that are cut short or contradict themselves: passed or dropped as fixed, never aborted, no state.

use balancer_common::{direction, verdict::Discard};
use balancer_tests::{
    addresses::{R, R6, T, T6, V6},
    dataplane::{
        Dataplane,
        Side::{self, Inside, Outside},
        Verdict, run,
    },
    emulated::rounds,
    expected::{answered, dropped, passed, redirected},
    packet::{Icmp, Packet, flag::ACK},
};

use crate::{establish, syn};

// A frame shorter than an Ethernet header has no case: the kernel's test run refuses it, as drivers do.

#[test]
fn case_62_a_packet_cut_short_anywhere_passes_untouched() {
    run(|lb| {
        lb.web();
        lb.dns();
        for packet in [
            syn(),
            syn().v6(),
            Packet::udp(b"ping"),
            Packet::udp(b"ping").v6(),
        ] {
            let whole = packet.bytes();
            for length in 14..whole.len() {
                let cut = &whole[..length];
                lb.step_bytes(Outside, cut, passed(Discard::Malformed, cut));
            }
        }
    });
}

#[test]
fn case_62_a_header_that_contradicts_itself_passes_untouched() {
    run(|lb| {
        lb.web();
        let good = syn().bytes();
        let with = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[at] = value;
            frame
        };
        let frames = [
            with(14, 0x05), // version 0
            with(14, 0x55), // version 5
            with(14, 0x65), // version 6 in an IPv4 frame
            with(14, 0x40), // no header
            with(14, 0x44), // header shorter than the least
            with(14, 0x4f), // header longer than the packet
            with(17, 0),    // total length 0
            with(17, 19),   // total length below the header
            with(17, 20),   // nothing after the header
            with(17, 39),   // TCP header cut by the total length
            with(17, 41),   // total length above the frame
            with(16, 0xff),
        ];
        for frame in frames {
            lb.step_bytes(Outside, &frame, passed(Discard::Malformed, &frame));
        }
        let good = syn().v6().bytes();
        for (at, value) in [
            (14, 0x40),
            (14, 0x00),
            (14, 0xf0),
            (19, 19),
            (19, 0),
            (19, 21),
        ] {
            let mut frame = good.clone();
            frame[at] = value;
            lb.step_bytes(Outside, &frame, passed(Discard::Malformed, &frame));
        }
    });
}

#[test]
fn case_62_lengths_hide_no_header_behind_padding() {
    run(|lb| {
        lb.web();
        // The frame holds a whole TCP header, the packet by its own words does not.
        let mut packet = syn().bytes();
        packet[17] = 30;
        packet.extend([0; 20]);
        lb.step_bytes(Outside, &packet, passed(Discard::Malformed, &packet));
        let mut packet = syn().v6().bytes();
        packet[19] = 12;
        packet.extend([0; 20]);
        lb.step_bytes(Outside, &packet, passed(Discard::Malformed, &packet));
    });
}

#[test]
fn a_tcp_header_that_states_an_impossible_length_is_malformed() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        establish(lb, &syn().v6(), R6, 8080);
        let with_offset = |packet: &Packet, words: u8| {
            let mut frame = packet.bytes();
            frame[packet.transport_offset() + 12] = words << 4;
            frame
        };
        for packet in [syn(), syn().v6()] {
            // Those of the connection, and those of none.
            for packet in [
                packet.clone().segment(ACK, 1001, 9001).data(b"data"),
                packet.client_port(40_007),
            ] {
                // 20 bytes of header, and 4 of data or none.
                let words = packet.payload.len() as u8 / 4 + 5;
                for impossible in (0..5).chain(words + 1..16) {
                    let frame = with_offset(&packet, impossible);
                    lb.step_bytes(Outside, &frame, passed(Discard::Malformed, &frame));
                }
            }
        }
        // The longest that fits is one of options only.
        let data = syn().segment(ACK, 1001, 9001).data(b"data");
        let frame = with_offset(&data, 6);
        let (verdict, _) = lb.send(Outside, &frame);
        assert_eq!(verdict, Verdict::Redirect);
        // For no service it is the host's to judge.
        let elsewhere = with_offset(&syn().to_port(22), 0);
        lb.step_bytes(Outside, &elsewhere, passed(Discard::NoService, &elsewhere));
        let _ = web;
    });
}

/// IPv4 options of these bytes, filled up to whole words.
fn with_options(packet: Packet, options: &[u8]) -> Packet {
    let mut ip_options = options.to_vec();
    ip_options.resize(options.len().next_multiple_of(4), 0);
    Packet {
        ip_options,
        ..packet
    }
}

#[test]
fn packets_that_name_their_own_routers_are_dropped() {
    run(|lb| {
        lb.web();
        lb.dns();
        establish(lb, &syn(), R, 8080);
        let route = |kind: u8| vec![kind, 7, 4, 192, 168, 0, 1];
        for kind in [131, 137] {
            for before in [vec![], vec![1, 1, 1], vec![7, 7, 4, 0, 0, 0, 0]] {
                let options = [before, route(kind)].concat();
                for packet in [
                    syn().client_port(40_007),
                    syn().segment(ACK, 1001, 9001),
                    Packet::udp(b"ping"),
                    syn().answered(R, 8080).segment(ACK, 9001, 1001),
                ] {
                    let side = if packet.source == R { Inside } else { Outside };
                    let packet = with_options(packet, &options);
                    lb.step(side, &packet, dropped(Discard::SourceRoute));
                }
            }
        }
        // For no service they are the host's to judge.
        let elsewhere = with_options(syn().to_port(22), &route(131));
        lb.step(
            Outside,
            &elsewhere,
            passed(Discard::NoService, &elsewhere.bytes()),
        );
        // Behind the end of the list stands no option, and in another's data neither.
        for options in [vec![0, 131, 3, 4], vec![68, 8, 131, 7, 131, 7, 131, 7]] {
            let packet = with_options(syn().segment(ACK, 1001, 9001), &options);
            let (verdict, _) = lb.send(Outside, &packet.bytes());
            assert_eq!(verdict, Verdict::Redirect, "{options:?}");
        }
    });
}

#[test]
fn options_that_contradict_themselves_are_malformed() {
    run(|lb| {
        lb.web();
        establish(lb, &syn(), R, 8080);
        for options in [
            vec![7, 0, 0, 0],
            vec![7, 1, 0, 0],
            vec![7, 5, 4, 0],
            vec![1, 1, 1, 7],
        ] {
            for packet in [syn().client_port(40_007), syn().segment(ACK, 1001, 9001)] {
                let packet = with_options(packet, &options);
                lb.step(
                    Outside,
                    &packet,
                    passed(Discard::Malformed, &packet.bytes()),
                );
            }
        }
        let longest = with_options(syn().segment(ACK, 1001, 9001), &[1; 40]);
        let (verdict, _) = lb.send(Outside, &longest.bytes());
        assert_eq!(verdict, Verdict::Redirect);
    });
}

#[test]
fn a_fault_never_follows_or_changes_a_connection() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let rows = lb.rows_v4();
        let mut reset = syn().segment(balancer_tests::packet::flag::RST, 1001, 0);
        reset.hops = 1;
        let error = reset.error_in_its_stead(Icmp::TimeExceeded);
        lb.step(Outside, &reset, answered(Discard::TimeExceeded, &error));
        assert_eq!(lb.rows_v4().len(), rows.len());
        for (_, row) in lb.rows_v4() {
            assert_eq!(row.state, balancer_common::tcp::State::Established as u8);
        }
        let data = syn().segment(ACK, 1001, 9001);
        let expected = redirected(&data.delivered(R, 8080)).original(web.real, &data);
        lb.step(Outside, &data, expected);
    });
}

/// A small linear generator: the test needs many frames, not randomness.
struct Generator(u64);

impl Generator {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as u32
    }
}

/// Whole frames of every kind that the program takes, each with the side where it comes in.
fn originals() -> Vec<(Side, Vec<u8>)> {
    let data = syn().segment(ACK, 1001, 9001).data(b"data");
    let page = data.answered(R, 8080);
    let mut with_options = data.clone();
    with_options.ip_options = vec![1; 8];
    let query = Packet::udp(&[7; 600]);
    let mut chain = syn().v6();
    chain.extensions = Some((0, vec![60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0]));
    let mut all = Vec::new();
    for (whole, reply) in [
        (data.clone(), page.clone()),
        (query.clone(), query.answered(R, 8053)),
    ] {
        let back = reply.returned(whole.destination, whole.destination_port);
        let forth = whole.delivered(R, reply.source_port);
        all.push((Outside, whole.clone()));
        all.push((Outside, whole.clone().v6()));
        all.push((Inside, reply));
        all.push((Outside, back.icmp_error(Outside, T, Icmp::TooBig(1400), 40)));
        all.push((
            Inside,
            forth.icmp_error(Inside, R, Icmp::PortUnreachable, 40),
        ));
        let back6 = whole
            .clone()
            .v6()
            .answered(R6, 8080)
            .returned(V6, whole.destination_port);
        all.push((
            Outside,
            back6.icmp_error(Outside, T6, Icmp::TimeExceeded, 40),
        ));
        for whole in [whole.clone(), whole.v6()] {
            all.extend(
                whole
                    .fragments(160)
                    .into_iter()
                    .map(|fragment| (Outside, fragment)),
            );
        }
    }
    all.extend([syn(), syn().v6(), with_options, chain].map(|packet| (Outside, packet)));
    all.into_iter()
        .map(|(side, packet)| (side, packet.bytes()))
        .collect()
}

#[test]
fn thousands_of_damaged_frames_abort_nothing_and_pass_as_they_came() {
    run(|lb| {
        lb.web();
        lb.dns();
        establish(lb, &syn(), R, 8080);
        establish(lb, &syn().v6(), R6, 8080);
        let originals = originals();
        let translated = [Discard::NoNeighbour, Discard::ToFragment];
        let passed_on =
            |lb: &Dataplane| -> u64 { translated.iter().map(|reason| lb.discarded(*reason)).sum() };
        let mut random = Generator(7);
        for round in 0..rounds(40_000) {
            let (side, original) = &originals[random.next() as usize % originals.len()];
            let mut frame = original.clone();
            for _ in 0..random.next() % 4 {
                // Most of them in the headers.
                let within = if random.next().is_multiple_of(4) {
                    frame.len()
                } else {
                    frame.len().min(90)
                };
                let at = random.next() as usize % within;
                frame[at] = random.next() as u8;
            }
            if random.next().is_multiple_of(2) {
                frame.truncate((14 + random.next() as usize % 700).min(frame.len()));
            }
            let before = passed_on(lb);
            let (verdict, out) = lb.send(*side, &frame);
            assert_ne!(verdict, Verdict::Aborted, "round {round}: {frame:02x?}");
            match verdict {
                Verdict::Pass if passed_on(lb) == before => {
                    assert!(
                        out == frame,
                        "round {round}: {frame:02x?} became {out:02x?}"
                    );
                }
                // Only an answer, which goes back where the frame came from, has another length.
                Verdict::Transmit => {}
                _ => assert_eq!(out.len(), frame.len(), "round {round}: {frame:02x?}"),
            }
        }
        let rows = lb.rows_v4();
        let originals = rows
            .iter()
            .filter(|(_, row)| row.direction == direction::ORIGINAL);
        assert_eq!(2 * originals.count(), rows.len());
        lb.assert_loads_are_exact();
    });
}
