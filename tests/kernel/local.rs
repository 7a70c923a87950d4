//! Which addresses count as this host's own.

use std::collections::BTreeSet;

use balancer_ctl::netlink::{
    Netlink,
    local::{Kind, LocalAddresses, list},
};
use balancer_tests::privileged;
use xtask::lab::Namespace;

/// All local and broadcast routes of a namespace, as text.
fn listed(namespace: &Namespace) -> BTreeSet<String> {
    let routes = namespace
        .run(|| list(&mut Netlink::open().unwrap()).unwrap())
        .unwrap();
    let text = |route: &balancer_ctl::netlink::local::LocalRoute| match route.kind {
        Kind::Local => route.prefix.to_string(),
        Kind::Broadcast => format!("broadcast {}", route.prefix),
    };
    routes.iter().map(text).collect()
}

fn set(lines: &[&str]) -> BTreeSet<String> {
    lines.iter().map(ToString::to_string).collect()
}

#[test]
fn own_and_broadcast_addresses_are_those_of_the_kernels_tables() {
    if privileged::skipped() {
        return;
    }
    Namespace::sweep("local");
    let namespace = Namespace::new("local").unwrap();
    let lo = [
        "127.0.0.0/8",
        "127.0.0.1",
        "broadcast 127.255.255.255",
        "::1",
    ];
    assert_eq!(listed(&namespace), set(&lo));

    let other = Namespace::new("local").unwrap();
    namespace.connect("inside", &other, "eth0").unwrap();
    // So that its link-local IPv6 address is known.
    namespace
        .ip("link set dev inside address 02:00:00:00:00:01 down")
        .unwrap();
    namespace.ip("link set dev inside up").unwrap();
    namespace.address("inside", "192.168.0.1/24").unwrap();
    // A /31 network, with a broadcast address outside of it.
    namespace
        .ip("address add 10.9.0.1/31 broadcast 10.9.0.255 dev inside")
        .unwrap();
    namespace.address("inside", "fd00::1/64").unwrap();
    namespace
        .ip("route add local 198.51.100.0/24 dev lo")
        .unwrap();
    namespace
        .ip("-6 route add local 2001:db8:7::/48 dev lo")
        .unwrap();
    // As a VRF has it: put into a table of its own by the kernel.
    namespace
        .ip("route add local 203.0.113.9/32 dev lo table 77 proto kernel")
        .unwrap();
    namespace
        .ip("-6 route add local 2001:db8:9::9/128 dev lo table 77 proto kernel")
        .unwrap();
    // As a transparent proxy has it: for marked packets, whatever their destination.
    for (family, table) in [("", 100), ("-6 ", 1000)] {
        namespace
            .ip(&format!(
                "{family}route add local default dev lo table {table}"
            ))
            .unwrap();
    }
    let mut expected = set(&[
        "192.168.0.1",
        "broadcast 192.168.0.255",
        "10.9.0.1",
        "broadcast 10.9.0.255",
        "fd00::1",
        "fe80::ff:fe00:1",
        "198.51.100.0/24",
        "2001:db8:7::/48",
        "203.0.113.9",
        "2001:db8:9::9",
    ]);
    expected.extend(set(&lo));
    let found = listed(&namespace);
    assert_eq!(found, expected);

    // A host that forwards answers for the network's anycast address.
    namespace
        .sysctl("net.ipv6.conf.all.forwarding", "1")
        .unwrap();
    let anycast: BTreeSet<_> = listed(&namespace).difference(&found).cloned().collect();
    assert_eq!(anycast, set(&["fd00::", "fe80::"]));

    namespace
        .ip("address del 192.168.0.1/24 dev inside")
        .unwrap();
    let addresses = namespace
        .run(|| LocalAddresses::read(&mut Netlink::open().unwrap()).unwrap())
        .unwrap();
    let kinds = [
        "192.168.0.1",
        "192.168.0.255",
        "198.51.100.77",
        "fd00::1",
        "127.9.9.9",
    ]
    .map(|address| addresses.kind(address.parse().unwrap()));
    let local = Some(Kind::Local);
    assert_eq!(kinds, [None, None, local, local, local]);
}

#[test]
fn an_ipv6_address_is_ours_once_no_other_host_has_it() {
    if privileged::skipped() {
        return;
    }
    Namespace::sweep("local");
    let namespace = Namespace::new("local").unwrap();
    for name in ["all", "default"] {
        namespace
            .sysctl(&format!("net.ipv6.conf.{name}.accept_dad"), "1")
            .unwrap();
    }
    let other = Namespace::new("local").unwrap();
    namespace.connect("inside", &other, "eth0").unwrap();
    // The other host has the address, and answers duplicate address detection.
    other.address("eth0", "fd00::1/64").unwrap();
    namespace.ip("address add fd00::1/64 dev inside").unwrap();
    xtask::lab::wait_until(
        "duplicate detection to find the other host",
        std::time::Duration::from_secs(10),
        || {
            let shown = namespace.output("ip", &["-6", "address", "show", "dev", "inside"])?;
            Ok(shown.contains("dadfailed"))
        },
    )
    .unwrap();
    assert!(!listed(&namespace).contains("fd00::1"));
}
