//! Connections end: by time, by purge, and after a crash.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use balancer_common::{
    conntrack::{ConntrackEntryV4, FlowKeyV4, direction},
    real_server::{RealServer as BalancedReal, state},
    settings::{Interface, Usage, interface_flags},
    tcp::State,
};
use balancer_ctl::{
    dataplane::{
        ConnectionFilter, Connections, Counters, Dataplane,
        kernel::{self, KernelDataplane},
    },
    model::{DataplaneSettings, Timeouts},
};

use crate::scene::{Scene, VIP, all, both, connect, key, service, start_reals};

/// Calls `tend` until `done`, for at most ten seconds.
pub fn tend_until(
    dataplane: &mut KernelDataplane,
    mut done: impl FnMut(&mut KernelDataplane) -> bool,
) {
    let start = Instant::now();
    while !done(dataplane) {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            dataplane.status()
        );
        dataplane.tend().unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn short() -> DataplaneSettings {
    let timeouts = Timeouts {
        tcp: Duration::from_secs(2),
        tcp_fin: Duration::from_secs(2),
        ..all().timeouts
    };
    DataplaneSettings { timeouts, ..all() }
}

#[test]
fn idle_connections_go_as_pairs_and_busy_ones_stay() {
    let scene = Scene::new();
    start_reals(&scene);
    scene.with(short(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let mut busy = connect(&scene).0;
        let _idle: Vec<_> = (0..4).map(|_| connect(&scene)).collect();
        assert_eq!(
            (
                dataplane.status().unwrap().connections,
                rows(&scene).keys().count()
            ),
            (5, 10)
        );
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(4) {
            busy.write_all(b".").unwrap();
            busy.read_exact(&mut [0]).unwrap();
            dataplane.tend().unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(
            (
                dataplane.status().unwrap().connections,
                rows(&scene).keys().count()
            ),
            (1, 2)
        );
        drop(busy);
        assert_eq!(
            dataplane.connections(ConnectionFilter::default()).unwrap()()
                .unwrap()
                .len(),
            1
        );
    });
}

type Rows = aya::maps::HashMap<aya::maps::MapData, FlowKeyV4, ConntrackEntryV4>;

/// The IPv4 connection table.
fn rows(scene: &Scene) -> Rows {
    let map = aya::maps::MapData::from_pin(
        scene
            .pins()
            .join(format!("v{}/CONNTRACK_V4", balancer_common::ABI_VERSION)),
    )
    .unwrap();
    Rows::try_from(aya::maps::Map::HashMap(map)).unwrap()
}

#[test]
fn orphans_go_and_the_number_of_connections_heals() {
    let scene = Scene::new();
    start_reals(&scene);
    let streams: Vec<_> = scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        (0..3).map(|_| connect(&scene).0).collect()
    });
    // As if the daemon had been killed in the middle of deleting: of one connection the original row is gone, of another the reply's,
    // of the third both; none is counted.
    let mut table = rows(&scene);
    let (originals, replies): (Vec<_>, Vec<_>) = table
        .iter()
        .map(Result::unwrap)
        .partition(|(_, row)| row.direction == direction::ORIGINAL);
    let reply_of = |index: usize| {
        let (key, _) = originals[index];
        replies
            .iter()
            .find(|(_, row)| row.translation.answers(&key))
            .unwrap()
            .0
    };
    table.remove(&originals[0].0).unwrap();
    table.remove(&reply_of(1)).unwrap();
    table.remove(&originals[2].0).unwrap();
    table.remove(&reply_of(2)).unwrap();
    drop(streams);
    scene.with(all(), |dataplane| {
        assert_eq!(dataplane.status().unwrap().connections, 3);
        dataplane.tend().unwrap();
        assert_eq!(dataplane.status().unwrap().connections, 1);
    });
    scene.with(short(), |dataplane| {
        tend_until(dataplane, |dataplane| {
            dataplane.status().unwrap().connections == 0
        });
        tend_until(dataplane, |_| rows(&scene).keys().count() == 0);
    });
}

#[test]
fn a_removed_real_server_keeps_its_connections_and_then_frees_its_id() {
    let scene = Scene::new();
    start_reals(&scene);
    let reals = || {
        let map = aya::maps::MapData::from_pin(
            scene
                .pins()
                .join(format!("v{}/REALS", balancer_common::ABI_VERSION)),
        )
        .unwrap();
        let map =
            aya::maps::Array::<_, BalancedReal>::try_from(aya::maps::Map::Array(map)).unwrap();
        [map.get(&0, 0).unwrap().state, map.get(&1, 0).unwrap().state]
    };
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let streams: Vec<_> = (0..2).map(|_| connect(&scene).0).collect();
        dataplane
            .reconcile(&[service(VIP, &[("10.0.1.2:8080", 1)])])
            .unwrap();
        for _ in 0..5 {
            dataplane.tend().unwrap();
        }
        assert_eq!(reals(), [state::TAKES_NEW, state::REMOVED]);
        assert_eq!(connect(&scene).1, "A");
        let before = dataplane.snapshot().unwrap().services[&key(VIP)].clone();
        assert_eq!((before.counters.connections, before.reals.len()), (3, 1));
        assert_eq!(
            dataplane
                .purge(&key(VIP), "10.0.2.2:8080".parse().unwrap())
                .unwrap(),
            1
        );
        assert_eq!(dataplane.status().unwrap().connections, 2);
        tend_until(dataplane, |_| reals() == [state::TAKES_NEW, state::FREE]);
        assert_eq!(
            dataplane.snapshot().unwrap().services[&key(VIP)].counters,
            before.counters
        );
        // The id is another's now, and begins at zero.
        dataplane
            .reconcile(&[service(VIP, &[("10.0.1.2:8080", 1), ("10.0.2.2:8081", 1)])])
            .unwrap();
        assert_eq!(reals(), [state::TAKES_NEW, state::TAKES_NEW]);
        let after = dataplane.snapshot().unwrap().services[&key(VIP)].clone();
        assert_eq!(
            after.reals[&"10.0.2.2:8081".parse().unwrap()].counters,
            Counters::default()
        );
        assert_eq!(after.counters, before.counters);
        drop(streams);
        dataplane.zero(Some(&key(VIP))).unwrap();
        // The closing connections still count a few packets.
        assert_eq!(
            dataplane.snapshot().unwrap().services[&key(VIP)]
                .counters
                .connections,
            0
        );
    });
}

#[test]
fn packets_stop_asking_for_failed_real_servers_when_the_last_one_is_freed() {
    let scene = Scene::new();
    let asks = || {
        let map = aya::maps::MapData::from_pin(
            scene
                .pins()
                .join(format!("v{}/INTERFACES", balancer_common::ABI_VERSION)),
        )
        .unwrap();
        let map = aya::maps::Array::<_, Interface>::try_from(aya::maps::Map::Array(map)).unwrap();
        map.iter()
            .any(|interface| interface.unwrap().flags & interface_flags::RESETS != 0)
    };
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        assert!(!asks());
        let mut failed = both();
        failed[0].reals[1].weight = 0;
        failed[0].reals[1].connections = Connections::Reset;
        dataplane.reconcile(&failed).unwrap();
        assert!(asks());
        dataplane
            .reconcile(&[service(VIP, &[("10.0.1.2:8080", 1)])])
            .unwrap();
        assert!(asks(), "its connections are still to be reset");
        tend_until(dataplane, |_| !asks());
        // And again when the next one fails.
        dataplane.reconcile(&both()).unwrap();
        dataplane.reconcile(&failed).unwrap();
        assert!(asks());
    });
}

/// Whether the neighbour entries of the two real servers are managed.
fn managed(scene: &Scene) -> [bool; 2] {
    ["10.0.1.2", "10.0.2.2"].map(|address| {
        let entry = scene.balancer.run(|| {
            let mut show = std::process::Command::new("ip");
            show.args(["neighbour", "show", "to", address]).output()
        });
        let entry = String::from_utf8(entry.unwrap().unwrap().stdout).unwrap();
        entry.contains(" managed ")
    })
}

#[test]
fn neighbours_are_kept_fresh_as_long_as_a_real_server_needs_them() {
    let scene = Scene::new();
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        tend_until(dataplane, |_| managed(&scene) == [true, true]);
        dataplane
            .reconcile(&[service(VIP, &[("10.0.1.2:8080", 1)])])
            .unwrap();
        tend_until(dataplane, |_| managed(&scene) == [true, false]);
    });
    // Nobody may change a namespace's neighbours from outside.
    let down = scene
        .balancer
        .run(|| kernel::detach(Some(&scene.instance)).map_err(|error| error.to_string()));
    assert_eq!(down.unwrap(), Ok(true));
    assert_eq!(managed(&scene), [false, false]);
}

#[test]
fn the_next_hop_to_a_real_server_is_looked_for_again_when_routes_change() {
    let scene = Scene::new();
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        tend_until(dataplane, |_| managed(&scene) == [true, true]);
        scene
            .balancer
            .ip("route add 10.0.1.2/32 via 10.0.2.2")
            .unwrap();
        tend_until(dataplane, |_| managed(&scene) == [false, true]);
        scene
            .balancer
            .ip("route del 10.0.1.2/32 via 10.0.2.2")
            .unwrap();
        tend_until(dataplane, |_| managed(&scene) == [true, true]);
    });
}

/// The low half of the kernel's jiffies, as the program `clock` says.
fn jiffies() -> u32 {
    let mut ebpf = aya::Ebpf::load(balancer_ctl::object::OBJECT).unwrap();
    let program: &mut aya::programs::Xdp = ebpf.program_mut("clock").unwrap().try_into().unwrap();
    program.load().unwrap();
    let (input, mut output) = ([0_u8; 64], [0_u8; 64]);
    let options = aya::TestRunOptions {
        data_in: Some(&input),
        data_out: Some(&mut output),
        ..aya::TestRunOptions::default()
    };
    aya::TestRun::test_run(program, options).unwrap();
    u32::from_ne_bytes(*output.first_chunk().unwrap())
}

#[test]
fn a_finished_walk_rests_until_something_changes() {
    let scene = Scene::new();
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        // What the start has left to do.
        while dataplane.next_tend() < Duration::from_secs(1) {
            dataplane.tend().unwrap();
        }
        dataplane.tend().unwrap();
        let mut table = rows(&scene);
        let idle = ConntrackEntryV4 {
            state: State::Closed as u8,
            // A quarter of the clock's range ago: longer than any timeout.
            last_seen: jiffies().wrapping_sub(1 << 30),
            direction: direction::REPLY,
            ..ConntrackEntryV4::default()
        };
        table.insert(FlowKeyV4::default(), idle, 0).unwrap();
        dataplane.tend().unwrap();
        assert_eq!(rows(&scene).keys().count(), 1, "it rests");
        dataplane.reconcile(&both()).unwrap();
        dataplane.tend().unwrap();
        assert_eq!(rows(&scene).keys().count(), 1, "nothing has changed");
        let mut changed = both();
        changed[0].reals[1].weight = 0;
        dataplane.reconcile(&changed).unwrap();
        tend_until(dataplane, |_| rows(&scene).keys().count() == 0);
    });
}

#[test]
fn a_large_table_is_tended_in_short_steps() {
    const CONNECTIONS: u32 = 250_000;
    let scene = Scene::new();
    let large = DataplaneSettings {
        max_connections: CONNECTIONS,
        ..all()
    };
    scene.with(large, |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let mut table = rows(&scene);
        // A quarter of the clock's range ago: longer than any timeout.
        let last_seen = jiffies().wrapping_sub(1 << 30);
        let vip = u32::from_ne_bytes([192, 168, 1, 35]);
        let real = u32::from_ne_bytes([10, 0, 1, 2]);
        for number in 0..CONNECTIONS {
            let key = FlowKeyV4 {
                source: number,
                destination: vip,
                source_port: 1,
                destination_port: 80_u16.to_be(),
                protocol: 6,
            };
            let mut row = ConntrackEntryV4 {
                state: State::Closed as u8,
                last_seen,
                ..ConntrackEntryV4::default()
            };
            row.translation.dnat(&key, real, 8080_u16.to_be());
            let mut reply_key = FlowKeyV4::default();
            row.translation.reply_key(6, &mut reply_key);
            let mut reply = ConntrackEntryV4 {
                direction: direction::REPLY,
                ..row
            };
            reply.translation.reply(&row.translation, &key);
            table.insert(reply_key, reply, 0).unwrap();
            table.insert(key, row, 0).unwrap();
        }
        let start = Instant::now();
        dataplane.snapshot().unwrap();
        println!(
            "a snapshot takes {:?} before the first walk",
            start.elapsed()
        );
        let mut longest = Duration::ZERO;
        let mut steps = 0;
        while table.keys().next().is_some() {
            let start = Instant::now();
            dataplane.tend().unwrap();
            longest = longest.max(start.elapsed());
            steps += 1;
            assert!(steps < 100_000);
            assert!(
                dataplane.next_tend() < Duration::from_secs(1) || table.keys().next().is_none(),
                "a walk goes on soon"
            );
        }
        println!("{CONNECTIONS} connections expired in {steps} steps, the longest {longest:?}");
    });
}

#[test]
fn connections_of_a_large_table_are_told_as_the_last_walk_has_counted_them() {
    const CONNECTIONS: u32 = 20_000;
    let scene = Scene::new();
    let large = DataplaneSettings {
        max_connections: 2 * CONNECTIONS,
        ..all()
    };
    scene.with(large, |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let mut table = rows(&scene);
        let vip = u32::from_ne_bytes([192, 168, 1, 35]);
        let real = u32::from_ne_bytes([10, 0, 1, 2]);
        let last_seen = jiffies();
        for number in 0..CONNECTIONS {
            let key = FlowKeyV4 {
                source: number,
                destination: vip,
                source_port: 1,
                destination_port: 80_u16.to_be(),
                protocol: 6,
            };
            let state = if number % 4 == 0 {
                State::Closing
            } else {
                State::Established
            };
            let mut row = ConntrackEntryV4 {
                state: state as u8,
                last_seen,
                ..ConntrackEntryV4::default()
            };
            row.translation.dnat(&key, real, 8080_u16.to_be());
            table.insert(key, row, 0).unwrap();
        }
        let usage = Usage {
            added: u64::from(CONNECTIONS),
            removed: 0,
        };
        let map = aya::maps::MapData::from_pin(
            scene
                .pins()
                .join(format!("v{}/USAGE", balancer_common::ABI_VERSION)),
        );
        let map = aya::maps::Map::Array(map.unwrap());
        let mut map = aya::maps::Array::<_, Usage>::try_from(map).unwrap();
        map.set(0, usage, 0).unwrap();
        let counted = |dataplane: &mut KernelDataplane| {
            let service = dataplane.snapshot().unwrap().services[&key(VIP)].clone();
            let real = service.reals[&"10.0.1.2:8080".parse().unwrap()];
            (real.active, real.inactive)
        };
        let all = (u64::from(CONNECTIONS) * 3 / 4, u64::from(CONNECTIONS) / 4);
        assert_eq!(counted(dataplane), all, "before the first walk");
        dataplane.tend().unwrap();
        while dataplane.next_tend() < Duration::from_secs(1) {
            dataplane.tend().unwrap();
        }
        assert_eq!(counted(dataplane), all);
        // What came since is not counted yet.
        table
            .insert(FlowKeyV4::default(), ConntrackEntryV4::default(), 0)
            .unwrap();
        assert_eq!(counted(dataplane), all);
    });
}
