//! Announcements against recorded ones of keepalived 2.2.7; what claims an address, and what does not.

use proptest::prelude::*;

use super::*;
use crate::os::fuzz;

const MAC: Mac = [0x02, 0, 0, 0, 0, 0x0a];

/// keepalived has 10.77.0.100.
const ARP_ANNOUNCEMENT: &[u8] = &[
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x08, 0x06, 0x00, 0x01,
    0x08, 0x00, 0x06, 0x04, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x0a, 0x4d, 0x00, 0x64,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0a, 0x4d, 0x00, 0x64,
];
/// keepalived has 2001:db8::5.
const ADVERTISEMENT_IPV6: &[u8] = &[
    0x33, 0x33, 0x00, 0x00, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x86, 0xdd, 0x60, 0x00,
    0x00, 0x00, 0x00, 0x20, 0x3a, 0xff, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0xff, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x88, 0x00, 0xf9, 0x19, 0x20, 0x00, 0x00, 0x00, 0x20, 0x01,
    0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05, 0x02, 0x01,
    0x02, 0x00, 0x00, 0x00, 0x00, 0x0a,
];

/// Packets as a watch sees them, without the Ethernet header.
const SEEDS: &[&[u8]] = &[
    ARP_ANNOUNCEMENT.split_at(ETHERNET).1,
    ADVERTISEMENT_IPV6.split_at(ETHERNET).1,
];

fn claim(address: &str) -> Claim {
    Claim {
        address: address.parse().unwrap(),
        mac: MAC,
    }
}

#[test]
fn recorded_announcements_are_written_again_and_read() {
    let vip = Ipv4Addr::new(10, 77, 0, 100);
    assert_eq!(gratuitous_arp(vip, MAC), ARP_ANNOUNCEMENT);
    assert_eq!(arp_claim(SEEDS[0]), Some(claim("10.77.0.100")));
    let vip = "2001:db8::5".parse().unwrap();
    assert_eq!(
        unsolicited_advertisement(vip, MAC, false),
        ADVERTISEMENT_IPV6
    );
    assert_eq!(
        advertisement_claim(SEEDS[1], [0; 6]),
        Some(claim("2001:db8::5"))
    );
}

#[test]
fn a_router_says_that_it_is_one() {
    let vip = "fe80::100".parse().unwrap();
    let frame = unsolicited_advertisement(vip, MAC, true);
    // R and O, not S.
    assert_eq!(frame[58..62], [0xa0, 0, 0, 0]);
    assert_eq!(
        advertisement_claim(&frame[ETHERNET..], [0; 6]),
        Some(claim("fe80::100"))
    );
}

#[test]
fn probes_ask_without_claiming() {
    let frame = arp_probe(Ipv4Addr::new(10, 77, 0, 100), MAC);
    let mut expected: [u8; ARP_FRAME] = ARP_ANNOUNCEMENT.try_into().unwrap();
    expected[28..38].fill(0);
    assert_eq!(frame, expected);
    assert_eq!(arp_claim(&frame[ETHERNET..]), None);

    let frame = duplicate_solicitation("2001:db8::12:3456".parse().unwrap(), MAC);
    let expected = [
        0x33, 0x33, 0xff, 0x12, 0x34, 0x56, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0x86, 0xdd, 0x60,
        0x00, 0x00, 0x00, 0x00, 0x18, 0x3a, 0xff, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x01, 0xff, 0x12, 0x34, 0x56, 0x87, 0x00, 0xe4, 0x1e, 0x00, 0x00,
        0x00, 0x00, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x12, 0x34, 0x56,
    ];
    assert_eq!(frame, expected);
    assert_eq!(advertisement_claim(&frame[ETHERNET..], MAC), None);
}

#[test]
fn a_reply_claims_as_a_request_does() {
    let mut reply = SEEDS[0].to_vec();
    reply[7] = 2;
    assert_eq!(arp_claim(&reply), Some(claim("10.77.0.100")));
    // Padded to the shortest frame.
    reply.resize(46, 0);
    assert_eq!(arp_claim(&reply), Some(claim("10.77.0.100")));
}

#[test]
fn what_is_cut_off_or_changed_claims_nothing() {
    for length in 0..ARP {
        assert_eq!(arp_claim(&SEEDS[0][..length]), None);
    }
    for length in 0..SEEDS[1].len() {
        assert_eq!(advertisement_claim(&SEEDS[1][..length], MAC), None);
    }
    // Each bit but those of the traffic class and flow label, which nobody looks at.
    for bit in (0..4).chain(32..SEEDS[1].len() * 8) {
        let mut flipped = SEEDS[1].to_vec();
        flipped[bit / 8] ^= 0x80 >> (bit % 8);
        assert_eq!(advertisement_claim(&flipped, MAC), None, "bit {bit}");
    }
}

#[test]
fn an_advertisement_without_its_option_claims_for_the_frames_source() {
    let target: Ipv6Addr = "2001:db8::5".parse().unwrap();
    let head = [ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    let claimed = |frame: &[u8]| advertisement_claim(&frame[ETHERNET..], MAC);
    let message: [u8; 24] = joined([&head, &target.octets()]);
    let frame: [u8; 78] = icmpv6(MAC, target, ALL_NODES, message);
    assert_eq!(claimed(&frame), Some(claim("2001:db8::5")));
    // Behind another option.
    let other = [9; 6];
    let options = [&[200, 1, 0, 0, 0, 0, 0, 0][..], &TARGET_MAC, &other].concat();
    let message: [u8; 40] = joined([&head, &target.octets(), &options]);
    let frame: [u8; 94] = icmpv6(MAC, target, ALL_NODES, message);
    assert_eq!(claimed(&frame).unwrap().mac, other);
    // An option of no length ends the search.
    let options = [200, 0, 0, 0, 0, 0, 0, 0];
    let message: [u8; 32] = joined([&head, &target.octets(), &options]);
    let frame: [u8; 86] = icmpv6(MAC, target, ALL_NODES, message);
    assert_eq!(claimed(&frame), Some(claim("2001:db8::5")));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_claim_nothing(packet in fuzz::bytes(SEEDS)) {
        let _ = arp_claim(&packet);
        let _ = advertisement_claim(&packet, MAC);
    }
}
