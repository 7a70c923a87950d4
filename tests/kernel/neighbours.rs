//! Next hops that do not resolve: how often they are probed, and that the kernel's table keeps room for others.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use balancer_ctl::{
    dataplane::{Dataplane, Service, kernel::KernelDataplane},
    netlink::{
        Netlink,
        neighbour::{self, Neighbour},
        neighbour_table::{self, NeighbourTable},
    },
};

use crate::scene::{Scene, all, maintain_within, service};

/// What was observed while the data plane's maintenance ran.
#[derive(Debug, Default)]
struct Observed {
    /// Frames that arrived in the real servers' network.
    requests: u64,
    /// The most entries in the machine's table of this family.
    most_entries: usize,
    /// The most unresolved ones in this namespace.
    most_unresolved: usize,
}

/// Frames that an interface of the first real server's namespace has received.
fn received(scene: &Scene) -> u64 {
    let shown = scene.reals[0]
        .output("ip", &["-s", "-json", "link", "show", "dev", "eth0"])
        .unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

fn table(is_v6: bool) -> NeighbourTable {
    neighbour_table::read(&mut Netlink::open().unwrap()).unwrap()[usize::from(is_v6)]
}

fn entries(is_v6: bool) -> Vec<(IpAddr, Neighbour)> {
    let all = neighbour::list(&mut Netlink::open().unwrap()).unwrap();
    all.into_iter()
        .map(|((_, address), entry)| (address, entry))
        .filter(|(address, entry)| address.is_ipv6() == is_v6 && !entry.fixed)
        .collect()
}

/// Runs the data plane's maintenance as the daemon does.
fn maintain_for(
    scene: &Scene,
    dataplane: &mut KernelDataplane,
    is_v6: bool,
    duration: Duration,
) -> Observed {
    let before = received(scene);
    let start = Instant::now();
    let mut seen = Observed::default();
    while start.elapsed() < duration {
        dataplane.run_maintenance().unwrap();
        seen.most_entries = seen.most_entries.max(table(is_v6).entries);
        let unresolved = entries(is_v6)
            .iter()
            .filter(|(_, entry)| entry.mac.is_none())
            .count();
        seen.most_unresolved = seen.most_unresolved.max(unresolved);
        std::thread::sleep(dataplane.next_maintenance());
    }
    seen.requests = received(scene) - before;
    seen
}

/// 10,000 real servers in a connected network, none of which exists.
fn nobody(address: impl Fn(u32, u32) -> String, vip: impl Fn(u32) -> String) -> Vec<Service> {
    (0..10)
        .map(|number| {
            let reals: Vec<_> = (0..1000)
                .map(|last| format!("{}:80", address(number + 1, last)))
                .collect();
            let reals: Vec<_> = reals.iter().map(|real| (real.as_str(), 1)).collect();
            service(&vip(number), &reals)
        })
        .collect()
}

/// Whether a datagram to an address makes the kernel resolve it within 2 s.
fn resolves(address: &str) -> bool {
    let address: IpAddr = address.parse().unwrap();
    let from = if address.is_ipv6() {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(from).unwrap();
    let start = Instant::now();
    // Refused when the table is full.
    let mut sent = socket.send_to(b"?", SocketAddr::new(address, 9));
    while start.elapsed() < Duration::from_secs(2) {
        let entries = entries(address.is_ipv6());
        if entries
            .iter()
            .any(|(other, entry)| *other == address && entry.mac.is_some())
        {
            return true;
        }
        if sent.is_err() {
            sent = socket.send_to(b"?", SocketAddr::new(address, 9));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn ten_thousand_real_servers_that_are_not_there_leave_the_table_to_others() {
    let scene = Scene::new();
    scene.balancer.address("port1", "10.16.0.1/16").unwrap();
    scene.reals[0].address("eth0", "10.16.255.1/16").unwrap();
    let services = nobody(
        |number, last| format!("10.16.{}.{}", number * 4 + last / 250, last % 250 + 1),
        |number| format!("192.168.1.35:{}", 1000 + number),
    );
    scene.with(all(), |dataplane| {
        let before = table(false);
        let before_frames = received(&scene);
        dataplane.reconcile(&services).unwrap();
        let seen = maintain_for(&scene, dataplane, false, Duration::from_secs(6));
        assert!(resolves("10.16.255.1"), "{seen:?}");
        let later = maintain_for(&scene, dataplane, false, Duration::from_secs(6));
        let requests = received(&scene) - before_frames;
        println!(
            "IPv4: {before:?} before; {requests} frames in 12 s; {seen:?}, then {later:?}, {:?} at the end",
            table(false)
        );
        // 256 at a time, three requests in three seconds each.
        assert!((1_000..4_500).contains(&requests), "{requests}");
        for seen in [&seen, &later] {
            assert!(seen.most_unresolved <= 256, "{seen:?}");
        }
        let reported = dataplane.status().unwrap().warnings;
        let limits = ": nsenter --net=/proc/1/ns/net sysctl -w net.ipv4.neigh.default.gc_thresh3=16384";
        assert!(
            reported.iter().any(|warning| {
                warning.contains(" need 10002 IPv4 neighbours") || warning.contains(" need 10000 IPv4 neighbours")
            }) && reported.iter().any(|warning| warning.ends_with(limits)),
            "{reported:?}"
        );

        // Each gets its turn: one of the last is found when it appears.
        dataplane.reconcile(&[]).unwrap();
        let few: Vec<_> = services.into_iter().take(1).collect();
        dataplane.reconcile(&few).unwrap();
        scene.reals[0].address("eth0", "10.16.7.250/16").unwrap();
        let appears: IpAddr = "10.16.7.250".parse().unwrap();
        let is_managed = || {
            let entries = entries(false);
            entries.iter().any(|(address, entry)| *address == appears && entry.managed)
        };
        let start = Instant::now();
        maintain_within(Duration::from_secs(40), dataplane, |_| is_managed());
        println!("one that appeared among 1,000 was found after {:?}", start.elapsed());
        assert_eq!(entries(false).iter().filter(|(_, entry)| entry.managed).count(), 1);

        // The entry of one that stops answering does not stay managed.
        scene.reals[0].ip("address del 10.16.7.250/16 dev eth0").unwrap();
        scene.balancer.ip("neighbour flush dev port1 nud reachable").unwrap();
        maintain_within(Duration::from_secs(40), dataplane, |_| !is_managed());
    });
}

#[test]
fn ten_thousand_ipv6_real_servers_that_are_not_there_leave_the_table_to_others() {
    let scene = Scene::new();
    scene.balancer.address("port1", "fd16::1/64").unwrap();
    scene.reals[0].address("eth0", "fd16::ffff:1/64").unwrap();
    let services = nobody(
        |number, last| format!("[fd16::{number}:{:x}]", last + 1),
        |number| format!("[2001:db8::80]:{}", 1000 + number),
    );
    scene.with(all(), |dataplane| {
        let before_frames = received(&scene);
        dataplane.reconcile(&services).unwrap();
        let seen = maintain_for(&scene, dataplane, true, Duration::from_secs(6));
        let requests = received(&scene) - before_frames;
        assert!(resolves("fd16::ffff:1"), "{seen:?}");
        println!(
            "IPv6: {requests} frames in 6 s; {seen:?}, {:?} at the end",
            table(true)
        );
        assert!((500..2_500).contains(&requests), "{requests}");
        assert!(seen.most_unresolved <= 256, "{seen:?}");
        let reported = dataplane.status().unwrap().warnings;
        let limits =
            ": nsenter --net=/proc/1/ns/net sysctl -w net.ipv6.neigh.default.gc_thresh3=16384";
        assert!(
            reported.iter().any(|warning| warning.ends_with(limits)),
            "{reported:?}"
        );
    });
}

#[test]
fn real_servers_that_answer_are_all_found_at_once_and_kept() {
    const ANSWERING: usize = 800;
    let scene = Scene::new();
    scene.balancer.address("port1", "10.16.0.1/16").unwrap();
    scene.reals[0].address("eth0", "10.16.255.1/16").unwrap();
    // All of them are one host.
    scene.reals[0]
        .ip("route add local 10.16.64.0/18 dev eth0")
        .unwrap();
    let reals: Vec<_> = (0..ANSWERING)
        .map(|number| format!("10.16.{}.{}:80", number / 250 + 64, number % 250 + 1))
        .collect();
    let reals: Vec<_> = reals.iter().map(|real| (real.as_str(), 1)).collect();
    let services = vec![service("192.168.1.35:80", &reals)];
    scene.with(all(), |dataplane| {
        let managed = || {
            let entries = entries(false);
            entries.iter().filter(|(_, entry)| entry.managed).count()
        };
        let start = Instant::now();
        let before = received(&scene);
        dataplane.reconcile(&services).unwrap();
        maintain_within(Duration::from_secs(20), dataplane, |_| {
            managed() >= ANSWERING
        });
        let requests = received(&scene) - before;
        println!(
            "{ANSWERING} answered and are managed after {:?} and {requests} frames",
            start.elapsed()
        );
        assert!((800..1000).contains(&requests), "{requests}");
        let seen = maintain_for(&scene, dataplane, false, Duration::from_secs(7));
        assert_eq!(
            (managed(), seen.most_unresolved),
            (ANSWERING, 0),
            "{seen:?}"
        );
        assert_eq!(dataplane.status().unwrap().warnings, Vec::<String>::new());
    });
}
