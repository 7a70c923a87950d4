//! ICMP errors about packets of connections, in both directions and both families.

use std::net::IpAddr;

use balancer_common::{direction, verdict::Discard};
use balancer_tests::{
    addresses::{C, LB_INSIDE, LB_OUTSIDE, R, R2, R6, S, S6, T, T6, V, V6, mac_of},
    dataplane::{
        Dataplane,
        Side::{Inside, Outside},
        run,
    },
    expected::{dropped, passed, redirected, transmitted},
    network::ip,
    packet::{
        Checksum, Icmp, Packet, Transport,
        flag::{ACK, PSH, SYN},
    },
};

use crate::{establish, reaches_client, reaches_real, syn};

/// A router between the balancer and the real servers.
const BEHIND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 0, 9));

/// The most bytes of a packet that a test quotes.
const ALL: usize = 10_000;

/// One connection of every kind, through which both sides have spoken: the client's next packet and its real server's, both as they arrive.
fn connections(lb: &mut Dataplane) -> Vec<(Packet, Packet, u32)> {
    let web = lb.web();
    let dns = lb.dns();
    let mut all = Vec::new();
    for (syn, vip, real, id) in [(syn(), V, R, web.real), (syn().v6(), V6, R6, web.real6)] {
        establish(lb, &syn, real, 8080);
        let data = syn.segment(PSH | ACK, 1001, 9001).data(&[3; 40]);
        let page = data.answered(real, 8080).segment(PSH | ACK, 9001, 1041);
        assert_eq!(page.returned(vip, 80).destination, data.source);
        all.push((data, page, id));
    }
    for (query, real, id) in [
        (Packet::udp(b"pingpong"), R, dns.real),
        (Packet::udp(b"pingpong").v6(), R6, dns.real6),
    ] {
        lb.pass_through(Outside, &query);
        let answer = query.answered(real, 8053);
        lb.pass_through(Inside, &answer);
        all.push((query, answer, id));
    }
    all
}

/// The packet as the client gets it.
fn returned(data: &Packet, page: &Packet) -> Packet {
    let mut returned = page.returned(data.destination, data.destination_port);
    returned.hops = page.hops;
    returned
}

/// The packet as the real server gets it.
fn delivered(data: &Packet, page: &Packet) -> Packet {
    let mut delivered = data.delivered(page.source, page.source_port);
    delivered.hops = data.hops;
    delivered
}

/// The frame in which an ICMP error leaves towards a real server.
fn to_real(mut error: Packet, real: IpAddr) -> Packet {
    (error.mac_destination, error.mac_source) = (mac_of(real), LB_INSIDE);
    error.destination = real;
    error.hops -= 1;
    error.sum_icmp();
    error
}

/// The frame in which an ICMP error leaves towards the client.
fn to_client(mut error: Packet, source: IpAddr) -> Packet {
    (error.mac_destination, error.mac_source) = (mac_of(C), LB_OUTSIDE);
    error.source = source;
    error.hops -= 1;
    error.sum_icmp();
    error
}

fn router(about: &Packet) -> IpAddr {
    if about.source.is_ipv4() { T } else { T6 }
}

/// An error from the clients' side about a real server's packet reaches that real server, which finds its own packet in it.
#[track_caller]
fn error_reaches_real(
    lb: &mut Dataplane,
    (data, page, id): &(Packet, Packet, u32),
    icmp: Icmp,
    quoted: usize,
) {
    let sent = returned(data, page);
    let error = sent.icmp_error(Outside, router(data), icmp, quoted);
    let out = to_real(
        page.icmp_error(Outside, router(data), icmp, quoted),
        page.source,
    );
    let out = with_cut_checksum(out, &error, quoted);
    lb.step(Outside, &error, redirected(&out).original(*id, &error));
}

/// An error from the real servers' side about a client's packet reaches the client, from the VIP where the real server itself speaks.
#[track_caller]
fn error_reaches_client(
    lb: &mut Dataplane,
    (data, page, id): &(Packet, Packet, u32),
    (from, seen): (IpAddr, IpAddr),
    icmp: Icmp,
    quoted: usize,
) {
    let sent = delivered(data, page);
    let error = sent.icmp_error(Inside, from, icmp, quoted);
    let out = to_client(data.icmp_error(Inside, from, icmp, quoted), seen);
    let out = with_cut_checksum(out, &error, quoted);
    lb.step(Inside, &error, redirected(&out).reply(*id, &error));
}

/// Half of a segment's checksum stays as it was quoted: nobody can check it.
fn with_cut_checksum(mut out: Packet, error: &Packet, quoted: usize) -> Packet {
    if quoted == 17
        && let (Some(new), Some(old)) = (out.payload.last_mut(), error.payload.last())
    {
        *new = *old;
        out.sum_icmp();
    }
    out
}

#[test]
fn case_36_fragmentation_needed_reaches_the_real_server() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let mut page = syn()
            .answered(R, 8080)
            .segment(ACK, 9000, 1001)
            .data(&[0; 1460]);
        (page.id, page.hops) = (7, 60);
        let sent = page.returned(V, 80);
        let mut sent = Packet { hops: 60, ..sent };
        sent.payload = page.payload.clone();
        assert_eq!((sent.ip_length(), sent.ip_checksum()), (1500, 0x4c87));
        let error = sent.icmp_error(Outside, T, Icmp::TooBig(1400), 8);
        assert_eq!(error.ip_checksum(), 0x7c72);
        assert_eq!(error.payload[2..4], [0x37, 0xcb]);
        assert_eq!(page.ip_checksum(), 0x4e2d);
        let out = to_real(page.icmp_error(Outside, T, Icmp::TooBig(1400), 8), R);
        assert_eq!(out.ip_checksum(), 0x7f18);
        assert_eq!(out.payload[2..4], [0x18, 0x8b]);
        lb.step(Outside, &error, redirected(&out).original(web.real, &error));
    });
}

#[test]
fn case_37_port_unreachable_reaches_the_client_from_the_vip() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        let mut data = syn().segment(ACK, 9000, 9001).data(&[0; 12]);
        (data.id, data.hops) = (7, 63);
        let mut sent = data.delivered(R, 8080);
        sent.hops = 63;
        assert_eq!((sent.ip_length(), sent.ip_checksum()), (52, 0x50d5));
        let error = sent.icmp_error(Inside, R, Icmp::PortUnreachable, 8);
        assert_eq!(error.ip_checksum(), 0x8fdc);
        assert_eq!(error.payload[2..4], [0x1e, 0x04]);
        assert_eq!(data.ip_checksum(), 0x4f2f);
        let out = to_client(data.icmp_error(Inside, R, Icmp::PortUnreachable, 8), V);
        assert_eq!(out.ip_checksum(), 0x8f36);
        assert_eq!(out.payload[2..4], [0x3d, 0x44]);
        lb.step(Inside, &error, redirected(&out).reply(web.real, &error));
    });
}

#[test]
fn case_56_packet_too_big_reaches_the_real_server() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn().v6(), R6, 8080);
        let page = syn().v6().answered(R6, 8080).segment(ACK, 9000, 1001);
        let mut page = page.data(&[0; 1440]);
        page.hops = 60;
        let sent = Packet {
            hops: 60,
            ..page.returned(V6, 80)
        };
        let error = sent.icmp_error(Outside, T6, Icmp::TooBig(1400), 8);
        assert_eq!(error.payload[2..4], [0x13, 0x5c]);
        let out = to_real(page.icmp_error(Outside, T6, Icmp::TooBig(1400), 8), R6);
        assert_eq!(out.payload[2..4], [0x57, 0x86]);
        lb.step(
            Outside,
            &error,
            redirected(&out).original(web.real6, &error),
        );
    });
}

#[test]
fn case_38_39_errors_of_every_kind_quote_as_much_as_they_like_in_both_directions() {
    run(|lb| {
        for connection in connections(lb) {
            let (data, page, _) = &connection;
            let v6 = data.source.is_ipv6();
            let behind = if v6 { S6 } else { BEHIND };
            for icmp in [
                Icmp::TooBig(1400),
                Icmp::TimeExceeded,
                Icmp::PortUnreachable,
            ] {
                // 17 ends within the checksum of a segment, 18 after it.
                for quoted in [8, 9, 12, 16, 17, 18, 20, 33, ALL] {
                    error_reaches_real(lb, &connection, icmp, quoted);
                    let real = (page.source, data.destination);
                    error_reaches_client(lb, &connection, real, icmp, quoted);
                    error_reaches_client(lb, &connection, (behind, behind), icmp, quoted);
                }
            }
        }
    });
}

#[test]
fn the_checksums_come_out_right_whatever_is_quoted() {
    run(|lb| {
        let connections = connections(lb);
        for number in 0_u32..400 {
            for (data, page, id) in &connections {
                let payload = number.wrapping_mul(163).to_be_bytes();
                let (mut data, mut page) =
                    (data.clone().data(&payload), page.clone().data(&payload));
                (data.id, page.id) = (number as u16, (number * 7) as u16);
                let connection = (data, page, *id);
                error_reaches_real(
                    lb,
                    &connection,
                    Icmp::TooBig(1400),
                    8 + number as usize % 24,
                );
                let real = (connection.1.source, connection.0.destination);
                let quoted = 8 + number as usize % 23;
                error_reaches_client(lb, &connection, real, Icmp::TimeExceeded, quoted);
            }
        }
    });
}

#[test]
fn case_39_a_quoted_datagram_without_checksum_keeps_none() {
    run(|lb| {
        for (mut data, mut page, id) in connections(lb).split_off(2) {
            (data.checksum, page.checksum) = (Checksum::Given(0), Checksum::Given(0));
            let connection = (data, page, id);
            error_reaches_real(lb, &connection, Icmp::TooBig(1400), ALL);
            let real = (connection.1.source, connection.0.destination);
            error_reaches_client(lb, &connection, real, Icmp::PortUnreachable, ALL);
        }
    });
}

#[test]
fn case_40_a_quotation_that_is_cut_short_passes() {
    run(|lb| {
        for (data, page, _) in connections(lb) {
            let sent = returned(&data, &page);
            let whole = sent.icmp_error(Outside, router(&data), Icmp::TooBig(1400), 8);
            for length in 0..whole.payload.len() {
                let mut error = whole.clone();
                error.payload.truncate(length);
                if length >= 4 {
                    error.sum_icmp();
                }
                // The frame may be longer than the packet.
                for padding in [0, 60] {
                    error.padding = vec![0xee; padding];
                    lb.step(Outside, &error, passed(Discard::Malformed, &error.bytes()));
                }
            }
        }
    });
}

#[test]
fn case_41_options_of_either_header_are_walked_over() {
    run(|lb| {
        let connection = connections(lb).swap_remove(0);
        let (mut data, mut page, id) = connection;
        (data.ip_options, page.ip_options) = (vec![0x94, 4, 0, 0], vec![0x94, 4, 0, 0]);
        for options in [4, 40] {
            data.ip_options.resize(options, 1);
            page.ip_options.resize(options, 1);
            let connection = (data.clone(), page.clone(), id);
            error_reaches_real(lb, &connection, Icmp::TooBig(1400), ALL);
            error_reaches_client(lb, &connection, (R, V), Icmp::PortUnreachable, 8);
            let sent = returned(&data, &page);
            let mut error = sent.icmp_error(Outside, T, Icmp::TooBig(1400), 8);
            error.ip_options = vec![1; options];
            let mut out = page.icmp_error(Outside, T, Icmp::TooBig(1400), 8);
            out.ip_options = vec![1; options];
            let out = to_real(out, R);
            lb.step(Outside, &error, redirected(&out).original(id, &error));
        }
    });
}

#[test]
fn case_43_an_error_about_no_connection_passes() {
    run(|lb| {
        for (data, page, _) in connections(lb) {
            let sent = returned(&data, &page);
            let mut others = vec![
                sent.clone().client_port(81),
                sent.clone().to_port(39_999),
                // As the client sends it: nobody but the balancer gets it with this destination.
                data.clone(),
            ];
            // Another protocol's connection on the same ports.
            let mut other = sent.clone();
            other.transport = match sent.transport {
                Transport::Udp => syn().transport,
                _ => Transport::Udp,
            };
            others.push(other);
            for about in others {
                let error = about.icmp_error(Outside, router(&data), Icmp::TimeExceeded, ALL);
                lb.step(
                    Outside,
                    &error,
                    passed(Discard::IcmpUnmatched, &error.bytes()),
                );
            }
            // Whoever sent the quoted packet is told, and nobody else.
            let mut error = sent.icmp_error(Outside, router(&data), Icmp::TimeExceeded, ALL);
            error.destination = if data.source.is_ipv4() { S } else { S6 };
            error.sum_icmp();
            lb.step(
                Outside,
                &error,
                passed(Discard::IcmpUnmatched, &error.bytes()),
            );
        }
    });
}

#[test]
fn an_error_about_a_connection_that_is_long_idle_passes() {
    run(|lb| {
        let (data, page, _) = connections(lb).swap_remove(0);
        lb.change_rows_v4(|entry| entry.last_seen = entry.last_seen.wrapping_sub(1_000_000));
        let error = returned(&data, &page).icmp_error(Outside, T, Icmp::TooBig(1400), 8);
        lb.step(
            Outside,
            &error,
            passed(Discard::IcmpUnmatched, &error.bytes()),
        );
    });
}

#[test]
fn case_44_46_what_is_no_error_or_quotes_none_of_our_packets_passes() {
    run(|lb| {
        let all = connections(lb);
        for (data, page, _) in &all {
            let v4 = data.source.is_ipv4();
            let sent = returned(data, page);
            let whole = sent.icmp_error(Outside, router(data), Icmp::TimeExceeded, ALL);
            let errors: &[u8] = if v4 { &[3, 11, 12] } else { &[1, 2, 3, 4] };
            for kind in 0..=u8::MAX {
                if errors.contains(&kind) {
                    continue;
                }
                let mut other = whole.clone();
                other.payload[0] = kind;
                other.sum_icmp();
                lb.step(Outside, &other, passed(Discard::NotTcpUdp, &other.bytes()));
            }
            // It quotes an ICMP message, another protocol, a later fragment, an IP version that is none.
            let protocol_at = if v4 { 8 + 9 } else { 8 + 6 };
            for protocol in [1, 58, 47, 132, 50, 59] {
                let mut other = whole.clone();
                other.payload[protocol_at] = protocol;
                other.sum_icmp();
                lb.step(
                    Outside,
                    &other,
                    passed(Discard::IcmpUnmatched, &other.bytes()),
                );
            }
            if v4 {
                let mut other = whole.clone();
                other.payload[8 + 7] = 1;
                other.sum_icmp();
                lb.step(
                    Outside,
                    &other,
                    passed(Discard::IcmpUnmatched, &other.bytes()),
                );
            }
            for version in [0x00, 0x44, 0x75, 0xff] {
                let mut other = whole.clone();
                other.payload[8] = version;
                other.sum_icmp();
                lb.step(Outside, &other, passed(Discard::Malformed, &other.bytes()));
            }
        }
    });
}

#[test]
fn an_error_that_may_go_no_further_is_dropped_and_never_answered() {
    run(|lb| {
        lb.set_host_addresses(&[(S, 32), (S6, 128)]);
        for (data, page, _) in connections(lb) {
            let whole =
                returned(&data, &page).icmp_error(Outside, router(&data), Icmp::TooBig(1400), 8);
            let mut last = whole.clone();
            last.hops = 1;
            lb.step(Outside, &last, dropped(Discard::Unanswered));
            let own = if data.source.is_ipv4() { S } else { S6 };
            let nowhere = if data.source.is_ipv4() {
                "127.0.0.1"
            } else {
                "::1"
            };
            for source in [own, data.destination, nowhere.parse().expect("an address")] {
                let mut forged = whole.clone();
                forged.source = source;
                forged.sum_icmp();
                lb.step(Outside, &forged, dropped(Discard::Martian));
            }
            if data.source.is_ipv4() {
                let mut routed = whole.clone();
                routed.ip_options = vec![131, 7, 4, 10, 0, 0, 1, 0];
                lb.step(Outside, &routed, dropped(Discard::SourceRoute));
                // Fragments of errors are the kernel's.
                let mut first = whole.clone();
                first.fragment = 0x2000;
                lb.step(Outside, &first, passed(Discard::Fragment, &first.bytes()));
            }
        }
        ip("link set inside mtu 1300");
        lb.retire_routes();
        let (data, page, _) = connections(lb).swap_remove(1);
        let page = page.data(&[0; 1400]);
        let large = returned(&data, &page).icmp_error(Outside, T6, Icmp::TooBig(1400), ALL);
        lb.step(Outside, &large, dropped(Discard::Unanswered));
    });
}

#[test]
fn an_error_is_about_a_connection_as_long_as_either_direction_lives() {
    for aged in [direction::ORIGINAL, direction::REPLY] {
        run(|lb| {
            let all = connections(lb);
            lb.change_rows_v4(|entry| {
                if entry.direction == aged {
                    entry.last_seen = entry.last_seen.wrapping_sub(1_000_000);
                }
            });
            for connection in &all {
                error_reaches_real(lb, connection, Icmp::TooBig(1400), ALL);
                let real = (connection.1.source, connection.0.destination);
                error_reaches_client(lb, connection, real, Icmp::TooBig(1400), ALL);
            }
        });
    }
}

#[test]
fn extension_headers_of_the_quoted_packet_are_looked_through() {
    run(|lb| {
        for (mut data, mut page, id) in connections(lb) {
            if data.source.is_ipv4() {
                continue;
            }
            let next = data.protocol();
            let options = |next| vec![next, 0, 1, 4, 0, 0, 0, 0];
            for (first, headers) in [
                (0, options(next)),
                (60, [options(44), vec![next, 0, 0, 0, 1, 2, 3, 4]].concat()),
                (44, [vec![60, 0, 0, 1, 1, 2, 3, 4], options(next)].concat()),
            ] {
                data.extensions = Some((first, headers.clone()));
                page.extensions = Some((first, headers));
                let connection = (data.clone(), page.clone(), id);
                for quoted in [8, ALL] {
                    let plain = |mut packet: Packet| {
                        packet.extensions = None;
                        packet
                    };
                    let sent = returned(&data, &page);
                    let icmp = Icmp::TooBig(1400);
                    let error = plain(sent.icmp_error(Outside, T6, icmp, quoted));
                    let out = plain(page.icmp_error(Outside, T6, icmp, quoted));
                    let out = to_real(out, connection.1.source);
                    lb.step(Outside, &error, redirected(&out).original(id, &error));
                }
            }
        }
    });
}

#[test]
fn an_error_in_the_real_servers_own_name_does_not_reach_it() {
    run(|lb| {
        for (data, page, _) in connections(lb) {
            let forged =
                returned(&data, &page).icmp_error(Outside, page.source, Icmp::TooBig(1400), 8);
            lb.step(Outside, &forged, dropped(Discard::Martian));
        }
    });
}

#[test]
fn what_an_error_says_in_its_header_decides_nothing_for_its_connection() {
    run(|lb| {
        let (data, page, id) = connections(lb).swap_remove(0);
        ip("neigh add 192.168.0.9 lladdr 02:00:00:00:00:99 dev inside nud permanent");
        ip("rule add from 203.0.113.1 lookup 100");
        ip(&format!(
            "route add {R}/32 via 192.168.0.9 dev inside table 100"
        ));
        lb.retire_routes();
        let error = returned(&data, &page).icmp_error(Outside, T, Icmp::TooBig(1400), 8);
        let mut out = to_real(page.icmp_error(Outside, T, Icmp::TooBig(1400), 8), R);
        // It leaves as the host would send a packet from there.
        out.mac_destination = [2, 0, 0, 0, 0, 0x99];
        lb.step(Outside, &error, redirected(&out).original(id, &error));
        reaches_real(lb, id, &data);
    });
}

#[test]
fn an_error_changes_nothing_of_its_connection() {
    run(|lb| {
        let all = connections(lb);
        let before = (lb.rows_v4(), lb.rows_v6());
        for connection in &all {
            for icmp in [Icmp::TooBig(0), Icmp::PortUnreachable, Icmp::TimeExceeded] {
                error_reaches_real(lb, connection, icmp, ALL);
                let real = (connection.1.source, connection.0.destination);
                error_reaches_client(lb, connection, real, icmp, ALL);
            }
        }
        assert!(before == (lb.rows_v4(), lb.rows_v6()));
    });
}

#[test]
fn errors_follow_a_connection_from_its_first_packet_to_its_last() {
    run(|lb| {
        let web = lb.web();
        // The client's SYN finds nobody behind us.
        lb.pass_through(Outside, &syn());
        let mut sent = syn().delivered(R, 8080);
        sent.hops = 64;
        let error = sent.icmp_error(Inside, BEHIND, Icmp::PortUnreachable, 8);
        let out = to_client(
            syn().icmp_error(Inside, BEHIND, Icmp::PortUnreachable, 8),
            BEHIND,
        );
        lb.step(Inside, &error, redirected(&out).reply(web.real, &error));
        // Another real server speaks of it: its own name stays.
        let error = sent.icmp_error(Inside, R2, Icmp::PortUnreachable, 8);
        let out = to_client(syn().icmp_error(Inside, R2, Icmp::PortUnreachable, 8), R2);
        lb.step(Inside, &error, redirected(&out).reply(web.real, &error));
        // Whoever hears an error goes on, or not, as it likes.
        let answer = syn().answered(R, 8080).segment(SYN | ACK, 9000, 1001);
        reaches_client(lb, web.real, &answer);
        lb.pass_through(Outside, &syn().segment(ACK, 1001, 9001));
        reaches_real(lb, web.real, &syn().segment(ACK, 1001, 9001));
    });
}

#[test]
fn an_error_to_a_real_server_without_a_neighbour_is_the_kernels_to_forward() {
    run(|lb| {
        let (data, page, id) = connections(lb).swap_remove(0);
        ip(&format!("neigh del {R} dev inside"));
        lb.retire_routes();
        let error = returned(&data, &page).icmp_error(Outside, T, Icmp::TooBig(1400), 8);
        let mut out = page.icmp_error(Outside, T, Icmp::TooBig(1400), 8);
        out.destination = R;
        lb.step(
            Outside,
            &error,
            passed(Discard::NoNeighbour, &out.bytes()).original(id, &error),
        );
    });
}

#[test]
fn both_sides_are_those_of_the_addresses() {
    run(|lb| {
        // An error may come in by any interface: it is known by its quotation.
        let (data, page, id) = connections(lb).swap_remove(0);
        let error = returned(&data, &page).icmp_error(Inside, BEHIND, Icmp::TooBig(1400), 8);
        let mut out = to_real(page.icmp_error(Inside, BEHIND, Icmp::TooBig(1400), 8), R);
        out.mac_source = LB_INSIDE;
        lb.step(Inside, &error, transmitted(&out).original(id, &error));
    });
}
