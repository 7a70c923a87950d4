//! Traffic through the loaded data plane, and how long changes take.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use balancer_common::{tcp::State, verdict::Discard};
use balancer_ctl::{
    dataplane::{ConnectionFilter, Connections, Dataplane, Service, kernel::KernelDataplane},
    model::Scheduler,
};

use crate::{
    scene::{Scene, VIP, all, both, connect, key, service, start_reals},
    table::Entries,
};

#[test]
fn connections_alternate_and_are_counted() {
    let scene = Scene::new();
    start_reals(&scene);
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        dataplane.run_maintenance().unwrap();
        let status = dataplane.status().unwrap();
        assert_eq!(status.warnings, Vec::<String>::new());
        assert!(status.interfaces.iter().all(|interface| interface.native));
        let streams: Vec<_> = (0..6).map(|_| connect(&scene)).collect();
        let names: String = streams.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, "ABABAB");

        let snapshot = dataplane.snapshot(None).unwrap();
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
        assert_eq!(dataplane.status().unwrap().connections(), 6);

        let connections = dataplane
            .connections(ConnectionFilter::default())
            .unwrap()
            .all()
            .unwrap();
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
fn clients_of_a_real_server_that_fails_are_reset_and_others_go_on() {
    let scene = Scene::new();
    start_reals(&scene);
    let _listener = scene.listen();
    let failed = |number: usize| {
        let mut services = both();
        services[0].reals[number].weight = 0;
        services[0].reals[number].connections = Connections::Reset;
        services
    };
    let mut again = scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let mut streams: Vec<_> = (0..4).map(|_| connect(&scene)).collect();
        dataplane.reconcile(&failed(0)).unwrap();
        for (stream, name) in &mut streams {
            stream.write_all(b".").unwrap();
            let answer = stream.read(&mut [0]);
            if name == "A" {
                let error = answer.unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
            } else {
                assert_eq!(answer.unwrap(), 1);
            }
        }
        assert_eq!(dataplane.status().unwrap().connections(), 2);
        let discards = dataplane.status().unwrap().discards;
        assert!(discards.contains(&(Discard::RealReset, 2)), "{discards:?}");
        assert_eq!([connect(&scene).1, connect(&scene).1], ["B", "B"]);
        dataplane.reconcile(&both()).unwrap();
        let mut again = connect(&scene);
        while again.1 != "A" {
            again = connect(&scene);
        }
        dataplane.reconcile(&failed(0)).unwrap();
        again.0
    });
    scene.with(all(), |dataplane| {
        // A later daemon leaves it so.
        again.write_all(b".").unwrap();
        let error = again.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        dataplane.reconcile(&failed(0)).unwrap();
        dataplane.reconcile(&both()).unwrap();
        assert_eq!(
            [connect(&scene).1, connect(&scene).1].join("").len(),
            2,
            "both take connections again"
        );
        // With no real server at all the client is refused at once.
        let mut none = failed(0);
        none[0].reals[1].weight = 0;
        dataplane.reconcile(&none).unwrap();
        let refused = scene
            .client
            .run(|| {
                let address: SocketAddr = VIP.parse().unwrap();
                TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap_err()
            })
            .unwrap();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_client_whose_connection_is_closed_is_reset_and_others_go_on() {
    let scene = Scene::new();
    start_reals(&scene);
    let _listener = scene.listen();
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&both()).unwrap();
        let mut streams: Vec<_> = (0..5).map(|_| connect(&scene)).collect();
        let names: String = streams.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, "ABABA");
        let entries = Entries::of(&scene);
        let found = |dataplane: &mut KernelDataplane| {
            let snapshot = dataplane.snapshot(None).unwrap();
            let reals = &snapshot.services[&key(VIP)].reals;
            let loads = ["10.0.1.2:8080", "10.0.2.2:8080"].map(|real| {
                let real = reals[&real.parse::<SocketAddr>().unwrap()];
                [real.active, real.inactive]
            });
            let connections = dataplane.status().unwrap().connections();
            (connections, entries.count(), loads)
        };
        assert_eq!(found(dataplane), (5, 10, [[3, 0], [2, 0]]));

        let local = streams[0].0.local_addr().unwrap();
        let close = |dataplane: &mut KernelDataplane, clients: &str, limit| {
            let filter = ConnectionFilter {
                client: Some(clients.parse().unwrap()),
                limit,
                ..ConnectionFilter::default()
            };
            dataplane.close_connections(filter).unwrap().make().unwrap()
        };
        assert_eq!(close(dataplane, "192.168.1.128/25", None), 0);
        assert_eq!(close(dataplane, &local.to_string(), None), 1);
        assert_eq!(found(dataplane), (4, 8, [[2, 0], [2, 0]]));
        for (index, (stream, _)) in streams.iter_mut().enumerate() {
            stream.write_all(b".").unwrap();
            let answer = stream.read(&mut [0]);
            if index == 0 {
                let error = answer.unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
            } else {
                assert_eq!(answer.unwrap(), 1, "{index}");
            }
        }
        let discards = dataplane.status().unwrap().discards;
        assert!(
            discards.contains(&(Discard::NoConnection, 1)),
            "{discards:?}"
        );
        assert_eq!(found(dataplane), (4, 8, [[2, 0], [2, 0]]));

        assert_eq!(close(dataplane, "192.168.1.0/24", Some(1)), 1);
        assert_eq!(close(dataplane, "192.168.1.0/24", None), 3);
        assert_eq!(found(dataplane), (0, 0, [[0, 0], [0, 0]]));
        // The client may open new ones.
        let _again = connect(&scene);
        assert_eq!(found(dataplane).0, 1);
    });
}

#[test]
fn a_client_whose_connection_by_a_hash_is_closed_is_reset_too_and_may_begin_anew() {
    for scheduler in [Scheduler::Sh, Scheduler::Dh, Scheduler::Mh] {
        let scene = Scene::new();
        start_reals(&scene);
        let _listener = scene.listen();
        scene.with(all(), |dataplane| {
            let services = both().into_iter();
            let services: Vec<_> = services
                .map(|service| Service {
                    scheduler,
                    ..service
                })
                .collect();
            dataplane.reconcile(&services).unwrap();
            let (mut closed, mut other) = (connect(&scene).0, connect(&scene).0);
            let filter = ConnectionFilter {
                client: Some(closed.local_addr().unwrap().to_string().parse().unwrap()),
                ..ConnectionFilter::default()
            };
            let close = dataplane.close_connections(filter.clone()).unwrap();
            assert_eq!(close.make().unwrap(), 1);
            assert_eq!(
                dataplane.connections(filter).unwrap().all().unwrap().len(),
                0
            );
            assert_eq!(dataplane.status().unwrap().connections(), 2);
            for (stream, is_closed) in [(&mut closed, true), (&mut other, false)] {
                stream.write_all(b".").unwrap();
                let answer = stream.read(&mut [0]);
                let is_reset =
                    answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
                assert_eq!(is_reset, is_closed, "{scheduler:?}");
            }
            let after = dataplane.status().unwrap();
            assert_eq!(after.connections(), 1);
            let discards = after.discards;
            assert!(discards.contains(&(Discard::RealReset, 1)), "{discards:?}");
            let _again = connect(&scene);
            assert_eq!(dataplane.status().unwrap().connections(), 2);
        });
    }
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
    let weightless = |services: &[Service], down: &dyn Fn(usize) -> bool| {
        let mut services = services.to_vec();
        for (index, service) in services.iter_mut().enumerate() {
            if down(index) {
                service.reals[3].weight = 0;
                service.reals[3].connections = Connections::Reset;
            }
        }
        services
    };
    scene.with(all(), |dataplane| {
        let mut timed = |what: &str, services: &[Service]| {
            let start = Instant::now();
            dataplane.reconcile(services).unwrap();
            let took = start.elapsed();
            let start = Instant::now();
            dataplane.run_maintenance().unwrap();
            println!("{what}: {took:?}, then tended in {:?}", start.elapsed());
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
        timed("and back", &many);
        timed("one failed", &weightless(&many, &|index| index == 7));
        timed("and back", &many);
        timed("500 failed", &weightless(&many, &|index| index % 2 == 0));
        timed("all 1,000 failed", &weightless(&many, &|_| true));
        timed("and back", &many);
        timed("nothing to do", &many);
        let start = Instant::now();
        let snapshot = dataplane.snapshot(None).unwrap();
        println!(
            "{} services read in {:?}",
            snapshot.services.len(),
            start.elapsed()
        );
        let start = Instant::now();
        dataplane.status().unwrap();
        println!("status read in {:?}", start.elapsed());
    });
}
