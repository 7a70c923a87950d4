//! What a node tracks beside its interfaces fails, on one node or on both.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use balancer_tests::{
    pair::{Pair, VIP},
    privileged,
};

use crate::outside;

/// A service whose real server is checked.
const WEB: &str = "[[service]]\nname = \"web\"\naddress = \"203.0.113.80:80\"\n\
                   [[service.check]]\ntype = \"tcp\"\ninterval = \"100ms\"\ntimeout = \"100ms\"\n\
                   [[service.real]]\naddress = \"192.168.0.2:80\"\n";
/// A virtual router that pings the client.
const PING: &str = "track-ping = { targets = [\"203.0.113.10\"], interval = \"100ms\", timeout = \"100ms\", weight = 150 }";

/// How often nodes have begun to be Active since then: how often the sender changed.
fn moves(pair: &Pair, since: SystemTime) -> usize {
    let seen = pair.recorder.since(since);
    let senders: Vec<_> = seen
        .iter()
        .filter(|one| one.said.priority > 0)
        .map(|one| one.node)
        .collect();
    senders.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

#[test]
fn what_fails_on_one_node_moves_the_vip_and_what_fails_on_both_does_not() {
    if privileged::skipped() {
        return;
    }
    let mut pair = Pair::new(2, 1);
    pair.start_first_active(outside, &[200, 100], PING);

    // No node reaches the gateway: to move would not help.
    let began = SystemTime::now();
    for node in ["outside0", "outside1"] {
        pair.cut_ports("client", node);
    }
    pair.nodes[0].wait_for_reason(
        "outside has a priority lower by 150: 203.0.113.10 does not answer a ping",
    );
    assert_eq!(pair.nodes[0].router()["priority"], 50);
    pair.assert_stays(VIP, &[0], Duration::from_secs(10));
    pair.heal();
    for node in &pair.nodes {
        node.wait_for_status("all", |status| status["overall"] == "running");
    }
    pair.assert_stays(VIP, &[0], Duration::from_secs(1));
    assert_eq!(moves(&pair, began), 0);

    // One does not: the other takes over, though failback is off, and keeps the VIP.
    pair.cut_ports("client", "outside0");
    pair.wait_for_within(VIP, &[1], Duration::from_secs(3));
    pair.heal();
    pair.nodes[0].wait_for_status("all", |status| status["overall"] == "running");
    pair.assert_stays(VIP, &[1], Duration::from_secs(2));
    assert_eq!(moves(&pair, began), 1);
    // Nor does the VIP move from the node of lower priority when neither reaches the gateway.
    for node in ["outside0", "outside1"] {
        pair.cut_ports("client", node);
    }
    pair.assert_stays(VIP, &[1], Duration::from_secs(3));
    pair.heal();
    for node in &pair.nodes {
        node.wait_for_status("all", |status| status["overall"] == "running");
    }
    assert_eq!(moves(&pair, began), 1);
    pair.nodes[1].daemon().ctl("failover");
    pair.wait_for_within(VIP, &[0], Duration::from_secs(1));

    // A service that cannot answer on one node.
    let config = |priority| {
        format!(
            "{WEB}{}",
            outside(
                priority,
                "track-services = [{ service = \"web\", weight = 150 }]"
            )
        )
    };
    for (node, priority) in pair.nodes.iter().zip([200, 100]) {
        node.reload(&config(priority));
    }
    for node in &pair.nodes {
        node.wait_for_status("all", |status| status["overall"] == "running");
    }
    pair.assert_stays(VIP, &[0], Duration::from_millis(500));
    pair.cut_ports("real1", "inside0");
    pair.wait_for_within(VIP, &[1], Duration::from_secs(3));
    pair.nodes[0].wait_for_reason("no real server of service web takes new connections");
    pair.heal();
    pair.nodes[0].wait_for_status("all", |status| status["overall"] == "running");
    pair.nodes[1].daemon().ctl("failover");
    pair.wait_for_within(VIP, &[0], Duration::from_secs(1));

    // A program that fails on one node, which puts it in fault.
    let folder = tempfile::tempdir_in("/root").expect("a folder");
    let flags = ["0", "1"].map(|name| folder.path().join(name));
    for ((node, priority), flag) in pair.nodes.iter().zip([200, 100]).zip(&flags) {
        fs::write(flag, "").expect("a file");
        node.reload(&outside(
            priority,
            &format!(
                "track-exec = {{ run = [\"/usr/bin/test\", \"-e\", \"{}\"], interval = \"100ms\", weight = 0 }}",
                flag.display()
            ),
        ));
    }
    pair.assert_stays(VIP, &[0], Duration::from_millis(500));
    fs::remove_file(&flags[0]).expect("remove it");
    pair.wait_for_within(VIP, &[1], Duration::from_secs(3));
    let status = pair.nodes[0].wait_for_state("fault");
    assert_eq!(
        status["vrrp"][0]["reason"],
        "/usr/bin/test does not succeed"
    );
    fs::write(&flags[0], "").expect("a file");
    pair.nodes[0].wait_for_state("backup");
    pair.assert_stays(VIP, &[1], Duration::from_millis(500));
}
