//! Interfaces that cannot carry the program are refused with what to name instead.

use balancer_tests::privileged;

use crate::scene::{Inside, Scene, lacks, take_down};

#[test]
fn a_port_of_a_bridge_is_refused_with_the_bridge() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Bridge);
    assert_eq!(
        scene.refused(&["ext", "port1"], ""),
        "FILE:2:22: port1 is a port of the bridge br0: name br0"
    );
}

#[test]
fn a_slave_of_a_bond_is_refused_with_the_bond() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    if lacks(&scene, "bond") {
        return;
    }
    scene.balancer.ip("link add name bond0 type bond").unwrap();
    scene
        .balancer
        .ip("link add name s1 type veth peer name s2")
        .unwrap();
    scene.balancer.ip("link set dev s1 master bond0").unwrap();
    assert_eq!(
        scene.refused(&["ext", "s1"], ""),
        "FILE:2:22: s1 is a slave of the bond bond0: name bond0"
    );
}

#[test]
fn a_bond_that_tells_its_slaves_addresses_is_refused_with_what_works() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    if lacks(&scene, "bond") {
        return;
    }
    scene
        .balancer
        .ip("link add name bond0 type bond mode balance-alb")
        .unwrap();
    assert_eq!(
        scene.refused(&["ext", "bond0"], ""),
        "FILE:2:22: the bond bond0 has the mode balance-alb, in which frames for this host carry its slaves' addresses and not its \
         own: use active-backup, 802.3ad, balance-xor or balance-rr"
    );
}

#[test]
fn a_port_of_a_team_is_refused_with_the_team() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    if lacks(&scene, "team") {
        return;
    }
    scene.balancer.ip("link add name team0 type team").unwrap();
    scene
        .balancer
        .ip("link add name s1 type veth peer name s2")
        .unwrap();
    scene.balancer.ip("link set dev s1 master team0").unwrap();
    assert_eq!(
        scene.refused(&["ext", "s1"], ""),
        "FILE:2:22: s1 is a port of the team team0: name team0"
    );
}

#[test]
fn a_tunnel_without_ethernet_is_refused_with_what_works() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    scene.balancer.ip("tuntap add dev tun0 mode tun").unwrap();
    assert_eq!(
        scene.refused(&["ext", "tun0"], ""),
        "FILE:2:22: the interface tun0 is not an Ethernet interface but of the kind tun, and the packet program needs Ethernet frames: name an \
         Ethernet interface (a tunnel that carries Ethernet works: vxlan, geneve, gretap, tap)"
    );
}

#[test]
fn the_loopback_is_refused() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    assert_eq!(
        scene.refused(&["ext", "lo"], ""),
        "FILE:2:22: the interface lo is the loopback interface, which no packet of a client comes in by: name the interfaces towards clients and \
         real servers"
    );
}

#[test]
fn a_member_of_a_vrf_serves() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new(Inside::Cable);
    if lacks(&scene, "vrf table 10") {
        return;
    }
    scene
        .balancer
        .ip("link add name red type vrf table 10")
        .unwrap();
    scene.balancer.ip("link set dev red up").unwrap();
    scene.cable_to_client("ext");
    for member in ["ext", "inside"] {
        scene
            .balancer
            .ip(&format!("link set dev {member} master red"))
            .unwrap();
    }
    // IPv6 addresses go with the change of the master.
    scene
        .balancer
        .ip("address replace fd00:1::1/64 dev inside nodad")
        .unwrap();
    scene.addresses("ext", "eth0");
    let daemon = scene.daemon(&["ext", "inside"]);
    let interfaces = crate::scene::status(&daemon).0;
    assert_eq!(interfaces, crate::scene::all("native", &["ext", "inside"]));
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if release.starts_with("6.1.") {
        // There the FIB look-up knows no IPv6 neighbour of a VRF's member; balancer-interfaces(7) says so.
        scene.serves_at(&daemon, &[balancer_tests::topology::VIP]);
    } else {
        scene.serves(&daemon);
    }
    let status = daemon.ctl("status");
    assert!(!status.contains("cannot work"), "{status}");
    take_down(daemon);
}
