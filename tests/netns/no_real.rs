//! A service whose real servers are all down, as its clients see it, and UDP flows of a real server that goes down.

use std::{
    io::{self, ErrorKind},
    net::UdpSocket,
    time::Duration,
};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, VIP, VIP6, socket},
};
use xtask::lab::wait_until;

/// A query for the TXT records of `whoami.test`, as it goes over the wire.
const QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06whoami\x04test\x00\x00\x10\x00\x01";

/// How long a client waits for an answer that it does not expect.
const SILENCE: Duration = Duration::from_millis(500);

/// DNS over UDP and TCP in both families, two real servers each.
fn dns(no_real: &str) -> String {
    let mut config = String::new();
    for (vip, reals) in [
        (VIP.to_owned(), ["192.168.0.2", "192.168.0.3"]),
        (format!("[{VIP6}]"), ["[fd00:1::2]", "[fd00:1::3]"]),
    ] {
        for protocol in ["udp", "tcp"] {
            config += &format!(
                "[[service]]\naddress = \"{vip}:53\"\nprotocol = \"{protocol}\"\nscheduler = \"rr\"\n\
                 no-real = \"{no_real}\"\n\
                 [service.check]\ntype = \"dns\"\nname = \"whoami.test\"\nrecord = \"TXT\"\n\
                 interval = \"200ms\"\ntimeout = \"150ms\"\nrise = 2\nfall = 2\n"
            );
            for real in reals {
                config += &format!("[[service.real]]\naddress = \"{real}:53\"\n");
            }
        }
    }
    config
}

/// Waits until the real servers of all services stand so.
#[track_caller]
fn wait_for(daemon: &Daemon, wanted: [&str; 2]) {
    let mut listed = serde_json::Value::Null;
    wait_until("the states", Duration::from_secs(15), || {
        listed = daemon.json("list");
        let services = listed["services"].as_array().expect("services");
        Ok(services.iter().all(|service| {
            let states = [0, 1].map(|real| service["reals"][real]["state"].as_str());
            states == wanted.map(Some)
        }))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {listed:#}\n{}", daemon.log()));
}

/// A client's flow: one socket of its own.
struct Flow(UdpSocket);

impl Flow {
    fn open(topology: &Topology, vip: &str) -> Self {
        let any = if vip == VIP { "0.0.0.0:0" } else { "[::]:0" };
        let connect = || {
            let client = UdpSocket::bind(any)?;
            client.connect(socket(vip, 53))?;
            client.set_read_timeout(Some(SILENCE))?;
            io::Result::Ok(Self(client))
        };
        let flow = topology.client.run(connect);
        flow.expect("enter the client").expect("a socket")
    }

    /// Asks, and returns which real server answered.
    fn ask(&self) -> io::Result<&'static str> {
        self.0.send(QUERY)?;
        let mut answer = [0; 512];
        let length = self.0.recv(&mut answer)?;
        let name = ["real1", "real2"].into_iter().find(|name| {
            let name = name.as_bytes();
            answer[..length]
                .windows(name.len())
                .any(|part| part == name)
        });
        Ok(name.expect("an answer that names one"))
    }
}

/// Packets that were discarded for this reason.
fn discarded(daemon: &Daemon, reason: &str) -> u64 {
    daemon.json("status")["dataplane"]["discards"][reason]
        .as_u64()
        .unwrap_or_default()
}

#[test]
fn clients_are_refused_or_left_alone_while_no_real_server_is_up() {
    if privileged::skipped() {
        return;
    }
    for (no_real, reason, udp, tcp) in [
        (
            "reject",
            "no-real-reject",
            ErrorKind::ConnectionRefused,
            ErrorKind::ConnectionRefused,
        ),
        (
            "drop",
            "no-real",
            ErrorKind::WouldBlock,
            ErrorKind::TimedOut,
        ),
    ] {
        let mut topology = Topology::new(Arms::Two, 2);
        start_servers(&mut topology);
        let daemon = Daemon::start(&topology, &dns(no_real));
        wait_for(&daemon, ["up", "up"]);
        for real in &mut topology.reals {
            real.stop_programs();
        }
        wait_for(&daemon, ["down", "down"]);
        for vip in [VIP, VIP6] {
            let before = discarded(&daemon, reason);
            // A flow that has been refused once may ask again.
            let flow = Flow::open(&topology, vip);
            for _ in 0..2 {
                let error = flow.ask().expect_err("nobody answers");
                assert_eq!(error.kind(), udp, "{no_real}, {vip}: {error}");
            }
            let error = topology
                .connect(socket(vip, 53), SILENCE)
                .expect_err("nobody accepts");
            assert_eq!(error.kind(), tcp, "{no_real}, {vip}: {error}");
            // Two datagrams and a SYN: it is this rule that has met them.
            let met = discarded(&daemon, reason) - before;
            assert_eq!(met, 3, "{no_real}, {vip}");
        }
        start_servers(&mut topology);
        wait_for(&daemon, ["up", "up"]);
        for vip in [VIP, VIP6] {
            let flow = Flow::open(&topology, vip);
            flow.ask().expect("an answer");
            let connected = topology.connect(socket(vip, 53), Duration::from_secs(2));
            connected.expect("a connection");
        }
    }
}

fn start_servers(topology: &mut Topology) {
    for (real, name) in topology.reals.iter_mut().zip(["real1", "real2"]) {
        real.start_dns(name);
    }
}

#[test]
fn udp_flows_of_a_dead_real_server_go_to_a_living_one() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::new(Arms::Two, 2);
    start_servers(&mut topology);
    let daemon = Daemon::start(&topology, &dns("reject"));
    wait_for(&daemon, ["up", "up"]);
    // Case 31 of the packet cases.
    let flows = [VIP, VIP6].map(|vip| {
        let flows = [(); 2].map(|()| Flow::open(&topology, vip));
        let names = flows.each_ref().map(|flow| flow.ask().expect("an answer"));
        assert!(
            names == ["real1", "real2"] || names == ["real2", "real1"],
            "{names:?}"
        );
        (flows, names)
    });
    let all = |expected: &dyn Fn(&'static str) -> &'static str, when: &str| {
        for (flows, names) in &flows {
            for (flow, name) in flows.iter().zip(names) {
                for _ in 0..3 {
                    let answered = flow.ask().expect(when);
                    assert_eq!(answered, expected(name), "{name}'s flow, {when}");
                }
            }
        }
    };
    all(&|name| name, "while both are up");
    topology.reals[0].stop_programs();
    wait_for(&daemon, ["down", "up"]);
    all(&|_| "real2", "while the first is down");
    topology.reals[0].start_dns("real1");
    wait_for(&daemon, ["up", "up"]);
    all(&|_| "real2", "since the first came back");
    topology.reals[1].stop_programs();
    wait_for(&daemon, ["up", "down"]);
    all(&|_| "real1", "while the second is down");
}
