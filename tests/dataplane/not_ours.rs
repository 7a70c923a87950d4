//! What is no service's passes, byte for byte.

use balancer_common::verdict::Discard;
use balancer_tests::{
    addresses::{C, C6, LB_OUTSIDE, R, R6, S, T, V, V6},
    dataplane::{
        Side::{Inside, Outside},
        run,
    },
    expected::{dropped, passed},
    packet::{
        Packet,
        flag::{ACK, RST, SYN},
    },
};

use crate::{establish, syn};

#[test]
fn case_60_neighbour_solicitation_passes_untouched() {
    run(|lb| {
        lb.web();
        let mut solicitation = Packet::other(58, &[135, 0, 0x12, 0x34, 0, 0, 0, 0]).v6();
        solicitation.hops = 255;
        lb.step(
            Outside,
            &solicitation,
            passed(Discard::NotTcpUdp, &solicitation.bytes()),
        );
        // To the solicited-node group, as it comes in truth.
        solicitation.mac_destination = [0x33, 0x33, 0xff, 0, 0, 0x80];
        solicitation.destination = "ff02::1:ff00:80".parse().expect("an address");
        lb.step(
            Outside,
            &solicitation,
            passed(Discard::OtherMac, &solicitation.bytes()),
        );
        // Link-local traffic.
        let mut local = syn().v6();
        local.source = "fe80::1".parse().expect("an address");
        local.destination = "fe80::2".parse().expect("an address");
        local.hops = 255;
        lb.step(Outside, &local, passed(Discard::NoService, &local.bytes()));
    });
}

#[test]
fn case_61_an_ipv4_service_is_none_for_ipv6() {
    run(|lb| {
        let real = lb.add_real(R, 8080);
        lb.add_service(6, V, 80, &[real]);
        let syn = syn().v6();
        lb.step(Outside, &syn, passed(Discard::NoService, &syn.bytes()));
        // Nor by way of a mapped address, as destination or source.
        let mut mapped = syn.clone();
        mapped.destination = "::ffff:192.0.2.80"
            .parse::<std::net::Ipv6Addr>()
            .expect("mapped")
            .into();
        lb.step(
            Outside,
            &mapped,
            passed(Discard::MappedAddress, &mapped.bytes()),
        );
        let mut mapped = syn.clone();
        mapped.source = "::ffff:198.51.100.10"
            .parse::<std::net::Ipv6Addr>()
            .expect("mapped")
            .into();
        lb.step(
            Outside,
            &mapped,
            passed(Discard::MappedAddress, &mapped.bytes()),
        );
        let mut zero = syn;
        zero.destination = "::".parse().expect("an address");
        lb.step(Outside, &zero, passed(Discard::NoService, &zero.bytes()));
    });
}

#[test]
fn case_64_tagged_frames_pass_untouched() {
    run(|lb| {
        lb.web();
        for tags in [vec![(0x8100, 100)], vec![(0x88a8, 5), (0x8100, 100)]] {
            let mut tagged = syn();
            tagged.tags = tags;
            lb.step(Outside, &tagged, passed(Discard::NotIp, &tagged.bytes()));
        }
    });
}

#[test]
fn case_65_arp_lldp_multicast_and_broadcast_pass_untouched() {
    run(|lb| {
        lb.web();
        let mut arp = syn().bytes();
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        lb.step_bytes(Outside, &arp, passed(Discard::NotIp, &arp));
        arp[..6].fill(0xff);
        lb.step_bytes(Outside, &arp, passed(Discard::OtherMac, &arp));
        let mut lldp = arp.clone();
        lldp[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 0x0e]);
        lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
        lb.step_bytes(Outside, &lldp, passed(Discard::OtherMac, &lldp));
        for mac in [[0xff; 6], [0x01, 0, 0x5e, 0, 2, 80]] {
            let mut packet = syn();
            packet.mac_destination = mac;
            lb.step(Outside, &packet, passed(Discard::OtherMac, &packet.bytes()));
        }
    });
}

#[test]
fn case_70_another_port_of_the_vip_passes_untouched() {
    run(|lb| {
        lb.web();
        lb.dns();
        for port in [22, 81, 0, 65535, 80 << 8] {
            for flags in [SYN, ACK, SYN | ACK, RST] {
                for packet in [Packet::tcp(flags, 1, 1), Packet::tcp(flags, 1, 1).v6()] {
                    let packet = packet.to_port(port);
                    lb.step(
                        Outside,
                        &packet,
                        passed(Discard::NoService, &packet.bytes()),
                    );
                }
            }
        }
        // The right port of the other protocol.
        let datagram = Packet::udp(b"x").to_port(80);
        lb.step(
            Outside,
            &datagram,
            passed(Discard::NoService, &datagram.bytes()),
        );
        let syn = syn().to_port(53).v6();
        lb.step(Outside, &syn, passed(Discard::NoService, &syn.bytes()));
    });
}

#[test]
fn case_71_a_frame_for_another_machine_passes_untouched() {
    run(|lb| {
        lb.web();
        for byte in 0..6 {
            let mut packet = syn();
            packet.mac_destination[byte] ^= 1;
            lb.step(Outside, &packet, passed(Discard::OtherMac, &packet.bytes()));
        }
        // The other interface's MAC address is not this one's.
        let packet = syn();
        assert_eq!(packet.mac_destination, LB_OUTSIDE);
        lb.step(Inside, &packet, passed(Discard::OtherMac, &packet.bytes()));
    });
}

#[test]
fn a_frame_of_an_interface_that_is_not_configured_passes_untouched() {
    run(|lb| {
        lb.web();
        let outside = lb.outside;
        lb.clear_interface(outside);
        lb.step(Outside, &syn(), passed(Discard::OtherMac, &syn().bytes()));
    });
}

#[test]
fn case_74_other_protocols_to_the_vip_pass_untouched() {
    run(|lb| {
        lb.web();
        // ICMP, IGMP, GRE, ESP, SCTP (with ports as TCP has them), nothing, reserved.
        for protocol in [1, 2, 47, 50, 132, 59, 255] {
            let packet = Packet::other(protocol, &syn().bytes()[34..]);
            lb.step(
                Outside,
                &packet,
                passed(Discard::NotTcpUdp, &packet.bytes()),
            );
            let packet = packet.v6();
            lb.step(
                Outside,
                &packet,
                passed(Discard::NotTcpUdp, &packet.bytes()),
            );
        }
    });
}

#[test]
fn case_45_an_echo_request_to_the_vip_is_the_kernels() {
    run(|lb| {
        lb.web();
        let mut echo = vec![8, 0, 0x54, 0x35, 0x04, 0xd2, 0, 1];
        echo.extend(b"abcdefgh");
        let echo = Packet::other(1, &echo);
        lb.step(Outside, &echo, passed(Discard::NotTcpUdp, &echo.bytes()));
    });
}

#[test]
fn traffic_between_others_passes_untouched() {
    run(|lb| {
        lb.web();
        lb.dns();
        for (from, to) in [(C, S), (C, R), (T, V), (R, C), (R, T)] {
            let mut packet = syn().to_port(8080);
            (packet.source, packet.destination) = (from, to);
            for flags in [SYN, ACK, SYN | ACK, RST] {
                let packet = packet.clone().segment(flags, 1, 1);
                lb.step(
                    Outside,
                    &packet,
                    passed(Discard::NoService, &packet.bytes()),
                );
            }
        }
        for (from, to) in [(C6, R6), (R6, C6)] {
            let mut packet = syn().to_port(8080);
            (packet.source, packet.destination) = (from, to);
            lb.step(
                Outside,
                &packet,
                passed(Discard::NoService, &packet.bytes()),
            );
        }
        // A client that asks a real server directly, while it has a connection by way of the VIP.
        establish(lb, &syn(), R, 8080);
        let mut direct = syn().to_port(8080);
        direct.destination = R;
        lb.step(
            Outside,
            &direct,
            passed(Discard::NoService, &direct.bytes()),
        );
        // The VIP's own address as source is no reply.
        let mut from_vip = syn();
        (from_vip.source, from_vip.destination) = (V6, C6);
        (from_vip.source_port, from_vip.destination_port) = (80, 40000);
        lb.step(
            Outside,
            &from_vip,
            passed(Discard::NoService, &from_vip.bytes()),
        );
    });
}

#[test]
fn the_vip_as_a_services_source_gets_no_special_way() {
    run(|lb| {
        lb.web();
        let stray = syn().segment(RST, 1, 1);
        lb.step(Outside, &stray, dropped(Discard::StrayReset));
    });
}
