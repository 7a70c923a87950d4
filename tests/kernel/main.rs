//! The data plane against the real kernel: what is pinned, attached, taken up, expired. Needs root.

mod scene;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use balancer_common::tcp::State;
use balancer_ctl::dataplane::{ConnectionFilter, Dataplane};
use scene::{Scene, VIP, all, both, key, service, settings};

/// Answers each connection on port 8080 with `name` and keeps it open until the other side closes.
fn serve(listener: TcpListener, name: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let _ = stream.write_all(name.as_bytes());
                let _ = stream.read(&mut [0]);
            });
        }
    });
}

fn start_reals(scene: &Scene) {
    for (namespace, name) in scene.reals.iter().zip(["A", "B"]) {
        let listener = namespace.run(|| TcpListener::bind("0.0.0.0:8080")).unwrap().unwrap();
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
        if names != "ABABAB" { eprintln!("{names} {:#?}\n{:?}\n{:?}", dataplane.snapshot(), dataplane.status().unwrap().discards.iter().filter(|d| d.1>0).collect::<Vec<_>>(), dataplane.connections(&ConnectionFilter::default()));
            for m in ["TURNS", "RINGS", "REALS"] { let o = std::process::Command::new("sh").arg("-c").arg(format!("bpftool map dump pinned {}/v1/{m} | grep -v '00 00 00 00 00 00 00 00$' | head -5", scene.pins().display())).output().unwrap(); eprintln!("{m} {}", String::from_utf8_lossy(&o.stdout)); } }
        assert_eq!(names, "ABABAB");

        let snapshot = dataplane.snapshot().unwrap();
        let service = &snapshot.services[&key(VIP)];
        let active: BTreeMap<_, _> = service.reals.iter().map(|(a, real)| (a.to_string(), (real.active, real.inactive, real.counters.connections))).collect();
        assert_eq!(active, BTreeMap::from([("10.0.1.2:8080".into(), (3, 0, 3)), ("10.0.2.2:8080".into(), (3, 0, 3))]));
        assert_eq!(service.counters.connections, 6);
        assert_eq!(dataplane.status().unwrap().connections, 6);

        let connections = dataplane.connections(&ConnectionFilter::default()).unwrap();
        assert_eq!(connections.len(), 6);
        for connection in connections {
            assert_eq!(connection.state, State::Established);
            assert_eq!(connection.virtual_address, key(VIP));
            assert!(connection.expires_in > Duration::from_secs(890) && connection.expires_in <= Duration::from_secs(900), "{connection:?}");
        }
    });
}
