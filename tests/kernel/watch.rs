//! The socket that hears of routes fails, and is opened again.

use std::{
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use balancer_ctl::dataplane::{Dataplane, kernel::KernelDataplane};

use crate::scene::{Scene, all, both};

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

/// Puts a file in the place of the socket, which then fails.
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

/// What `unwatched` says at each change of it, as the data plane is tended for a while.
fn heard(
    dataplane: &mut KernelDataplane,
    until: impl Fn(&[Option<String>]) -> bool,
) -> Vec<Option<String>> {
    let start = Instant::now();
    let mut heard: Vec<Option<String>> = Vec::new();
    while !until(&heard) {
        assert!(start.elapsed() < Duration::from_secs(15), "{heard:?}");
        dataplane.tend().unwrap();
        let now = dataplane.unwatched().map(str::to_owned);
        if heard.last() != Some(&now) {
            heard.push(now);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    heard
}

/// Whether the way to the first real server is another host's.
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
        // It hears again.
        assert_eq!(listeners().len(), 1);
        scene
            .balancer
            .ip("route add blackhole 10.0.1.2/32")
            .unwrap();
        crate::expiry::tend_until(dataplane, is_unreachable);
        scene
            .balancer
            .ip("route del blackhole 10.0.1.2/32")
            .unwrap();
        crate::expiry::tend_until(dataplane, |dataplane| !is_unreachable(dataplane));

        // What changes while it does not hear is followed, too.
        break_listener();
        heard(dataplane, |heard| heard.last().is_some_and(Option::is_some));
        scene
            .balancer
            .ip("route add blackhole 10.0.1.2/32")
            .unwrap();
        crate::expiry::tend_until(dataplane, is_unreachable);
    });
}
