//! Clients of a service while its VIP moves.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use balancer_tests::{
    client::Impatient,
    network::sysctl,
    pair::{GATEWAY, Pair, VIP, VIP6},
    privileged,
    topology::socket,
};
use xtask::lab::Process;

use crate::both_sides;

const LENGTH: usize = 30_000_000;
/// Three intervals and a skew, and as much again as a busy machine needs.
const DETECTED: Duration = Duration::from_millis(1500);
/// The kernel removes addresses that nobody renews: it counts in seconds.
const EXPIRED: Duration = Duration::from_secs(8);

/// A service by hash and one by turns, on a port each, for both families.
fn services() -> String {
    let mut text = String::new();
    for (vip, reals) in [
        (VIP.to_owned(), ["192.168.0.2", "192.168.0.3"]),
        (format!("[{VIP6}]"), ["[fd00:1::2]", "[fd00:1::3]"]),
    ] {
        for (port, scheduler) in [(80, "mh"), (81, "wrr")] {
            text +=
                &format!("[[service]]\naddress = \"{vip}:{port}\"\nscheduler = \"{scheduler}\"\n");
            for real in reals {
                text += &format!("[[service.real]]\naddress = \"{real}:80\"\n");
            }
        }
    }
    text
}

/// A download at 4 MB/s, which takes some seven seconds.
struct Download {
    curl: Process,
    copy: PathBuf,
    _folder: tempfile::TempDir,
}

impl Download {
    fn start(pair: &Pair, url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let copy = folder.path().join("copy");
        let mut curl = pair.client.command("curl");
        curl.args(["--silent", "--globoff", "--limit-rate", "4M", "-o"]);
        curl.arg(&copy).arg(url).stderr(Stdio::null());
        let curl = Process::spawn("a long download", &mut curl).expect("start curl");
        let download = Self {
            curl,
            copy,
            _folder: folder,
        };
        let start = Instant::now();
        while fs::metadata(&download.copy).map_or(0, |file| file.len()) == 0 {
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{url} does not begin"
            );
            thread::sleep(Duration::from_millis(10));
        }
        download
    }
}

/// The network with both nodes and all services, the first node Active. The client's kernel holds hardly more of a download than curl
/// has read: else a download that has lost its server goes on from what has arrived, to its end if all has.
fn network() -> Pair {
    let mut pair = Pair::new(2, 2);
    let hold = || sysctl("ipv4/tcp_rmem", "4096 131072 524288");
    pair.client.run(hold).expect("enter the client's namespace");
    for real in &pair.reals {
        fs::write(real.folder().join("file"), vec![0x5a; LENGTH]).expect("a file");
    }
    let config = |priority, more: &str| both_sides(priority, more) + &services();
    pair.start_first_active(config, &[200, 100], "");
    pair.wait_for(GATEWAY, &[0]);
    pair
}

#[test]
fn a_client_waits_for_the_other_node() {
    if privileged::skipped() {
        return;
    }
    let mut pair = network();
    let impatient = Impatient::start(&pair.client, socket(VIP, 80));
    let impatient6 = Impatient::start(&pair.client, socket(VIP6, 80));
    // On purpose: hardly a packet is lost.
    pair.nodes[0].daemon().ctl("failover");
    pair.wait_for_within(VIP, &[1], DETECTED);
    for gap in [impatient.finish(), impatient6.finish()] {
        assert!(gap < Duration::from_millis(1000), "{gap:?}");
    }

    // The daemon is killed, which its guard says.
    let impatient = Impatient::start(&pair.client, socket(VIP, 80));
    pair.nodes[1].kill();
    pair.wait_for_within(VIP, &[0], DETECTED);
    let gap = impatient.finish();
    assert!(gap < DETECTED, "{gap:?}");

    // The machine is dead.
    pair.nodes[1].daemon_mut().restart();
    pair.nodes[1].wait_for_status("the Active node", |status| {
        status["high_availability"] == true
    });
    let impatient = Impatient::start(&pair.client, socket(VIP, 80));
    let impatient6 = Impatient::start(&pair.client, socket(VIP6, 80));
    pair.die(0);
    pair.wait_for_within(VIP, &[1], EXPIRED);
    for gap in [impatient.finish(), impatient6.finish()] {
        assert!(gap < DETECTED, "{gap:?}");
    }
}

/// Services whose real servers are asked for a page.
fn checked(priority: u8, more: &str) -> String {
    let mut text = both_sides(priority, more);
    for line in services().lines() {
        text += &format!("{line}\n");
        if line.starts_with("scheduler") {
            text +=
                "[[service.check]]\ntype = \"http\"\ninterval = \"100ms\"\ntimeout = \"100ms\"\n";
        }
    }
    text
}

/// No node has a checker that is down.
fn assert_nothing_is_down(pair: &Pair) {
    for node in &pair.nodes {
        let health = node.daemon().json("health");
        let mut checkers = health["checkers"].as_array().expect("checkers").iter();
        assert_eq!(checkers.len(), 4, "{health:#}");
        assert!(checkers.all(|one| one["state"] != "down"), "{health:#}");
    }
}

#[test]
fn pages_of_real_servers_reach_the_probes_of_both_nodes() {
    if privileged::skipped() {
        return;
    }
    let mut pair = Pair::new(2, 2);
    pair.start_first_active(checked, &[200, 100], "");
    let watch = |pair: &Pair| {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            assert_nothing_is_down(pair);
            thread::sleep(Duration::from_millis(100));
        }
    };
    watch(&pair);
    // What real servers send may be of another node's connections for some time after the failover.
    pair.nodes[0].daemon().ctl("failover");
    pair.wait_for_within(VIP, &[1], DETECTED);
    watch(&pair);
    let health = pair.nodes[1].daemon().json("health");
    let mut checkers = health["checkers"].as_array().expect("checkers").iter();
    assert!(checkers.all(|one| one["state"] == "up"), "{health:#}");
}

#[test]
fn a_download_by_turns_ends_soon() {
    if privileged::skipped() {
        return;
    }
    let mut pair = network();
    for from in 0..2 {
        let mut by_turns = Download::start(&pair, &format!("http://{VIP}:81/file"));
        match from {
            0 => drop(pair.nodes[0].daemon().ctl("failover")),
            _ => pair.nodes[1].kill(),
        }
        pair.wait_for_within(VIP, &[1 - from], DETECTED);
        // The real server's data ask the client: what is lost five times in a row is sent again after 12.6 s.
        let ended = by_turns.curl.wait(Duration::from_secs(15));
        let status = ended.expect("the download by turns ends");
        assert!(!status.success(), "{status}");
    }
}

#[test]
fn a_long_download_by_hash_survives() {
    if privileged::skipped() {
        return;
    }
    let mut pair = network();
    let mut by_hash = [
        Download::start(&pair, &format!("http://{VIP}/file")),
        Download::start(&pair, &format!("http://[{VIP6}]/file")),
    ];
    pair.nodes[0].daemon().ctl("failover");
    pair.wait_for_within(VIP, &[1], DETECTED);
    thread::sleep(Duration::from_secs(1));
    pair.nodes[1].kill();
    pair.wait_for_within(VIP, &[0], DETECTED);
    for download in &mut by_hash {
        let ended = download.curl.wait(Duration::from_secs(20));
        let status = ended.expect("the download ends");
        assert!(status.success(), "{status}");
        let copy = fs::read(&download.copy).expect("the copy");
        assert!(copy == vec![0x5a; LENGTH], "{} bytes", copy.len());
    }
}
