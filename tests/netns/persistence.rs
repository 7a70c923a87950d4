//! Clients keep their servers, whatever becomes of the daemon, until an operator has them forgotten.

use std::time::Duration;

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, CLIENT, CLIENT6, Topology, VIP, VIP6},
};
use xtask::lab::wait_until;

use crate::KeepAlive;

/// Both families, in turn, but for persistence; IPv6 by networks of clients.
const SHOP: &str = r#"
[[service]]
name = "web"
address = "192.0.2.80:80"
scheduler = "rr"
persistence = { timeout = "10m" }

[[service.real]]
address = "192.168.0.2:80"

[[service.real]]
address = "192.168.0.3:80"

[[service]]
address = "[2001:db8:80::80]:80"
scheduler = "rr"
persistence = { timeout = "10m", netmask = 64, group = "six" }

[[service.real]]
address = "[fd00:1::2]:80"

[[service.real]]
address = "[fd00:1::3]:80"
"#;

/// The entries as JSON, without their times and in order.
fn entries(daemon: &Daemon) -> Vec<serde_json::Value> {
    let mut listed = daemon.json("persistence");
    let entries = listed["entries"].as_array_mut().expect("a list");
    for entry in entries.iter_mut() {
        let entry = entry.as_object_mut().expect("an entry");
        let left = entry.remove("expires_in_ms").and_then(|left| left.as_u64());
        let left = left.expect("milliseconds");
        assert!((500_000..=600_000).contains(&left), "{left}");
    }
    entries.sort_by_key(ToString::to_string);
    std::mem::take(entries)
}

#[test]
fn clients_keep_their_servers_across_a_killed_daemon_and_until_they_are_forgotten() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let mut daemon = Daemon::start(&topology, SHOP);
    let answers = |count| {
        let [v4, v6] = [VIP.to_owned(), format!("[{VIP6}]")].map(|vip| {
            let mut answers = topology.curl(&format!("http://{vip}/"), count);
            answers.dedup();
            answers.join(" ")
        });
        (v4, v6)
    };
    let first = ("real1".to_owned(), "real1".to_owned());
    assert_eq!(answers(4), first);
    let network = CLIENT6.replace("::10", "::/64");
    let kept = [
        serde_json::json!({"client": network, "group": "six", "services": ["tcp/[2001:db8:80::80]:80"], "server": "fd00:1::2"}),
        serde_json::json!({"client": CLIENT, "group": null, "services": ["web"], "server": "192.168.0.2"}),
    ];
    let mut sorted = kept.to_vec();
    sorted.sort_by_key(ToString::to_string);
    assert_eq!(entries(&daemon), sorted);

    daemon.process().kill().expect("it ran");
    assert_eq!(answers(3), first);
    daemon.restart();
    assert_eq!(entries(&daemon), sorted);
    assert_eq!(answers(3), first);
    let listed = daemon.json("list");
    for service in [0, 1] {
        assert_eq!(listed["services"][service]["persistence_entries"], 1);
    }

    let mut old = KeepAlive::connect(&topology);
    assert_eq!(old.request().expect("an answer"), "real1");
    for filter in ["--client 203.0.113.0/24", "--group six"] {
        assert_eq!(
            daemon.ctl(&format!("persistence --delete {filter}")),
            "1 client forgotten\n"
        );
    }
    assert_eq!(entries(&daemon), [] as [serde_json::Value; 0]);
    // It is the other's turn, and from then on theirs.
    assert_eq!(answers(4), ("real2".to_owned(), "real2".to_owned()));
    assert_eq!(old.request().expect("it goes on"), "real1");

    // A service that is added anew begins without clients.
    daemon.ctl("del-service web");
    daemon.ctl("add-service 192.0.2.80:80 -s rr -p 600");
    let is_gone = || {
        let left = entries(&daemon);
        let clients: Vec<_> = left.iter().map(|entry| &entry["client"]).collect();
        Ok(clients == [network.as_str()])
    };
    wait_until("the end of its clients", Duration::from_secs(5), is_gone).expect("they go");
}
