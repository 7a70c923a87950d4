//! Advertisements against recorded ones of keepalived 2.2.7.

use proptest::prelude::*;

use super::*;
use crate::os::fuzz;

/// From 10.77.0.1 to 224.0.0.18.
const ONE_IPV4: &[u8] = &[
    0x31, 0x33, 0xc8, 0x01, 0x00, 0x64, 0x10, 0xd9, 0x0a, 0x4d, 0x00, 0x64,
];
/// From 10.77.0.1 to 224.0.0.18.
const THREE_IPV4: &[u8] = &[
    0x31, 0x34, 0x96, 0x03, 0x00, 0x19, 0x76, 0x5b, 0x0a, 0x4d, 0x00, 0x65, 0x0a, 0x4d, 0x00, 0x66,
    0xc0, 0x00, 0x02, 0x09,
];
/// From 10.77.0.1 to 224.0.0.18, after SIGTERM.
const LEAVING_IPV4: &[u8] = &[
    0x31, 0x33, 0x00, 0x01, 0x00, 0x64, 0xd8, 0xd9, 0x0a, 0x4d, 0x00, 0x64,
];
/// From 10.77.0.1 to 10.77.0.2.
const UNICAST_IPV4: &[u8] = &[
    0x31, 0x35, 0x64, 0x01, 0x00, 0x0a, 0x4a, 0xf2, 0x0a, 0x4d, 0x00, 0x67,
];
/// From fe80::ff:fe00:a to ff02::12.
const ONE_IPV6: &[u8] = &[
    0x31, 0x3d, 0x65, 0x01, 0x00, 0x64, 0x6c, 0xb4, 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00,
];
/// From fe80::ff:fe00:a to ff02::12.
const TWO_IPV6: &[u8] = &[
    0x31, 0x3e, 0x63, 0x02, 0x01, 0x2c, 0x40, 0x1b, 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05,
];
/// From fe80::ff:fe00:a to ff02::12, after SIGTERM.
const LEAVING_IPV6: &[u8] = &[
    0x31, 0x3e, 0x00, 0x02, 0x01, 0x2c, 0xa3, 0x1b, 0xfe, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x05,
];

/// All recorded messages.
const SEEDS: &[&[u8]] = &[
    ONE_IPV4,
    THREE_IPV4,
    LEAVING_IPV4,
    UNICAST_IPV4,
    ONE_IPV6,
    TWO_IPV6,
    LEAVING_IPV6,
];

fn endpoints(source: &str, destination: &str) -> Endpoints {
    Endpoints {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

fn multicast_ipv4() -> Endpoints {
    endpoints("10.77.0.1", "224.0.0.18")
}

fn unicast_ipv4() -> Endpoints {
    endpoints("10.77.0.1", "10.77.0.2")
}

fn multicast_ipv6() -> Endpoints {
    endpoints("fe80::ff:fe00:a", "ff02::12")
}

/// The recorded messages, each with its endpoints and what it says.
fn recorded() -> [(&'static [u8], Endpoints, Advertisement); 7] {
    let says = |router_id, priority, centiseconds, addresses: &[&str]| Advertisement {
        router_id,
        priority,
        interval: Interval::from_centiseconds(centiseconds).unwrap(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    };
    let three = ["10.77.0.101", "10.77.0.102", "192.0.2.9"];
    let two = ["fe80::101", "2001:db8::5"];
    [
        (
            ONE_IPV4,
            multicast_ipv4(),
            says(51, 200, 100, &["10.77.0.100"]),
        ),
        (THREE_IPV4, multicast_ipv4(), says(52, 150, 25, &three)),
        (
            LEAVING_IPV4,
            multicast_ipv4(),
            says(51, 0, 100, &["10.77.0.100"]),
        ),
        (
            UNICAST_IPV4,
            unicast_ipv4(),
            says(53, 100, 10, &["10.77.0.103"]),
        ),
        (
            ONE_IPV6,
            multicast_ipv6(),
            says(61, 101, 100, &["fe80::100"]),
        ),
        (TWO_IPV6, multicast_ipv6(), says(62, 99, 300, &two)),
        (LEAVING_IPV6, multicast_ipv6(), says(62, 0, 300, &two)),
    ]
}

/// Reads a message that arrived on this link.
fn decode(message: &[u8], endpoints: Endpoints) -> Result<Advertisement, Malformed> {
    Advertisement::decode(message, endpoints, HOP_LIMIT)
}

/// The message with this change, and with a checksum that is right for it.
fn changed(message: &[u8], endpoints: Endpoints, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut message = message.to_vec();
    change(&mut message);
    message[6..8].fill(0);
    let checksum = sum(&message, Some(pseudo_header(endpoints)));
    message[6..8].copy_from_slice(&checksum);
    message
}

#[test]
fn recorded_messages_are_read_and_written_again() {
    for (message, endpoints, says) in recorded() {
        assert_eq!(decode(message, endpoints), Ok(says.clone()));
        assert_eq!(says.encode(endpoints, Checksum::PseudoHeader), message);
    }
}

#[test]
fn an_ipv4_checksum_may_leave_out_the_pseudo_header_and_an_ipv6_checksum_not() {
    for (message, endpoints, says) in recorded() {
        let plain = says.encode(endpoints, Checksum::Plain);
        assert_eq!(decode(&plain, endpoints), Ok(says));
        assert_eq!(plain == message, endpoints.source.is_ipv6());
        assert_eq!(plain[..6], message[..6]);
        assert_eq!(plain[8..], message[8..]);
    }
    // 3133 + c801 + 0064 + 0a4d + 0064 = 10449, folded 44a, inverted fbb5.
    let (_, endpoints, says) = &recorded()[0];
    let plain = says.encode(*endpoints, Checksum::Plain);
    assert_eq!(plain[6..8], [0xfb, 0xb5]);
    // An IPv6 message whose sum is right without the pseudo-header.
    let mut plain = ONE_IPV6.to_vec();
    plain[6..8].fill(0);
    let checksum = sum(&plain, None);
    plain[6..8].copy_from_slice(&checksum);
    assert_eq!(decode(&plain, multicast_ipv6()), Err(Malformed::Checksum));
}

#[test]
fn a_message_between_other_endpoints_is_refused() {
    let other = endpoints("10.77.0.3", "224.0.0.18");
    assert_eq!(decode(ONE_IPV4, other), Err(Malformed::Checksum));
    let other = endpoints("fe80::ff:fe00:b", "ff02::12");
    assert_eq!(decode(ONE_IPV6, other), Err(Malformed::Checksum));
}

#[test]
fn a_message_with_one_bit_flipped_is_refused() {
    for (message, endpoints, says) in recorded() {
        for message in [message.to_vec(), says.encode(endpoints, Checksum::Plain)] {
            for bit in 0..message.len() * 8 {
                let mut flipped = message.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(decode(&flipped, endpoints).is_err(), "bit {bit}");
            }
        }
    }
}

#[test]
fn a_message_of_another_length_is_refused() {
    for (message, endpoints, _) in recorded() {
        for length in 0..message.len() {
            let expected = if length < 8 {
                Malformed::Short
            } else {
                Malformed::Length
            };
            assert_eq!(decode(&message[..length], endpoints), Err(expected));
        }
        for more in 1..=20 {
            let longer = changed(message, endpoints, |message| {
                message.extend(vec![0; more]);
            });
            assert_eq!(decode(&longer, endpoints), Err(Malformed::Length));
        }
    }
}

#[test]
fn each_reason_to_refuse_a_message_has_its_name() {
    let refused = |message: &[u8]| decode(message, multicast_ipv4()).unwrap_err();
    let with = |place: usize, byte: u8| {
        changed(ONE_IPV4, multicast_ipv4(), |message| message[place] = byte)
    };
    let found = [
        Advertisement::decode(ONE_IPV4, multicast_ipv4(), 254).unwrap_err(),
        refused(&[]),
        refused(&[0x31; 7]),
        refused(&with(0, 0x21)),
        refused(&with(0, 0x41)),
        refused(&with(0, 0x32)),
        refused(&with(3, 0)),
        refused(&with(3, 2)),
        refused(&[0; 12]),
        refused(&[0xff; 12]),
        refused(&with(1, 0)),
        refused(&with(5, 0)),
    ];
    assert_eq!(
        found.map(Malformed::name),
        [
            "hop-limit",
            "short",
            "short",
            "version-2",
            "version",
            "type",
            "no-address",
            "length",
            "version",
            "version",
            "router-id",
            "interval",
        ]
    );
    let mut wrong = ONE_IPV4.to_vec();
    wrong[6] ^= 1;
    assert_eq!(refused(&wrong), Malformed::Checksum);
    assert_eq!(
        Malformed::Version2.to_string(),
        "it is of VRRP version 2: set its sender to version 3"
    );
    // Whatever else is wrong: what may be from elsewhere is not looked at.
    assert_eq!(
        Advertisement::decode(&[], multicast_ipv4(), 64),
        Err(Malformed::HopLimit)
    );
}

#[test]
fn reserved_bits_are_ignored() {
    let (_, endpoints, says) = &recorded()[0];
    let message = changed(ONE_IPV4, *endpoints, |message| message[4] |= 0xf0);
    assert_eq!(decode(&message, *endpoints).as_ref(), Ok(says));
}

#[test]
fn an_interval_is_a_whole_number_of_centiseconds() {
    let from = |milliseconds| Interval::from_duration(Duration::from_millis(milliseconds));
    assert_eq!(from(10), Some(Interval::MIN));
    assert_eq!(from(40_950), Some(Interval::MAX));
    for refused in [0, 9, 15, 40_951, 40_960, u64::MAX] {
        assert_eq!(from(refused), None, "{refused}");
    }
    let interval = from(1_250).unwrap();
    assert_eq!(interval.to_string(), "1s250ms");
    assert_eq!(interval.centiseconds(), 125);
    assert_eq!(Duration::from(interval), Duration::from_millis(1_250));
}

/// Advertisements of one family, with their endpoints.
fn advertisement() -> impl Strategy<Value = (Advertisement, Endpoints)> {
    let address = |is_ipv4: bool| {
        if is_ipv4 {
            any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
        } else {
            any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
        }
    };
    any::<bool>().prop_flat_map(move |is_ipv4| {
        let addresses = prop::collection::vec(address(is_ipv4), 1..=255);
        let endpoints = (address(is_ipv4), address(is_ipv4));
        let numbers = (1..=u8::MAX, any::<u8>(), 1..=4095_u16);
        (numbers, addresses, endpoints).prop_map(|(numbers, addresses, (source, destination))| {
            let (router_id, priority, centiseconds) = numbers;
            let advertisement = Advertisement {
                router_id,
                priority,
                interval: Interval::from_centiseconds(centiseconds).unwrap(),
                addresses,
            };
            let endpoints = Endpoints {
                source,
                destination,
            };
            (advertisement, endpoints)
        })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        (advertisement, endpoints) in advertisement(),
        plain in any::<bool>(),
    ) {
        let checksum = if plain { Checksum::Plain } else { Checksum::PseudoHeader };
        let message = advertisement.encode(endpoints, checksum);
        prop_assert_eq!(decode(&message, endpoints), Ok(advertisement));
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        message in fuzz::bytes(SEEDS),
        hop_limit in prop_oneof![Just(HOP_LIMIT), any::<u8>()],
    ) {
        for endpoints in [multicast_ipv4(), unicast_ipv4(), multicast_ipv6()] {
            match Advertisement::decode(&message, endpoints, hop_limit) {
                Ok(advertisement) => {
                    let written = advertisement.encode(endpoints, Checksum::PseudoHeader);
                    prop_assert_eq!(decode(&written, endpoints), Ok(advertisement));
                }
                Err(malformed) => {
                    prop_assert!(fuzz::is_printable_line(&malformed.to_string()));
                }
            }
        }
    }
}
