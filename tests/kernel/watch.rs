//! The watch thread's socket fails, and is opened again; and changes bump only the versions that they affect.

use std::{
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use balancer_common::{
    addr::Addr,
    next_hop::{NEXT_HOPS, NextHop, RouteVersions, slot},
};
use balancer_ctl::dataplane::{Dataplane, kernel::KernelDataplane};

use crate::scene::{Scene, all, both, connect, maintain_until, start_reals};

/// This process's sockets that listen to netlink groups, as the kernel lists them in this thread's network namespace.
fn listeners() -> Vec<RawFd> {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let inodes: Vec<_> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            let groups = u32::from_str_radix(columns[3], 16).unwrap();
            (columns[1] == "0" && groups != 0).then(|| format!("socket:[{}]", columns[9]))
        })
        .collect();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let target = std::fs::read_link(&path).ok()?;
            let is_one = inodes
                .iter()
                .any(|inode| target.as_os_str() == inode.as_str());
            is_one.then(|| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
        })
        .collect()
}

/// Replaces the socket's descriptor by a file, so that reading from it fails.
fn break_listener() {
    let [listener] = listeners()[..] else {
        panic!("one socket listens: {:?}", listeners());
    };
    let file = std::fs::File::open("/dev/null").unwrap();
    // SAFETY: the descriptor is open, as was just seen, and whoever closes it closes the file in its place.
    let mut listener = unsafe { OwnedFd::from_raw_fd(listener) };
    nix::unistd::dup2(&file, &mut listener).unwrap();
    std::mem::forget(listener);
}

/// The values of `watch_failure` in turn while maintenance runs, until `until`.
fn heard(
    dataplane: &mut KernelDataplane,
    until: impl Fn(&[Option<String>]) -> bool,
) -> Vec<Option<String>> {
    let start = Instant::now();
    let mut heard: Vec<Option<String>> = Vec::new();
    while !until(&heard) {
        assert!(start.elapsed() < Duration::from_secs(15), "{heard:?}");
        dataplane.run_maintenance().unwrap();
        let now = dataplane.watch_failure().map(str::to_owned);
        if heard.last() != Some(&now) {
            heard.push(now);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    heard
}

/// Whether there is an obstacle on the route to the first real server.
fn is_unreachable(dataplane: &mut KernelDataplane) -> bool {
    let real = "10.0.1.2".parse().unwrap();
    dataplane.status().unwrap().obstacles.contains_key(&real)
}

#[test]
fn a_socket_that_fails_is_replaced_and_what_was_missed_is_made_up_for() {
    let scene = Scene::new();
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        assert_eq!(heard(dataplane, |heard| !heard.is_empty()), [None]);
        assert!(!is_unreachable(dataplane));
        break_listener();
        assert_eq!(
            heard(dataplane, |heard| heard.len() == 3),
            [
                None,
                Some("Socket operation on non-socket (os error 88)".to_owned()),
                None
            ]
        );
        // The new socket gets notifications.
        assert_eq!(listeners().len(), 1);
        scene
            .balancer
            .ip("route add blackhole 10.0.1.2/32")
            .unwrap();
        maintain_until(dataplane, is_unreachable);
        scene
            .balancer
            .ip("route del blackhole 10.0.1.2/32")
            .unwrap();
        maintain_until(dataplane, |dataplane| !is_unreachable(dataplane));

        // A change while no socket is open is noticed, too.
        break_listener();
        heard(dataplane, |heard| heard.last().is_some_and(Option::is_some));
        scene
            .balancer
            .ip("route add blackhole 10.0.1.2/32")
            .unwrap();
        maintain_until(dataplane, is_unreachable);
    });
}

/// Versions of routes by slot, and the next hops that are in use.
fn versions(scene: &Scene) -> (Vec<u32>, Vec<NextHop>) {
    let routes: RouteVersions = scene.array("ROUTE_VERSIONS").get(&0, 0).unwrap();
    let hops = scene.array::<NextHop>("NEXT_HOPS");
    let hops = (0..NEXT_HOPS).map(|index| hops.get(&index, 0).unwrap());
    let used = hops.filter(|hop| hop.version != 0).collect();
    (routes.of.to_vec(), used)
}

#[test]
fn a_route_or_a_neighbour_that_changes_costs_nobody_else_a_look_up() {
    let scene = Scene::new();
    start_reals(&scene);
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let _streams = [connect(&scene), connect(&scene)];
        let settle = |dataplane: &mut KernelDataplane| {
            for _ in 0..10 {
                dataplane.run_maintenance().unwrap();
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        settle(dataplane);
        let (routes, hops) = versions(&scene);
        let address = |text: &str| Addr::from(text.parse::<std::net::IpAddr>().unwrap());
        // The client and both real servers.
        assert_eq!(hops.len(), 3, "{hops:?}");
        // A route to other addresses.
        scene
            .balancer
            .ip("route add 198.51.100.0/24 via 10.0.2.2")
            .unwrap();
        settle(dataplane);
        let (after, hops_after) = versions(&scene);
        let changed: Vec<_> = (0..routes.len())
            .filter(|slot| routes[*slot] != after[*slot])
            .collect();
        assert_eq!(changed, [slot(&address("198.51.100.1"))]);
        assert_eq!(hops_after, hops);
        // A neighbour that is no flow's next hop.
        scene
            .balancer
            .ip("neigh replace 10.0.2.77 lladdr 02:00:00:00:00:77 dev port2")
            .unwrap();
        settle(dataplane);
        assert_eq!(versions(&scene), (after.clone(), hops.clone()));
        // A neighbour that is a next hop.
        scene
            .balancer
            .ip("neigh replace 10.0.1.2 lladdr 02:00:00:00:00:12 dev port1")
            .unwrap();
        settle(dataplane);
        let (last, hops_last) = versions(&scene);
        assert_eq!(last, after);
        for (before, now) in hops.iter().zip(&hops_last) {
            let is_it = before.address == address("10.0.1.2");
            assert_eq!(before.address, now.address);
            assert_eq!(before.version != now.version, is_it, "{before:?} {now:?}");
            assert!(now.version.is_multiple_of(2));
        }
        // A default route: all flows look their routes up again.
        scene
            .balancer
            .ip("route add default via 10.0.2.2 metric 77")
            .unwrap();
        settle(dataplane);
        let (all, _) = versions(&scene);
        assert!(all.iter().zip(&last).all(|(now, before)| now > before));
    });
}
