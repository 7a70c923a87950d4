//! Bonds: the program runs on the slaves, whose frames belong to the bond.

use std::time::Duration;

use balancer_tests::privileged;
use xtask::lab::{Namespace, wait_until};

use crate::scene::{Inside, Scene, all, cable, config, lacks, status, take_down, until};

/// Makes a bond of two interfaces that are there.
fn bond(namespace: &Namespace, mode: &str, slaves: [&str; 2]) {
    namespace
        .ip(&format!(
            "link add name bond0 type bond mode {mode} miimon 50"
        ))
        .unwrap();
    for slave in slaves {
        namespace.ip(&format!("link set dev {slave} down")).unwrap();
        namespace
            .ip(&format!("link set dev {slave} master bond0"))
            .unwrap();
        namespace.ip(&format!("link set dev {slave} up")).unwrap();
    }
    namespace.ip("link set dev bond0 up").unwrap();
}

/// A scene whose balancer reaches the client over `bond0`, active-backup, and a switch of the client's own.
fn active_backup() -> Option<Scene> {
    let scene = Scene::new(Inside::Cable);
    if lacks(&scene, "bond") {
        return None;
    }
    for (slave, port) in [("s1", "p1"), ("s2", "p2")] {
        cable(&scene.balancer, slave, &scene.client, port);
        scene.client.plain_frames(port).unwrap();
    }
    bond(&scene.balancer, "active-backup", ["s1", "s2"]);
    scene.client.switch("lan", &["p1", "p2"]).unwrap();
    scene.client.plain_frames("lan").unwrap();
    scene.addresses("bond0", "lan");
    Some(scene)
}

fn active(scene: &Scene) -> String {
    let shown = scene
        .balancer
        .output("ip", &["-details", "link", "show", "dev", "bond0"])
        .unwrap();
    let mut words = shown.split_whitespace();
    words.find(|word| *word == "active_slave");
    words.next().unwrap_or_default().to_owned()
}

/// Takes the active slave's cable out at the other end, and waits until the bond uses the other slave.
fn lose_the_active_slave(scene: &Scene) {
    let lost = active(scene);
    let port = lost.replace('s', "p");
    scene
        .client
        .ip(&format!("link set dev {port} down"))
        .unwrap();
    wait_until("the other slave", Duration::from_secs(20), || {
        let now = active(scene);
        Ok(!now.is_empty() && now != lost)
    })
    .unwrap();
}

#[test]
fn an_active_backup_bond_serves_natively_also_after_the_loss_of_its_active_slave() {
    if privileged::skipped() {
        return;
    }
    let Some(scene) = active_backup() else { return };
    let mut daemon = scene.daemon(&["bond0", "inside"]);
    assert_eq!(
        status(&daemon),
        (all("native", &["bond0", "inside"]), vec![])
    );
    scene.serves(&daemon);
    scene.downloads(&daemon);
    lose_the_active_slave(&scene);
    scene.serves(&daemon);
    // The data plane needs no daemon for that.
    daemon.stop();
    for port in ["p1", "p2"] {
        scene.client.ip(&format!("link set dev {port} up")).unwrap();
    }
    wait_until("both slaves", Duration::from_secs(20), || {
        let up = scene
            .balancer
            .output("ip", &["link", "show", "up", "master", "bond0"])?;
        Ok(up.matches("LOWER_UP").count() == 2)
    })
    .unwrap();
    lose_the_active_slave(&scene);
    daemon.restart();
    scene.serves(&daemon);
    take_down(daemon);
}

#[test]
fn slaves_that_come_and_go_are_followed() {
    if privileged::skipped() {
        return;
    }
    let Some(scene) = active_backup() else { return };
    let daemon = scene.daemon(&["bond0", "inside"]);
    scene.serves(&daemon);
    scene.balancer.ip("link set dev s1 nomaster").unwrap();
    cable(&scene.balancer, "s3", &scene.client, "p3");
    scene.client.plain_frames("p3").unwrap();
    scene.client.ip("link set dev p3 master lan").unwrap();
    scene.balancer.ip("link set dev s3 down").unwrap();
    scene.balancer.ip("link set dev s3 master bond0").unwrap();
    scene.balancer.ip("link set dev s3 up").unwrap();
    scene.serves(&daemon);
    scene.balancer.ip("link set dev s2 nomaster").unwrap();
    scene.serves(&daemon);
    // Without a slave nothing can be said against native mode, and the others go on in it.
    scene.balancer.ip("link set dev s3 nomaster").unwrap();
    until(&daemon, &all("native", &["bond0", "inside"]), &[]);
    take_down(daemon);
}

#[test]
fn a_bond_serves_generically_too() {
    if privileged::skipped() {
        return;
    }
    let Some(scene) = active_backup() else { return };
    let mut daemon = scene.prepare(&config(&["bond0", "inside"], "mode = \"generic\""));
    daemon.restart();
    assert_eq!(
        status(&daemon),
        (all("generic", &["bond0", "inside"]), vec![])
    );
    scene.serves(&daemon);
    scene.downloads(&daemon);
    assert_eq!(scene.switch_of("s1", "generic-receive-offload"), "off");
    lose_the_active_slave(&scene);
    scene.serves(&daemon);
    take_down(daemon);
}

#[test]
fn a_bond_with_lacp_serves_natively() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new(Inside::Cable);
    if lacks(&scene, "bond") {
        return;
    }
    for (slave, port) in [("s1", "p1"), ("s2", "p2")] {
        cable(&scene.balancer, slave, &scene.client, port);
        scene.client.plain_frames(port).unwrap();
    }
    for (end, slaves) in [
        (&scene.balancer, ["s1", "s2"]),
        (&scene.client, ["p1", "p2"]),
    ] {
        bond(end, "802.3ad lacp_rate fast", slaves);
    }
    scene.client.plain_frames("bond0").unwrap();
    scene.addresses("bond0", "bond0");
    let daemon = scene.daemon(&["bond0", "inside"]);
    assert_eq!(
        status(&daemon),
        (all("native", &["bond0", "inside"]), vec![])
    );
    scene.serves(&daemon);
    scene.downloads(&daemon);
    take_down(daemon);
}

#[test]
fn a_bond_whose_mode_has_no_xdp_makes_all_generic() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new(Inside::Cable);
    if lacks(&scene, "bond") {
        return;
    }
    for (slave, port) in [("s1", "p1"), ("s2", "p2")] {
        cable(&scene.balancer, slave, &scene.client, port);
        scene.client.plain_frames(port).unwrap();
    }
    bond(&scene.balancer, "balance-tlb", ["s1", "s2"]);
    scene.client.switch("lan", &["p1", "p2"]).unwrap();
    scene.client.plain_frames("lan").unwrap();
    scene.addresses("bond0", "lan");
    let daemon = scene.daemon(&["bond0", "inside"]);
    let (interfaces, reasons) = status(&daemon);
    assert_eq!(interfaces, all("generic", &["bond0", "inside"]));
    let [reason] = reasons.as_slice() else {
        panic!("{reasons:?}")
    };
    assert!(
        reason.starts_with("bond0 does not take the packet program natively ("),
        "{reason}"
    );
    scene.serves(&daemon);
    take_down(daemon);
}
