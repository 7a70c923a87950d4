//! Interfaces that only the generic hook takes: one of them makes all generic.

use balancer_tests::{daemon::Daemon, privileged};

use crate::scene::{Inside, Scene, all, cable, config, generic_because, lacks, status, take_down};

/// Asserts that all is generic because of `obstacle`, that nothing else is wrong, and that traffic flows.
fn works_generically(scene: &Scene, interfaces: &[&str], obstacle: &str) -> Daemon {
    let daemon = scene.daemon(interfaces);
    let reasons = vec![generic_because(obstacle)];
    assert_eq!(status(&daemon), (all("generic", interfaces), reasons));
    scene.serves(&daemon);
    scene.downloads(&daemon);
    daemon
}

const BRIDGE: &str = "br0 is a bridge, which runs the packet program in generic mode only";

#[test]
fn a_bridge_beside_a_cable_makes_both_generic() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Bridge);
    let daemon = works_generically(&scene, &["ext", "br0"], BRIDGE);
    // What the ports merge would be too large to be forwarded.
    let gro = || ["port1", "port2"].map(|port| scene.switch_of(port, "generic-receive-offload"));
    assert_eq!(gro(), ["off", "off"]);
    take_down(daemon);
    assert_eq!(gro(), ["on", "on"]);
}

#[test]
fn a_bridge_is_refused_in_mode_native() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Bridge);
    assert_eq!(
        scene.refused(&["ext", "br0"], "mode = \"native\""),
        format!("FILE:2:22: {BRIDGE}; mode = \"auto\" or \"generic\" works there too")
    );
    // In mode generic there is nothing to be told.
    let mut daemon = scene.prepare(&config(&["ext", "br0"], "mode = \"generic\""));
    daemon.restart();
    assert_eq!(status(&daemon), (all("generic", &["ext", "br0"]), vec![]));
    scene.serves(&daemon);
    take_down(daemon);
}

#[test]
fn a_vlan_device_makes_all_generic() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new(Inside::Cable);
    if lacks(&scene, "vlan") {
        return;
    }
    scene.cable_to_client("eth0");
    for end in [&scene.balancer, &scene.client] {
        end.ip("link add link eth0 name eth0.10 type vlan id 10")
            .unwrap();
        end.ip("link set dev eth0.10 up").unwrap();
    }
    scene.client.plain_frames("eth0.10").unwrap();
    scene.addresses("eth0.10", "eth0.10");
    let obstacle = "eth0.10 is a VLAN device, which runs the packet program in generic mode only";
    let daemon = works_generically(&scene, &["eth0.10", "inside"], obstacle);
    assert_eq!(scene.switch_of("eth0", "generic-receive-offload"), "off");
    take_down(daemon);
    assert_eq!(scene.switch_of("eth0", "generic-receive-offload"), "on");
}

#[test]
fn tags_stay_in_the_frames_of_an_interface_with_a_vlan_device_on_it() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    if lacks(&scene, "vlan") {
        return;
    }
    scene
        .balancer
        .ip("link add link ext name ext.10 type vlan id 10")
        .unwrap();
    let stripping = || scene.switch_of("ext", "rx-vlan-offload");
    assert_eq!(stripping(), "on");
    let daemon = scene.daemon(&["ext", "inside"]);
    assert_eq!(stripping(), "off");
    let warning = format!(
        "eth0, the other end of ext, leaves VLAN tags beside its frames, so that the packet program takes those of ext.10 for untagged \
         ones: ip netns exec {} ethtool -K eth0 txvlan off",
        scene.client.name()
    );
    assert_eq!(
        status(&daemon),
        (all("native", &["ext", "inside"]), vec![warning])
    );
    scene.serves(&daemon);
    take_down(daemon);
    assert_eq!(stripping(), "on");
}

#[test]
fn a_macvlan_makes_all_generic() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new(Inside::Cable);
    if lacks(&scene, "macvlan") {
        return;
    }
    scene.cable_to_client("eth0");
    scene
        .balancer
        .ip("link add link eth0 name mac0 type macvlan mode bridge")
        .unwrap();
    scene.balancer.ip("link set dev mac0 up").unwrap();
    scene.addresses("mac0", "eth0");
    let obstacle = "mac0 is a macvlan, which runs the packet program in generic mode only";
    take_down(works_generically(&scene, &["mac0", "inside"], obstacle));
}

#[test]
fn two_ports_of_a_bridge_that_are_not_configured_are_left_alone_in_native_mode() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    cable(&scene.balancer, "other", &scene.client, "other");
    scene.balancer.switch("br9", &["other"]).unwrap();
    let daemon = scene.daemon(&["ext", "inside"]);
    assert_eq!(scene.switch_of("other", "generic-receive-offload"), "on");
    take_down(daemon);
}
