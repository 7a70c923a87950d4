//! What others do: addresses that are there already, another machine with a VIP, and forged advertisements.

use std::{net::Ipv4Addr, thread, time::Duration};

use balancer_ctl::{
    netlink::{Netlink, address},
    vrrp::{
        announce::Announcer,
        packet::{Advertisement, Checksum, Endpoints, Family, Interval},
    },
};
use balancer_tests::{
    pair::{Pair, VIP},
    privileged,
    raw::RawSocket,
    topology::OUTSIDE,
};

use crate::outside;

#[test]
fn addresses_that_are_there_already_and_other_machines_are_told_apart() {
    if privileged::skipped() {
        return;
    }
    let mut pair = Pair::new(2, 0);
    // What an earlier daemon has left, of another configuration too.
    let left = ["203.0.113.99", VIP];
    let index = pair.nodes[0]
        .namespace
        .index(OUTSIDE)
        .expect("its interface");
    let leave = || {
        let mut netlink = Netlink::open().expect("netlink");
        for vip in left {
            let vip = vip.parse().expect("an address");
            address::add(&mut netlink, index, vip, 24, Duration::from_secs(1000)).expect("add");
        }
    };
    pair.nodes[0].namespace.run(leave).expect("enter the node");
    // What somebody else has set.
    pair.nodes[1]
        .namespace
        .address(OUTSIDE, "203.0.113.80/24")
        .expect("an address");
    pair.nodes[0].start(&outside(100, ""));
    pair.wait_for(left[0], &[]);
    pair.wait_for(VIP, &[0, 1]);
    pair.nodes[1].start(&outside(200, ""));
    let reason = "interface outside has 203.0.113.80 already, not from balancerd, so that it stays there while another node is \
                  Active: remove it with `ip address del 203.0.113.80/24 dev outside`";
    pair.nodes[1].wait_for_reason(reason);
    // It is Active, and gives up: the address is not its own to remove.
    pair.nodes[0].daemon().ctl("failover");
    pair.wait_for_within(VIP, &[1], Duration::from_secs(1));
    pair.nodes[1].daemon().ctl("failover");
    pair.wait_for_within(VIP, &[0, 1], Duration::from_secs(1));
    pair.nodes[1].wait_for_reason(reason);
    pair.nodes[1]
        .namespace
        .ip("address del 203.0.113.80/24 dev outside")
        .expect("remove it");
    pair.nodes[1].wait_for_status("no reason", |status| status["overall"] == "running");

    // Another machine says that it has the VIP of the Active node, which says so, and that it has it itself.
    thread::sleep(Duration::from_secs(1));
    let index = pair.client.index("eth0").expect("its interface");
    let mac = pair.client.mac("eth0").expect("its address");
    let announcer = pair.client.run(|| Announcer::open(index));
    let announcer = announcer.expect("enter the client").expect("a socket");
    let vip = VIP.parse().expect("an address");
    announcer.announce(vip, mac, false).expect("a frame");
    let written: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let written = written.join(":");
    let reason = format!(
        "another machine, {written}, answers for 203.0.113.80, which this node has: take the address from it"
    );
    pair.nodes[0].wait_for_reason(&reason);
    assert_eq!(pair.holders(VIP), [0]);

    // One that has it and says nothing is asked after the VIP has moved.
    pair.client
        .address("eth0", "203.0.113.80/32")
        .expect("an address");
    pair.nodes[0].daemon().ctl("failover");
    pair.wait_for_within(VIP, &[1], Duration::from_secs(1));
    pair.nodes[1].wait_for_reason(&reason);
}

/// What is wrong with a forged advertisement, and what it is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgery {
    HopLimit,
    Checksum,
    Version2,
    RouterId0,
    Length,
    Interval0,
    OwnAddress,
}

impl Forgery {
    const ALL: [Self; 7] = [
        Self::HopLimit,
        Self::Checksum,
        Self::Version2,
        Self::RouterId0,
        Self::Length,
        Self::Interval0,
        Self::OwnAddress,
    ];

    const fn counted_as(self) -> &'static str {
        match self {
            Self::HopLimit => "hop-limit",
            Self::Checksum => "checksum",
            Self::Version2 => "version-2",
            Self::RouterId0 => "router-id",
            Self::Length => "length",
            Self::Interval0 => "interval",
            // Only where the host has let it through.
            Self::OwnAddress => "own-address",
        }
    }

    /// A frame that would make every node give up, if it were believed.
    fn frame(self, own: Ipv4Addr) -> Vec<u8> {
        let source = match self {
            Self::OwnAddress => own,
            _ => Ipv4Addr::new(203, 0, 113, 99),
        };
        let mut message = message(source, 255);
        match self {
            Self::HopLimit | Self::OwnAddress => {}
            Self::Checksum => message[6] ^= 1,
            Self::Version2 => message[0] = 0x21,
            Self::RouterId0 => {
                message[1] = 0;
                sum(&mut message);
            }
            Self::Length => message.push(0),
            Self::Interval0 => {
                message[4..6].fill(0);
                sum(&mut message);
            }
        }
        let hop_limit = if self == Self::HopLimit { 254 } else { 255 };
        frame(source, hop_limit, &message)
    }
}

/// An advertisement for the virtual router of [`outside`].
fn message(source: Ipv4Addr, priority: u8) -> Vec<u8> {
    let advertisement = Advertisement {
        router_id: 51,
        priority,
        interval: Interval::from_centiseconds(10).expect("an interval"),
        addresses: vec![VIP.parse().expect("an address")],
    };
    let endpoints = Endpoints {
        source: source.into(),
        destination: Family::Ipv4.group(),
    };
    advertisement.encode(endpoints, Checksum::Plain)
}

/// Sets the checksum over the message alone.
fn sum(message: &mut [u8]) {
    message[6..8].fill(0);
    let sum = ones(message);
    message[6..8].copy_from_slice(&sum);
}

/// The checksum of RFC 1071.
fn ones(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| {
        let low = word.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([word[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded above.
    (!(sum as u16)).to_be_bytes()
}

/// A frame to all nodes of VRRP.
fn frame(source: Ipv4Addr, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + message.len()).expect("a length");
    let mut header = vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, hop_limit, 112, 0, 0];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header.extend(source.octets());
    header.extend(Family::GROUP_IPV4.octets());
    let sum = ones(&header);
    header[10..12].copy_from_slice(&sum);
    let mut frame = vec![1, 0, 0x5e, 0, 0, 18, 2, 0, 0, 0, 0, 99, 8, 0];
    frame.extend(header);
    frame.extend(message);
    frame
}

#[test]
fn forged_advertisements_are_counted_and_not_obeyed() {
    if privileged::skipped() {
        return;
    }
    const FLOOD: u64 = 10_000;
    let mut pair = Pair::new(2, 0);
    pair.start_first_active(outside, &[200, 100], "");
    let stranger = RawSocket::open(&pair.client, "eth0");
    let own: Ipv4Addr = pair.nodes[0].address().parse().expect("an address");
    let refused = |node: usize, forgery: Forgery| {
        let router = pair.nodes[node].router();
        router["refused"][forgery.counted_as()]
            .as_u64()
            .unwrap_or(0)
    };
    // What comes from an address of its own, the host drops before the daemon sees it.
    let seen = |forgery: &Forgery| *forgery != Forgery::OwnAddress;
    for forgery in Forgery::ALL.into_iter().filter(seen) {
        stranger.send(&forgery.frame(own));
        pair.nodes[0].wait_for_status("one to be counted", |status| {
            status["vrrp"][0]["refused"][forgery.counted_as()] == 1
        });
    }
    for forgery in Forgery::ALL {
        let frame = forgery.frame(own);
        for _ in 0..FLOOD {
            stranger.send(&frame);
        }
        assert_eq!(pair.holders(VIP), [0], "{forgery:?}");
    }
    for forgery in Forgery::ALL.into_iter().filter(seen) {
        for node in 0..2 {
            // What did not fit in the socket was never read.
            let count = refused(node, forgery);
            assert!(count > 1 && count <= FLOOD + 1, "{forgery:?}: {count}");
        }
    }
    let lines = pair.nodes[0].daemon().log();
    let lines = lines.matches(" was ignored: ").count();
    assert!((1..=10).contains(&lines), "{lines} lines");
    // The Active node answers who says that it leaves, but not each of a flood.
    let leaving = frame(
        Ipv4Addr::new(203, 0, 113, 99),
        255,
        &message(Ipv4Addr::new(203, 0, 113, 99), 0),
    );
    let before = pair.nodes[0].router()["sent"].as_u64().expect("a count");
    let start = std::time::Instant::now();
    for _ in 0..FLOOD {
        stranger.send(&leaving);
    }
    pair.assert_stays(VIP, &[0], Duration::from_secs(1));
    let sent = pair.nodes[0].router()["sent"].as_u64().expect("a count") - before;
    let limit = start.elapsed().as_millis() / 50 + 5;
    assert!(u128::from(sent) <= limit, "{sent} of at most {limit}");
    let router = pair.nodes[1].router();
    assert_eq!(router["state"], "backup", "{router:#}");
}
