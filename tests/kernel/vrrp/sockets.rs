//! Advertisements between two hosts on one link.

use std::{
    net::IpAddr,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use balancer_ctl::vrrp::{
    packet::{Advertisement, Checksum, Endpoints, Family, HOP_LIMIT, Interval},
    socket::{BUFFER_LENGTH, VrrpSocket},
};
use balancer_tests::{privileged, raw::RawSocket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use xtask::lab::Namespace;

use super::scene;

/// What a socket has received: source, destination, hop limit, message.
type Message = (IpAddr, IpAddr, u8, Vec<u8>);

fn open(namespace: &Namespace, interface: &str, family: Family) -> VrrpSocket {
    let index = namespace.index(interface).unwrap();
    namespace
        .run(|| VrrpSocket::open(interface, index, family).unwrap())
        .unwrap()
}

/// The next message, or `None` after this time.
fn receive_within(socket: &VrrpSocket, limit: Duration) -> Option<Message> {
    let deadline = Instant::now() + limit;
    let mut buffer = [0; BUFFER_LENGTH];
    loop {
        if let Some(received) = socket.receive(&mut buffer).unwrap() {
            let message = buffer[received.message].to_vec();
            return Some((
                received.source,
                received.destination,
                received.hop_limit,
                message,
            ));
        }
        let left = deadline.checked_duration_since(Instant::now())?;
        let mut sockets = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut sockets, PollTimeout::try_from(left).unwrap()).unwrap();
    }
}

fn receive(socket: &VrrpSocket) -> Option<Message> {
    receive_within(socket, Duration::from_secs(2))
}

/// That nothing comes.
fn is_silent(socket: &VrrpSocket) -> bool {
    receive_within(socket, Duration::from_millis(200)).is_none()
}

fn advertisement(addresses: &[&str]) -> Advertisement {
    Advertisement {
        router_id: 51,
        priority: 150,
        interval: Interval::from_centiseconds(100).unwrap(),
        addresses: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
    }
}

#[test]
fn advertisements_arrive_by_multicast_and_unicast_in_both_families() {
    if privileged::skipped() {
        return;
    }
    let [host, other] = scene();
    other.address("eth0", "10.9.0.2/24").unwrap();
    other.address("eth0", "fd00:9::2/64").unwrap();
    // The source is the one that the caller names, not the first.
    host.address("outside", "10.9.0.3/24").unwrap();
    host.address("outside", "fe80::77/64").unwrap();
    let v4 = Family::Ipv4.group().to_string();
    let v6 = Family::Ipv6.group().to_string();
    for (family, source, destinations, vips) in [
        (
            Family::Ipv4,
            "10.9.0.3",
            [&v4[..], "10.9.0.2"],
            &["10.9.0.100", "10.9.0.101"],
        ),
        (
            Family::Ipv6,
            "fe80::77",
            [&v6, "fd00:9::2"],
            &["fe80::100", "2001:db8::80"],
        ),
    ] {
        let ours = open(&host, "outside", family);
        let theirs = open(&other, "eth0", family);
        let says = advertisement(vips);
        for destination in destinations {
            let endpoints = Endpoints {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
            };
            let message = says.encode(endpoints, Checksum::PseudoHeader);
            ours.send(&message, endpoints.source, endpoints.destination)
                .unwrap();
            let received = receive(&theirs);
            let expected = (endpoints.source, endpoints.destination, HOP_LIMIT, message);
            assert_eq!(received, Some(expected.clone()));
            let read = Advertisement::decode(&expected.3, endpoints, expected.2);
            assert_eq!(read.as_ref(), Ok(&says));
        }
        assert!(is_silent(&theirs) && is_silent(&ours));
        // The longest, in fragments.
        let vips: Vec<_> = (0..255).map(|_| says.addresses[0]).collect();
        let says = Advertisement {
            addresses: vips,
            ..says
        };
        let endpoints = Endpoints {
            source: source.parse().unwrap(),
            destination: family.group(),
        };
        let message = says.encode(endpoints, Checksum::PseudoHeader);
        ours.send(&message, endpoints.source, endpoints.destination)
            .unwrap();
        assert_eq!(receive(&theirs).unwrap().3, message);
        // A source that the host does not have.
        let refused = ours.send(&message, endpoints.destination, endpoints.destination);
        assert!(refused.is_err());
        let vip = says.addresses[0];
        let refused = ours.send(&message, vip, endpoints.destination).unwrap_err();
        let number = refused.raw_os_error().unwrap();
        assert!(
            [libc::EINVAL, libc::ENETUNREACH].contains(&number),
            "{family:?}: {refused}"
        );
    }
}

#[test]
fn a_packet_from_elsewhere_shows_its_hop_limit_and_another_interface_is_not_heard() {
    if privileged::skipped() {
        return;
    }
    let [host, other] = scene();
    host.connect("inside", &other, "eth1").unwrap();
    let theirs = open(&other, "eth0", Family::Ipv4);
    let elsewhere = open(&other, "eth1", Family::Ipv4);
    // From keepalived 2.2.7, with the TTL lowered, its header's checksum mended, and padding behind it.
    let mut frame = vec![
        0x01, 0x00, 0x5e, 0x00, 0x00, 0x12, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x00, 0x45,
        0xc0, 0x00, 0x20, 0x00, 0x01, 0x00, 0x00, 0xff, 0x70, 0xd0, 0x4c, 0x0a, 0x4d, 0x00, 0x01,
        0xe0, 0x00, 0x00, 0x12, 0x31, 0x33, 0xc8, 0x01, 0x00, 0x64, 0x10, 0xd9, 0x0a, 0x4d, 0x00,
        0x64,
    ];
    frame.resize(60, 0);
    let raw = RawSocket::open(&host, "outside");
    for name in ["all", "eth0"] {
        other
            .sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0")
            .unwrap();
    }
    other.address("eth0", "10.77.0.2/24").unwrap();
    for (ttl, checksum) in [(255, [0xd0, 0x4c]), (64, [0x8f, 0x4d])] {
        frame[22] = ttl;
        frame[24..26].copy_from_slice(&checksum);
        raw.send(&frame);
        let expected = (
            "10.77.0.1".parse().unwrap(),
            "224.0.0.18".parse().unwrap(),
            ttl,
            frame[34..46].to_vec(),
        );
        assert_eq!(receive(&theirs), Some(expected));
    }
    assert!(is_silent(&elsewhere));
}

#[test]
fn an_interface_that_is_not_there_is_refused_and_one_that_is_down_sends_nothing() {
    if privileged::skipped() {
        return;
    }
    let [host, _other] = scene();
    for family in [Family::Ipv4, Family::Ipv6] {
        let refused = host.run(|| VrrpSocket::open("nowhere", 77, family).unwrap_err());
        assert_eq!(refused.unwrap().raw_os_error(), Some(libc::ENODEV));
    }
    let socket = open(&host, "outside", Family::Ipv4);
    let source: IpAddr = "10.9.0.1".parse().unwrap();
    socket.send(&[0; 12], source, Family::Ipv4.group()).unwrap();
    let mixed = socket.send(&[0; 12], source, Family::Ipv6.group());
    assert_eq!(mixed.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    host.ip("link set dev outside down").unwrap();
    let sent = socket.send(&[0; 12], source, Family::Ipv4.group());
    assert!(sent.is_err());
    assert_eq!(receive_within(&socket, Duration::from_millis(50)), None);
    // Joined again by the kernel.
    host.ip("link set dev outside up").unwrap();
    socket.send(&[0; 12], source, Family::Ipv4.group()).unwrap();
}
