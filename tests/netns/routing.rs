//! The host routes between clients and real servers, and the rule by which the README forbids clients to use that.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, CLIENT, CLIENT6, INSIDE, OUTSIDE, Topology, VIP, VIP6, socket},
};

use crate::traffic::add_web;

const LIMIT: Duration = Duration::from_secs(2);

/// The README's commands, with the names of these interfaces.
fn rules() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let commands = readme
        .lines()
        .filter_map(|line| line.strip_prefix("  # nft "));
    let names = |command: &str| command.replace("eth0", OUTSIDE).replace("eth1", INSIDE);
    commands.map(names).collect()
}

/// The client's connections to the real servers' own addresses, past the services.
fn direct(topology: &Topology) -> Vec<io::Result<TcpStream>> {
    let reals = topology.reals.iter();
    let addresses = reals.flat_map(|real| [socket(&real.address, 80), socket(&real.address6, 80)]);
    addresses.map(|to| topology.connect(to, LIMIT)).collect()
}

/// The host's connection tracking sees only those packets of a connection that XDP leaves to the host, and finds them invalid: a
/// firewall that drops these delays nobody for longer than the real server's MAC address is unknown, in the middle of a connection too.
#[test]
fn a_firewall_that_drops_what_it_finds_invalid_ends_no_connection() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, "");
    add_web(&daemon, "rr", [1, 1]);
    for rule in [
        "add table inet strict",
        "add chain inet strict forward { type filter hook forward priority 0; policy drop; }",
        "add rule inet strict forward ct state invalid counter drop",
        "add rule inet strict forward ct state established,related accept",
        "add rule inet strict forward ct state new tcp flags & (syn|ack) == syn accept",
    ] {
        topology.balancer.output("nft", &[rule]).expect("nft");
    }
    let forget = || {
        let flush = format!("neigh flush dev {INSIDE}");
        topology.balancer.ip(&flush).expect("flush the neighbours");
    };
    for vip in [VIP, VIP6] {
        let mut stream = topology
            .connect(socket(vip, 80), LIMIT)
            .expect("a connection");
        let timeout = Some(Duration::from_secs(10));
        stream.set_read_timeout(timeout).expect("a time limit");
        for _ in 0..5 {
            forget();
            let request = format!("GET / HTTP/1.1\r\nHost: {vip}\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("send");
            let mut answer = [0; 4096];
            let length = stream.read(&mut answer).expect("an answer");
            let answer = String::from_utf8_lossy(&answer[..length]);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        forget();
        let url = match vip {
            VIP => format!("http://{VIP}/"),
            _ => format!("http://[{VIP6}]/"),
        };
        assert_eq!(topology.curl(&url, 20).len(), 20);
    }
}

#[test]
fn the_rule_keeps_clients_from_real_servers_and_nothing_else() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, "");
    add_web(&daemon, "rr", [1, 1]);
    let mut before = direct(&topology);
    assert!(before.iter().all(Result::is_ok), "{before:?}");
    before.clear();

    let rules = rules();
    assert_eq!(rules.len(), 3);
    for rule in &rules {
        let shell = ["-c", &format!("nft {rule}")];
        topology.balancer.output("sh", &shell).expect("nft");
    }
    for refused in direct(&topology) {
        assert_eq!(
            refused.map_err(|error| error.kind()).err(),
            Some(io::ErrorKind::TimedOut)
        );
    }
    for vip in [VIP.to_owned(), format!("[{VIP6}]")] {
        // The rule drops what XDP leaves to the host while it does not know a real server's MAC address: a SYN comes again.
        for forgets in [false, true] {
            if forgets {
                let flush = format!("neigh flush dev {INSIDE}");
                topology.balancer.ip(&flush).expect("flush the neighbours");
            }
            let mut pages = topology.curl(&format!("http://{vip}/"), 4);
            pages.sort();
            assert_eq!(pages, ["real1", "real1", "real2", "real2"]);
        }
    }
    // What real servers begin themselves.
    for address in [CLIENT, CLIENT6] {
        let to: IpAddr = address.parse().expect("an address");
        let listen = || TcpListener::bind(SocketAddr::new(to, 0));
        let listener = topology
            .client
            .run(listen)
            .expect("enter the client")
            .expect("listen");
        let to = listener.local_addr().expect("its address");
        let real = &topology.reals[0].namespace;
        let connected = real.run(|| TcpStream::connect_timeout(&to, LIMIT));
        connected.expect("enter the real server").expect("connect");
    }
}
