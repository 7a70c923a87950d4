//! Packets that come in by an interface with an address of this host, or of its networks' broadcasts, as their source:
//! refused, for services and for the host's own stack, whatever they carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use balancer_common::verdict::Discard;
use balancer_tests::{
    addresses::{C, LB_INSIDE, LB_OUTSIDE, R, S, S6},
    dataplane::{
        Dataplane,
        Side::{Inside, Outside},
        run,
    },
    expected::{dropped, passed, redirected},
    packet::{
        Packet,
        flag::{ACK, RST, SYN},
    },
};

use crate::{establish, reaches_real, syn};

/// The broadcast address of the real servers' network.
const BROADCAST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 255));
/// A prefix that is this host's as a whole (`ip route add local 198.51.100.128/25 dev lo`).
const PREFIX: (IpAddr, u32) = (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 128)), 25);

fn with_addresses(test: impl FnOnce(&mut Dataplane)) {
    run(|lb| {
        lb.web();
        lb.dns();
        lb.set_host_addresses(&[(S, 32), (S6, 128), (BROADCAST, 32)]);
        test(lb);
    });
}

fn from(source: IpAddr, mut packet: Packet) -> Packet {
    if source.is_ipv6() {
        packet = packet.v6();
    }
    packet.source = source;
    packet
}

#[test]
fn they_make_no_state() {
    with_addresses(|lb| {
        for source in [S, S6, BROADCAST] {
            for packet in [syn(), Packet::udp(b"ping"), Packet::tcp(ACK, 1, 1)] {
                let packet = from(source, packet);
                lb.step(Outside, &packet, dropped(Discard::Martian));
                let mut inside = packet;
                inside.mac_destination = LB_INSIDE;
                lb.step(Inside, &inside, dropped(Discard::Martian));
            }
        }
    });
}

#[test]
fn they_do_not_reach_the_host_whatever_they_carry() {
    with_addresses(|lb| {
        for source in [S, S6, BROADCAST] {
            for packet in [
                Packet::udp(b"to the host").to_port(4711),
                syn().to_port(22),
                Packet::tcp(RST, 1, 1).to_port(22),
                Packet::other(1, &[8, 0, 0, 0, 0, 0, 0, 0]),
                Packet::other(47, &[0; 8]),
            ] {
                lb.step(Outside, &from(source, packet), dropped(Discard::Martian));
            }
        }
        let mut fragment = from(S, Packet::udp(b"first").to_port(4711));
        fragment.fragment = 0x2000;
        lb.step(Outside, &fragment, dropped(Discard::Martian));
        // Cut short behind the IP header.
        let cut = &from(S, syn()).bytes()[..40];
        lb.step_bytes(Outside, cut, dropped(Discard::Martian));
    });
}

#[test]
fn they_do_not_reach_the_host_in_frames_for_many() {
    with_addresses(|lb| {
        for mac in [
            [0xff; 6],
            [0x01, 0, 0x5e, 0, 2, 80],
            [0x33, 0x33, 0, 0, 0, 1],
        ] {
            for source in [S, S6] {
                let mut packet = from(source, Packet::udp(b"to all").to_port(4711));
                packet.mac_destination = mac;
                lb.step(Outside, &packet, dropped(Discard::Martian));
            }
        }
        // What is for another machine alone the host's stack does not take; a bridge above may pass it on.
        let mut other = from(S, Packet::udp(b"to another"));
        other.mac_destination = [2, 0, 0, 0, 0, 0x99];
        lb.step(Outside, &other, passed(Discard::OtherMac, &other.bytes()));
    });
}

#[test]
fn they_do_not_reach_the_host_behind_tags_without_a_vlan() {
    with_addresses(|lb| {
        let tagged = |source, tags: &[(u16, u16)]| {
            let mut packet = from(source, Packet::udp(b"tagged").to_port(4711));
            packet.tags = tags.to_vec();
            packet
        };
        // Priority 5, no VLAN: the kernel takes such tags off and the packet for the interface's own.
        let priority = 5 << 13;
        for protocol in [0x8100, 0x88a8] {
            for source in [S, S6] {
                for tags in [
                    vec![(protocol, priority)],
                    vec![(protocol, 0), (0x8100, priority)],
                ] {
                    let packet = tagged(source, &tags);
                    lb.step(Outside, &packet, dropped(Discard::Martian));
                }
            }
            let nested = tagged(S, &[(protocol, 0), (0x8100, 0), (0x8100, 0)]);
            lb.step(Outside, &nested, dropped(Discard::NestedTags));
            // In a VLAN it is that VLAN's interface's, where nothing was changed.
            for tags in [
                vec![(protocol, 100)],
                vec![(protocol, 0), (0x8100, priority | 100)],
            ] {
                let packet = tagged(S, &tags);
                lb.step(Outside, &packet, passed(Discard::NotIp, &packet.bytes()));
            }
            let stranger = tagged(C, &[(protocol, 0)]);
            lb.step(
                Outside,
                &stranger,
                passed(Discard::NotIp, &stranger.bytes()),
            );
        }
        let mut cut = tagged(S, &[(0x8100, 0)]).bytes();
        cut.truncate(18);
        lb.step_bytes(Outside, &cut, passed(Discard::NotIp, &cut));
    });
}

#[test]
fn a_prefix_that_is_the_hosts_as_a_whole_counts_and_its_neighbours_do_not() {
    run(|lb| {
        let web = lb.web();
        lb.set_host_addresses(&[(S, 32), PREFIX]);
        let source = |last| from(IpAddr::V4(Ipv4Addr::new(198, 51, 100, last)), syn());
        for last in [128, 200, 255] {
            lb.step(Outside, &source(last), dropped(Discard::Martian));
        }
        let neighbour = source(127);
        lb.step(
            Outside,
            &neighbour,
            redirected(&neighbour.delivered(R, 8080))
                .original(web.real, &neighbour)
                .selected(web.service, web.real)
                .half_open(1),
        );
    });
}

#[test]
fn sources_that_hosts_without_an_address_have_pass() {
    with_addresses(|lb| {
        // DHCP, and duplicate detection: a client that has no address yet.
        for (source, destination, packet) in [
            (
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V4(Ipv4Addr::BROADCAST),
                Packet::udp(b"discover").to_port(67),
            ),
            (
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                S6,
                Packet::other(58, &[135, 0, 0, 0, 0, 0, 0, 0]),
            ),
        ] {
            let mut packet = from(source, packet);
            packet.destination = destination;
            packet.mac_destination = [0xff; 6];
            lb.step(Outside, &packet, passed(Discard::OtherMac, &packet.bytes()));
            packet.mac_destination = LB_OUTSIDE;
            let reason = match packet.protocol() {
                17 => Discard::NoService,
                _ => Discard::NotTcpUdp,
            };
            lb.step(Outside, &packet, passed(reason, &packet.bytes()));
        }
    });
}

#[test]
fn established_connections_do_not_ask() {
    run(|lb| {
        let web = lb.web();
        establish(lb, &syn(), R, 8080);
        // Now the client's address becomes this host's: what runs goes on until it ends.
        lb.set_host_addresses(&[(C, 32)]);
        let data = syn().segment(ACK, 1001, 9001).data(b"data");
        reaches_real(lb, web.real, &data);
        let another = Packet::tcp(SYN, 1, 0).client_port(40_009);
        lb.step(Outside, &another, dropped(Discard::Martian));
    });
}
