//! What nodes know of each other by their channel: who is there, who would take over, whether their services are alike.

use std::{thread, time::Duration};

use balancer_tests::{
    pair::{Pair, SOON, VIP},
    privileged,
};
use serde_json::Value;

use crate::{outside, refused};

const SERVICES: &str = "[[service]]\nname = \"web\"\naddress = \"203.0.113.80:80\"\nscheduler = \"mh\"\n\
                        [[service.real]]\naddress = \"192.168.0.2:80\"\nweight = 3\n";

/// A node's virtual router, and more.
pub fn config(number: usize, more: &str) -> String {
    let priority = [200, 150, 100][number];
    outside(priority, "") + more
}

/// Three nodes that have joined each other, the first Active.
fn joined(services: [&str; 3]) -> Pair {
    let mut pair = Pair::new(3, 0);
    for (number, services) in services.into_iter().enumerate() {
        pair.nodes[number].start(&config(number, services));
        if number == 0 {
            pair.wait_for(VIP, &[0]);
        }
    }
    let key = pair.nodes[0].daemon().ctl("node key");
    let target = format!("{}@{}", key.trim(), pair.nodes[0].address());
    for node in &pair.nodes[1..] {
        node.daemon().ctl(&format!("node join {target}"));
    }
    for node in &pair.nodes {
        node.wait_for_status("two other nodes that answer", hears(2));
    }
    pair
}

/// Whether so many other nodes answer.
pub fn hears(count: usize) -> impl Fn(&Value) -> bool {
    move |status| {
        let connected = peers(status).filter(|peer| peer["connected"] == true);
        connected.count() == count
    }
}

/// Whether so many other nodes are known.
fn knows(count: usize) -> impl Fn(&Value) -> bool {
    move |status| peers(status).count() == count
}

/// The other nodes in a status.
pub fn peers(status: &Value) -> impl Iterator<Item = &Value> {
    status["peers"].as_array().into_iter().flatten()
}

#[test]
fn nodes_that_joined_see_each_other_and_who_would_take_over() {
    if privileged::skipped() {
        return;
    }
    let mut pair = joined([""; 3]);
    let others = |status: &Value| -> Vec<(String, String, bool)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let row = |peer: &Value| {
            (
                text(&peer["name"]),
                text(&peer["role"]),
                peer["synchronised"] == true,
            )
        };
        peers(status).map(row).collect()
    };
    let row = |name: &str, role: &str| (name.to_owned(), role.to_owned(), true);
    let status = pair.nodes[0].wait_for_status("all is well", |status| {
        others(status) == [row("node1", "backup"), row("node2", "backup")]
    });
    assert_eq!(status["successor"], "node1", "{status:#}");
    assert_eq!(status["high_availability"], true, "{status:#}");
    for (node, expected) in [
        (1, [row("node0", "active"), row("node2", "backup")]),
        (2, [row("node0", "active"), row("node1", "backup")]),
    ] {
        let status =
            pair.nodes[node].wait_for_status("all is well", |status| others(status) == expected);
        assert_eq!(status["successor"], "node1", "{status:#}");
    }
    // The named one takes over, though another has a higher priority.
    let said = pair.nodes[0].daemon().ctl("failover --to node2");
    assert!(
        said.contains(&format!("{} took over", pair.nodes[2].address())),
        "{said}"
    );
    pair.wait_for_within(VIP, &[2], SOON);
    assert_eq!(
        refused(&pair, 2, "failover --to node7"),
        "error: there is no node node7: node0, node1\n"
    );

    // Another node asks the Active one; it may name itself, or a third.
    for (asks, from, to) in [(1, 2, 1), (0, 1, 2)] {
        let name = format!("node{from}");
        pair.nodes[asks].wait_for_status("the Active node", |status| {
            peers(status).any(|peer| peer["name"] == name && peer["role"] == "active")
        });
        let node = pair.nodes[asks].daemon();
        assert_eq!(
            node.ctl(&format!("failover --to node{to}")),
            format!("node {name} was Active, and has given its VIPs up\n")
        );
        pair.wait_for_within(VIP, &[to], SOON);
    }

    // One that is lost is named, and comes back by itself.
    pair.nodes[1].kill();
    let lost = |status: &Value| status["reasons"].to_string().contains("node node1 (");
    for node in [0, 2] {
        pair.nodes[node].wait_for_status("the loss", lost);
    }
    pair.nodes[1].daemon_mut().restart();
    for node in [0, 2] {
        pair.nodes[node].wait_for_status("the return", |status| !lost(status));
    }

    // Nodes that do not hear each other's advertisements are named, by each of them.
    pair.drop_at_switch("ip protocol 112");
    let reason = "node0 and node1 and node2 are all Active for 203.0.113.80: they do not hear each other's advertisements, or do \
                  not take them";
    for node in &pair.nodes {
        node.wait_for_reason(reason);
    }
    pair.heal();
    for node in &pair.nodes {
        node.wait_for_status("one Active node", |status| {
            !status["reasons"].to_string().contains("are all Active")
        });
    }

    // One that is taken out is forgotten, and does not come back.
    pair.nodes[0].daemon().ctl("node remove node1");
    pair.nodes[0].wait_for_status("one other node", knows(1));
    pair.nodes[1].wait_for_status("no other node", knows(0));
    pair.nodes[1].daemon_mut().stop();
    pair.nodes[1].daemon_mut().restart();
    thread::sleep(Duration::from_secs(2));
    pair.nodes[1].wait_for_status("no other node", knows(0));
}

#[test]
fn services_are_compared_and_sent_whole() {
    if privileged::skipped() {
        return;
    }
    let pair = joined([SERVICES, "", ""]);
    let differs = |status: &Value| {
        status["reasons"]
            .to_string()
            .contains("has other services than this one")
    };
    pair.nodes[0].wait_for_status("other services", differs);
    assert_eq!(
        pair.nodes[1].daemon().ctl("diff node0"),
        "service-added tcp/203.0.113.80:80 scheduler mh\nreal-added tcp/203.0.113.80:80 192.168.0.2:80 weight 3, nat\n"
    );
    assert_eq!(
        refused(&pair, 0, "push"),
        "error: say which node: node1, node2\n"
    );
    assert_eq!(
        pair.nodes[0].daemon().ctl("push node1"),
        "node1 has this node's services\n"
    );
    assert_eq!(
        pair.nodes[0].daemon().ctl("diff node1"),
        "the services are the same\n"
    );
    let file = pair.nodes[1].daemon().read();
    assert!(
        file.contains(
            "name = \"web\"\naddress = \"203.0.113.80:80\"\nscheduler = \"mh\"\n\n[[service.real]]\naddress = \"192.168.0.2:80\"\n\
             weight = 3\n"
        ),
        "{file}"
    );
    // What the other node cannot take, it refuses, and stays as it is.
    pair.nodes[2].reload(
        &config(
            2,
            "[[service]]\nname = \"own\"\naddress = \"203.0.113.80:81\"\n",
        )
        .replace("addresses", "track-services = [\"own\"]\naddresses"),
    );
    let said = refused(&pair, 0, "push node2");
    assert!(
        said.contains(
            "node node2 refused: virtual router outside tracks service own, which is not there"
        ),
        "{said}"
    );
    assert!(pair.nodes[2].daemon().ctl("list").contains("(own)"));

    // The Active node does it by itself, if it is told to.
    pair.nodes[2].reload(&config(2, ""));
    pair.nodes[0].reload(&config(
        0,
        &format!("{SERVICES}[peers]\nsync = \"active-pushes\"\n"),
    ));
    pair.nodes[0].daemon().ctl("edit-real 192.168.0.2 -w 5");
    for node in &pair.nodes[1..] {
        node.wait_for_status("the Active node's services", |_| {
            node.daemon().ctl("list").contains("nat              5")
        });
    }
}

#[test]
fn of_three_nodes_the_one_that_differs_is_named_and_mended() {
    if privileged::skipped() {
        return;
    }
    let other = SERVICES.replace("weight = 3", "weight = 7");
    let pair = joined([SERVICES, SERVICES, &other]);
    let differing = |status: &Value| -> Vec<String> {
        let others = peers(status).filter(|peer| peer["same_services"] == false);
        let names = others.filter_map(|peer| peer["name"].as_str());
        names.map(str::to_owned).collect()
    };
    for (node, expected) in [
        (0, &["node2"][..]),
        (1, &["node2"]),
        (2, &["node0", "node1"]),
    ] {
        pair.nodes[node].wait_for_status("who differs", |status| differing(status) == expected);
    }
    assert_eq!(
        pair.nodes[0].daemon().ctl("diff node1"),
        "the services are the same\n"
    );
    assert_eq!(
        pair.nodes[0].daemon().ctl("diff node2"),
        "real-changed tcp/203.0.113.80:80 192.168.0.2:80 weight 3 -> 7\n"
    );
    // What one node has with --runtime is its own.
    pair.nodes[0]
        .daemon()
        .ctl("add-service 203.0.113.80:81 --runtime");
    pair.nodes[0].daemon().ctl("push node2");
    for node in &pair.nodes {
        node.wait_for_status("no difference", |status| differing(status).is_empty());
    }
    let list = pair.nodes[2].daemon().ctl("list");
    assert!(!list.contains("203.0.113.80:81"), "{list}");
    assert!(pair.nodes[2].daemon().read().contains("weight = 3"));
}
