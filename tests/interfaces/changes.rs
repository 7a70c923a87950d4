//! Interfaces that come, go and change while the daemon runs.

use balancer_tests::privileged;

use crate::scene::{Inside, Scene, all, cable, config, generic_because, take_down, until};

#[test]
fn a_newcomer_that_only_takes_generic_moves_all_and_a_reload_without_it_brings_native_back() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    cable(&scene.balancer, "late", &scene.client, "late");
    scene.client.plain_frames("late").unwrap();
    let daemon = scene.daemon(&["ext", "inside", "late"]);
    until(&daemon, &all("native", &["ext", "inside", "late"]), &[]);
    scene.serves(&daemon);
    scene.balancer.ip("link delete dev late").unwrap();
    let missing =
        "the interface late does not exist: see `ip link` for the names there are".to_owned();
    until(
        &daemon,
        &all("native", &["ext", "inside"]),
        std::slice::from_ref(&missing),
    );
    scene.balancer.switch("late", &[]).unwrap();
    let reason =
        generic_because("late is a bridge, which runs the packet program in generic mode only");
    until(
        &daemon,
        &all("generic", &["ext", "inside", "late"]),
        std::slice::from_ref(&reason),
    );
    scene.serves(&daemon);
    // When it goes, packets go on undisturbed: native mode waits for the operator.
    scene.balancer.ip("link delete dev late").unwrap();
    until(
        &daemon,
        &all("generic", &["ext", "inside"]),
        &[missing, reason],
    );
    scene.serves(&daemon);
    daemon.write(&config(&["ext", "inside"], ""));
    daemon.ctl("reload");
    until(&daemon, &all("native", &["ext", "inside"]), &[]);
    scene.serves(&daemon);
    take_down(daemon);
}

#[test]
fn an_interface_that_becomes_a_port_is_reported_and_comes_back() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    let daemon = scene.daemon(&["ext", "inside"]);
    until(&daemon, &all("native", &["ext", "inside"]), &[]);
    scene.balancer.switch("br0", &["inside"]).unwrap();
    let mut reasons: Vec<_> = [
        ("192.168.0.2", "192.168.0.2:80", "192.0.2.80:80"),
        ("192.168.0.3", "192.168.0.3:80", "192.0.2.80:80"),
        ("fd00:1::2", "[fd00:1::2]:80", "[2001:db8:80::80]:80"),
        ("fd00:1::3", "[fd00:1::3]:80", "[2001:db8:80::80]:80"),
    ]
    .map(|(address, real, vip)| {
        format!(
            "real {real} of service tcp/{vip} cannot work: the route to {address} leads over inside, which does not carry the packet \
             program now"
        )
    })
    .to_vec();
    reasons.push("inside is a port of the bridge br0: name br0".to_owned());
    until(&daemon, &all("native", &["ext"]), &reasons);
    scene.balancer.ip("link set dev inside nomaster").unwrap();
    until(&daemon, &all("native", &["ext", "inside"]), &[]);
    scene.serves(&daemon);
    take_down(daemon);
}
