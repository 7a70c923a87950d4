//! Which server each client keeps: listed, forgotten, deleted when it is over, and kept while no daemon runs.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData};
use balancer_common::persistence::{PersistenceEntry, PersistenceKey};
use balancer_ctl::{
    dataplane::{Dataplane, KeptClient, PersistenceFilter, Service, kernel::KernelDataplane},
    model::{DataplaneSettings, Persistence, Protocol, ServiceKey},
};
use nix::sys::socket;

use crate::scene::{Scene, VIP, all, both, key, maintain_until, maintain_within, start_reals};

/// Both real servers behind the VIP, in turn, but that a client keeps its own for `seconds`.
fn persistent(seconds: u64) -> Vec<Service> {
    let mut services = both();
    services[0].persistence = Some(Persistence {
        timeout: Duration::from_secs(seconds),
        ..Persistence::default()
    });
    services
}

/// Gives the client more addresses than 192.168.1.10.
fn add_clients(scene: &Scene) {
    for last in 11..14 {
        let address = format!("192.168.1.{last}/24");
        scene.client.address("eth0", &address).unwrap();
    }
}

/// Connects from 192.168.1.`last`; returns the stream and the name of the real server.
fn connect_from(scene: &Scene, last: u8) -> (TcpStream, String) {
    let connected = scene.client.run(|| {
        let socket = socket::socket(
            socket::AddressFamily::Inet,
            socket::SockType::Stream,
            socket::SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let from = socket::SockaddrIn::new(192, 168, 1, last, 0);
        socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &from)?;
        let vip: std::net::SocketAddrV4 = VIP.parse().unwrap();
        socket::connect(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            &socket::SockaddrIn::from(vip),
        )?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut name = [0];
        stream.read_exact(&mut name)?;
        std::io::Result::Ok((stream, String::from_utf8_lossy(&name).into_owned()))
    });
    connected.unwrap().unwrap()
}

fn name_for(scene: &Scene, last: u8) -> String {
    connect_from(scene, last).1
}

/// The pinned map, whether a daemon runs or not.
fn entries(scene: &Scene) -> HashMap<MapData, PersistenceKey, PersistenceEntry> {
    Map::LruHashMap(scene.map("PERSISTENCE"))
        .try_into()
        .unwrap()
}

fn count(scene: &Scene) -> usize {
    entries(scene).keys().count()
}

/// Runs the maintenance until there are so many entries in the map.
fn maintain_to(dataplane: &mut KernelDataplane, scene: &Scene, wanted: usize) {
    maintain_until(dataplane, |_| count(scene) == wanted);
}

fn listed(dataplane: &mut KernelDataplane, filter: PersistenceFilter) -> Vec<KeptClient> {
    let mut clients = dataplane.kept_clients(filter).unwrap().all().unwrap();
    clients.sort_by_key(|client| client.client);
    clients
}

/// Client and server of each entry.
fn pairs(dataplane: &mut KernelDataplane) -> Vec<String> {
    let clients = listed(dataplane, PersistenceFilter::default());
    let pair = |client: &KeptClient| format!("{} {}", client.client, client.server);
    clients.iter().map(pair).collect()
}

fn of_client(text: &str) -> PersistenceFilter {
    PersistenceFilter {
        client: Some(text.parse().unwrap()),
        ..PersistenceFilter::default()
    }
}

fn kept(dataplane: &mut KernelDataplane, service: &str) -> u64 {
    dataplane.snapshot(None).unwrap().services[&key(service)].kept_clients
}

#[test]
fn clients_that_are_forgotten_go_elsewhere_and_their_connections_go_on() {
    let scene = Scene::new();
    add_clients(&scene);
    start_reals(&scene);
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&persistent(60)).unwrap();
        assert_eq!((pairs(dataplane).len(), kept(dataplane, VIP)), (0, 0));
        let names = [10, 11, 10, 11, 12].map(|last| name_for(&scene, last));
        assert_eq!(names, ["A", "B", "A", "B", "A"]);
        let mut old = connect_from(&scene, 11).0;
        assert_eq!(
            pairs(dataplane),
            [
                "192.168.1.10 10.0.1.2",
                "192.168.1.11 10.0.2.2",
                "192.168.1.12 10.0.1.2"
            ]
        );
        assert_eq!(kept(dataplane, VIP), 3);
        let one = &listed(dataplane, of_client("192.168.1.11"))[..];
        let [one] = one else {
            panic!("{one:?}");
        };
        assert_eq!(&one.services[..], [key(VIP)]);
        assert!(
            one.expires_in <= Duration::from_secs(60) && one.expires_in > Duration::from_secs(50),
            "{one:?}"
        );
        let limited = PersistenceFilter {
            limit: Some(2),
            ..of_client("192.168.1.0/24")
        };
        assert_eq!(listed(dataplane, limited).len(), 2);

        let mut forget = |filter| dataplane.forget_clients(filter).unwrap().make().unwrap();
        let nobody = PersistenceFilter {
            server: Some("10.0.1.2".parse().unwrap()),
            ..of_client("192.168.1.11")
        };
        assert_eq!(forget(nobody), 0);
        assert_eq!(forget(of_client("192.168.1.11")), 1);
        // The turn is B's, then A's: who was forgotten goes where it would without persistence, although its first connection was opened
        // a moment ago.
        assert_eq!(name_for(&scene, 13), "B");
        assert_eq!(name_for(&scene, 11), "A");
        assert_eq!(name_for(&scene, 10), "A");
        old.write_all(b".").unwrap();
        old.read_exact(&mut [0]).unwrap();
        let mut forget = |filter| dataplane.forget_clients(filter).unwrap().make().unwrap();
        assert_eq!(forget(PersistenceFilter::default()), 4);
        assert_eq!(forget(PersistenceFilter::default()), 0);
        assert_eq!((count(&scene), kept(dataplane, VIP)), (0, 0));
    });
}

#[test]
fn a_service_that_is_added_anew_begins_without_clients() {
    let scene = Scene::new();
    add_clients(&scene);
    start_reals(&scene);
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&persistent(60)).unwrap();
        assert_eq!([10, 11].map(|last| name_for(&scene, last)), ["A", "B"]);
        // At once, so that no pass has run in between.
        dataplane.reconcile(&[]).unwrap();
        dataplane.reconcile(&persistent(60)).unwrap();
        maintain_to(dataplane, &scene, 0);
        // The turns begin anew, too.
        assert_eq!([11, 10].map(|last| name_for(&scene, last)), ["A", "B"]);
        // Those are clients of the new one, whatever passes follow.
        let mut wide = persistent(60);
        let netmask = |services: &mut [Service], netmask| {
            if let Some(persistence) = &mut services[0].persistence {
                persistence.netmask = netmask;
            }
        };
        maintain_until(dataplane, |dataplane| kept(dataplane, VIP) == 2);
        // With another netmask entries name other clients.
        netmask(&mut wide, Some(24));
        dataplane.reconcile(&wide).unwrap();
        maintain_to(dataplane, &scene, 0);
        let name = name_for(&scene, 10);
        assert_eq!(
            [11, 12, 13].map(|last| name_for(&scene, last)),
            [&name; 3].map(String::clone)
        );
        let all = listed(dataplane, of_client("192.168.1.77"));
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0].client.to_string(), "192.168.1.0/24");
        // Without persistence there is no group.
        dataplane.reconcile(&both()).unwrap();
        maintain_to(dataplane, &scene, 0);
    });
}

#[test]
fn entries_that_are_over_are_neither_shown_nor_kept() {
    let scene = Scene::new();
    start_reals(&scene);
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&persistent(1)).unwrap();
        name_for(&scene, 10);
        assert_eq!((pairs(dataplane).len(), kept(dataplane, VIP)), (1, 1));
        let start = Instant::now();
        while !pairs(dataplane).is_empty() {
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!((count(&scene), kept(dataplane, VIP)), (1, 0));
        // A change makes the pass due.
        let mut services = persistent(1);
        services[0].reals[1].weight = 0;
        services.push(Service {
            key: key("192.168.1.35:81"),
            ..persistent(1).remove(0)
        });
        dataplane.reconcile(&services).unwrap();
        maintain_to(dataplane, &scene, 0);
    });
}

#[test]
fn a_client_keeps_its_server_for_as_long_as_it_has_a_connection() {
    let scene = Scene::new();
    add_clients(&scene);
    start_reals(&scene);
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&persistent(4)).unwrap();
        assert_eq!(name_for(&scene, 10), "A");
        let (mut stream, name) = connect_from(&scene, 11);
        assert_eq!(name, "B");
        let deadline = Instant::now() + Duration::from_secs(10);
        // It says nothing all the time, and the other one is gone after four seconds.
        maintain_until(dataplane, |dataplane| {
            pairs(dataplane) == ["192.168.1.11 10.0.2.2"]
        });
        maintain_until(dataplane, |dataplane| {
            assert_eq!(pairs(dataplane), ["192.168.1.11 10.0.2.2"]);
            Instant::now() > deadline
        });
        // It would be A's turn.
        assert_eq!(name_for(&scene, 11), "B");
        stream.write_all(b".").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        drop(stream);
        maintain_until(dataplane, |dataplane| pairs(dataplane).is_empty());
    });
}

/// A client that keeps one server by its handshakes and another one by its datagrams, which happens where the first one is not in the service
/// of UDP: each is listed and can be forgotten by itself.
#[test]
fn a_client_that_keeps_two_servers_is_listed_with_both_and_with_one_only_once() {
    let scene = Scene::new();
    start_reals(&scene);
    scene.with(all(), |dataplane| {
        let mut services = persistent(60);
        services.push(Service {
            key: ServiceKey {
                protocol: Protocol::Udp,
                ..services[0].key
            },
            ..services[0].clone()
        });
        for service in &mut services {
            if let Some(persistence) = &mut service.persistence {
                persistence.group = Some("shop".to_owned());
            }
        }
        dataplane.reconcile(&services).unwrap();
        assert_eq!(name_for(&scene, 10), "A");
        let (of_tcp, entry) = entries(&scene).iter().next().unwrap().unwrap();
        let mut of_udp: HashMap<_, PersistenceKey, PersistenceEntry> =
            Map::LruHashMap(scene.map("PERSISTENCE_UDP"))
                .try_into()
                .unwrap();
        let server = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
        let mut keep_by_udp = |text: &str| {
            let server = server(text).into();
            let entry = PersistenceEntry { server, ..entry };
            of_udp.insert(of_tcp, entry, 0).unwrap();
        };
        let of_server = |text: &str| PersistenceFilter {
            server: Some(server(text)),
            ..PersistenceFilter::default()
        };
        let (a, b) = ("192.168.1.10 10.0.1.2", "192.168.1.10 10.0.2.2");
        keep_by_udp("10.0.2.2");
        assert_eq!(pairs(dataplane), [a, b]);
        assert_eq!(kept(dataplane, VIP), 2);
        let forget = |dataplane: &mut KernelDataplane, filter| {
            dataplane.forget_clients(filter).unwrap().make().unwrap()
        };
        assert_eq!(forget(dataplane, of_server("10.0.2.2")), 1);
        assert_eq!(pairs(dataplane), [a]);
        keep_by_udp("10.0.1.2");
        assert_eq!(pairs(dataplane), [a]);
        assert_eq!(kept(dataplane, VIP), 1);
        assert_eq!(forget(dataplane, of_client("192.168.1.10")), 1);
        assert_eq!(pairs(dataplane), [""; 0]);
        assert_eq!(kept(dataplane, VIP), 0);
    });
}

#[test]
fn services_of_a_group_share_their_clients() {
    let scene = Scene::new();
    start_reals(&scene);
    let grouped = |group: &str, ports: &[u16]| -> Vec<Service> {
        let services = ports.iter().map(|port| {
            let mut service = persistent(60).remove(0);
            service.key = ServiceKey {
                address: SocketAddr::new(service.key.address.ip(), *port),
                ..service.key
            };
            if let Some(persistence) = &mut service.persistence {
                persistence.group = Some(group.to_owned());
            }
            service
        });
        services.collect()
    };
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&grouped("shop", &[80, 81])).unwrap();
        name_for(&scene, 10);
        for service in [VIP, "192.168.1.35:81"] {
            assert_eq!(kept(dataplane, service), 1);
            let filter = PersistenceFilter {
                service: Some(key(service)),
                ..PersistenceFilter::default()
            };
            let found = listed(dataplane, filter);
            assert_eq!(found.len(), 1);
            assert_eq!(&found[0].services[..], [key(VIP), key("192.168.1.35:81")]);
        }
        // As long as one service is in the group, it has its clients.
        dataplane.reconcile(&grouped("shop", &[81])).unwrap();
        maintain_until(dataplane, |dataplane| {
            kept(dataplane, "192.168.1.35:81") == 1
        });
        dataplane.reconcile(&grouped("store", &[81])).unwrap();
        maintain_to(dataplane, &scene, 0);
    });
}

#[test]
fn what_became_over_while_no_daemon_ran_is_deleted_and_the_rest_is_kept() {
    let scene = Scene::new();
    add_clients(&scene);
    start_reals(&scene);
    let services = |persistence: &[bool]| -> Vec<Service> {
        let services = persistence
            .iter()
            .zip(["192.168.1.35:80", "192.168.1.35:81"]);
        let service = services.map(|(is_persistent, address)| {
            let mut service = persistent(60).remove(0);
            service.key = key(address);
            service.persistence = service.persistence.filter(|_| *is_persistent);
            service
        });
        service.collect()
    };
    let before = scene.with(all(), |dataplane| {
        dataplane.reconcile(&services(&[true, true])).unwrap();
        assert_eq!([10, 11].map(|last| name_for(&scene, last)), ["A", "B"]);
        pairs(dataplane)
    });
    // No daemon runs now, as after kill -9.
    assert_eq!([11, 10].map(|last| name_for(&scene, last)), ["B", "A"]);
    // As of a service that an earlier daemon had.
    let mut map = entries(&scene);
    let (key_, entry) = map.iter().next().unwrap().unwrap();
    let orphan = PersistenceKey { group: 7, ..key_ };
    map.insert(orphan, entry, 0).unwrap();
    assert_eq!(count(&scene), 3);
    scene.with(all(), |dataplane| {
        dataplane.reconcile(&services(&[true, false])).unwrap();
        assert_eq!(pairs(dataplane), before);
        maintain_to(dataplane, &scene, 2);
        assert_eq!([11, 10].map(|last| name_for(&scene, last)), ["B", "A"]);
        assert_eq!(kept(dataplane, VIP), 2);
    });
}

/// Prints the figures. Run it with `cargo test --release -p balancer-tests --test kernel -- --ignored --nocapture figures`.
#[test]
#[ignore = "prints figures of a release build"]
fn figures_of_a_hundred_thousand_clients() {
    const CLIENTS: u32 = 100_000;
    let scene = Scene::new();
    start_reals(&scene);
    let settings = DataplaneSettings {
        max_persistence: 1 << 18,
        ..all()
    };
    scene.with(settings, |dataplane| {
        dataplane.reconcile(&persistent(3600)).unwrap();
        name_for(&scene, 10);
        fill(&scene, CLIENTS);
        let timed = |what: &str, work: &mut dyn FnMut() -> u64| {
            let start = Instant::now();
            let count = work();
            println!("{what}: {count} in {:?}", start.elapsed());
        };
        timed("listed", &mut || {
            listed(dataplane, PersistenceFilter::default()).len() as u64
        });
        timed("counted by a pass", &mut || {
            maintain_within(Duration::from_secs(20), dataplane, |dataplane| {
                kept(dataplane, VIP) > 1
            });
            kept(dataplane, VIP)
        });
        timed("services with their counts read", &mut || {
            kept(dataplane, VIP)
        });
        timed("forgotten", &mut || {
            let all = dataplane.forget_clients(PersistenceFilter::default());
            all.unwrap().make().unwrap()
        });
        timed("listed", &mut || {
            listed(dataplane, PersistenceFilter::default()).len() as u64
        });
    });
}

/// Adds clients beside the one that is there.
fn fill(scene: &Scene, clients: u32) {
    let mut map = entries(scene);
    let (key, entry) = map.iter().next().unwrap().unwrap();
    for number in 1..clients {
        let mut key = key;
        key.client.0[3] = (0xcb00_0000 + number).to_be();
        map.insert(key, entry, 0).unwrap();
    }
}
