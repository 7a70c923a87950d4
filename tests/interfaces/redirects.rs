//! Frames that the kernel loses after the packet program had redirected them are counted and told.

use std::time::Duration;

use balancer_common::ABI_VERSION;
use balancer_tests::{
    privileged,
    topology::{VIP, socket},
};
use xtask::lab::wait_until;

use crate::{
    scene::{Inside, Scene, take_down},
    web::get,
};

#[test]
fn failed_redirects_are_counted_and_reported_while_they_go_on() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::with_cable(Inside::Cable);
    let daemon = scene.daemon(&["ext", "inside"]);
    scene.serves(&daemon);
    // Behind the daemon's back frames towards `inside` are given to a bridge, which takes none.
    scene.balancer.switch("br9", &[]).unwrap();
    let index = |name: &str| scene.balancer.index(name).unwrap().to_ne_bytes();
    let bytes = |index: [u8; 4]| index.map(|byte| byte.to_string());
    let pin = daemon.pins().join(format!("v{ABI_VERSION}/DEVICES"));
    let mut update = scene.balancer.command("bpftool");
    update.args(["map", "update", "pinned"]).arg(pin).arg("key");
    update.args(bytes(index("inside"))).arg("value");
    update.args(bytes(index("br9"))).args(["0", "0", "0", "0"]);
    let output = balancer_tests::topology::run(&mut update);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(daemon.json("status")["dataplane"]["redirect_failures"], 0);
    let asked = scene.client.run(|| {
        let address = socket(VIP, 80);
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100))
    });
    asked.unwrap().unwrap_err();
    let status = daemon.json("status");
    let count = status["dataplane"]["redirect_failures"].as_u64().unwrap();
    assert!(count > 0, "{status:#}");
    let frames = if count == 1 { "frame" } else { "frames" };
    assert_eq!(
        status["reasons"][0],
        format!(
            "frames towards inside are lost ({count} {frames} so far): it takes no redirected frames; `balancer-ctl reload` chooses again \
             how the program runs, and mode = \"generic\" always works"
        )
    );
    let shown = daemon.ctl("status");
    let line = format!("lost         {count} {frames} that the packet program had redirected");
    assert!(shown.lines().any(|shown| shown == line), "{shown}");
    // Mended: it is told no more, and stays counted until it is set to zero.
    let mut update = scene.balancer.command("bpftool");
    update
        .args(["map", "update", "pinned"])
        .arg(daemon.pins().join(format!("v{ABI_VERSION}/DEVICES")))
        .arg("key")
        .args(bytes(index("inside")))
        .arg("value")
        .args(bytes(index("inside")))
        .args(["0", "0", "0", "0"]);
    assert!(balancer_tests::topology::run(&mut update).status.success());
    scene
        .client
        .run(|| get(socket(VIP, 80), "/").unwrap())
        .unwrap();
    wait_until("the reason to go", Duration::from_secs(20), || {
        Ok(daemon.json("status")["reasons"] == serde_json::json!([]))
    })
    .unwrap();
    assert!(daemon.json("status")["dataplane"]["redirect_failures"].as_u64() >= Some(count));
    daemon.ctl("zero");
    assert_eq!(daemon.json("status")["dataplane"]["redirect_failures"], 0);
    take_down(daemon);
}
