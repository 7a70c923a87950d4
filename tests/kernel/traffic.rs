//! Traffic through the loaded data plane, and how long changes take.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    time::{Duration, Instant},
};

use balancer_common::tcp::State;
use balancer_ctl::{
    dataplane::Service,
    dataplane::{ConnectionFilter, Dataplane},
};

use crate::scene::{Scene, VIP, all, both, connect, key, service, start_reals};

#[test]
fn connections_alternate_and_are_counted() {
    let scene = Scene::new();
    start_reals(&scene);
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        dataplane.tend().unwrap();
        let status = dataplane.status().unwrap();
        assert_eq!(status.warnings, Vec::<String>::new());
        assert!(status.interfaces.iter().all(|interface| interface.native));
        let streams: Vec<_> = (0..6).map(|_| connect(&scene)).collect();
        let names: String = streams.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, "ABABAB");

        let snapshot = dataplane.snapshot().unwrap();
        let service = &snapshot.services[&key(VIP)];
        let active: BTreeMap<_, _> = service
            .reals
            .iter()
            .map(|(a, real)| {
                (
                    a.to_string(),
                    (real.active, real.inactive, real.counters.connections),
                )
            })
            .collect();
        assert_eq!(
            active,
            BTreeMap::from([
                ("10.0.1.2:8080".into(), (3, 0, 3)),
                ("10.0.2.2:8080".into(), (3, 0, 3))
            ])
        );
        assert_eq!(service.counters.connections, 6);
        assert_eq!(dataplane.status().unwrap().connections, 6);

        let connections = dataplane.connections(&ConnectionFilter::default()).unwrap();
        assert_eq!(connections.len(), 6);
        for connection in connections {
            assert_eq!(connection.state, State::Established);
            assert_eq!(connection.virtual_address, key(VIP));
            assert!(
                connection.expires_in > Duration::from_secs(890)
                    && connection.expires_in <= Duration::from_secs(900),
                "{connection:?}"
            );
        }
    });
}

#[test]
fn a_new_mac_address_of_a_real_server_is_followed() {
    let scene = Scene::new();
    start_reals(&scene);
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let streams: Vec<_> = (0..2).map(|_| connect(&scene)).collect();
        for real in &scene.reals {
            real.ip("link set dev eth0 down").unwrap();
            real.ip("link set dev eth0 address 02:00:00:00:12:34")
                .unwrap();
            real.ip("link set dev eth0 up").unwrap();
        }
        scene.reals[0].gateway("10.0.1.1").unwrap();
        scene.reals[1].gateway("10.0.2.1").unwrap();
        for (mut stream, _) in streams {
            stream.write_all(b"x").unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
        assert_eq!([connect(&scene).1, connect(&scene).1], ["A", "B"]);
    });
}

#[test]
fn many_services_and_real_servers_load_quickly() {
    let scene = Scene::new();
    let reals: Vec<_> = (0..1000)
        .map(|n| (format!("10.0.1.{}:{}", 2 + n % 200, 8000 + n), 1 + n % 7))
        .collect();
    let reals: Vec<_> = reals
        .iter()
        .map(|(address, weight)| (address.as_str(), *weight))
        .collect();
    let one = vec![service(VIP, &reals)];
    let many: Vec<_> = (0..1000_usize)
        .map(|n| {
            service(
                &format!("192.0.2.{}:{}", n % 250, 1000 + n),
                &reals[n % 900..n % 900 + 10],
            )
        })
        .collect();
    scene.with(all(), |dataplane| {
        let mut timed = |what: &str, services: &[Service]| {
            let start = Instant::now();
            dataplane.reconcile(services).unwrap();
            let took = start.elapsed();
            println!("{what}: {took:?}");
        };
        timed("1 service with 1,000 real servers", &one);
        timed("nothing to do", &one);
        let mut changed = one.clone();
        changed[0].reals[500].weight = 9;
        timed("one weight of it changed", &changed);
        timed("1,000 services with 10 real servers each", &many);
        timed("nothing to do", &many);
        let mut changed = many.clone();
        changed[500].reals.pop();
        timed("one real server of them removed", &changed);
    });
}
