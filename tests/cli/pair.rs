//! Nodes that share VIPs: what `status` shows of them, and the commands that move VIPs and make nodes a pair.

use std::{collections::BTreeMap, io::Write as _, process::Stdio, time::Instant};

use balancer_ctl::{
    model::vrrp::{Probes, VirtualRouterState},
    vrrp::report::{Report, RouterReport},
};

use crate::scene::{FILE, Scene};

fn scene() -> Scene {
    Scene::with_file(&format!(
        "{FILE}\n[[vrrp]]\nname = \"outside\"\ninterface = \"eth0\"\nrouter-id = 51\naddresses = [\"192.168.1.35/24\"]\n"
    ))
}

fn report(state: VirtualRouterState, reason: &str) -> Report {
    Report {
        routers: vec![RouterReport {
            name: "outside".to_owned(),
            group: Some("pair".to_owned()),
            interface: "eth0".to_owned(),
            router_id: 51,
            state,
            reason: reason.to_owned(),
            since: Instant::now(),
            priority: 90,
            configured_priority: 100,
            addresses: vec!["192.168.1.35/24".parse().expect("an address")],
            probes: Probes::ActiveOnly,
            active_node: Some(("192.168.1.3".parse().expect("an address"), 150)),
            sent: 0,
            received: 7,
            refused: BTreeMap::from([("hop-limit", 2)]),
        }],
        problems: vec![
            "outside has a priority lower by 10: 192.168.1.1 does not answer a ping".to_owned(),
        ],
    }
}

#[test]
fn status_shows_virtual_routers_and_the_nodes_part() {
    let scene = scene();
    let reason = "192.168.1.3 is Active with priority 150";
    scene.vrrp.state().report = Some(report(VirtualRouterState::Backup, reason));
    let text = scene.done("status");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        &lines[1..3],
        [
            "overall      limited",
            "because      outside has a priority lower by 10: 192.168.1.1 does not answer a ping",
        ]
    );
    assert_eq!(
        &lines[4..6],
        [
            "role         backup, can take over",
            "vrrp         outside  backup  192.168.1.35/24  on eth0  priority 90  192.168.1.3 is Active with priority 150; \
             only the Active node probes its services",
        ]
    );
    assert_eq!(lines[6], "tracked      lb1  interface eth0  up");
    let status: serde_json::Value =
        serde_json::from_str(&scene.done("status --json")).expect("JSON");
    let mut router = status["vrrp"][0].clone();
    assert!(
        router["since"]
            .take()
            .as_str()
            .is_some_and(|since| since.ends_with('Z'))
    );
    assert_eq!(
        router,
        serde_json::json!({
            "name": "outside", "state": "backup", "reason": reason, "priority": 90,
            "addresses": ["192.168.1.35/24"], "since": null, "interface": "eth0", "router_id": 51, "group": "pair",
            "probes": "active-only", "active_node": "192.168.1.3", "sent": 0, "received": 7, "refused": {"hop-limit": 2}
        })
    );
    assert_eq!(
        (
            &status["role"],
            &status["high_availability"],
            &status["successor"]
        ),
        (&"backup".into(), &true.into(), &"lb1".into())
    );
}

#[test]
fn failover_says_who_took_over_or_that_nobody_did() {
    let scene = scene();
    scene.vrrp.state().report = Some(report(VirtualRouterState::Backup, ""));
    scene.refused(
        "failover",
        1,
        "error: this node is not Active, so it has no VIP to give up: 192.168.1.3 is Active, so use `failover` there\n"
    );
    scene.vrrp.state().report = Some(report(VirtualRouterState::Active, ""));
    scene.vrrp.state().outcome = Some(Ok(vec![
        "pair: gave up on purpose, 192.168.1.3 took over".to_owned(),
    ]));
    assert_eq!(
        scene.done("failover"),
        "pair: gave up on purpose, 192.168.1.3 took over\n"
    );
    scene.vrrp.state().outcome = Some(Err(vec![
        "pair: gave up on purpose, and no other node took over".to_owned(),
    ]));
    scene.refused(
        "failover",
        1,
        "error: no other node took over, so this node keeps the VIPs (pair: gave up on purpose, and no other node took over): see that \
         balancerd runs on the other node and that both hear each other\n"
    );
    scene.refused(
        "failover --to lb2",
        1,
        "error: this node has no key, so it knows no other node: `balancer-ctl node key` makes one\n"
    );
}

#[test]
fn failover_names_the_node_that_cannot_take_over() {
    let scene = scene();
    scene.vrrp.state().report = Some(report(VirtualRouterState::Active, ""));
    scene.refused(
        "failover --to lb1",
        1,
        "error: node lb1 is Active already (outside): --to names a node that stands by\n",
    );
    scene.vrrp.state().report = Some(report(VirtualRouterState::Fault, ""));
    assert_eq!(scene.done("node maintenance"), "");
    scene.refused(
        "failover --to lb1",
        1,
        "error: node lb1 is in maintenance, so it cannot take over: `balancer-ctl node ready` there ends that\n",
    );
}

#[test]
fn a_node_goes_to_maintenance_and_comes_back() {
    let scene = scene();
    assert_eq!(scene.done("node maintenance"), "");
    assert!(scene.vrrp.state().in_maintenance);
    assert!(scene.done("status").contains(
        "this node is in maintenance and will not be Active: `balancer-ctl node ready` ends that"
    ));
    assert_eq!(scene.done("node ready"), "");
    assert!(!scene.vrrp.state().in_maintenance);
}

#[test]
fn an_active_node_goes_to_maintenance_once_another_has_the_vips_or_by_force() {
    let scene = scene();
    scene.vrrp.state().report = Some(report(VirtualRouterState::Active, ""));
    scene.vrrp.state().outcome = Some(Err(vec![
        "pair: gave up on purpose, and no other node took over".to_owned(),
    ]));
    scene.refused(
        "node maintenance",
        1,
        "error: no other node took over, so this node keeps the VIPs (pair: gave up on purpose, and no other node took over): see that \
         balancerd runs on the other node and that both hear each other; or take the VIPs out of service with `balancer-ctl node \
         maintenance --force`\n",
    );
    assert!(!scene.vrrp.state().in_maintenance);
    assert_eq!(
        scene.done("node maintenance --force"),
        "no other node took over: the VIPs are on no node, as far as this one knows\n"
    );
    assert!(scene.vrrp.state().in_maintenance);
    assert_eq!(scene.done("node ready"), "");
    let said = "pair: gave up on purpose, 192.168.1.3 took over";
    scene.vrrp.state().outcome = Some(Ok(vec![said.to_owned()]));
    assert_eq!(scene.done("node maintenance"), format!("{said}\n"));
    assert!(scene.vrrp.state().in_maintenance);
}

#[test]
fn the_key_to_join_with_is_read_from_standard_input() {
    let scene = scene();
    for (typed, sentence) in [
        (
            "bk1-0\n",
            "this is no key: the key is too short: 56 letters and digits follow `bk1-`, and there are 1",
        ),
        (
            "",
            "this is no key: a key begins with `bk1-`: `balancer-ctl node key` prints it",
        ),
    ] {
        let mut command = scene.command("node join -@192.168.9.1");
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped());
        command.stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(typed.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, format!("error: {sentence}\n"));
    }
}

#[test]
fn without_other_nodes_the_commands_say_what_is_missing() {
    let scene = scene();
    let no_key = "error: this node has no key, so it knows no other node: `balancer-ctl node key` makes one\n";
    for command in ["diff", "diff lb2", "push", "push lb2", "node remove lb2"] {
        scene.refused(command, 1, no_key);
    }
    scene.refused(
        "node join bk1-0@192.168.9.1",
        1,
        "error: this is no key: the key is too short: 56 letters and digits follow `bk1-`, and there are 1\n",
    );
    for address in ["[fd00::11]", "fd00::11", "[fd00::11]:4446"] {
        scene.refused(
            &format!("node join bk1-0@{address}"),
            1,
            "error: this is no key: the key is too short: 56 letters and digits follow `bk1-`, and there are 1\n",
        );
    }
    scene.refused(
        "node join bk1-0@[192.0.2.2]",
        1,
        "error: `[192.0.2.2]` is no address of a node: write `192.0.2.2`, `192.0.2.2:4446`, `2001:db8::2` or `[2001:db8::2]:4446`\n",
    );
    scene.refused(
        "node join 192.168.9.1",
        2,
        "error: write the key and the node's address, as in `bk1-...@192.168.9.1`, or `-@192.168.9.1` with the key on standard input: `balancer-ctl node key` there prints the key\n",
    );
}
