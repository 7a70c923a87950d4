//! Real servers that packets do not reach: nobody has the address on the link, this host has no address of its own, or no room
//! for another neighbour.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use balancer_ctl::{
    health::Probing as _,
    netlink::{
        Netlink,
        neighbour::{self, Resolution},
        neighbour_table,
    },
};
use balancer_tests::topology::INSIDE;
use nix::net::if_::if_nametoindex;

use super::*;

/// Addresses that nobody has, on the real servers' link and behind a gateway that nobody has.
const ABSENT: [(&str, &str, &str); 2] = [
    ("192.168.0.99", "198.51.100.1", "arp"),
    ("fd00:1::99", "2001:db8:100::1", "neighbour discovery"),
];

#[test]
fn a_udp_host_that_is_switched_off_is_down() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new();
    let balancer = &scene.0.balancer;
    for (absent, beyond, question) in ABSENT {
        balancer
            .ip(&format!("route add {beyond} via {absent}"))
            .expect("a route");
        // Before the kernel has given up, which takes three seconds, and again after.
        for pause in [Duration::ZERO, Duration::from_secs(4)] {
            std::thread::sleep(pause);
            for (target, reason) in [
                (absent, format!("{absent} does not answer {question}")),
                (
                    beyond,
                    format!("the gateway {absent} does not answer {question}"),
                ),
            ] {
                let silent = Probe::Udp(Exchange::default());
                let answer = scene.ask_from(Source::default(), socket(target, 53), silent, SHORT);
                assert_eq!(answer, Some(fail(&reason)));
            }
        }
    }
}

#[test]
fn a_udp_host_that_is_there_and_silent_is_up() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new();
    let real = &scene.0.reals[0].namespace;
    let _socket = real
        .run(|| UdpSocket::bind("[::]:53").expect("a socket"))
        .expect("enter the real server");
    for target in [scene.target(53), scene.target6(53)] {
        let silent = Probe::Udp(Exchange::default());
        assert_eq!(
            scene.ask_from(Source::default(), target, silent, SHORT),
            Some(pass("no answer and no icmp error"))
        );
    }
}

#[test]
fn a_host_without_a_source_address_finds_its_real_servers_down() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new();
    let balancer = &scene.0.balancer;
    let probes = || {
        [
            tcp(),
            http(HttpProbe::default()),
            Probe::Udp(Exchange::default()),
            Probe::Ping,
        ]
    };
    let asked_in_vain = |target: SocketAddr| {
        let reason = format!("this host has no source address towards {}", target.ip());
        for probe in probes() {
            let answer = scene.ask_from(Source::default(), target, probe.clone(), SHORT);
            assert_eq!(answer, Some(fail(&reason)), "{probe:?}");
        }
    };
    // There is a way, and no address to be answered at.
    for command in [
        "-4 address flush scope global",
        "-6 address flush scope global",
        "-6 address flush scope link",
        "route add 192.168.0.0/24 dev inside",
        "-6 route add fd00:1::/64 dev inside",
    ] {
        balancer.ip(command).expect(command);
    }
    asked_in_vain(scene.target(80));
    asked_in_vain(scene.target6(80));
    balancer
        .sysctl("net.ipv6.conf.all.disable_ipv6", "1")
        .expect("a sysctl");
    asked_in_vain(scene.target6(80));
}

#[test]
fn a_neighbour_table_without_room_is_named() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new();
    for (absent, family) in [("192.168.0.99", "IPv4"), ("fd00:1::99", "IPv6")] {
        // The fill of the tables counts as known for a second, and that was of the other family's turn.
        std::thread::sleep(Duration::from_millis(1100));
        let target = socket(absent, 80);
        let address = |number: u32| match target.ip() {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::from(0x0a4d_0000 + number)),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::from(
                (0xfd00_0001_u128 << 96 | 0x77 << 64) + u128::from(number),
            )),
        };
        let filled = || {
            let mut netlink = Netlink::open().expect("a netlink socket");
            let index = if_nametoindex(INSIDE).expect("an interface");
            (1..100_000).find_map(|number| {
                let hop = (index, address(number));
                neighbour::resolve(&mut netlink, hop, Resolution::Once).err()
            })
        };
        let is_named = |reason: &str| {
            reason.starts_with(&format!(
                "this machine's table of {family} neighbours is full ("
            )) && reason.contains("gc_thresh3=")
        };
        for probe in [Probe::Udp(Exchange::default()), Probe::Ping, tcp()] {
            let error = scene.0.balancer.run(filled).expect("enter the balancer");
            let error = error.expect("a limit");
            assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "{error}");
            let obstacle = match scene.ask_from(Source::default(), target, probe.clone(), SHORT) {
                Some(Outcome::Inconclusive { obstacle }) => obstacle,
                // TCP is told of nothing: the driver asks why there was no answer.
                None => {
                    let prober = scene.prober(target, probe.clone());
                    let obstacle = scene.0.balancer.run(|| prober.obstacle());
                    obstacle.expect("enter the balancer")
                }
                other => panic!("{other:?}"),
            };
            let reason = obstacle.unwrap_or_default();
            let table = neighbour_table::read(&mut Netlink::open().expect("a netlink socket"));
            assert!(is_named(&reason), "{probe:?}: {reason}, {table:?}");
        }
    }
}
