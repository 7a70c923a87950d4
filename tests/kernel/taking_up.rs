//! What is pinned is taken up, or said not to fit.

use std::io::{Read, Write};

use balancer_ctl::{dataplane::Dataplane, model::DataplaneSettings};

use crate::scene::{Scene, VIP, all, both, connect, key, start_reals};

#[test]
fn a_data_plane_is_taken_up_and_goes_on_while_nobody_owns_it() {
    let scene = Scene::new();
    start_reals(&scene);
    let mut first = scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        connect(&scene).0
    });
    // Nobody owns it now, as after kill -9.
    let second = connect(&scene);
    assert_eq!(second.1, "B");
    let programs = scene.with(all(), |dataplane| {
        let status = dataplane.status().unwrap();
        assert_eq!((status.connections, status.warnings), (2, vec![]));
        dataplane.reconcile(&both()).unwrap();
        let third = connect(&scene);
        assert_eq!(third.1, "A");
        let counters = dataplane.snapshot().unwrap().services[&key(VIP)].counters;
        assert_eq!(counters.connections, 3);
        status
            .interfaces
            .iter()
            .map(|interface| interface.program_id)
            .collect::<Vec<_>>()
    });
    // Each daemon brings its own program; the link stays.
    let again = scene.with(all(), |dataplane| dataplane.status().unwrap());
    assert!(
        again
            .interfaces
            .iter()
            .zip(&programs)
            .all(|(interface, old)| interface.program_id > *old)
    );
    // The oldest connection is still whole: the real server closes when we do.
    first.write_all(b"x").unwrap();
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
}

#[test]
fn a_changed_size_is_said_and_the_data_plane_starts_anew() {
    let scene = Scene::new();
    start_reals(&scene);
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        connect(&scene);
    });
    let larger = DataplaneSettings {
        max_connections: 2000,
        ..all()
    };
    scene.with(larger, |dataplane| {
        let status = dataplane.status().unwrap();
        assert_eq!(
            status.warnings,
            ["the pinned maps are not as this version and configuration want them, so the data plane starts anew and running connections \
              are lost: CONNTRACK_V4 has 2000 entries, not 4000; CONNTRACK_V6 has 2000 entries, not 4000"]
        );
        assert_eq!((status.connections, status.max_connections), (0, 2000));
        dataplane.reconcile(&both()).unwrap();
        assert_eq!(connect(&scene).1, "A");
        let error = dataplane.configure(&all()).unwrap_err().to_string();
        assert_eq!(
            error,
            "max-connections cannot change from 2000 to 1000 while packets flow: stop balancerd, run `balancerd --detach`, and start it again"
        );
    });
}

#[test]
fn a_map_of_another_layout_is_not_taken_up() {
    let scene = Scene::new();
    start_reals(&scene);
    scene.with(all(), |dataplane| dataplane.reconcile(&both()).unwrap());
    // A map of another shape under the name of one of ours.
    let path = scene.pins().join("v1/TURNS");
    std::fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("bpftool")
        .args([
            "map",
            "create",
            path.to_str().unwrap(),
            "type",
            "array",
            "key",
            "4",
            "value",
            "4",
            "entries",
            "4096",
            "name",
            "TURNS",
        ])
        .status();
    assert!(made.unwrap().success());
    scene.with(all(), |dataplane| {
        let warnings = dataplane.status().unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].ends_with("TURNS has type 2, keys of 4 and values of 4 bytes, flags 0x0, not type 2, 4 and 8 bytes, 0x0"),
            "{warnings:?}"
        );
        dataplane.reconcile(&both()).unwrap();
        assert_eq!([connect(&scene).1, connect(&scene).1], ["A", "B"]);
    });
}

#[test]
fn what_another_layout_left_is_taken_off() {
    let scene = Scene::new();
    start_reals(&scene);
    scene.with(all(), |dataplane| dataplane.reconcile(&both()).unwrap());
    let old = scene.pins().join("v0");
    std::fs::rename(scene.pins().join("v1"), &old).unwrap();
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        assert_eq!(connect(&scene).1, "A");
        assert!(!old.exists());
    });
}
