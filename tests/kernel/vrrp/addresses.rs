//! Addresses that are added for a limited time, as the VIPs of an Active balancer are.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use balancer_ctl::netlink::{
    Netlink,
    address::{AddressFlags, InterfaceAddress, OUR_PROTOCOL, add, list, remove},
};
use balancer_tests::privileged;
use xtask::lab::Namespace;

use super::scene;

/// Both kinds of length of both families.
const ADDRESSES: [(&str, u8); 4] = [
    ("10.9.0.100", 24),
    ("192.0.2.80", 32),
    ("fd00:9::100", 64),
    ("2001:db8::80", 128),
];

fn addresses() -> [(IpAddr, u8); 4] {
    ADDRESSES.map(|(address, length)| (address.parse().unwrap(), length))
}

/// What the kernel has for an address.
fn find(netlink: &mut Netlink, address: IpAddr) -> Option<InterfaceAddress> {
    let all = list(netlink).unwrap();
    all.into_iter().find(|listed| listed.address == address)
}

/// The routes of the main tables that go out of an interface, as text.
fn routes(host: &Namespace) -> String {
    let of = |family| {
        let arguments = [family, "route", "show", "dev", "outside"];
        host.output("ip", &arguments).unwrap()
    };
    of("-4") + &of("-6")
}

#[test]
fn an_address_is_added_marked_renewed_and_removed() {
    if privileged::skipped() {
        return;
    }
    let [host, _other] = scene();
    let index = host.index("outside").unwrap();
    host.run(|| {
        let netlink = &mut Netlink::open().unwrap();
        let own = find(netlink, "10.9.0.1".parse().unwrap()).unwrap();
        assert_eq!((own.length, own.lifetime, own.protocol), (24, None, 0));
        for (address, length) in addresses() {
            let lifetime = Duration::from_millis(29_001);
            add(netlink, index, address, length, lifetime).unwrap();
            let added = find(netlink, address).unwrap();
            assert!(added.is_ours() && added.is_usable(), "{added:?}");
            assert_eq!(
                (added.index, added.length, added.protocol),
                (index, length, OUR_PROTOCOL)
            );
            let is_ipv6 = address.is_ipv6();
            for (flag, expected) in [
                (AddressFlags::Nodad, is_ipv6),
                (AddressFlags::Deprecated, is_ipv6),
                (AddressFlags::Noprefixroute, [32, 128].contains(&length)),
                (AddressFlags::Permanent, false),
            ] {
                assert_eq!(added.flags.contains(flag), expected, "{flag:?} {added:?}");
            }
            let seconds = |shown: InterfaceAddress| shown.lifetime.unwrap().as_secs();
            assert!((29..=30).contains(&seconds(added)));
            // Shorter and longer: from now on.
            for renewed in [10, 60] {
                let lifetime = Duration::from_secs(renewed);
                add(netlink, index, address, length, lifetime).unwrap();
                let shown = find(netlink, address).unwrap();
                assert!(shown.is_ours() && shown.is_usable(), "{shown:?}");
                assert!((renewed - 1..=renewed).contains(&seconds(shown)));
            }
        }
    })
    .unwrap();
    let shown = routes(&host);
    for (address, length) in ADDRESSES {
        let own_route = [32, 128].contains(&length) && shown.contains(address);
        assert!(!own_route, "{shown}");
    }
    host.run(|| {
        let netlink = &mut Netlink::open().unwrap();
        for (address, length) in addresses() {
            assert!(remove(netlink, index, address, length).unwrap());
            assert_eq!(find(netlink, address), None);
            assert!(!remove(netlink, index, address, length).unwrap());
            // An interface that has gone has no addresses.
            assert!(!remove(netlink, index + 77, address, length).unwrap());
            let added = add(
                netlink,
                index + 77,
                address,
                length,
                Duration::from_secs(10),
            );
            assert_eq!(added.unwrap_err().raw_os_error(), Some(libc::ENODEV));
        }
        // What was there before stays.
        for own in ["10.9.0.1", "fd00:9::1"] {
            assert!(find(netlink, own.parse().unwrap()).is_some());
        }
    })
    .unwrap();
}

#[test]
fn an_ipv6_address_is_usable_at_once_and_nobodys_source_by_itself() {
    if privileged::skipped() {
        return;
    }
    let [host, other] = scene();
    let index = host.index("outside").unwrap();
    other.address("eth0", "fd00:9::2/64").unwrap();
    let vip: IpAddr = "fd00:9::100".parse().unwrap();
    let peer = SocketAddr::new("fd00:9::2".parse().unwrap(), 9);
    host.run(|| {
        let netlink = &mut Netlink::open().unwrap();
        add(netlink, index, vip, 64, Duration::from_secs(30)).unwrap();
        // Bound at once: the kernel refuses an address while it is tentative.
        UdpSocket::bind(SocketAddr::new(vip, 0)).unwrap();
        let any = UdpSocket::bind("[::]:0").unwrap();
        any.connect(peer).unwrap();
        assert_eq!(any.local_addr().unwrap().ip().to_string(), "fd00:9::1");
    })
    .unwrap();
}

#[test]
fn an_address_that_is_not_renewed_expires() {
    if privileged::skipped() {
        return;
    }
    let [host, _other] = scene();
    let index = host.index("outside").unwrap();
    let lifetime = Duration::from_secs(3);
    host.run(|| {
        let netlink = &mut Netlink::open().unwrap();
        let [kept @ .., (dropped, dropped_length)] = addresses();
        add(netlink, index, dropped, dropped_length, lifetime).unwrap();
        let renewals = 4;
        for _ in 0..renewals {
            for (address, length) in kept {
                add(netlink, index, address, length, lifetime).unwrap();
            }
            std::thread::sleep(lifetime / 2);
        }
        // All have been there for 6 s; of the renewed ones at least 1.5 s are left.
        assert_eq!(find(netlink, dropped), None);
        let start = Instant::now();
        let mut left = kept.to_vec();
        while !left.is_empty() {
            let listed = list(netlink).unwrap();
            left.retain(|(address, _)| {
                let is_listed = listed.iter().any(|listed| listed.address == *address);
                if !is_listed {
                    let after = start.elapsed() + lifetime / 2;
                    println!("{address}: gone {after:?} after its last renewal, for {lifetime:?}");
                    assert!(after >= lifetime - Duration::from_millis(300), "{after:?}");
                }
                is_listed
            });
            let limit = lifetime / 2 + Duration::from_secs(3);
            assert!(start.elapsed() < limit, "{left:?} are still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    })
    .unwrap();
}
