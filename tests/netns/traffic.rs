//! Requests, datagrams and downloads through the balancer.

use std::process::Command;

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, CLIENT, CLIENT6, Topology, VIP, VIP6, run},
};

use crate::shares;

/// Sets up both families with `balancer-ctl`, as an operator does.
pub fn add_web(daemon: &Daemon, scheduler: &str, weights: [u32; 2]) {
    for (vip, first, second) in [
        (VIP.to_owned(), "192.168.0.2", "192.168.0.3"),
        (format!("[{VIP6}]"), "[fd00:1::2]", "[fd00:1::3]"),
    ] {
        daemon.ctl(&format!("add-service {vip}:80 -s {scheduler}"));
        for (real, weight) in [first, second].iter().zip(weights) {
            daemon.ctl(&format!("add-real {real}:80 -t {vip}:80 -w {weight}"));
        }
    }
}

/// 400 connections of each family: the answers repeat `pattern`, and the counters say the same.
fn assert_pattern(topology: &Topology, daemon: &Daemon, pattern: &[&str]) {
    for (url, service) in [
        (format!("http://{VIP}/"), 0),
        (format!("http://[{VIP6}]/"), 1),
    ] {
        let answers = topology.curl(&url, 400);
        let expected: Vec<_> = pattern.iter().cycle().take(400).collect();
        assert_eq!(answers.iter().collect::<Vec<_>>(), expected, "{url}");
        let listed = daemon.json("list --stats");
        let reals = listed["services"][service]["reals"]
            .as_array()
            .expect("reals");
        for (real, name) in reals.iter().zip(["real1", "real2"]) {
            let share = shares(&answers)[name] as u64;
            let counters = &real["counters"];
            assert_eq!(counters["connections"], share, "{real}");
            // SYN, ACK, request, FIN and more; SYN|ACK, answer, FIN and more.
            assert!(counters["packets_in"].as_u64() >= Some(4 * share), "{real}");
            assert!(
                counters["packets_out"].as_u64() >= Some(3 * share),
                "{real}"
            );
            assert!(counters["bytes_in"].as_u64() > Some(200 * share), "{real}");
            assert!(counters["bytes_out"].as_u64() > Some(200 * share), "{real}");
        }
    }
}

#[test]
fn rr_alternates_over_hundreds_of_connections_with_two_arms() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, "");
    add_web(&daemon, "rr", [1, 1]);
    assert_pattern(&topology, &daemon, &["real1", "real2"]);
}

#[test]
fn rr_alternates_over_hundreds_of_connections_with_one_arm() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::One, 2);
    let daemon = Daemon::start(&topology, "");
    add_web(&daemon, "rr", [1, 1]);
    assert_pattern(&topology, &daemon, &["real1", "real2"]);
}

#[test]
fn wrr_shares_three_to_one_and_smoothly() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, "");
    add_web(&daemon, "wrr", [3, 1]);
    assert_pattern(&topology, &daemon, &["real1", "real1", "real2", "real1"]);
}

#[test]
fn dns_queries_alternate_over_udp() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::new(Arms::Two, 2);
    for (real, name) in topology.reals.iter_mut().zip(["real1", "real2"]) {
        real.start_dns(name);
    }
    let daemon = Daemon::start(&topology, "");
    for (vip, reals) in [
        (VIP.to_owned(), ["192.168.0.2", "192.168.0.3"]),
        (format!("[{VIP6}]"), ["[fd00:1::2]", "[fd00:1::3]"]),
    ] {
        daemon.ctl(&format!("add-service udp/{vip}:53 -s rr"));
        for real in reals {
            daemon.ctl(&format!("add-real {real}:53 -u {vip}:53"));
        }
    }
    for (vip, client) in [(VIP, CLIENT), (VIP6, CLIENT6)] {
        // Each query goes out from a port of its own: from one that was used before, it would go to the same real server.
        let queries: String = (40_000..40_050)
            .map(|port| format!("whoami.test TXT -b {client}#{port}\n"))
            .collect();
        let file = daemon.folder().join("queries");
        std::fs::write(&file, queries).expect("write the queries");
        let output = run(topology
            .client
            .command("dig")
            .arg(format!("@{vip}"))
            .args(["+short", "+tries=1", "+time=3", "-f"])
            .arg(&file));
        let answers: Vec<_> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| line.trim_matches('"').to_owned())
            .collect();
        let expected: Vec<_> = ["real1", "real2"].into_iter().cycle().take(50).collect();
        assert_eq!(answers, expected, "{vip}");
    }
    let listed = daemon.json("list --stats");
    for service in [0, 1] {
        for real in [0, 1] {
            let counters = &listed["services"][service]["reals"][real]["counters"];
            assert_eq!(counters["connections"], 25);
            assert_eq!(counters["packets_in"], 25);
            assert_eq!(counters["packets_out"], 25);
        }
    }
}

#[test]
fn a_download_of_100_megabytes_arrives_whole() {
    if privileged::skipped() {
        return;
    }
    for arms in [Arms::Two, Arms::One] {
        let mut topology = Topology::new(arms, 1);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        let made = run(Command::new("sh").arg("-c").arg(format!(
            "head -c 100000000 /dev/urandom > {}",
            file.display()
        )));
        assert!(made.status.success());
        topology.reals[0].start_nginx(&format!(
            "listen 80; listen [::]:80; root {};",
            folder.path().display()
        ));
        let daemon = Daemon::start(&topology, "");
        let sum = |path: &std::path::Path| {
            let output = run(Command::new("sha256sum").arg(path));
            String::from_utf8_lossy(&output.stdout)
                .split(' ')
                .next()
                .expect("a sum")
                .to_owned()
        };
        for (service, vip, real) in [
            (0, VIP.to_owned(), "192.168.0.2"),
            (1, format!("[{VIP6}]"), "[fd00:1::2]"),
        ] {
            daemon.ctl(&format!("add-service {vip}:80"));
            daemon.ctl(&format!("add-real {real}:80 -t {vip}:80"));
            let copy = folder.path().join("copy");
            let output = run(topology
                .client
                .command("curl")
                .args([
                    "--silent",
                    "--show-error",
                    "--fail",
                    "--globoff",
                    "--max-time",
                    "60",
                    "-o",
                ])
                .arg(&copy)
                .arg(format!("http://{vip}/file")));
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            assert_eq!(sum(&copy), sum(&file), "{vip}");
            let listed = daemon.json("list --stats");
            let counters = &listed["services"][service]["reals"][0]["counters"];
            assert!(
                counters["bytes_out"].as_u64() > Some(100_000_000),
                "{counters}"
            );
        }
    }
}
