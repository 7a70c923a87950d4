//! What the program answers in a virtual service's place: resets and ICMP errors, and how many of them.

use std::time::Instant;

use balancer_common::{answer, verdict::Discard};
use balancer_tests::{
    addresses::{R, R2, R6, R26, S, V, V6},
    dataplane::{
        Dataplane,
        Side::{Inside, Outside},
        Verdict, run,
    },
    expected::{answered, dropped, passed, redirected},
    packet::{
        Icmp, Packet,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
    services::ServiceHandle,
};

use crate::{establish, syn, two_reals, two_reals6};

/// A TCP and a UDP service of each family without any real server, which reject.
fn nobody(lb: &mut Dataplane) -> [ServiceHandle; 4] {
    [(6, V, 80), (6, V6, 80), (17, V, 53), (17, V6, 53)].map(|(protocol, vip, port)| {
        let service = lb.add_service(protocol, vip, port, &[]);
        lb.reject_without_reals(service, &[]);
        service
    })
}

#[test]
fn case_15_a_segment_without_a_connection_is_answered_with_a_reset() {
    run(|lb| {
        lb.web();
        let ack = syn().segment(ACK, 1001, 7000);
        let reset = ack.reset(RST, 7000, 0);
        assert_eq!(reset.transport_checksum(), 0x0b6a);
        assert_eq!(reset.bytes().len(), 54);
        lb.step(Outside, &ack, answered(Discard::NoConnection, &reset));
        let ack = ack.v6();
        let reset = ack.reset(RST, 7000, 0);
        assert_eq!(reset.bytes().len(), 74);
        lb.step(Outside, &ack, answered(Discard::NoConnection, &reset));
    });
}

#[test]
fn a_reset_continues_what_the_segment_acknowledges_or_acknowledges_all_of_it() {
    run(|lb| {
        lb.web();
        for (flags, data, reset) in [
            (PSH | ACK, 1400, (RST, 7000, 0)),
            (FIN | ACK, 3, (RST, 7000, 0)),
            (FIN, 0, (RST | ACK, 0, 1002)),
            (FIN, 7, (RST | ACK, 0, 1009)),
            (0, 0, (RST | ACK, 0, 1001)),
            (PSH, 1, (RST | ACK, 0, 1002)),
        ] {
            for options in [&[][..], &[1; 40]] {
                let packet = syn()
                    .segment(flags, 1001, 7000)
                    .data(&vec![9; data])
                    .tcp_options(options);
                let mut padded = packet.clone();
                padded.padding = vec![0xee; 11];
                let mut with_ip_options = packet.clone();
                with_ip_options.ip_options = vec![1; 40];
                with_ip_options.tos = 0xb8;
                for packet in [packet.clone(), packet.v6(), padded, with_ip_options] {
                    let (flags, sequence, acknowledgement) = reset;
                    let reset = packet.reset(flags, sequence, acknowledgement);
                    lb.step(Outside, &packet, answered(Discard::NoConnection, &reset));
                }
            }
        }
    });
}

#[test]
fn case_16_17_a_stray_reset_or_syn_ack_is_never_answered() {
    run(|lb| {
        nobody(lb);
        for flags in [RST, RST | ACK, RST | FIN, RST | SYN] {
            let packet = syn().segment(flags, 1, 7000);
            lb.step(Outside, &packet, dropped(Discard::StrayReset));
            lb.step(Outside, &packet.v6(), dropped(Discard::StrayReset));
        }
        let packet = syn().segment(SYN | ACK, 1, 7000);
        lb.step(Outside, &packet, dropped(Discard::StraySynAck));
        lb.step(Outside, &packet.v6(), dropped(Discard::StraySynAck));
    });
}

#[test]
fn case_18_a_syn_without_a_real_server_is_answered_with_a_reset() {
    run(|lb| {
        let [web, web6, ..] = nobody(lb);
        let reset = syn().reset(RST | ACK, 0, 1001);
        assert_eq!(reset.transport_checksum(), 0x22c9);
        lb.step(
            Outside,
            &syn(),
            answered(Discard::NoRealReject, &reset).passed_over(web, 1),
        );
        let syn6 = syn().v6();
        let reset = syn6.reset(RST | ACK, 0, 1001);
        lb.step(
            Outside,
            &syn6,
            answered(Discard::NoRealReject, &reset).passed_over(web6, 1),
        );
        // Options and data: the acknowledgement covers the data too.
        let mut fast = syn().tcp_options(&[2, 4, 5, 180]).data(b"GET /");
        fast.ip_options = vec![0x94, 4, 0, 0];
        let reset = fast.reset(RST | ACK, 0, 1006);
        lb.step(
            Outside,
            &fast,
            answered(Discard::NoRealReject, &reset).passed_over(web, 1),
        );
    });
}

#[test]
fn on_veth_an_answer_is_redirected_to_where_the_packet_came_in() {
    run(|lb| {
        let [web, ..] = nobody(lb);
        lb.redirect_back();
        let reset = syn().reset(RST | ACK, 0, 1001);
        lb.step(
            Outside,
            &syn(),
            redirected(&reset)
                .discard(Discard::NoRealReject)
                .passed_over(web, 1),
        );
    });
}

#[test]
fn case_18_a_service_whose_real_servers_are_all_down_rejects_too() {
    run(|lb| {
        let web = lb.web();
        lb.fail_real(web.real);
        lb.reject_without_reals(web.service, &[web.real]);
        let reset = syn().reset(RST | ACK, 0, 1001);
        lb.step(
            Outside,
            &syn(),
            answered(Discard::NoRealReject, &reset).passed_over(web.service, 1),
        );
    });
}

#[test]
fn case_20_a_purged_connection_is_answered_with_a_reset() {
    run(|lb| {
        let (service, first, second) = two_reals(lb);
        let (service6, first6, second6) = two_reals6(lb);
        for (syn, service, first, second, old, new) in [
            (syn(), service, first, second, R, R2),
            (syn().v6(), service6, first6, second6, R6, R26),
        ] {
            establish(lb, &syn, old, 8080);
            // `del-real --purge`: the ring, the real server, and both rows.
            lb.set_ring(service, &[second]);
            lb.set_real_state(first, balancer_common::real_server::state::REMOVED);
            lb.delete_connection(&syn);
            let data = syn.clone().segment(PSH | ACK, 1001, 9001).data(b"more");
            let reset = data.reset(RST, 9001, 0);
            lb.step(Outside, &data, answered(Discard::NoConnection, &reset));
            lb.step(Outside, &data, answered(Discard::NoConnection, &reset));
            let page = syn.answered(old, 8080).segment(ACK, 9001, 1005);
            lb.step(Inside, &page, passed(Discard::NoService, &page.bytes()));
            lb.step(
                Outside,
                &syn,
                redirected(&syn.delivered(new, 8080))
                    .original(second, &syn)
                    .selected(service, second)
                    .half_open(1),
            );
            assert!(lb.rows_v4().is_empty() && lb.rows_v6().is_empty());
        }
    });
}

#[test]
fn case_34_a_datagram_without_a_real_server_is_answered_with_port_unreachable() {
    run(|lb| {
        let [_, _, dns, dns6] = nobody(lb);
        for data in [&b""[..], b"ping", &[7; 1400]] {
            let ping = Packet::udp(data);
            let mut with_options = ping.clone();
            with_options.ip_options = vec![0x94, 4, 0, 0];
            let mut longest = ping.clone();
            longest.ip_options = vec![1; 40];
            let mut padded = ping.clone();
            padded.padding = vec![0xee; 18];
            for packet in [ping.clone(), with_options, longest, padded] {
                let error = packet.port_unreachable();
                lb.step(
                    Outside,
                    &packet,
                    answered(Discard::NoRealReject, &error).passed_over(dns, 1),
                );
            }
            let ping = ping.v6();
            let error = ping.port_unreachable();
            assert_eq!(error.bytes().len(), 14 + 40 + 8 + 40 + 8);
            lb.step(
                Outside,
                &ping,
                answered(Discard::NoRealReject, &error).passed_over(dns6, 1),
            );
        }
        let error = Packet::udp(b"ping").port_unreachable().bytes();
        assert_eq!(error.len(), 14 + 20 + 8 + 20 + 8);
        assert_eq!(error[34..36], [3, 3]);
    });
}

#[test]
fn every_answer_has_the_right_checksums() {
    run(|lb| {
        nobody(lb);
        for round in 0..900_u32 {
            // Sources, numbers and ports all over the range, so that every carry occurs.
            let noise = round.wrapping_mul(2_654_435_761);
            let mut syn = syn()
                .segment(SYN, noise, 0)
                .client_port((noise >> 8) as u16);
            let mut ping = Packet::udp(&noise.to_be_bytes()).client_port(noise as u16);
            if round % 2 == 0 {
                (syn, ping) = (syn.v6(), ping.v6());
            } else {
                ping.id = (noise >> 4) as u16;
            }
            let (verdict, out) = lb.send(Outside, &syn.bytes());
            let reset = syn.reset(RST | ACK, 0, noise.wrapping_add(1));
            assert_eq!(
                (verdict, out),
                (Verdict::Transmit, reset.bytes()),
                "{syn:?}"
            );
            let (verdict, out) = lb.send(Outside, &ping.bytes());
            let error = ping.port_unreachable();
            assert_eq!(
                (verdict, out),
                (Verdict::Transmit, error.bytes()),
                "{ping:?}"
            );
            lb.exhaust_answers(false);
        }
    });
}

#[test]
fn an_answer_leaves_by_the_interface_where_the_packet_came_in() {
    run(|lb| {
        let [web, ..] = nobody(lb);
        let mut inside = syn();
        inside.source = R;
        (inside.mac_destination, inside.mac_source) = (
            balancer_tests::addresses::LB_INSIDE,
            balancer_tests::addresses::REAL,
        );
        let reset = inside.reset(RST | ACK, 0, 1001);
        lb.step(
            Inside,
            &inside,
            answered(Discard::NoRealReject, &reset).passed_over(web, 1),
        );
    });
}

#[test]
fn more_answers_than_a_cpu_may_give_are_left_out_and_counted() {
    run(|lb| {
        let [web, _, dns, _] = nobody(lb);
        let ping = Packet::udp(b"ping");
        let stray = syn().to_port(443).segment(ACK, 1, 7000);
        let real = lb.add_real(R, 8443);
        lb.add_service(6, V, 443, &[real]);
        lb.exhaust_answers(true);
        lb.step(
            Outside,
            &syn(),
            dropped(Discard::Unanswered).passed_over(web, 1),
        );
        lb.step(
            Outside,
            &ping,
            dropped(Discard::Unanswered).passed_over(dns, 1),
        );
        lb.step(Outside, &stray, dropped(Discard::Unanswered));
        lb.exhaust_answers(false);
        let reset = stray.reset(RST, 7000, 0);
        lb.step(Outside, &stray, answered(Discard::NoConnection, &reset));
    });
}

#[test]
fn a_flood_gets_a_burst_of_answers_and_then_the_rate() {
    run(|lb| {
        lb.web();
        let stray = syn().segment(ACK, 1, 7000).bytes();
        // CPUs have a bucket each.
        let this = nix::unistd::Pid::from_raw(0);
        let before = nix::sched::sched_getaffinity(this).expect("affinity");
        let first = (0..nix::sched::CpuSet::count()).find(|cpu| before.is_set(*cpu) == Ok(true));
        let mut one = nix::sched::CpuSet::new();
        one.set(first.expect("a CPU")).expect("a CPU number");
        nix::sched::sched_setaffinity(this, &one).expect("one CPU");
        let start = Instant::now();
        let mut answers = 0;
        for _ in 0..3 * answer::BURST {
            answers += u64::from(lb.send(Outside, &stray).0 == Verdict::Transmit);
        }
        let seconds = start.elapsed().as_secs_f64();
        nix::sched::sched_setaffinity(this, &before).expect("all CPUs");
        let most = answer::BURST + (seconds * answer::PER_SECOND as f64) as u64 + 1;
        assert!(
            (answer::BURST..=most).contains(&answers),
            "{answers} in {seconds} s"
        );
        let discards = lb.snapshot().discards;
        assert_eq!(discards["no-connection"], answers);
        assert_eq!(discards["unanswered"], 3 * answer::BURST - answers);
    });
}

#[test]
fn case_66_a_packet_whose_hops_end_here_is_answered_from_the_vip_and_leaves_no_state() {
    run(|lb| {
        lb.web();
        lb.dns();
        for hops in [0, 1] {
            for packet in [
                syn(),
                syn().segment(ACK, 1, 7000),
                syn().tcp_options(&[1; 40]).data(b"x"),
                Packet::udp(b"ping"),
                Packet::udp(b""),
            ] {
                let mut with_options = packet.clone();
                with_options.ip_options = vec![1; 40];
                for mut packet in [packet.clone(), packet.v6(), with_options] {
                    packet.hops = hops;
                    let error = packet.error_in_its_stead(Icmp::TimeExceeded);
                    lb.step(Outside, &packet, answered(Discard::TimeExceeded, &error));
                }
            }
        }
    });
}

#[test]
fn who_is_not_answered_is_not_told_that_hops_ended_either() {
    run(|lb| {
        lb.web();
        let mut stray = syn();
        stray.hops = 1;
        lb.exhaust_answers(true);
        lb.step(Outside, &stray, dropped(Discard::Unanswered));
        lb.exhaust_answers(false);
        let mut grouped = stray.clone();
        grouped.mac_source = [0x01, 0, 0x5e, 0, 0, 1];
        lb.step(Outside, &grouped, dropped(Discard::Unanswered));
        for source in ["127.0.0.1", "224.0.0.1", "0.0.0.0", "192.0.2.80"] {
            stray.source = source.parse().expect("an address");
            lb.step(Outside, &stray, dropped(Discard::Martian));
        }
        lb.set_host_addresses(&[(S, 32)]);
        stray.source = S;
        lb.step(Outside, &stray, dropped(Discard::Martian));
        let mut reset = syn().segment(RST, 1, 0);
        reset.hops = 1;
        lb.step(Outside, &reset, dropped(Discard::StrayReset));
    });
}

#[test]
fn hops_of_a_connections_packets_end_in_the_name_of_its_vip_on_both_sides() {
    run(|lb| {
        lb.web();
        lb.dns();
        for (syn, vip, real) in [(syn(), V, R), (syn().v6(), V6, R6)] {
            establish(lb, &syn, real, 8080);
            let mut data = syn.segment(ACK, 1001, 9001).data(b"x");
            data.hops = 1;
            let error = data.error_in_its_stead(Icmp::TimeExceeded);
            lb.step(Outside, &data, answered(Discard::TimeExceeded, &error));
            // The real server's packet to the client: its destination is no address of ours.
            let mut page = data.answered(real, 8080).segment(ACK, 9001, 1002);
            page.hops = 1;
            let mut error = page.error_in_its_stead(Icmp::TimeExceeded);
            error.source = vip;
            error.sum_icmp();
            lb.step(Inside, &page, answered(Discard::TimeExceeded, &error));
        }
    });
}

#[test]
fn martians_are_neither_answered_nor_translated() {
    run(|lb| {
        lb.web();
        lb.dns();
        let sources = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.80",
            "::",
            "::1",
            "ff02::1",
            "2001:db8:80::80",
        ];
        for source in sources {
            let source: std::net::IpAddr = source.parse().expect("an address");
            let packets = [syn(), syn().segment(ACK, 1, 7000), Packet::udp(b"ping")];
            for mut packet in packets {
                if source.is_ipv6() {
                    packet = packet.v6();
                }
                packet.source = source;
                lb.step(Outside, &packet, dropped(Discard::Martian));
                // What is no service's is nobody's business.
                let other = packet.to_port(81);
                lb.step(Outside, &other, passed(Discard::NoService, &other.bytes()));
            }
        }
    });
}

#[test]
fn a_frame_from_a_group_address_is_not_answered() {
    run(|lb| {
        lb.web();
        let mut stray = syn().segment(ACK, 1, 7000);
        stray.mac_source = [0x01, 0, 0x5e, 0, 0, 1];
        lb.step(Outside, &stray, dropped(Discard::Unanswered));
    });
}

#[test]
fn a_handshake_that_was_forgotten_ends_in_a_reset() {
    run(|lb| {
        lb.web();
        lb.pass_through(Outside, &syn());
        lb.delete_connection(&syn());
        let ack = syn().segment(ACK, 1001, 9001);
        let reset = ack.reset(RST, 9001, 0);
        lb.step(Outside, &ack, answered(Discard::NoConnection, &reset));
    });
}
