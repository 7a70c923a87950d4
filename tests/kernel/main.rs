//! The data plane against the real kernel: what is pinned, attached, taken up, expired. Needs root.

mod scene;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use balancer_common::{
    conntrack::{ConntrackEntryV4, FlowKeyV4, direction},
    real_server::{RealServer as BalancedReal, state},
    tcp::State,
};
use balancer_ctl::{
    dataplane::{ConnectionFilter, Counters, Dataplane, kernel::KernelDataplane},
    model::{DataplaneSettings, Mode, Timeouts, VirtualService},
};
use scene::{Scene, VIP, all, both, key, service, settings};

/// Answers each connection with `name`, then every byte with itself until an `x` or the end.
fn serve(listener: TcpListener, name: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let _ = stream.write_all(name.as_bytes());
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok()
                    && byte != *b"x"
                    && stream.write_all(&byte).is_ok()
                {}
            });
        }
    });
}

fn start_reals(scene: &Scene) {
    for (namespace, name) in scene.reals.iter().zip(["A", "B"]) {
        let listener = namespace
            .run(|| TcpListener::bind("0.0.0.0:8080"))
            .unwrap()
            .unwrap();
        serve(listener, name);
    }
}

/// Opens a connection from the client and returns it with the name of the real server that answers.
fn connect(scene: &Scene) -> (TcpStream, String) {
    let stream = scene.client.run(|| {
        let address: SocketAddr = VIP.parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut name = [0];
        stream.read_exact(&mut name)?;
        std::io::Result::Ok((stream, String::from_utf8_lossy(&name).into_owned()))
    });
    stream.unwrap().unwrap()
}

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

#[test]
fn another_program_is_refused_and_stays() {
    let scene = Scene::new();
    let mut other = aya::Ebpf::load(balancer_ctl::object::OBJECT).unwrap();
    let program: &mut aya::programs::Xdp = other.program_mut("clock").unwrap().try_into().unwrap();
    program.load().unwrap();
    let id = program.info().unwrap().id();
    let index = scene.balancer.index("port1").unwrap();
    scene
        .balancer
        .run(|| {
            program
                .attach_to_if_index(index, aya::programs::XdpMode::Driver)
                .map(drop)
                .unwrap()
        })
        .unwrap();
    let error = scene
        .balancer
        .run(|| scene.open(all()).unwrap_err().to_string())
        .unwrap();
    assert_eq!(
        error,
        format!(
            "the interface port1 carries another XDP program (id {id}): it is not replaced; detach it first (`ip link set dev port1 xdp off`, \
             or stop what attached it)"
        )
    );
    assert!(!xdp(&scene, "outside").contains("xdp"));
    assert!(xdp(&scene, "port1").contains(&format!("id {id}")));
    // While running: nothing changes either.
    scene.with(settings(&["outside", "port2"]), |dataplane| {
        let error = dataplane.configure(&all()).unwrap_err().to_string();
        assert!(
            error.starts_with("the interface port1 carries another XDP program"),
            "{error}"
        );
        let names: Vec<_> = dataplane
            .status()
            .unwrap()
            .interfaces
            .into_iter()
            .map(|i| i.name)
            .collect();
        assert_eq!(names, ["outside", "port2"]);
    });
}

/// What `ip` says of an interface of the balancer.
fn xdp(scene: &Scene, interface: &str) -> String {
    scene
        .balancer
        .output("ip", &["link", "show", "dev", interface])
        .unwrap()
}

#[test]
fn a_missing_interface_is_refused_by_name() {
    let scene = Scene::new();
    let error = scene
        .balancer
        .run(|| {
            scene
                .open(settings(&["outside", "eth7"]))
                .unwrap_err()
                .to_string()
        })
        .unwrap();
    assert_eq!(
        error,
        "the interface eth7 does not exist: see `ip link` for the names there are"
    );
    assert!(!xdp(&scene, "outside").contains("xdp"));
}

#[test]
fn interfaces_come_and_go_with_the_configuration() {
    let scene = Scene::new();
    scene.with(settings(&["outside", "port1"]), |dataplane| {
        assert!(
            xdp(&scene, "port1").contains("prog/xdp") && !xdp(&scene, "port2").contains("prog/xdp")
        );
        dataplane
            .configure(&settings(&["outside", "port2"]))
            .unwrap();
        assert!(
            !xdp(&scene, "port1").contains("prog/xdp") && xdp(&scene, "port2").contains("prog/xdp")
        );
        let generic = DataplaneSettings {
            mode: Mode::Generic,
            ..settings(&["outside", "port2"])
        };
        dataplane.configure(&generic).unwrap();
        assert!(xdp(&scene, "outside").contains("xdpgeneric"));
        assert!(
            dataplane
                .status()
                .unwrap()
                .interfaces
                .iter()
                .all(|interface| !interface.native)
        );
    });
}

#[test]
fn what_was_changed_on_the_host_is_put_back() {
    let scene = Scene::new();
    let values = || {
        let names = [
            "ipv4/conf/outside/forwarding",
            "ipv6/conf/port1/forwarding",
            "ipv4/conf/port2/accept_local",
            "ipv4/conf/all/send_redirects",
        ];
        scene
            .balancer
            .run(|| {
                names
                    .map(|name| {
                        std::fs::read_to_string(format!("/proc/sys/net/{name}"))
                            .unwrap()
                            .trim()
                            .to_owned()
                    })
                    .join(" ")
            })
            .unwrap()
    };
    assert_eq!(values(), "0 0 0 1");
    scene.with(all(), |_| assert_eq!(values(), "1 1 1 0"));
    assert_eq!(values(), "1 1 1 0");
    scene.with(all(), |_| {});
    let instance = scene.instance.clone();
    scene
        .balancer
        .run(|| balancer_ctl::dataplane::kernel::detach(Some(&instance)).unwrap())
        .unwrap();
    assert_eq!(values(), "0 0 0 1");
    assert!(!xdp(&scene, "outside").contains("xdp") && !scene.pins().exists());
}

#[test]
fn what_will_not_work_is_said_with_the_mend() {
    let scene = Scene::new();
    let [real, other] = &scene.reals;
    real.output("ethtool", &["-K", "eth0", "tx", "on"]).unwrap();
    other
        .output("ethtool", &["-K", "eth0", "gro", "off"])
        .unwrap();
    scene.balancer.ip("link set dev outside mtu 1400").unwrap();
    scene
        .balancer
        .sysctl("net.ipv4.conf.port2.rp_filter", "1")
        .unwrap();
    let warnings = scene.with(all(), |dataplane| dataplane.status().unwrap().warnings);
    assert_eq!(
        warnings,
        [
            format!(
                "eth0, the other end of port1, leaves checksums to hardware that a veth does not have, so receivers drop what is forwarded: ip \
                 netns exec {} ethtool -K eth0 tx off",
                real.name()
            ),
            format!(
                "eth0, the other end of port2, does not poll, so frames that are redirected to it are lost: ip netns exec {} ethtool -K eth0 \
                 gro on",
                other.name()
            ),
            "strict reverse path filtering on port2 drops answers while a next hop's MAC address is unknown: sysctl -w \
             net.ipv4.conf.port2.rp_filter=2"
                .into(),
            "port1 carries packets of 1500 bytes and outside only 1400: larger ones towards it are not forwarded; give both the same MTU (ip \
             link set dev port1 mtu 1400)"
                .into(),
        ]
    );
}

/// Calls `tend` until `done`, for at most ten seconds.
fn tend_until(dataplane: &mut KernelDataplane, mut done: impl FnMut(&mut KernelDataplane) -> bool) {
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
            dataplane
                .connections(&ConnectionFilter::default())
                .unwrap()
                .len(),
            1
        );
    });
}

type Rows = aya::maps::HashMap<aya::maps::MapData, FlowKeyV4, ConntrackEntryV4>;

/// The IPv4 connection table.
fn rows(scene: &Scene) -> Rows {
    let map = aya::maps::MapData::from_pin(scene.pins().join("v1/CONNTRACK_V4")).unwrap();
    Rows::try_from(aya::maps::Map::HashMap(map)).unwrap()
}

#[test]
fn orphans_go_and_the_number_of_connections_heals() {
    let scene = Scene::new();
    start_reals(&scene);
    let streams: Vec<_> = scene.with(short(), |dataplane| {
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
    scene.with(short(), |dataplane| {
        assert_eq!(dataplane.status().unwrap().connections, 3);
        dataplane.tend().unwrap();
        assert_eq!(dataplane.status().unwrap().connections, 1);
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
        let map = aya::maps::MapData::from_pin(scene.pins().join("v1/REALS")).unwrap();
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
        let mut timed = |what: &str, services: &[VirtualService]| {
            let start = Instant::now();
            dataplane.reconcile(services).unwrap();
            let took = start.elapsed();
            println!("{what}: {took:?}");
            assert!(took < Duration::from_secs(5), "{what}: {took:?}");
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
