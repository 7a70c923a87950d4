//! Connections end: by timeout, by purge, and after a crash.

use std::{
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

use balancer_common::{
    real_server::{RealServer as BalancedReal, state},
    tcp::State,
};
use balancer_ctl::{
    dataplane::{
        ConnectionFilter, Counters, Dataplane, ServiceSnapshot,
        kernel::{self, KernelDataplane},
    },
    model::{DataplaneSettings, Timeouts},
};

use crate::{
    scene::{
        Scene, VIP, all, both, connect, key, maintain_now, maintain_until, service, start_reals,
    },
    table::{Entries, Flow},
};

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
        let entries = Entries::of(&scene);
        let found = |dataplane: &mut KernelDataplane| {
            (dataplane.status().unwrap().connections(), entries.count())
        };
        assert_eq!(found(dataplane), (5, 10));
        // The idle ones expire after 2 s, in which the busy one has been idle for 50 ms at most.
        maintain_until(dataplane, |dataplane| {
            busy.write_all(b".").unwrap();
            busy.read_exact(&mut [0]).unwrap();
            found(dataplane) == (1, 2)
        });
        drop(busy);
        assert_eq!(
            dataplane
                .connections(ConnectionFilter::default())
                .unwrap()
                .all()
                .unwrap()
                .len(),
            1
        );
    });
}

#[test]
fn entries_that_are_alone_go_when_they_are_idle() {
    let scene = Scene::new();
    start_reals(&scene);
    let streams: Vec<_> = scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        (0..3).map(|_| connect(&scene).0).collect()
    });
    // As if a daemon had been killed half way through ending a connection: of one only the reply entry is left. Of
    // another only the original, as after the reply's slot was reused.
    let entries = Entries::of(&scene);
    let originals = entries.originals();
    entries.free(originals[0]);
    entries.free(entries.reply_of(originals[1]));
    scene.with(all(), |dataplane| {
        assert_eq!(dataplane.status().unwrap().connections(), 2);
        // Nothing is removed before its timeout.
        for _ in 0..20 {
            dataplane.run_maintenance().unwrap();
        }
        assert_eq!(entries.count(), 4);
    });
    scene.with(short(), |dataplane| {
        maintain_until(dataplane, |_| entries.count() == 0);
        assert_eq!(dataplane.status().unwrap().connections(), 0);
    });
    drop(streams);
}

/// The service once its counters stand still: the last acknowledgements of what was said may be delayed.
fn settled(dataplane: &mut KernelDataplane) -> ServiceSnapshot {
    let mut read = || dataplane.snapshot(None).unwrap().services[&key(VIP)].clone();
    let mut last = read();
    for _ in 0..50 {
        thread::sleep(Duration::from_millis(300));
        let now = read();
        if now == last {
            return now;
        }
        last = now;
    }
    panic!("the counters do not stand still: {last:?}");
}

#[test]
fn a_removed_real_server_keeps_its_connections_and_then_frees_its_id() {
    let scene = Scene::new();
    start_reals(&scene);
    let reals = || {
        let map = scene.array::<BalancedReal>("REALS");
        [map.get(&0, 0).unwrap().state, map.get(&1, 0).unwrap().state]
    };
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let streams: Vec<_> = (0..2).map(|_| connect(&scene).0).collect();
        dataplane
            .reconcile(&[service(VIP, &[("10.0.1.2:8080", 1)])])
            .unwrap();
        for _ in 0..5 {
            dataplane.run_maintenance().unwrap();
        }
        assert_eq!(reals(), [state::TAKES_NEW, state::REMOVED]);
        let (third, answer) = connect(&scene);
        assert_eq!(answer, "A");
        let before = settled(dataplane);
        assert_eq!((before.counters.connections, before.reals.len()), (3, 1));
        assert_eq!(
            dataplane
                .purge(&key(VIP), "10.0.2.2:8080".parse().unwrap())
                .unwrap(),
            1
        );
        assert_eq!(dataplane.status().unwrap().connections(), 2);
        maintain_until(dataplane, |_| reals() == [state::TAKES_NEW, state::FREE]);
        assert_eq!(
            dataplane.snapshot(None).unwrap().services[&key(VIP)].counters,
            before.counters
        );
        // Another real server gets the id, and its counters begin at zero.
        dataplane
            .reconcile(&[service(VIP, &[("10.0.1.2:8080", 1), ("10.0.2.2:8081", 1)])])
            .unwrap();
        assert_eq!(reals(), [state::TAKES_NEW, state::TAKES_NEW]);
        let after = dataplane.snapshot(None).unwrap().services[&key(VIP)].clone();
        assert_eq!(
            after.reals[&"10.0.2.2:8081".parse().unwrap()].counters,
            Counters::default()
        );
        assert_eq!(after.counters, before.counters);
        drop((streams, third));
        dataplane.zero(Some(&key(VIP))).unwrap();
        // The closing connections still count a few packets.
        assert_eq!(
            dataplane.snapshot(None).unwrap().services[&key(VIP)]
                .counters
                .connections,
            0
        );
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
        maintain_until(dataplane, |_| managed(&scene) == [true, true]);
        dataplane
            .reconcile(&[service(VIP, &[("10.0.1.2:8080", 1)])])
            .unwrap();
        maintain_until(dataplane, |_| managed(&scene) == [true, false]);
    });
    // A namespace's neighbours can be changed only from within it.
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
        maintain_until(dataplane, |_| managed(&scene) == [true, true]);
        scene
            .balancer
            .ip("route add 10.0.1.2/32 via 10.0.2.2")
            .unwrap();
        maintain_until(dataplane, |_| managed(&scene) == [false, true]);
        scene
            .balancer
            .ip("route del 10.0.1.2/32 via 10.0.2.2")
            .unwrap();
        maintain_until(dataplane, |_| managed(&scene) == [true, true]);
    });
}

/// The low 32 bits of the kernel's jiffies, by the program `clock`.
fn jiffies() -> u32 {
    let mut ebpf = aya::Ebpf::load(balancer_ctl::dataplane::object::OBJECT).unwrap();
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
fn the_next_sweep_waits_until_something_changes() {
    let scene = Scene::new();
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        // Finishes the work that the start has left.
        maintain_now(dataplane);
        let entries = Entries::of(&scene);
        // A quarter of the clock's range ago, longer than any timeout.
        let idle = Flow {
            last_seen: jiffies().wrapping_sub(1 << 30),
            ..Flow::of(1, State::Closed)
        };
        entries.put(&idle);
        dataplane.run_maintenance().unwrap();
        assert_eq!(entries.count(), 2, "it rests");
        dataplane.reconcile(&both()).unwrap();
        dataplane.run_maintenance().unwrap();
        assert_eq!(entries.count(), 2, "nothing has changed");
        let mut changed = both();
        changed[0].reals[1].weight = 0;
        dataplane.reconcile(&changed).unwrap();
        maintain_until(dataplane, |_| entries.count() == 0);
    });
}

#[test]
fn a_large_table_is_swept_in_short_steps() {
    const CONNECTIONS: u32 = 250_000;
    let scene = Scene::new();
    let large = DataplaneSettings {
        max_connections: CONNECTIONS,
        ..all()
    };
    scene.with(large, |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let entries = Entries::of(&scene);
        let last_seen = jiffies().wrapping_sub(1 << 30);
        let put = (0..CONNECTIONS).filter(|number| {
            entries.put(&Flow {
                last_seen,
                ..Flow::of(*number, State::Closed)
            })
        });
        let put = put.count();
        let start = Instant::now();
        dataplane.snapshot(None).unwrap();
        println!("a snapshot takes {:?}", start.elapsed());
        let steps = maintain_now(dataplane);
        let (longest, steps) = (steps.iter().max().unwrap(), steps.len());
        assert_eq!(entries.count(), 0);
        println!("{put} connections ended in {steps} steps, the longest {longest:?}");
    });
}

#[test]
fn connections_of_a_large_table_are_reported_as_the_last_sweep_counted_them() {
    const CONNECTIONS: u32 = 20_000;
    let scene = Scene::new();
    let large = DataplaneSettings {
        max_connections: 500_000,
        ..all()
    };
    scene.with(large, |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let entries = Entries::of(&scene);
        let last_seen = jiffies();
        let mut put = [0, 0];
        for number in 0..CONNECTIONS {
            let is_closing = number % 4 == 0;
            let state = if is_closing {
                State::Closing
            } else {
                State::Established
            };
            let flow = Flow {
                last_seen,
                ..Flow::of(number, state)
            };
            put[usize::from(is_closing)] += u64::from(entries.put(&flow));
        }
        let counted = |dataplane: &mut KernelDataplane| {
            let service = dataplane.snapshot(None).unwrap().services[&key(VIP)].clone();
            let real = service.reals[&"10.0.1.2:8080".parse().unwrap()];
            let connections = dataplane.status().unwrap().connections();
            ([real.active, real.inactive], connections)
        };
        let all = put[0] + put[1];
        assert_eq!(counted(dataplane), (put, all), "before the first pass");
        maintain_now(dataplane);
        assert_eq!(counted(dataplane), (put, all));
        // Later connections count for their real server at once, for the table after the next sweep.
        let is_put = entries.put(&Flow {
            last_seen,
            ..Flow::of(CONNECTIONS, State::Established)
        });
        put[0] += u64::from(is_put);
        assert_eq!(counted(dataplane), (put, all));
    });
}
