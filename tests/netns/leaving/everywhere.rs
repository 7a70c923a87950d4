//! All schedulers, both families, both protocols, every kind of affinity and slow start, in one daemon: the first real server of each
//! service leaves and comes back, and every client is asked each time.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use balancer_tests::{
    client::request_from,
    daemon::Daemon,
    privileged,
    topology::{Arms, CLIENT, CLIENT6, Topology, VIP, VIP6},
};
use xtask::lab::wait_until;

use super::SCHEDULERS;

/// Clients of each family.
const CLIENTS: u8 = 5;

/// What becomes of the clients of a real server that drains, and whether services share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Affinity {
    None,
    Move,
    Keep,
    /// TCP and UDP of one family share their clients.
    Group,
}

/// A service of the configuration.
#[derive(Clone, Copy, Debug)]
struct Kind {
    scheduler: &'static str,
    affinity: Affinity,
    is_v6: bool,
    is_udp: bool,
    /// Its port, the same at the VIP of both families and protocols.
    port: u16,
}

impl Kind {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for scheduler in SCHEDULERS {
            for affinity in [
                Affinity::None,
                Affinity::Move,
                Affinity::Keep,
                Affinity::Group,
            ] {
                let port = 1_000 + all.len() as u16;
                for (is_v6, is_udp) in [(false, false), (false, true), (true, false), (true, true)]
                {
                    all.push(Self {
                        scheduler,
                        affinity,
                        is_v6,
                        is_udp,
                        port,
                    });
                }
            }
        }
        all
    }

    fn name(&self) -> String {
        let family = if self.is_v6 { 6 } else { 4 };
        let protocol = if self.is_udp { "udp" } else { "tcp" };
        let affinity = format!("{:?}", self.affinity).to_lowercase();
        format!("{}-{affinity}-{protocol}{family}", self.scheduler)
    }

    fn vip(&self) -> SocketAddr {
        let vip = if self.is_v6 { VIP6 } else { VIP };
        SocketAddr::new(vip.parse().expect("an address"), self.port)
    }

    const fn is_hash(&self) -> bool {
        matches!(self.scheduler.as_bytes(), b"sh" | b"dh" | b"mh")
    }

    /// Whether weights decide, so that one can grow.
    const fn has_slow_start(&self) -> bool {
        matches!(
            self.scheduler.as_bytes(),
            b"rr" | b"wrr" | b"wlc" | b"sed" | b"nq" | b"twos"
        )
    }

    /// This service in the file; `first` are the lines of its first real server.
    fn configuration(&self, first: First, slow_start: &str) -> String {
        let protocol = if self.is_udp { "udp" } else { "tcp" };
        let port = if self.is_udp { 53 } else { 80 };
        let mut text = format!(
            "[[service]]\nname = \"{}\"\nprotocol = \"{protocol}\"\naddress = \"{}\"\nscheduler = \"{}\"\n",
            self.name(),
            self.vip(),
            self.scheduler
        );
        let family = if self.is_v6 { 6 } else { 4 };
        match self.affinity {
            Affinity::None => {}
            Affinity::Move => text.push_str("persistence = { timeout = \"10m\" }\n"),
            Affinity::Keep => {
                text.push_str("persistence = { timeout = \"10m\", drain = \"keep\" }\n");
            }
            Affinity::Group => {
                let group = format!("{}-{family}", self.scheduler);
                text.push_str(&format!(
                    "persistence = {{ timeout = \"10m\", group = \"{group}\" }}\n"
                ));
            }
        }
        if self.has_slow_start() {
            text.push_str(&format!("slow-start = \"{slow_start}\"\n"));
        }
        for last in 2..=4 {
            let address = if self.is_v6 {
                format!("[fd00:1::{last}]:{port}")
            } else {
                format!("192.168.0.{last}:{port}")
            };
            let real = match first {
                First::Is(lines) if last == 2 => lines,
                First::Gone if last == 2 => continue,
                _ => "weight = 10",
            };
            text.push_str(&format!(
                "[[service.real]]\naddress = \"{address}\"\n{real}\n"
            ));
        }
        text
    }
}

/// What the file says of the first real server of each service.
#[derive(Clone, Copy, Debug)]
enum First {
    Is(&'static str),
    Gone,
}

/// How it leaves.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    first: First,
    /// Clients that keep it may come back to it.
    drains: bool,
    /// It begins slowly when it comes back.
    begins_slowly: bool,
}

const READY: First = First::Is("weight = 10");

const LEAVING: [Leaving; 4] = [
    Leaving {
        first: First::Is("weight = 0"),
        drains: true,
        begins_slowly: false,
    },
    Leaving {
        first: First::Is("weight = 10\nstate = \"drain\""),
        drains: true,
        begins_slowly: false,
    },
    Leaving {
        first: First::Is("weight = 10\nstate = \"maintenance\""),
        drains: false,
        begins_slowly: true,
    },
    Leaving {
        first: First::Gone,
        drains: false,
        begins_slowly: false,
    },
];

/// A slow start that does not end by itself while a test runs.
const LONG: &str = "1h";

/// The clients of a family.
fn clients(is_v6: bool) -> impl Iterator<Item = IpAddr> {
    let first = if is_v6 { CLIENT6 } else { CLIENT };
    let first: IpAddr = first.parse().expect("an address");
    (0..CLIENTS).map(move |number| match first {
        IpAddr::V4(address) => (u32::from(address) + 90 + u32::from(number))
            .to_be_bytes()
            .into(),
        IpAddr::V6(address) => (u128::from(address) + 90 + u128::from(number))
            .to_be_bytes()
            .into(),
    })
}

/// The next port of a client of UDP. None is used twice: all services have the same real servers, whose answers to one port of a client
/// belong to one of them.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

/// Asks for the name of the real server by DNS, twice, so that the client is known to exist.
fn query(from: IpAddr, to: SocketAddr) -> io::Result<String> {
    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06whoami\x04test\x00\x00\x10\x00\x01";
    let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
    let socket = UdpSocket::bind(SocketAddr::new(from, port))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(to)?;
    let ask = || -> io::Result<String> {
        socket.send(QUERY)?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        let name = answer.get(answer.len().saturating_sub(5)..);
        Ok(name.unwrap_or_default().to_owned())
    };
    let (first, second) = (ask()?, ask()?);
    if first != second {
        return Err(io::Error::other(format!("{first}, then {second}")));
    }
    Ok(first)
}

/// Which real server each client of each service got.
type Answers = BTreeMap<(String, IpAddr), String>;

/// One request of each client to each service.
fn ask_all(topology: &Topology, kinds: &[Kind], case: &str) -> Answers {
    let ask = || -> Answers {
        let mut all = Answers::new();
        for kind in kinds {
            for client in clients(kind.is_v6) {
                let answer = if kind.is_udp {
                    query(client, kind.vip())
                } else {
                    request_from(SocketAddr::new(client, 0), kind.vip())
                };
                let answer = answer.unwrap_or_else(|error| {
                    panic!("{case}: {}: {client} got nothing: {error}", kind.name())
                });
                assert!(answer.starts_with("real"), "{answer:?}");
                all.insert((kind.name(), client), answer);
            }
        }
        all
    };
    topology.client.run(ask).expect("enter the client")
}

struct Scene<'a> {
    topology: &'a Topology,
    daemon: Daemon,
    kinds: Vec<Kind>,
}

impl Scene<'_> {
    fn configure(&self, first: First, slow_start: &str) {
        let interfaces = self.topology.interfaces();
        let services = self
            .kinds
            .iter()
            .map(|kind| kind.configuration(first, slow_start));
        let services: String = services.collect();
        self.daemon.write(&format!(
            "[dataplane]\ninterfaces = {interfaces}\n{services}"
        ));
        self.daemon.ctl("reload");
    }

    /// Effective weight of the first real server of each service that has a slow start, and what `list` says of it.
    fn first_of_slow(&self) -> Vec<(u64, String)> {
        let listed = self.daemon.json("list");
        let services = listed["services"].as_array().expect("a list");
        let slow = services
            .iter()
            .filter(|service| service["slow_start"] != "0s");
        slow.map(|service| {
            let first = &service["reals"][0];
            (
                first["effective_weight"].as_u64().expect("a number"),
                first["reason"].as_str().unwrap_or_default().to_owned(),
            )
        })
        .collect()
    }

    fn walk(&self, leaving: Leaving) {
        let case = format!("{:?}", leaving.first);
        let ask_all =
            |moment: &str| ask_all(self.topology, &self.kinds, &format!("{case}, {moment}"));
        let before = ask_all("before");
        for scheduler in SCHEDULERS.iter().filter(|name| **name != "dh") {
            let mut of = before
                .iter()
                .filter(|((name, _), _)| name.starts_with(scheduler));
            assert!(of.any(|(_, real)| real == "real1"), "{case}: {scheduler}");
        }
        self.configure(leaving.first, LONG);
        let after = ask_all("after");
        for kind in &self.kinds {
            for client in clients(kind.is_v6) {
                let key = (kind.name(), client);
                let (was, is) = (&before[&key], &after[&key]);
                let stays = kind.affinity == Affinity::Keep && leaving.drains;
                if was == "real1" && stays {
                    assert_eq!(is, was, "{case}: {key:?} was to stay");
                } else {
                    assert_ne!(is, "real1", "{case}: {key:?}, before at {was}");
                }
                if was != "real1" && (kind.is_hash() || kind.affinity != Affinity::None) {
                    assert_eq!(is, was, "{case}: {key:?} was not to move");
                }
            }
        }
        self.configure(READY, LONG);
        let slow = self.first_of_slow();
        assert!(!slow.is_empty());
        for (weight, reason) in &slow {
            if leaving.begins_slowly {
                assert!(
                    *weight < 10 && reason.starts_with("slow start"),
                    "{case}: {weight} {reason}"
                );
            } else {
                assert_eq!((*weight, reason.as_str()), (10, ""), "{case}");
            }
        }
        let back = ask_all("back");
        for kind in &self.kinds {
            for client in clients(kind.is_v6) {
                let key = (kind.name(), client);
                let is = &back[&key];
                if kind.affinity != Affinity::None {
                    assert_eq!(
                        is, &after[&key],
                        "{case}: {key:?} was to stay where it went"
                    );
                } else if kind.is_hash() {
                    assert_eq!(is, &before[&key], "{case}: {key:?} was to come back");
                }
            }
        }
        self.configure(READY, "1s");
        wait_until("the end of slow starts", Duration::from_secs(10), || {
            Ok(self
                .first_of_slow()
                .iter()
                .all(|slow| *slow == (10, String::new())))
        })
        .unwrap_or_else(|error| panic!("{case}: {error:#}"));
        // Nobody is known from an earlier case.
        self.daemon.ctl("persistence --delete --all");
    }
}

#[test]
fn every_family_protocol_affinity_and_slow_start_loses_no_client() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::with_web(Arms::Two, 3);
    for (real, name) in topology.reals.iter_mut().zip(["real1", "real2", "real3"]) {
        real.start_dns(name);
    }
    for (is_v6, length) in [(false, 24), (true, 64)] {
        for client in clients(is_v6) {
            let address = format!("{client}/{length}");
            let added = topology.client.address("eth0", &address);
            added.expect("add an address");
        }
    }
    let scene = Scene {
        daemon: Daemon::start(&topology, ""),
        topology: &topology,
        kinds: Kind::all(),
    };
    scene.configure(READY, LONG);
    for leaving in LEAVING {
        scene.walk(leaving);
    }
}
