//! Real servers that packets cannot reach by the host's routes.

use std::collections::BTreeMap;

use balancer_ctl::{
    dataplane::{Dataplane, Service, kernel::KernelDataplane},
    netlink::local::Kind,
};

use crate::scene::{Scene, all, maintain_until, service, settings};

/// A service for each family with such real servers.
fn services(reals: &[&str]) -> Vec<Service> {
    let [v6, v4] = [true, false].map(|is_v6| {
        let reals: Vec<_> = reals
            .iter()
            .filter(|real| real.starts_with('[') == is_v6)
            .map(|real| (*real, 1))
            .collect();
        let vip = if is_v6 {
            "[2001:db8::80]:80"
        } else {
            "192.168.1.35:80"
        };
        service(vip, &reals)
    });
    vec![v4, v6]
}

fn obstacles(dataplane: &mut KernelDataplane) -> BTreeMap<String, String> {
    let status = dataplane.status().unwrap();
    let text = status.obstacles.iter();
    text.map(|(real, sentence)| (real.to_string(), sentence.clone()))
        .collect()
}

#[test]
fn each_real_server_that_packets_cannot_reach_is_reported_until_it_can_be_reached() {
    let scene = Scene::new();
    let balancer = &scene.balancer;
    balancer.address("port1", "fd00:1::1/64").unwrap();
    balancer.address("port2", "fd00:2::1/64").unwrap();
    for route in [
        "route add blackhole 10.9.1.0/24",
        "route add unreachable 10.9.2.0/24",
        "route add prohibit 10.9.3.0/24",
        "route add 10.9.4.0/24 dev lo",
        "-6 route add blackhole fd09:1::/64",
        "-6 route add unreachable fd09:2::/64",
        "-6 route add prohibit fd09:3::/64",
        "-6 route add fd09:4::/64 dev lo",
        "route add 10.9.5.0/24 via 10.0.1.2",
    ] {
        balancer.ip(route).unwrap();
    }
    let services = services(&[
        "10.0.1.2:80",
        "10.9.5.2:80",
        "10.0.1.1:80",
        "10.0.1.255:80",
        "10.9.1.2:80",
        "10.9.2.2:80",
        "10.9.3.2:80",
        "10.9.4.2:80",
        "10.9.9.9:80",
        "10.0.2.2:80",
        "[fd00:1::2]:80",
        "[fd00:1::1]:80",
        "[fd09:1::2]:80",
        "[fd09:2::2]:80",
        "[fd09:3::2]:80",
        "[fd09:4::2]:80",
        "[fd09:9::9]:80",
        "[fd00:2::2]:80",
    ]);
    let mut expected = BTreeMap::new();
    for (net, name) in [(1, "blackhole"), (2, "unreachable"), (3, "prohibit")] {
        for real in [format!("10.9.{net}.2"), format!("fd09:{net}::2")] {
            let sentence = format!("the route to {real} is of type {name}: change the route");
            expected.insert(real, sentence);
        }
    }
    for real in ["10.0.1.1", "fd00:1::1"] {
        let sentence = format!("{real} is an address of this host: name another host's address");
        expected.insert(real.into(), sentence);
    }
    expected.insert(
        "10.0.1.255".into(),
        "10.0.1.255 is the broadcast address of a connected network: name a host's address".into(),
    );
    for real in ["10.9.4.2", "fd09:4::2"] {
        let sentence =
            format!("the route to {real} leads to the loopback interface: change the route");
        expected.insert(real.into(), sentence);
    }
    for real in ["10.9.9.9", "fd09:9::9"] {
        let sentence = format!("this host has no route to {real}: add one with `ip route add`");
        expected.insert(real.into(), sentence);
    }
    for real in ["10.0.2.2", "fd00:2::2"] {
        let sentence = format!(
            "the route to {real} leads over port2, which is not among `interfaces` of [dataplane]: add port2 there, or change the \
             route"
        );
        expected.insert(real.into(), sentence);
    }
    scene.with(settings(&["outside", "port1"]), |dataplane| {
        dataplane.reconcile(&services).unwrap();
        assert_eq!(obstacles(dataplane), expected);

        // Each obstacle goes with its cause.
        dataplane.configure(&all()).unwrap();
        for real in ["10.0.2.2", "fd00:2::2"] {
            expected.remove(real);
        }
        maintain_until(dataplane, |dataplane| obstacles(dataplane) == expected);
        balancer.ip("route add 10.9.9.0/24 via 10.0.1.2").unwrap();
        balancer.ip("-6 route del blackhole fd09:1::/64").unwrap();
        balancer
            .ip("-6 route add fd09:1::/64 via fd00:1::2")
            .unwrap();
        balancer.ip("route del blackhole 10.9.1.0/24").unwrap();
        expected.remove("10.9.9.9");
        expected.remove("fd09:1::2");
        let sentence = "this host has no route to 10.9.1.2: add one with `ip route add`";
        expected.insert("10.9.1.2".into(), sentence.into());
        maintain_until(dataplane, |dataplane| obstacles(dataplane) == expected);

        // And appears with it: the host gets the real server's address.
        balancer.address("port1", "10.0.1.2/32").unwrap();
        let sentence = "10.0.1.2 is an address of this host: name another host's address";
        expected.insert("10.0.1.2".into(), sentence.into());
        maintain_until(dataplane, |dataplane| obstacles(dataplane) == expected);
        let local = dataplane.local_addresses().unwrap();
        let kinds = ["10.0.1.2", "10.0.1.255", "10.0.1.3"]
            .map(|address| local.kind(address.parse().unwrap()));
        assert_eq!(kinds, [Some(Kind::Local), Some(Kind::Broadcast), None]);

        // A real server that is removed is not reported any more.
        dataplane.reconcile(&[]).unwrap();
        maintain_until(dataplane, |dataplane| obstacles(dataplane).is_empty());
    });
}
