//! A stranger outside who sends in the balancer's own name.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use balancer_tests::{
    daemon::Daemon,
    packet::{Packet, flag::SYN},
    privileged,
    raw::RawSocket,
    topology::{Arms, OUTSIDE, Topology, VIP, VIP6},
};
use xtask::lab::wait_until;

/// One real server in each family, asked every 200 ms.
const CHECKED: &str = r#"
[[service]]
name = "web"
address = "192.0.2.80:80"
[service.check]
type = "tcp"
interval = "200ms"
timeout = "200ms"
fall = 1
[[service.real]]
address = "192.168.0.2:80"

[[service]]
name = "web6"
address = "[2001:db8:80::80]:80"
[service.check]
type = "tcp"
interval = "200ms"
timeout = "200ms"
fall = 1
[[service.real]]
address = "[fd00:1::2]:80"
"#;

/// The balancer towards the real servers: from there its probes come.
const INSIDE_ADDRESSES: [&str; 2] = ["192.168.0.1", "fd00:1::1"];

fn forged(topology: &Topology, packet: Packet, from: &str, to: &str) -> Packet {
    Packet {
        mac_destination: topology.balancer.mac(OUTSIDE).expect("a MAC address"),
        mac_source: topology.client.mac("eth0").expect("a MAC address"),
        source: from.parse().expect("an address"),
        destination: to.parse().expect("an address"),
        ..packet
    }
}

fn discarded(daemon: &Daemon, reason: &str) -> u64 {
    daemon.json("status")["dataplane"]["discards"][reason]
        .as_u64()
        .unwrap_or(0)
}

#[test]
fn syns_from_the_probes_address_take_no_real_server_down() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 1);
    let daemon = Daemon::start(&topology, CHECKED);
    let is_up = || {
        let listed = daemon.json("list");
        let services = listed["services"].as_array().expect("services");
        let states = services.iter().map(|s| &s["reals"][0]["state"]);
        states.filter(|state| *state == "up").count() == 2
    };
    wait_until("the real server is up", Duration::from_secs(5), || {
        Ok(is_up())
    })
    .expect("up");

    let socket = RawSocket::open(&topology.client, "eth0");
    for (source, vip) in INSIDE_ADDRESSES.into_iter().zip([VIP, VIP6]) {
        // Every port that the kernel gives to a probe.
        let mut syn = forged(&topology, Packet::tcp(SYN, 1, 0), source, vip);
        for port in 32_768..=60_999 {
            syn.source_port = port;
            socket.send(&syn.bytes());
        }
    }
    let sent = 2 * (60_999 - 32_768 + 1);
    wait_until("all are refused", Duration::from_secs(10), || {
        Ok(discarded(&daemon, "martian") >= sent)
    })
    .unwrap_or_else(|_| panic!("{} of {sent}", discarded(&daemon, "martian")));
    // Ten probes later it is as it was: no probe was answered to somebody else.
    let history = || daemon.ctl("health --history");
    let probes = |daemon: &Daemon| {
        let health = daemon.json("health");
        health.to_string()
    };
    let before = probes(&daemon);
    wait_until("another probe", Duration::from_secs(5), || {
        Ok(probes(&daemon) != before)
    })
    .expect("probes go on");
    assert!(is_up(), "{}", daemon.ctl("list"));
    let listed = daemon.json("list");
    for service in listed["services"].as_array().expect("services") {
        let real = &service["reals"][0];
        assert_eq!(
            (&real["active"], &real["inactive"]),
            (&0.into(), &0.into()),
            "{real}"
        );
    }
    assert!(!history().contains("down"), "{}", history());
}

#[test]
fn datagrams_from_the_hosts_own_addresses_do_not_reach_it() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 1);
    let daemon = Daemon::start(&topology, CHECKED);
    let socket = RawSocket::open(&topology.client, "eth0");
    for (inside, own, honest, added) in [
        (
            "192.168.0.1",
            "203.0.113.2",
            "203.0.113.10",
            "192.168.7.1/24",
        ),
        (
            "fd00:1::1",
            "2001:db8:f::2",
            "2001:db8:f::10",
            "fd00:7::1/64",
        ),
    ] {
        let to: IpAddr = own.parse().expect("an address");
        let listener = topology
            .balancer
            .run(|| UdpSocket::bind((to, 4711)))
            .expect("enter the balancer")
            .expect("a port");
        listener
            .set_read_timeout(Some(Duration::from_millis(500)))
            .expect("a timeout");
        let send = |from: &str, change: &dyn Fn(&mut Packet)| {
            let mut packet =
                forged(&topology, Packet::udp(from.as_bytes()), from, own).to_port(4711);
            change(&mut packet);
            socket.send(&packet.bytes());
        };
        let received = || {
            let mut bytes = [0; 64];
            let length = listener.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
        };
        // To its own MAC address, to all, and with a priority tag that the kernel takes off; behind it one from a client.
        for change in [
            &(|_: &mut Packet| ()) as &dyn Fn(&mut Packet),
            &|packet| packet.mac_destination = [0xff; 6],
            &|packet| packet.tags = vec![(0x8100, 5 << 13)],
        ] {
            send(inside, change);
            send(honest, &|_| ());
            assert_eq!(received().as_deref(), Some(honest));
        }
        // An address that comes later counts at once.
        let address = added.split('/').next().expect("an address");
        send(address, &|_| ());
        assert_eq!(received().as_deref(), Some(address));
        topology.balancer.address("inside", added).expect("add it");
        let before = discarded(&daemon, "martian");
        wait_until("it is refused", Duration::from_secs(5), || {
            send(address, &|_| ());
            Ok(discarded(&daemon, "martian") > before)
        })
        .expect("refused");
    }
}
