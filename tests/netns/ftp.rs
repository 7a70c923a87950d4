//! FTP: besides the connection for commands there is one for each file, to a port that the two agree on: passive clients connect to the
//! server, active ones let it connect to them.

use std::{ops::Range, path::Path, process::Command};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, OUTSIDE, Topology, VIP, VIP6, page, run},
};
use xtask::ebpf::program;

use crate::shares;

/// One client: an address of each family.
type Client = [String; 2];

/// Tells whether the running test is to be skipped, and says so.
fn skipped() -> bool {
    if privileged::skipped() {
        return true;
    }
    let is_missing =
        |name: &&&str| program(name).is_none() && !Path::new("/usr/sbin").join(name).exists();
    let missing = ["vsftpd", "lftp", "curl", "nft"];
    let missing: Vec<_> = missing.iter().filter(is_missing).copied().collect();
    if missing.is_empty() {
        return false;
    }
    privileged::skip(&format!("not installed: {}", missing.join(", ")));
    true
}

/// The network with so many FTP servers and clients.
fn network(reals: u8, clients: u8) -> (Topology, Vec<Client>) {
    let mut topology = Topology::new(Arms::Two, reals);
    for (index, real) in (1..).zip(&mut topology.reals) {
        real.start_vsftpd(VIP, &format!("real{index}"));
    }
    let clients = (11..).take(clients.into()).map(|number: u8| {
        let client = [
            format!("203.0.113.{number}"),
            format!("2001:db8:f::{number}"),
        ];
        for (address, length) in client.iter().zip([24, 64]) {
            let address = format!("{address}/{length}");
            topology
                .client
                .address("eth0", &address)
                .expect("an address");
        }
        client
    });
    let clients = clients.collect();
    (topology, clients)
}

/// A service of each family on this port, 0 = every port, with these real servers.
fn add_service(daemon: &Daemon, port: u16, options: &str, reals: Range<u8>) {
    for (vip, network) in [
        (VIP.to_owned(), "192.168.0."),
        (format!("[{VIP6}]"), "[fd00:1::"),
    ] {
        daemon.ctl(&format!("add-service {vip}:{port} -s rr {options}"));
        let close = if network.starts_with('[') { "]" } else { "" };
        for number in reals.clone() {
            let real = format!("{network}{}{close}:{port}", number + 1);
            daemon.ctl(&format!("add-real {real} -t {vip}:{port}"));
        }
    }
}

/// Runs a client to its end and returns the file that it got.
fn file_by(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

fn curl(topology: &Topology, from: &str, url: &str, options: &[&str]) -> String {
    let mut curl = topology.client.command("curl");
    // As other clients do, it goes to the address that the server names.
    curl.args([
        "--silent",
        "--show-error",
        "--globoff",
        "--no-ftp-skip-pasv-ip",
    ])
    .args(["--max-time", "10", "--interface", from])
    .args(options)
    .arg(url);
    file_by(&mut curl)
}

fn lftp(topology: &Topology, from: &str, url: &str, settings: &str) -> String {
    let family = if from.contains(':') { "ipv6" } else { "ipv4" };
    let mut lftp = topology.client.command("lftp");
    lftp.args(["--norc", "-c"]).arg(format!(
        "set net:timeout 5; set net:max-retries 1; set net:socket-bind-{family} {from}; {settings}; cat {url}"
    ));
    file_by(&mut lftp)
}

fn urls() -> [String; 2] {
    [format!("ftp://{VIP}/file"), format!("ftp://[{VIP6}]/file")]
}

/// One transfer of each passive kind, by family: PASV and EPSV over IPv4, EPSV over IPv6.
fn passive(topology: &Topology, client: &Client) -> [Vec<String>; 2] {
    let [v4, v6] = client;
    let [url, url6] = urls();
    [
        vec![
            curl(topology, v4, &url, &["--ftp-pasv", "--disable-epsv"]),
            curl(topology, v4, &url, &[]),
            lftp(topology, v4, &url, "set ftp:passive-mode on"),
        ],
        vec![
            curl(topology, v6, &url6, &[]),
            lftp(topology, v6, &url6, "set ftp:passive-mode on"),
        ],
    ]
}

/// Which addresses a client takes a file from, in active mode; curl does not look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sources {
    Any,
    Vip,
}

/// One transfer of each active kind, by family: PORT and EPRT over IPv4, EPRT over IPv6.
fn active(topology: &Topology, client: &Client, sources: Sources) -> [Vec<String>; 2] {
    let [v4, v6] = client;
    let [url, url6] = urls();
    let verify = sources == Sources::Vip;
    let settings = format!("set ftp:passive-mode off; set ftp:verify-address {verify}");
    [
        vec![
            curl(topology, v4, &url, &["--ftp-port", "-", "--disable-eprt"]),
            curl(topology, v4, &url, &["--ftp-port", "-"]),
            lftp(topology, v4, &url, &settings),
        ],
        vec![
            curl(topology, v6, &url6, &["--ftp-port", "-"]),
            lftp(topology, v6, &url6, &settings),
        ],
    ]
}

#[test]
fn one_server_on_every_port_serves_passive_clients() {
    if skipped() {
        return;
    }
    let (topology, clients) = network(1, 1);
    let daemon = Daemon::start(&topology, "");
    add_service(&daemon, 0, "", 1..2);
    assert_eq!(
        passive(&topology, &clients[0]),
        [vec!["real1"; 3], vec!["real1"; 2]]
    );
    // A connection for commands and one for the file, each.
    let listed = daemon.json("list --stats");
    for (service, connections) in [(0, 6), (1, 4)] {
        let counters = &listed["services"][service]["reals"][0]["counters"];
        assert_eq!(counters["connections"], connections, "{listed}");
    }
}

#[test]
fn all_transfers_of_a_client_come_from_one_server() {
    if skipped() {
        return;
    }
    let (topology, clients) = network(2, 12);
    let daemon = Daemon::start(&topology, "");
    add_service(&daemon, 0, "-p 60", 1..3);
    let mut servers: [Vec<Vec<String>>; 2] = [vec![Vec::new(); 12], vec![Vec::new(); 12]];
    for _ in 0..3 {
        for (index, client) in clients.iter().enumerate() {
            for (servers, files) in servers.iter_mut().zip(passive(&topology, client)) {
                servers[index].extend(files);
            }
        }
    }
    for servers in servers {
        let mut first = Vec::new();
        for (client, mut files) in clients.iter().zip(servers) {
            first.push(files[0].clone());
            files.dedup();
            assert_eq!(files.len(), 1, "{client:?}: {files:?}");
        }
        // Clients take turns, not connections.
        assert_eq!(Vec::from_iter(shares(&first)), [("real1", 6), ("real2", 6)]);
    }
}

#[test]
fn a_service_on_one_port_comes_before_one_on_every_port() {
    if skipped() {
        return;
    }
    let (mut topology, clients) = network(2, 1);
    for (index, real) in (1..).zip(&mut topology.reals) {
        real.start_nginx(&format!("listen 80; listen [::]:80; {}", page(index)));
    }
    let daemon = Daemon::start(&topology, "");
    let web = |expected: &str| {
        for url in [format!("http://{VIP}/"), format!("http://[{VIP6}]/")] {
            assert_eq!(topology.curl(&url, 10), vec![expected; 10], "{url}");
        }
    };
    add_service(&daemon, 0, "-p 60", 2..3);
    web("real2");
    for (vip, real) in [
        (VIP.to_owned(), "192.168.0.2:80"),
        (format!("[{VIP6}]"), "[fd00:1::2]:80"),
    ] {
        daemon.ctl(&format!("add-service {vip}:80 -s rr"));
        daemon.ctl(&format!("add-real {real} -t {vip}:80"));
    }
    web("real1");
    assert_eq!(
        passive(&topology, &clients[0]),
        [vec!["real2"; 3], vec!["real2"; 2]]
    );
    for vip in [VIP.to_owned(), format!("[{VIP6}]")] {
        daemon.ctl(&format!("del-service {vip}:80"));
    }
    web("real2");
}

/// What the real servers themselves begin goes out in the name of these addresses: the operator's rules.
fn translate(topology: &Topology, addresses: [&str; 2]) {
    let families = [("ip", "192.168.0.0/24"), ("ip6", "fd00:1::/64")];
    for ((family, network), address) in families.into_iter().zip(addresses) {
        let rules = format!(
            "add table {family} ftp; add chain {family} ftp out {{ type nat hook postrouting priority srcnat; }}; \
             add rule {family} ftp out {family} saddr {network} oifname {OUTSIDE} snat to {address}"
        );
        topology.balancer.output("nft", &[&rules]).expect("nft");
    }
    // The clients know no way to the real servers.
    let client = &topology.client;
    client.ip("route del default").expect("a route less");
    client.ip("-6 route del default").expect("a route less");
    for (vip, gateway) in [(VIP, "203.0.113.2"), (VIP6, "2001:db8:f::2")] {
        let route = format!("route add {vip} via {gateway}");
        client.ip(&route).expect("a route");
    }
}

/// Every client gets its files in active mode, from whichever server it is given.
fn assert_active(topology: &Topology, clients: &[Client], sources: Sources) {
    for client in clients {
        let files = active(topology, client, sources);
        let is_whole = |name: &String| ["real1", "real2"].contains(&name.as_str());
        assert!(
            files.iter().flatten().all(is_whole),
            "{client:?}: {files:?}"
        );
    }
}

#[test]
fn active_clients_take_files_from_another_address_than_the_vip() {
    if skipped() {
        return;
    }
    let (topology, clients) = network(2, 3);
    let daemon = Daemon::start(&topology, "");
    add_service(&daemon, 0, "", 1..3);
    // Where there is a route to the real servers, from their own.
    assert_active(&topology, &clients, Sources::Any);
    // Elsewhere from one of the balancer's. Not from the VIP: answers to that are the service's, on every port.
    translate(&topology, ["203.0.113.2", "2001:db8:f::2"]);
    assert_active(&topology, &clients, Sources::Any);
    // The service had a connection for the commands of each transfer.
    let listed = daemon.json("list --stats");
    for (service, transfers) in [(0, 2 * 3 * 3), (1, 2 * 3 * 2)] {
        let reals = listed["services"][service]["reals"]
            .as_array()
            .expect("reals");
        let counts = reals
            .iter()
            .map(|real| real["counters"]["connections"].as_u64());
        assert_eq!(counts.sum::<Option<u64>>(), Some(transfers), "{listed}");
    }
}

#[test]
fn active_clients_of_a_service_on_port_21_alone_take_files_from_the_vip() {
    if skipped() {
        return;
    }
    let (topology, clients) = network(2, 3);
    let daemon = Daemon::start(&topology, "");
    add_service(&daemon, 21, "", 1..3);
    translate(&topology, [VIP, VIP6]);
    assert_active(&topology, &clients, Sources::Vip);
}
