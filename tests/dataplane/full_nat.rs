//! Full NAT: the client's address and port are replaced as well, by an address and a port of the balancer.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
};

use balancer_common::{
    conntrack::forwarding::{FULL_NAT, NAT},
    direction,
    scheduler::hashed,
    service,
    snat::TRIES,
    verdict::Discard,
};
use balancer_tests::{
    addresses::{GATEWAY, LB_INSIDE, LB_OUTSIDE, R, R2, R6, R26, S, S6, T, T6, V, V6, mac_of},
    cpus::{Frames, Pace},
    dataplane::{
        Dataplane, Options,
        Side::{Inside, Outside},
        TIMEOUTS, Verdict, run, run_with,
    },
    emulated,
    expected::{Expected, answered, redirected, transmitted},
    packet::{
        Checksum, Icmp, Packet,
        flag::{ACK, FIN, PSH, RST, SYN},
    },
    services::{Schedule, ServiceHandle},
};

use crate::syn;

/// The port of the balancer where there is one only.
const PORT: u16 = 20_000;

/// The packet as the real server gets it, from this port of the balancer.
fn to_real(packet: &Packet, real: IpAddr, port: u16, source_port: u16) -> Packet {
    Packet {
        source: if real.is_ipv4() { S } else { S6 },
        source_port,
        ..packet.delivered(real, port)
    }
}

/// The real server's answer to what [`to_real`] brought, as it arrives.
fn from_real(delivered: &Packet) -> Packet {
    let mut answer = delivered.answered(delivered.destination, delivered.destination_port);
    answer.hops = 64;
    answer
}

/// That answer as the client gets it, whose packet was `asked`.
fn to_client(answer: &Packet, asked: &Packet) -> Packet {
    Packet {
        destination: asked.source,
        destination_port: asked.source_port,
        ..answer.returned(asked.destination, asked.destination_port)
    }
}

/// A service with one real server that has full NAT, on all ports of both where the port is 0. The balancer has so many ports.
fn full_nat(
    lb: &mut Dataplane,
    protocol: u8,
    [vip, real]: [IpAddr; 2],
    [port, real_port]: [u16; 2],
    count: u16,
) -> (ServiceHandle, u32) {
    let id = lb.add_real(real, real_port);
    let service = lb.add_service(protocol, vip, port, &[id]);
    lb.set_sources(&[S, S6], PORT, count);
    lb.set_forwarding(id, FULL_NAT, 1);
    (service, id)
}

/// The source port of a frame that a real server gets.
fn source_port_of(frame: &[u8], real: IpAddr) -> u16 {
    let at = 14 + if real.is_ipv4() { 20 } else { 40 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Opens a connection by full NAT, and takes it through its handshake. Its source port.
#[track_caller]
fn establish(lb: &Dataplane, syn: &Packet, real: IpAddr) -> u16 {
    let (_, out) = lb.send(Outside, &syn.bytes());
    let port = source_port_of(&out, real);
    let first = to_real(syn, real, 8080, port);
    assert_eq!(out, first.bytes());
    lb.pass_through(Inside, &from_real(&first).segment(SYN | ACK, 9000, 1001));
    lb.pass_through(Outside, &syn.clone().segment(ACK, 1001, 9001));
    port
}

/// Two entries more of the real server's family.
fn pair(expected: Expected, real: IpAddr) -> Expected {
    if real.is_ipv4() {
        expected.pair_v4()
    } else {
        expected.pair_v6()
    }
}

/// A handshake is over.
fn completed(expected: Expected, real: IpAddr) -> Expected {
    pair(expected.half_open(-1), real)
}

/// A SYN of the family of the real server.
fn syn_to(real: IpAddr) -> Packet {
    if real.is_ipv4() { syn() } else { syn().v6() }
}

#[test]
fn a_connection_of_tcp_runs_from_handshake_to_end() {
    for (vip, real, source) in [(V, R, S), (V6, R6, S6)] {
        run(|lb| {
            let (service, id) = full_nat(lb, 6, [vip, real], [80, 8080], 1);
            let syn = syn_to(real);
            let first = to_real(&syn, real, 8080, PORT);
            lb.step(
                Outside,
                &syn,
                redirected(&first)
                    .original(id, &syn)
                    .selected(service, id)
                    .half_open(1),
            );
            assert_eq!(lb.sources(), [(PORT, source, real)]);
            // Sent again, it goes the same way.
            lb.step(Outside, &syn, redirected(&first).original(id, &syn));
            let syn_ack = from_real(&first).segment(SYN | ACK, 9000, 1001);
            lb.step(
                Inside,
                &syn_ack,
                redirected(&to_client(&syn_ack, &syn)).reply(id, &syn_ack),
            );
            for (flags, data) in [(ACK, &b""[..]), (PSH | ACK, b"GET /"), (FIN | ACK, b"")] {
                let packet = syn.clone().segment(flags, 1001, 9001).data(data);
                let delivered = to_real(&packet, real, 8080, PORT);
                let mut expected = redirected(&delivered).original(id, &packet);
                if data.is_empty() && flags == ACK {
                    expected = completed(expected, real);
                }
                lb.step(Outside, &packet, expected);
                let answer = from_real(&delivered).segment(flags, 9001, 1001);
                lb.step(
                    Inside,
                    &answer,
                    redirected(&to_client(&answer, &syn)).reply(id, &answer),
                );
            }
            assert_eq!(lb.sources(), [(PORT, source, real)]);
        });
    }
}

#[test]
fn datagrams_go_both_ways_also_without_checksum_and_on_every_port() {
    for (vip, real) in [(V, R), (V6, R6)] {
        for ports in [[53, 8053], [0, 0]] {
            run(|lb| {
                let (service, id) = full_nat(lb, 17, [vip, real], ports, 1);
                lb.change_settings(|settings| settings.any_port = 1);
                let real_port = if ports[1] == 0 { 53 } else { ports[1] };
                let mut query = Packet::udp(b"ping");
                if real.is_ipv6() {
                    query = query.v6();
                }
                let checksums = [Checksum::Right, Checksum::Given(0)];
                let kinds = if real.is_ipv4() { 2 } else { 1 };
                for (number, checksum) in checksums.into_iter().take(kinds).enumerate() {
                    let query = Packet {
                        checksum,
                        ..query.clone()
                    };
                    let delivered = to_real(&query, real, real_port, PORT);
                    let mut expected = redirected(&delivered).original(id, &query);
                    if number == 0 {
                        expected = expected.selected(service, id);
                        expected = pair(expected, real);
                    }
                    lb.step(Outside, &query, expected);
                    let answer = from_real(&delivered).data(b"pong pong");
                    lb.step(
                        Inside,
                        &answer,
                        redirected(&to_client(&answer, &query)).reply(id, &answer),
                    );
                }
            });
        }
    }
}

/// Each client's connection has a port of its own, until there is none left; who comes then is told so, and gets the port of the next one that
/// ends.
#[test]
fn every_port_serves_one_connection_to_a_real_server() {
    const COUNT: u16 = 40;
    for (vip, real, source) in [(V, R, S), (V6, R6, S6)] {
        run(|lb| {
            let (service, id) = full_nat(lb, 6, [vip, real], [80, 8080], COUNT);
            let syns = (0..COUNT).map(|n| syn_to(real).client_port(30_000 + n));
            for syn in syns.clone() {
                establish(lb, &syn, real);
            }
            let all: Vec<_> = (PORT..PORT + COUNT)
                .map(|port| (port, source, real))
                .collect();
            assert_eq!(lb.sources(), all);
            let late = syn_to(real).client_port(39_999);
            lb.step(
                Outside,
                &late,
                answered(Discard::SnatExhausted, &late.reset(RST | ACK, 0, 1001))
                    .passed_over(service, 1),
            );
            // One of them ends: its real server resets it.
            let first = syns.clone().next().expect("the first");
            let opened = lb
                .send(Outside, &first.clone().segment(ACK, 1001, 9001).bytes())
                .1;
            let port = source_port_of(&opened, real);
            let reset = from_real(&to_real(&first, real, 8080, port)).segment(RST, 9001, 0);
            lb.step(
                Inside,
                &reset,
                redirected(&to_client(&reset, &first)).reply(id, &reset),
            );
            // Each attempt looks at some of the ports, and the next one goes on from there.
            let attempts = COUNT.div_ceil(TRIES as u16);
            let redirected = (0..attempts)
                .filter(|_| lb.send(Outside, &late.bytes()).0 == Verdict::Redirect)
                .count();
            assert!(redirected > 0, "{attempts} attempts");
            assert_eq!(establish(lb, &late, real), port);
            assert_eq!(lb.sources(), all);
        });
    }
}

/// An established connection by full NAT to [`R`] or [`R6`], the service's only one: its client's next packet as it arrives and as the real server
/// gets it, the real server's answer as it arrives and as the client gets it, and the real server's id.
struct Talk {
    data: Packet,
    delivered: Packet,
    page: Packet,
    returned: Packet,
    id: u32,
}

fn talk(lb: &mut Dataplane, vip: IpAddr, real: IpAddr) -> Talk {
    let (_, id) = full_nat(lb, 6, [vip, real], [80, 8080], 1);
    let syn = syn_to(real);
    establish(lb, &syn, real);
    let data = syn.segment(PSH | ACK, 1001, 9001).data(&[3; 40]);
    let delivered = to_real(&data, real, 8080, PORT);
    let page = from_real(&delivered).segment(PSH | ACK, 9001, 1041);
    let returned = to_client(&page, &data);
    Talk {
        data,
        delivered,
        page,
        returned,
        id,
    }
}

#[test]
fn errors_are_translated_on_both_sides() {
    for (vip, real, source, router) in [(V, R, S, T), (V6, R6, S6, T6)] {
        run(|lb| {
            let talk = talk(lb, vip, real);
            for icmp in [
                Icmp::TooBig(1400),
                Icmp::TimeExceeded,
                Icmp::PortUnreachable,
            ] {
                for quoted in [8, 18, 20, 33] {
                    // A router on the clients' side about the real server's packet: all that reaches the real server comes from the
                    // balancer.
                    let sent = Packet {
                        hops: talk.page.hops,
                        ..talk.returned.clone()
                    };
                    let error = sent.icmp_error(Outside, router, icmp, quoted);
                    let mut out = talk.page.icmp_error(Outside, source, icmp, quoted);
                    (out.mac_destination, out.mac_source) = (mac_of(real), LB_INSIDE);
                    out.hops -= 1;
                    out.sum_icmp();
                    lb.step(Outside, &error, redirected(&out).original(talk.id, &error));
                    // The real server, and a router before it, about the client's packet.
                    for (from, seen) in [(real, vip), (behind(real), behind(real))] {
                        let sent = Packet {
                            hops: talk.data.hops,
                            ..talk.delivered.clone()
                        };
                        let error = sent.icmp_error(Inside, from, icmp, quoted);
                        let mut out = talk.data.icmp_error(Inside, seen, icmp, quoted);
                        (out.mac_destination, out.mac_source) = (GATEWAY, LB_OUTSIDE);
                        out.hops -= 1;
                        out.sum_icmp();
                        lb.step(Inside, &error, redirected(&out).reply(talk.id, &error));
                    }
                }
            }
        });
    }
}

/// A router between the balancer and the real servers.
fn behind(real: IpAddr) -> IpAddr {
    if real.is_ipv4() {
        "192.168.0.9".parse().expect("an address")
    } else {
        "fd00:1::9".parse().expect("an address")
    }
}

#[test]
fn all_fragments_of_a_datagram_go_the_same_way() {
    for (vip, real) in [(V, R), (V6, R6)] {
        run(|lb| {
            let (_, id) = full_nat(lb, 17, [vip, real], [53, 8053], 1);
            let payload: Vec<u8> = (0..8_000_u32).map(|byte| (byte * 7) as u8).collect();
            let mut query = Packet::udp(&payload);
            if real.is_ipv6() {
                query = query.v6();
            }
            let small = query.clone().data(b"ping");
            lb.pass_through(Outside, &small);
            lb.pass_through(Inside, &from_real(&to_real(&small, real, 8053, PORT)));
            let delivered = to_real(&query, real, 8053, PORT);
            let answer = from_real(&delivered);
            let returned = to_client(&answer, &query);
            let pairs =
                |a: &Packet, b: &Packet| a.fragments(1448).into_iter().zip(b.fragments(1448));
            for (fragment, out) in pairs(&query, &delivered) {
                lb.step(Outside, &fragment, redirected(&out).original(id, &fragment));
            }
            for (fragment, out) in pairs(&answer, &returned) {
                lb.step(Inside, &fragment, redirected(&out).reply(id, &fragment));
            }
        });
    }
}

/// A client whom the real server would answer past the balancer, and the real server itself, are served where the service says so.
#[test]
fn neighbours_of_the_real_server_and_the_real_server_itself_are_served() {
    let neighbour = |real: IpAddr| if real.is_ipv4() { R2 } else { R26 };
    for (vip, real, source) in [(V, R, S), (V6, R6, S6)] {
        for client in [real, neighbour(real)] {
            run(|lb| {
                let id = lb.add_real(real, 8080);
                let service = lb.add_service(6, vip, 80, &[id]);
                lb.set_network(id, if real.is_ipv4() { 24 } else { 64 });
                let mut syn = syn_to(real);
                (syn.source, syn.mac_source, syn.mac_destination) =
                    (client, mac_of(client), LB_INSIDE);
                // Where it does not, they are refused as before.
                let refused = |lb: &mut Dataplane| {
                    lb.step(
                        Inside,
                        &syn,
                        answered(Discard::Hairpin, &syn.reset(RST | ACK, 0, 1001))
                            .passed_over(service, 1),
                    );
                };
                refused(lb);
                lb.set_sources(&[S, S6], PORT, 1);
                refused(lb);
                lb.add_service_flags(service, service::HAIRPIN);
                refused(lb);
                lb.set_forwarding(id, NAT, 1);
                let first = to_real(&syn, real, 8080, PORT);
                lb.step(
                    Inside,
                    &syn,
                    transmitted(&first)
                        .original(id, &syn)
                        .selected(service, id)
                        .half_open(1),
                );
                assert_eq!(lb.sources(), [(PORT, source, real)]);
                let syn_ack = from_real(&first).segment(SYN | ACK, 9000, 1001);
                let mut out = to_client(&syn_ack, &syn);
                (out.mac_destination, out.mac_source) = (mac_of(client), LB_INSIDE);
                lb.step(Inside, &syn_ack, transmitted(&out).reply(id, &syn_ack));
                // A client from elsewhere has plain NAT.
                let stranger = syn_to(real).client_port(41_000);
                lb.step(
                    Outside,
                    &stranger,
                    redirected(&stranger.delivered(real, 8080))
                        .original(id, &stranger)
                        .selected(service, id)
                        .half_open(1),
                );
            });
        }
    }
}

#[test]
fn ports_of_the_hosts_own_sockets_are_left_to_them() {
    run(|lb| {
        let (service, id) = full_nat(lb, 6, [V, R], [80, 8080], 1);
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("listen");
        lb.step(
            Outside,
            &syn(),
            answered(Discard::SnatExhausted, &syn().reset(RST | ACK, 0, 1001))
                .passed_over(service, 1),
        );
        drop(listener);
        assert_eq!(establish(lb, &syn(), R), PORT);
        let (dns, _) = full_nat(lb, 17, [V, R], [53, 8053], 1);
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("bind");
        let query = Packet::udp(b"ping");
        lb.step(
            Outside,
            &query,
            answered(Discard::SnatExhausted, &query.port_unreachable()).passed_over(dns, 1),
        );
        drop(socket);
        lb.pass_through(Outside, &query);
        let _ = id;
    });
}

#[test]
fn several_addresses_have_the_same_ports_each() {
    const COUNT: u16 = 20;
    run(|lb| {
        let (_, id) = full_nat(lb, 6, [V, R], [80, 8080], COUNT);
        let others = [101, 102].map(|last| IpAddr::from([192, 168, 0, last]));
        lb.set_sources(&[others[0], S, others[1]], PORT, COUNT);
        // The first and the third place.
        lb.set_forwarding(id, FULL_NAT, 0b101);
        for port in 0..2 * COUNT {
            lb.pass_through(Outside, &syn().client_port(30_000 + port));
        }
        let mut all: Vec<_> = (PORT..PORT + COUNT)
            .flat_map(|port| others.map(|source| (port, source, R)))
            .collect();
        all.sort_unstable();
        assert_eq!(lb.sources(), all);
        // One of them, which is only being opened, gives way.
        lb.pass_through(Outside, &syn().client_port(50_000));
        assert_eq!(lb.sources(), all);
    });
}

/// So many have a source at the same time as is promised, out of the ports that are the default.
#[test]
fn fifty_thousand_connections_to_one_real_server_have_a_port_each() {
    const CONNECTIONS: u32 = 50_000;
    if emulated::skipped() {
        return;
    }
    let large = Options {
        max_connections: 4 * CONNECTIONS,
        ..Options::default()
    };
    run_with(large, |lb| {
        let (_, id) = full_nat(lb, 6, [V, R], [80, 8080], 1);
        lb.set_sources(&[S], 10_000, 50_536);
        for number in 0..CONNECTIONS {
            let mut client = syn().client_port(1_024 + (number % 60_000) as u16);
            client.source = Ipv4Addr::from(0x0b00_0000 + number / 100).into();
            establish(lb, &client, R);
        }
        let sources = lb.sources();
        assert_eq!(sources.len(), CONNECTIONS as usize);
        let ports: BTreeSet<_> = sources.iter().map(|(port, ..)| *port).collect();
        assert_eq!(ports.len(), CONNECTIONS as usize);
        assert!(ports.iter().all(|port| (10_000..60_536).contains(port)));
        assert_eq!(lb.counts_of(id), [CONNECTIONS, 0]);
    });
}

/// What two real servers have in common decides nothing: the same port of the balancer serves both.
#[test]
fn a_port_serves_each_real_server() {
    run(|lb| {
        let (_, first) = full_nat(lb, 6, [V, R], [80, 8080], 1);
        let second = lb.add_real(R2, 8080);
        let third = lb.add_real(R, 8081);
        for (id, port) in [(second, 81), (third, 82)] {
            lb.add_service(6, V, port, &[id]);
            lb.set_forwarding(id, FULL_NAT, 1);
        }
        for port in [80, 81, 82] {
            lb.pass_through(Outside, &syn().to_port(port));
        }
        assert_eq!(lb.sources(), [(PORT, S, R), (PORT, S, R), (PORT, S, R2)]);
        let _ = first;
    });
}

#[test]
fn two_cpus_at_once_never_take_the_same_port() {
    const ROUNDS: u16 = 500;
    run_with(
        Options {
            max_connections: 4 * u32::from(ROUNDS),
            ..Options::default()
        },
        |lb| {
            full_nat(lb, 6, [V, R], [80, 8080], 2 * ROUNDS);
            let frames = |client: u8| -> Frames {
                let syns = (0..ROUNDS).map(|port| Packet {
                    source: IpAddr::from([198, 51, 100, client]),
                    ..syn().client_port(30_000 + port)
                });
                syns.map(|syn| (Outside, syn.bytes())).collect()
            };
            let all = [frames(1), frames(2)];
            for out in lb.on_two_cpus(Pace::Together, [&all[0], &all[1]]) {
                assert!(out.iter().all(|(verdict, _)| *verdict == REDIRECT));
            }
            // Each entry has its other half, as `sources` asserts, so none was written twice.
            let ports: Vec<_> = lb.sources().into_iter().map(|(port, ..)| port).collect();
            assert_eq!(ports, (PORT..PORT + 2 * ROUNDS).collect::<Vec<_>>());
        },
    );
}

const REDIRECT: u32 = 4;

/// A segment of a connection that another node has opened: nobody here knows its port.
#[test]
fn a_connection_of_another_node_is_not_picked_up() {
    run(|lb| {
        let (service, _) = full_nat(lb, 6, [V, R], [80, 8080], 1);
        lb.set_schedule(service, Schedule::hashing(hashed::CLIENT));
        let data = syn().segment(PSH | ACK, 1001, 9001).data(b"x");
        lb.step(
            Outside,
            &data,
            answered(Discard::NoConnection, &data.reset(RST, 9001, 0)),
        );
        assert_eq!(lb.sources(), []);
    });
}

/// In a table so full that entries move to their other bucket, each connection keeps its client.
#[test]
fn entries_that_move_keep_their_clients() {
    for (vip, real) in [(V, R), (V6, R6)] {
        run_with(
            Options {
                max_connections: 64,
                ..Options::default()
            },
            |lb| {
                let (_, id) = full_nat(lb, 6, [vip, real], [80, 8080], 1000);
                let mut open = Vec::new();
                for port in 30_000..31_000 {
                    let syn = syn_to(real).client_port(port);
                    let (_, out) = lb.send(Outside, &syn.bytes());
                    let source_port = source_port_of(&out, real);
                    let first = to_real(&syn, real, 8080, source_port);
                    if out != first.bytes() {
                        break;
                    }
                    let answer = from_real(&first).segment(SYN | ACK, 9000, 1001);
                    lb.pass_through(Inside, &answer);
                    lb.pass_through(Outside, &syn.clone().segment(ACK, 1001, 9001));
                    open.push((syn, source_port));
                }
                assert!(open.len() > 64, "{}", open.len());
                for (syn, source_port) in open {
                    let data = syn.clone().segment(PSH | ACK, 1001, 9001).data(b"x");
                    let delivered = to_real(&data, real, 8080, source_port);
                    lb.step(Outside, &data, redirected(&delivered).original(id, &data));
                    let page = from_real(&delivered).segment(ACK, 9001, 1002);
                    lb.step(
                        Inside,
                        &page,
                        redirected(&to_client(&page, &syn)).reply(id, &page),
                    );
                }
            },
        );
    }
}

/// Forged SYNs take ports only from each other.
#[test]
fn a_flood_of_syns_takes_no_port_from_an_established_connection() {
    const COUNT: u16 = 40;
    for (vip, real) in [(V, R), (V6, R6)] {
        run(|lb| {
            let (_, id) = full_nat(lb, 6, [vip, real], [80, 8080], COUNT);
            let client = syn_to(real).client_port(29_999);
            let port = establish(lb, &client, real);
            for forged in 30_000..30_400 {
                lb.pass_through(Outside, &syn_to(real).client_port(forged));
            }
            assert!(lb.sources().len() <= usize::from(COUNT));
            let data = client.clone().segment(PSH | ACK, 1001, 9001).data(b"x");
            let delivered = to_real(&data, real, 8080, port);
            lb.step(Outside, &data, redirected(&delivered).original(id, &data));
            let newcomer = syn_to(real).client_port(31_000);
            assert_ne!(establish(lb, &newcomer, real), port);
        });
    }
}

/// Where a service has every port and its real server one, the service's port does not follow from the answer: no full NAT.
/// A client of UDP that is confirmed gives way, too: whoever sends twice in another's name confirms blindly.
#[test]
fn a_flood_of_datagrams_leaves_ports_for_newcomers() {
    const COUNT: u16 = 4;
    run(|lb| {
        for (vip, real) in [(V, R), (V6, R6)] {
            full_nat(lb, 17, [vip, real], [53, 8053], COUNT);
            let ping = |port| {
                let ping = Packet::udp(b"ping").client_port(port);
                if vip.is_ipv4() { ping } else { ping.v6() }
            };
            for port in 0..3 * COUNT {
                let ping = ping(30_000 + port);
                let (verdict, out) = lb.send(Outside, &ping.bytes());
                assert_ne!(verdict, Verdict::Drop);
                let there = to_real(&ping, real, 8053, source_port_of(&out, real));
                assert_eq!(out, there.bytes());
                lb.pass_through(Inside, &from_real(&there));
                lb.pass_through(Outside, &ping);
            }
        }
        assert_eq!(lb.sources().len(), 2 * usize::from(COUNT));
    });
}

/// Who is silent for longer than the timeout gives way, also while no daemon sweeps.
#[test]
fn an_idle_connection_gives_its_port_to_a_newcomer_and_a_live_one_does_not() {
    run(|lb| {
        let (service, id) = full_nat(lb, 6, [V, R], [80, 8080], 1);
        assert_eq!(establish(lb, &syn(), R), PORT);
        let newcomer = syn().client_port(50_000);
        let refused = |lb: &mut Dataplane| {
            let reset = newcomer.reset(RST | ACK, 0, 1001);
            lb.step(
                Outside,
                &newcomer,
                answered(Discard::SnatExhausted, &reset).passed_over(service, 1),
            );
        };
        refused(lb);
        // The direction of the real server alone is silent.
        let past = (lb.jiffies() as u32).wrapping_sub(TIMEOUTS.established + 1);
        lb.change_rows_v4(|row| {
            if row.direction != direction::ORIGINAL {
                row.last_seen = past;
            }
        });
        let (verdict, _) = lb.send(Outside, &newcomer.bytes());
        assert_eq!(verdict, Verdict::Drop);
        lb.change_rows_v4(|row| row.last_seen = past);
        assert_eq!(establish(lb, &newcomer, R), PORT);
        assert_eq!(lb.counts_of(id), [1, 0]);
    });
}

#[test]
fn a_service_on_every_port_with_a_real_server_on_one_has_none() {
    run(|lb| {
        let (service, id) = full_nat(lb, 6, [V, R], [0, 8080], 1);
        lb.change_settings(|settings| settings.any_port = 1);
        let refused =
            |reason| answered(reason, &syn().reset(RST | ACK, 0, 1001)).passed_over(service, 1);
        lb.step(Outside, &syn(), refused(Discard::SnatExhausted));
        lb.set_forwarding(id, NAT, 1);
        lb.add_service_flags(service, service::HAIRPIN);
        lb.set_network(id, 24);
        let neighbour = Packet {
            source: R2,
            mac_source: mac_of(R2),
            mac_destination: LB_INSIDE,
            ..syn()
        };
        lb.step(
            Inside,
            &neighbour,
            answered(Discard::Hairpin, &neighbour.reset(RST | ACK, 0, 1001))
                .passed_over(service, 1),
        );
    });
}
