//! Full NAT: real servers that need no route through the balancer, and clients beside them.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use balancer_tests::{
    client::request,
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, VIP, VIP6, run, socket},
};

/// What a real server's page says: the address and port from which it was asked.
const WHO_ASKS: &str =
    "listen 80; listen [::]:80; location = / { return 200 \"$remote_addr $remote_port\\n\"; }";

/// The balancer's addresses towards the real servers.
const SOURCES: [&str; 2] = ["192.168.0.1", "fd00:1::1"];

/// A service of each family with one real server, and these keys.
fn services(keys: &str) -> String {
    [(VIP.to_owned(), "192.168.0.2"), (format!("[{VIP6}]"), "[fd00:1::2]")]
        .map(|(vip, real)| {
            format!(
                "[[service]]\naddress = \"{vip}:80\"\n{keys}\n[[service.real]]\naddress = \"{real}:80\"\n"
            )
        })
        .concat()
}

fn topology() -> Topology {
    let mut topology = Topology::new(Arms::Two, 2);
    for real in &mut topology.reals {
        real.start_nginx(WHO_ASKS);
    }
    topology
}

/// The address and port from which a real server was asked.
fn asker(page: &str) -> (IpAddr, u16) {
    let (address, port) = page.trim().split_once(' ').expect("address and port");
    (
        address.parse().expect("an address"),
        port.parse().expect("a port"),
    )
}

fn url(vip: &str) -> String {
    if vip.contains(':') {
        format!("http://[{vip}]/")
    } else {
        format!("http://{vip}/")
    }
}

#[test]
fn real_servers_without_a_route_to_clients_serve_them() {
    if privileged::skipped() {
        return;
    }
    let topology = topology();
    for real in &topology.reals {
        real.namespace.ip("route del default").expect("no route");
        real.namespace.ip("-6 route del default").expect("no route");
    }
    let daemon = Daemon::start(&topology, &services("forwarding = \"full-nat\""));
    for (vip, source) in [VIP, VIP6].into_iter().zip(SOURCES) {
        let mut ports = Vec::new();
        for page in topology.curl(&url(vip), 20) {
            let (address, port) = asker(&page);
            assert_eq!(address.to_string(), source);
            assert!((10_000..60_536).contains(&port), "{port}");
            ports.push(port);
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20, "{vip}");
    }
    let list = daemon.ctl("list");
    assert!(list.contains("full-nat"), "{list}");
    let connections = daemon.json("connections");
    let connections = connections["connections"].as_array().expect("a list");
    assert_eq!(connections.len(), 40);
    for connection in connections {
        let source: SocketAddr = connection["source"]
            .as_str()
            .and_then(|source| source.parse().ok())
            .expect("a source");
        assert!(SOURCES.contains(&source.ip().to_string().as_str()));
        assert!(
            connection["real"]
                .as_str()
                .is_some_and(|real| real.ends_with(":80"))
        );
    }
    let trace = daemon.ctl("trace --client 198.51.100.7:40000 tcp/192.0.2.80:80");
    assert!(trace.contains("gets 192.168.0.2:80 by full NAT"), "{trace}");
    let table = daemon.ctl("connections --limit 1");
    assert!(table.contains(":80 from "), "{table}");
    // By the real server's port they are found as ever.
    let of_real = daemon.json("connections --real 192.168.0.2:80");
    assert_eq!(of_real["connections"].as_array().map(Vec::len), Some(20));
}

#[test]
fn whoever_is_beside_the_real_servers_is_served_and_strangers_keep_their_addresses() {
    if privileged::skipped() {
        return;
    }
    let topology = topology();
    let daemon = Daemon::start(&topology, &services(""));
    for (vip, source) in [VIP, VIP6].into_iter().zip(SOURCES) {
        let to = socket(vip, 80);
        // The real server itself, then its neighbour.
        for real in &topology.reals {
            let page = real
                .namespace
                .run(|| request(to))
                .expect("enter a real server")
                .expect("an answer");
            assert_eq!(asker(&page).0.to_string(), source, "{vip}");
        }
        let trace = |client: &str| {
            let service = socket(vip, 80);
            daemon.json(&format!("trace --client {client} tcp/{service}"))["full_nat"].clone()
        };
        let [stranger, neighbour] = if vip == VIP {
            ["198.51.100.7:40000", "192.168.0.3:40000"]
        } else {
            ["[2001:db8:ff::7]:40000", "[fd00:1::3]:40000"]
        };
        assert_eq!([trace(stranger), trace(neighbour)], [false, true], "{vip}");
        for page in topology.curl(&url(vip), 3) {
            assert_ne!(asker(&page).0.to_string(), source, "{vip}");
        }
    }
    assert_eq!(daemon.json("status")["dataplane"]["discards"]["hairpin"], 0);
}

/// The host's own sockets get other ports while a service may use full NAT, and the host its range back.
#[test]
fn the_hosts_own_sockets_get_other_ports() {
    if privileged::skipped() {
        return;
    }
    let topology = topology();
    let range = || {
        let mut cat = topology.balancer.command("cat");
        cat.arg("/proc/sys/net/ipv4/ip_local_port_range");
        let output = run(&mut cat);
        String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = range();
    let mut daemon = Daemon::start(&topology, &services(""));
    assert_eq!(range(), ["60536", "65535"]);
    daemon.ctl("edit-service tcp/192.0.2.80:80 --hairpin refuse");
    assert_eq!(range(), ["60536", "65535"]);
    daemon.ctl("edit-service tcp/[2001:db8:80::80]:80 --hairpin refuse");
    // Until some passes over the table have found no connection with full NAT.
    let changed = Instant::now();
    while range() != before {
        assert!(
            changed.elapsed() < Duration::from_secs(90),
            "the range stays"
        );
        thread::sleep(Duration::from_millis(200));
    }
    daemon.ctl("edit-real 192.168.0.2 --service tcp/192.0.2.80:80 --full-nat");
    assert_eq!(range(), ["60536", "65535"]);
    daemon.stop();
    assert_eq!(range(), ["60536", "65535"]);
    daemon.detach();
    assert_eq!(range(), before);
}
