//! Virtual routers that are Active together.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime},
};

use balancer_tests::{
    advertisements::contest,
    pair::{GATEWAY, GATEWAY6, Pair, VIP, VIP6},
    privileged,
    topology::{INSIDE, OUTSIDE},
};
use xtask::lab::wait_until;

use crate::both_sides;

const VIPS: [&str; 4] = [VIP, GATEWAY, VIP6, GATEWAY6];

#[test]
fn a_group_moves_together_when_one_interface_fails_and_programs_are_told() {
    if privileged::skipped() {
        return;
    }
    // Only root may change what runs as root.
    let folder = tempfile::tempdir_in("/root").expect("a folder");
    let [told, script] = ["told", "script"].map(|name| folder.path().join(name));
    let lines = format!("#!/bin/sh\ncat >> {0}\necho >> {0}\n", told.display());
    fs::write(&script, lines).expect("write a program");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("its mode");
    let notify = format!(
        "[[notify]]\non = [\"active\", \"backup\", \"fault\"]\nrun = [\"{}\"]\n",
        script.display()
    );
    let mut pair = Pair::new(2, 0);
    let config = |priority, more: &str| format!("{notify}{}", both_sides(priority, more));
    pair.start_first_active(config, &[200, 100], "");
    let began = SystemTime::now();
    for vip in VIPS {
        pair.wait_for(vip, &[0]);
    }
    assert_eq!(
        (pair.claimants(VIP), pair.claimants(VIP6)),
        (vec![0], vec![0])
    );
    fs::write(&told, "").expect("forget the beginning");
    let mut events = pair.nodes[0].daemon().follow_events();
    for (fails, side, follows) in [(0, INSIDE, 1), (1, OUTSIDE, 0)] {
        pair.plug(fails, side, false);
        for vip in VIPS {
            pair.wait_for_within(vip, &[follows], Duration::from_secs(2));
        }
        let status = pair.nodes[fails].wait_for_state("fault");
        let routers = status["vrrp"].as_array().expect("virtual routers");
        assert_eq!(routers.len(), 4, "{status:#}");
        for router in routers {
            assert_eq!(router["state"], "fault", "{status:#}");
            assert_eq!(router["reason"], format!("interface {side} has no link"));
        }
        pair.plug(fails, side, true);
        pair.nodes[fails].wait_for_state("backup");
        for vip in VIPS {
            pair.assert_stays(vip, &[follows], Duration::from_millis(300));
        }
    }
    assert_eq!(
        (pair.claimants(VIP), pair.claimants(VIP6)),
        (vec![0], vec![0])
    );
    // All of a group is one event.
    for kind in ["fault", "backup", "active"] {
        let (_, event) = events.next_with(kind);
        assert!(event.contains("pair: "), "{event}");
    }
    // Both nodes told the same program.
    wait_until("the programs", Duration::from_secs(10), || {
        let told = fs::read_to_string(&told)?;
        let count = |kind: &str| told.matches(&format!("\"{kind}\"")).count();
        Ok([count("fault"), count("backup"), count("active")] == [2, 2, 2])
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", fs::read_to_string(&told).expect("it")));
    let seen = pair.recorder.since(began);
    let contest = contest(&seen);
    assert!(
        contest <= Duration::from_millis(150),
        "{contest:?}: {seen:#?}"
    );
}
