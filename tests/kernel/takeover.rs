//! A daemon reuses what an earlier one has pinned, or says why it does not fit.

use std::io::{Read, Write};

use balancer_ctl::{
    dataplane::{Dataplane, DataplaneStatus},
    model::DataplaneSettings,
};

use crate::scene::{Scene, VIP, all, both, connect, key, start_reals, too_many};

#[test]
fn a_data_plane_is_reused_and_goes_on_while_no_daemon_runs() {
    let scene = Scene::new();
    start_reals(&scene);
    let mut first = scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        connect(&scene).0
    });
    // No daemon runs now, as after kill -9.
    let second = connect(&scene);
    assert_eq!(second.1, "B");
    let programs = scene.with(all(), |dataplane| {
        let status = dataplane.status().unwrap();
        assert_eq!((status.connections(), status.warnings), (2, vec![]));
        dataplane.reconcile(&both()).unwrap();
        let third = connect(&scene);
        assert_eq!(third.1, "A");
        let counters = dataplane.snapshot(None).unwrap().services[&key(VIP)].counters;
        assert_eq!(counters.connections, 3);
        status
            .interfaces
            .iter()
            .map(|interface| interface.program_id)
            .collect::<Vec<_>>()
    });
    // Each daemon loads a program of its own; the link stays.
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
fn a_changed_size_is_reported_and_the_data_plane_starts_anew() {
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
              are lost: CONNTRACK_V4 has 640 entries, not 1280"]
        );
        assert_eq!((status.connections(), status.max_connections()), (0, 3000));
        dataplane.reconcile(&both()).unwrap();
        assert_eq!(connect(&scene).1, "A");
        // Nothing else of such settings is applied.
        let half = DataplaneSettings {
            interfaces: vec!["outside".to_owned()],
            ..all()
        };
        let error = dataplane.configure(&half).unwrap_err().to_string();
        assert_eq!(
            error,
            "max-connections cannot change from 2000 to 1000 while packets flow, since a table has its size from its beginning to \
             its end: restart balancerd, which makes new tables and puts them in the place of the old ones without a gap; running \
             connections are reset"
        );
        assert_eq!(dataplane.status().unwrap().interfaces.len(), 3);
    });
}

#[test]
fn a_map_of_another_layout_is_not_reused() {
    let scene = Scene::new();
    start_reals(&scene);
    scene.with(all(), |dataplane| dataplane.reconcile(&both()).unwrap());
    // A map with other sizes under the name of one of ours.
    let path = scene.pin("TURNS");
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
fn what_another_version_left_forwards_until_this_one_takes_over_and_then_its_connections_are_reset()
{
    let scene = Scene::new();
    start_reals(&scene);
    let _listener = scene.listen();
    let programs = |status: &DataplaneStatus| -> Vec<_> {
        let interfaces = status.interfaces.iter();
        interfaces.map(|interface| interface.program_id).collect()
    };
    let before = scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        programs(&dataplane.status().unwrap())
    });
    let present = format!("v{}", balancer_common::ABI_VERSION);
    let old = scene.pins().join("v3");
    std::fs::rename(scene.pins().join(&present), &old).unwrap();
    // A start that fails leaves it as it was.
    assert!(scene.open_error(all(), too_many()).contains("4096"));
    let mut stream = connect(&scene).0;
    scene.with(all(), |dataplane| {
        let status = dataplane.status().unwrap();
        assert_eq!(
            status.warnings,
            [format!(
                "another version of balancerd left its maps here (layout v3, and this one's is {present}): its program went on forwarding \
                 until this version's took the interfaces over, and the connections of that time are reset"
            )]
        );
        assert!(!old.exists());
        let after = programs(&status);
        assert!(before.iter().zip(&after).all(|(old, new)| old < new));
        dataplane.reconcile(&both()).unwrap();
        stream.write_all(b".").unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        assert_eq!([connect(&scene).1, connect(&scene).1], ["A", "B"]);
    });
    // The next daemon has nothing to warn about.
    scene.with(all(), |dataplane| {
        assert_eq!(dataplane.status().unwrap().warnings, [""; 0]);
    });
}

/// Every path below the data plane's pins.
fn pinned(scene: &Scene) -> Vec<String> {
    let list = |directory: &std::path::Path| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(directory)
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default()
    };
    let mut paths: Vec<_> = list(&scene.pins())
        .iter()
        .flat_map(|layout| list(layout))
        .map(|path| path.display().to_string())
        .collect();
    paths.sort();
    paths
}

/// Runs `work` with room for only so many more open files.
fn with_few_files<T>(more: usize, work: impl FnOnce() -> T) -> T {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let open: std::collections::HashSet<u64> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    let limit = (0..).filter(|number| !open.contains(number)).nth(more);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, limit.unwrap(), hard).unwrap();
    let result = work();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    result
}

#[test]
fn a_load_that_fails_leaves_what_ran() {
    let scene = Scene::new();
    start_reals(&scene);
    let mut first = scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        connect(&scene).0
    });
    let before = pinned(&scene);
    assert_eq!(before.len(), 42 + 3);
    let larger = DataplaneSettings {
        max_connections: 2000,
        ..all()
    };
    let error = scene
        .balancer
        .run(|| with_few_files(12, || scene.open(larger).map(drop).unwrap_err().to_string()))
        .unwrap();
    assert!(error.contains("Too many open files"), "{error}");
    assert_eq!(pinned(&scene), before);
    // The connection goes on, and a start with the old size reuses the maps.
    first.write_all(b"y").unwrap();
    let mut echo = [0];
    first.read_exact(&mut echo).unwrap();
    scene.with(all(), |dataplane| {
        let status = dataplane.status().unwrap();
        assert_eq!((status.connections(), status.warnings), (1, vec![]));
    });
}

#[test]
fn a_first_start_that_fails_leaves_nothing() {
    let scene = Scene::new();
    let send_redirects = || {
        scene
            .balancer
            .run(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/send_redirects").unwrap())
            .unwrap()
    };
    let before = send_redirects();
    let error = scene.open_error(all(), too_many());
    assert!(error.contains("4096"), "{error}");
    assert!(!scene.pins().exists());
    assert_eq!(send_redirects(), before);
    let link = scene.balancer.output("ip", &["link"]).unwrap();
    assert!(!link.contains("xdp"), "{link}");
    // So does one that cannot load.
    let error = scene
        .balancer
        .run(|| with_few_files(12, || scene.open(all()).map(drop).unwrap_err().to_string()))
        .unwrap();
    assert!(error.contains("Too many open files"), "{error}");
    assert!(!scene.pins().exists());
}

#[test]
fn a_data_plane_that_starts_anew_is_filled_before_a_packet_reaches_it() {
    // Room for all connections that are opened meanwhile, even on a slow machine.
    let sized = |max_connections| DataplaneSettings {
        max_connections,
        ..all()
    };
    let scene = Scene::new();
    start_reals(&scene);
    scene
        .balancer
        .run(|| {
            drop(scene.open_with(sized(20_000), both()).unwrap());
        })
        .unwrap();
    // No daemon has reconciled.
    assert_eq!([connect(&scene).1, connect(&scene).1], ["A", "B"]);
    // Another size: new maps are created and filled beside the old ones, and then replace them.
    let larger = sized(40_000);
    let refused = std::sync::Mutex::new(Vec::new());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        use std::sync::atomic::Ordering::Relaxed;
        threads.spawn(|| {
            while !stop.load(Relaxed) {
                let connected = scene.client.run(|| {
                    std::net::TcpStream::connect_timeout(
                        &VIP.parse().unwrap(),
                        std::time::Duration::from_secs(5),
                    )
                });
                if let Err(error) = connected.unwrap() {
                    refused.lock().unwrap().push(error.to_string());
                }
                // Each stays in the table, and its port taken, for longer than this takes.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        scene
            .balancer
            .run(|| drop(scene.open_with(larger.clone(), both()).unwrap()))
            .unwrap();
        stop.store(true, Relaxed);
    });
    assert_eq!(refused.into_inner().unwrap(), [""; 0]);
    let pins = pinned(&scene);
    assert_eq!(pins.len(), 42 + 3, "{pins:?}");
    scene.with(larger, |dataplane| {
        assert_eq!(dataplane.status().unwrap().warnings, [""; 0]);
    });
}
