//! Cables between namespaces, natively.

use balancer_tests::privileged;

use crate::scene::{Inside, Scene, all, config, generic_because, status, take_down, until};

#[test]
fn two_cables_are_native_and_serve() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    let daemon = scene.daemon(&["ext", "inside"]);
    assert_eq!(status(&daemon), (all("native", &["ext", "inside"]), vec![]));
    scene.serves(&daemon);
    scene.downloads(&daemon);
    take_down(daemon);
}

#[test]
fn one_that_takes_no_redirected_frames_makes_all_generic_until_that_is_mended() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    let gro = |value| {
        scene
            .switch
            .output("ethtool", &["-K", "uplink", "gro", value])
            .unwrap()
    };
    gro("off");
    let mut daemon = scene.daemon(&["ext", "inside"]);
    let obstacle = format!(
        "inside takes no redirected frames, since its other end uplink does not poll (`ip netns exec {} ethtool -K uplink gro on`, then \
         `balancer-ctl reload`)",
        scene.switch.name()
    );
    let generic = all("generic", &["ext", "inside"]);
    let reasons = vec![generic_because(&obstacle)];
    assert_eq!(status(&daemon), (generic.clone(), reasons.clone()));
    scene.serves(&daemon);
    // A reload while nothing has changed does not interrupt anything.
    let program = |daemon: &balancer_tests::daemon::Daemon| {
        daemon.json("status")["dataplane"]["interfaces"][0]["program_id"].clone()
    };
    let before = program(&daemon);
    daemon.ctl("reload");
    assert_eq!(
        (program(&daemon), status(&daemon)),
        (before, (generic.clone(), reasons))
    );
    gro("on");
    // After a restart the program stays in its mode.
    daemon.stop();
    daemon.restart();
    let taken_over = "the packet program still runs in generic mode, as an earlier daemon left it, which costs more CPU time per packet: \
                      `balancer-ctl reload` tries native mode";
    assert_eq!(status(&daemon), (generic, vec![taken_over.to_owned()]));
    scene.serves(&daemon);
    daemon.ctl("reload");
    until(&daemon, &all("native", &["ext", "inside"]), &[]);
    scene.serves(&daemon);
    // In mode native it is refused.
    gro("off");
    daemon.write(&config(&["ext", "inside"], "mode = \"native\""));
    let reload = balancer_tests::topology::run(daemon.command("balancer-ctl").arg("reload"));
    let said = String::from_utf8_lossy(&reload.stderr).into_owned();
    assert!(
        said.contains(&format!(
            "{obstacle}; mode = \"auto\" or \"generic\" works there too"
        )),
        "{said}"
    );
    take_down(daemon);
}
