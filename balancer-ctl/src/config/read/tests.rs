//! Files, good and bad, to the letter.

mod check;
mod filter;
mod fuzz;
mod health;
mod notify;
mod persistence;
mod vrrp;

use super::*;
use crate::model::{
    AdminState, Backups, Filter, ForwardMethod, Hairpin, HashKey, HealthPolicy, NoReal, Notify,
    OnDown, PeerSettings, Persistence, Scheduler,
    check::{
        AgentProbe, DnsProbe, Exchange, ExecProbe, GrpcProbe, HttpProbe, HttpVersion, Initial,
        Pattern, Probe, Source, Target, Timing, Tls,
    },
    event::EventKind,
    filter::{Prefixes, Rate},
    notify::Stdin,
    peers::Sync,
};

fn errors(text: &str) -> Vec<String> {
    model(text, "lb1")
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_contracts_example_as_far_as_it_is_built_is_read() {
    let text = r#"
[dataplane]
interfaces = ["eth0", "eth1"]      # the XDP program is attached to each
mode = "native"
max-connections = 4096
max-connections-ipv6 = 2048
max-persistence = 2000
stray-replies = "reset"
masquerade = false

[timeouts]                          # humantime
tcp = "20m"
tcp-fin = "1m 30s"
udp = "10s"

[[service]]
name = "web"
address = "192.168.1.35:80"
protocol = "tcp"
scheduler = "mh"
hash = "client-port"
persistence = { timeout = "5m", netmask = 32, group = "shop" }
no-real = "drop"
on-down = "reset-after 30s"
slow-start = "1m"
quorum = 3
hysteresis = 1
backups = "all"
allow = ["10.0.0.0/8", "192.0.2.7"]
deny = ["10.9.0.0/16"]
rate = "100/s per /24"

  [service.check]                   # absent = no probing, the reals count as up
  type = "http"
  interval = "5s"
  timeout = "2s"
  rise = 2                          # consecutive
  fall = 3
  path = "/"                        # http(s): also host, method, status = "200-299", body = "regex", headers
  port = 80                         # absent = the real's

  [[service.real]]
  address = "192.168.0.2:8080"
  weight = 0
  forwarding = "nat"
  upper = 100
  lower = 80
  state = "drain"

  [[service.real]]
  address = "192.168.0.3"
  backup = true

[[service]]
address = "[2001:db8::80]:53"
protocol = "udp"

[[notify]]                          # programs to run on state changes
on = ["real-down", "real-up", "quorum-lost", "quorum-regained"]
run = ["/usr/local/bin/alert"]

[node]
name = "lb7"

[peers]
listen = "192.168.9.1"
interface = "eth2"
key-file = "/etc/balancer/cluster.key"
nodes = ["192.168.9.2", "[2001:db8::3]:99"]
sync = "active-pushes"
"#;
    let expected = Model {
        node: "lb7".to_owned(),
        dataplane: DataplaneSettings {
            interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
            mode: Mode::Native,
            max_connections: 4096,
            max_connections_ipv6: 2048,
            max_persistence: 2000,
            stray_replies: StrayReplies::Reset,
            snat_addresses: Vec::new(),
            snat_ports: DEFAULT_SNAT_PORTS,
            timeouts: Timeouts {
                tcp: Duration::from_secs(1200),
                tcp_fin: Duration::from_secs(90),
                udp: Duration::from_secs(10),
            },
        },
        services: vec![
            VirtualService {
                key: address::service_key("192.168.1.35:80").unwrap(),
                name: Some("web".to_owned()),
                scheduler: Scheduler::Mh,
                hash: Some(HashKey::ClientPort),
                persistence: Some(Persistence {
                    group: Some("shop".to_owned()),
                    ..Persistence::default()
                }),
                no_real: NoReal::Drop,
                forwarding: ForwardMethod::Nat,
                hairpin: Hairpin::FullNat,
                checks: vec![Check {
                    probe: Probe::Http(Box::default()),
                    target: Target {
                        address: None,
                        port: Some(80),
                    },
                    source: Source::default(),
                    timing: Timing::default(),
                }],
                health: HealthPolicy {
                    on_down: OnDown::ResetAfter(Duration::from_secs(30)),
                    slow_start: Duration::from_secs(60),
                    quorum: 3,
                    hysteresis: 1,
                    backups: Backups::All,
                },
                reals: vec![
                    RealServer {
                        address: "192.168.0.2:8080".parse().unwrap(),
                        weight: 0,
                        forwarding: Some(ForwardMethod::Nat),
                        upper: 100,
                        lower: 80,
                        backup: false,
                        state: AdminState::Drain,
                        runtime: false,
                    },
                    RealServer {
                        address: "192.168.0.3:80".parse().unwrap(),
                        weight: 1,
                        forwarding: None,
                        upper: 0,
                        lower: 0,
                        backup: true,
                        state: AdminState::Ready,
                        runtime: false,
                    },
                ],
                filter: Filter {
                    allow: Prefixes::from_argument("10.0.0.0/8,192.0.2.7").unwrap(),
                    deny: Prefixes::from_argument("10.9.0.0/16").unwrap(),
                    rate: Some(Rate {
                        per_second: 100,
                        length: Some(24),
                    }),
                },
                runtime: false,
            },
            VirtualService {
                key: address::service_key("udp/[2001:db8::80]:53").unwrap(),
                name: None,
                scheduler: Scheduler::Wrr,
                hash: None,
                persistence: None,
                no_real: NoReal::Reject,
                forwarding: ForwardMethod::Nat,
                hairpin: Hairpin::FullNat,
                checks: Vec::new(),
                health: HealthPolicy::default(),
                filter: Filter::default(),
                reals: Vec::new(),
                runtime: false,
            },
        ],
        notify: vec![Notify {
            user: None,
            on: vec![
                EventKind::RealDown,
                EventKind::RealUp,
                EventKind::QuorumLost,
                EventKind::QuorumRegained,
            ],
            services: Vec::new(),
            run: vec!["/usr/local/bin/alert".to_owned()],
            timeout: Duration::from_secs(10),
            alert_after: Duration::ZERO,
            alert_every: None,
            always_up: false,
            stdin: Stdin::Json,
        }],
        vrrp: Vec::new(),
        peers: PeerSettings {
            listen: "192.168.9.1:4446".parse().unwrap(),
            interface: Some("eth2".to_owned()),
            key_file: Some("/etc/balancer/cluster.key".into()),
            nodes: vec![
                "192.168.9.2:4446".parse().unwrap(),
                "[2001:db8::3]:99".parse().unwrap(),
            ],
            sync: Sync::ActivePushes,
        },
    };
    assert_eq!(model(text, "lb1"), Ok(expected));
}

#[test]
fn what_is_not_named_has_its_default() {
    let read = model("dataplane = { interfaces = [\"eth0\"] }", "host").unwrap();
    let expected = Model {
        node: "host".to_owned(),
        dataplane: DataplaneSettings {
            interfaces: vec!["eth0".to_owned()],
            mode: Mode::Auto,
            max_connections: 262_144,
            max_connections_ipv6: 65_536,
            max_persistence: 65_536,
            stray_replies: StrayReplies::Pass,
            snat_addresses: Vec::new(),
            snat_ports: DEFAULT_SNAT_PORTS,
            timeouts: DEFAULT_TIMEOUTS,
        },
        services: Vec::new(),
        notify: Vec::new(),
        vrrp: Vec::new(),
        peers: PeerSettings::default(),
    };
    assert_eq!(read, expected);
}

#[test]
fn ipv6_has_room_for_a_quarter_of_the_connections_where_nobody_says_it() {
    let sizes = |text: &str| {
        let text = format!("[dataplane]\ninterfaces = [\"eth0\"]\n{text}");
        let settings = model(&text, "host").unwrap().dataplane;
        (settings.max_connections, settings.max_connections_ipv6)
    };
    for (text, expected) in [
        ("", (262_144, 65_536)),
        ("max-connections = 1000000", (1_000_000, 250_000)),
        ("max-connections = 1024", (1_024, 1_024)),
        ("max-connections-ipv6 = 5000", (262_144, 5_000)),
        (
            "max-connections-ipv6 = 5000\nmax-connections = 4096",
            (4_096, 5_000),
        ),
    ] {
        assert_eq!(sizes(text), expected, "{text}");
    }
}

#[test]
fn a_syntax_error_stands_alone_with_its_place() {
    assert_eq!(
        errors("[dataplane]\ninterfaces = [\"eth0\"\n[[service]]\nadress = 1\n"),
        ["3:1: missing comma between array elements, expected `,`"]
    );
}

#[test]
fn every_error_of_a_file_is_reported_in_order_with_line_and_column() {
    let text = r#"[dataplane]
interfaces = ["eth0", "eth0", "a name", 7]
mode = "fast"
max-connections = 12
max-connections-ipv6 = 16777217
stray-replies = "drop"
masquerade = true
colour = "red"

[timeouts]
tcp = "0s"
tcp-fin = "soon"
udp = 5

[metrics]
listen = "127.0.0.1:9808"

[[service]]
# no address to know it by
address = "192.0.2.80"
protocol = "sctp"
scheduler = "lblc"
persistence = "5m"
  [service.check]
  type = "http"
  [[service.real]]
  address = "10.0.0.2:99999"
  weight = "heavy"

[[service]]
name = "web"
address = "192.0.2.80:80"
scheduler = "random"
  [[service.real]]
  weight = 1
  [[service.real]]
  address = "2001:db8::2"
  [[service.real]]
  address = "10.0.0.2:0"
  weight = 65536
  forwarding = "tunnel"
  [[service.real]]
  address = "10.0.0.3"
  weight = -1
  backup = "yes"
  [[service.real]]
  address = "10.0.0.3:80"

[[service]]
name = "web"
address = "192.0.2.80:80"

[[service]]
no-real = "ignore"

[[service]]
name = "1web"
address = "192.0.2.80:81"
"#;
    assert_eq!(
        errors(text),
        [
            "2:23: interface `eth0` is named twice: name it once",
            "2:31: `a name` is no interface name: 1 to 15 bytes without space or `/`",
            "2:41: interfaces must be a list of names, as in [\"eth0\"]",
            "3:8: mode `fast` is not known: expected `auto`, `native` or `generic`",
            "4:19: max-connections 12 is out of range: 1024..=16777216",
            "5:24: max-connections-ipv6 16777217 is out of range: 1024..=16777216",
            "6:17: stray-replies `drop` is not known: expected `pass` or `reset`",
            "7:14: this version does not have `masquerade` yet: set it to false",
            "8:1: unknown key `colour` in `dataplane`: expected `interfaces`, `mode`, `max-connections`, `max-connections-ipv6`, `max-persistence`, `stray-replies`, `snat-addresses`, `snat-ports` or `masquerade`",
            "11:7: timeout tcp of 0s is out of range: 1s to 7days",
            "12:11: tcp-fin `soon` is not a duration: write it with its unit, as in \"15m\" or \"90s\"",
            "13:7: udp must be a string in quotes",
            "15:2: this version does not have `metrics` yet: remove it",
            "20:11: `192.0.2.80` has no port: write `192.0.2.80:80` (port 0 stands for every port)",
            "21:12: protocol `sctp` is not known: expected `tcp` or `udp`",
            "22:13: scheduler `lblc` is not offered, as it chooses a cache for each of many destinations, and a virtual service has one: expected `rr`, `wrr`, `lc`, `wlc`, `sed`, `nq`, `sh`, `dh`, `mh`, `fo`, `ovf` or `twos`",
            "23:15: persistence must be a table, as in `persistence = { timeout = \"5m\" }`",
            "27:13: port `99999` is not a number in 0..=65535",
            "28:12: weight must be a whole number",
            "33:13: scheduler `random` is not known: expected `rr`, `wrr`, `lc`, `wlc`, `sed`, `nq`, `sh`, `dh`, `mh`, `fo`, `ovf` or `twos`",
            "34:3: real has no address: add one, as in `address = \"10.0.0.2:80\"`",
            "37:13: real [2001:db8::2]:80 is not of the family of service tcp/192.0.2.80:80: both must be IPv4 or both IPv6",
            "39:13: real 10.0.0.2:0 has port 0, but service tcp/192.0.2.80:80 is on one port: give the real's port",
            "40:12: weight 65536 of real 10.0.0.2:0 is out of range: 0..=65535",
            "41:16: this version does not have forwarding `tunnel` yet: expected `nat` or `full-nat`",
            "44:12: weight -1 is out of range: 0..=65535",
            "45:12: backup must be true or false",
            "47:13: real 10.0.0.3:80 is there twice in service tcp/192.0.2.80:80: name it once",
            "50:8: name `web` is taken by service tcp/192.0.2.80:80: choose another",
            "51:11: service tcp/192.0.2.80:80 is there twice: address, port and protocol must differ",
            "53:1: service has no address: add one, as in `address = \"192.0.2.80:80\"`",
            "54:11: no-real `ignore` is not known: expected `reject` or `drop`",
            "57:8: `1web` is no name for a service: a letter, then up to 62 letters, digits, `.`, `_` or `-`",
        ]
    );
}

#[test]
fn of_many_errors_the_first_are_told_and_the_rest_is_counted() {
    let mut text = "dataplane.interfaces = [\"eth0\"]\n".to_owned();
    for table in 0..250 {
        text += &format!("[a{table}]\n");
    }
    let errors = errors(&text);
    assert_eq!(errors.len(), 101);
    assert!(errors[99].starts_with("101:"), "{}", errors[99]);
    assert_eq!(
        errors[100],
        "102:2: here, and from here on, are 150 more errors"
    );
}

#[test]
fn integers_that_are_too_large_are_not_looked_at_without_end() {
    let list = "99999999999999999999,".repeat(100_000);
    let errors = errors(&format!("dataplane.interfaces = [{list}]\n"));
    assert_eq!(errors.len(), 1, "{errors:?}");
}

#[test]
fn sources_of_full_nat_that_cannot_work_are_refused() {
    for (line, expected) in [
        (
            "snat-addresses = \"10.0.0.1\"",
            "2:18: snat-addresses must be a list of addresses of this host, as in [\"192.168.0.1\", \"fd00::1\"]",
        ),
        (
            "snat-addresses = [\"10.0.0.1\", \"10.0.0\"]",
            "2:31: snat-addresses must be a list of addresses of this host, as in [\"192.168.0.1\", \"fd00::1\"]",
        ),
        (
            "snat-addresses = [\"224.0.0.1\"]",
            "2:18: address 224.0.0.1 of snat-addresses is a multicast address: use a unicast address",
        ),
        (
            "snat-addresses = [\"fd00::1\", \"fd00::1\"]",
            "2:18: snat-addresses names fd00::1 twice: name it once",
        ),
        (
            "snat-addresses = [\"10.0.0.1\", \"10.0.0.2\", \"10.0.0.3\", \"10.0.0.4\", \"10.0.0.5\", \"10.0.0.6\", \"10.0.0.7\", \"10.0.0.8\", \"10.0.0.9\"]",
            "2:18: snat-addresses names 9 addresses of IPv4: at most 8 are allowed",
        ),
        (
            "snat-ports = \"many\"",
            "2:14: snat-ports must be the first and the last port, as in \"10000-60535\"",
        ),
        (
            "snat-ports = \"80-65535\"",
            "2:14: snat-ports 80-65535 must not begin below 1024, where services have their ports",
        ),
        (
            "snat-ports = \"1500-65000\"",
            "2:14: snat-ports 1500-65000 must leave the host's own sockets at least 1000 ports in a row from 1024 up",
        ),
    ] {
        let text = format!("[dataplane]\n{line}\ninterfaces = [\"eth0\"]\n");
        assert_eq!(errors(&text), [expected]);
    }
}

#[test]
fn addresses_that_cannot_work_are_refused() {
    for (vip, real, expected) in [
        (
            "0.0.0.0:80",
            "10.0.0.2:80",
            "3:11: address 0.0.0.0 of a service is unspecified: use the address itself",
        ),
        (
            "224.0.0.1:80",
            "10.0.0.2:80",
            "3:11: address 224.0.0.1 of a service is a multicast address: use a unicast address",
        ),
        (
            "255.255.255.255:80",
            "10.0.0.2:80",
            "3:11: address 255.255.255.255 of a service is the broadcast address: use a unicast address",
        ),
        (
            "127.0.0.1:80",
            "10.0.0.2:80",
            "3:11: address 127.0.0.1 of a service is a loopback address, which never leaves the host: use an address on the network",
        ),
        (
            "[::]:80",
            "[2001:db8::2]:80",
            "3:11: address :: of a service is unspecified: use the address itself",
        ),
        (
            "[::ffff:192.0.2.80]:80",
            "[2001:db8::2]:80",
            "3:11: address ::ffff:192.0.2.80 of a service is an IPv4 address in IPv6 form: write the IPv4 address",
        ),
        (
            "[2001:db8::80]:80",
            "[fe80::2]:80",
            "5:11: address fe80::2 of a real is link-local, which is not forwarded: use a global or unique local address",
        ),
        (
            "[2001:db8::80]:80",
            "[ff02::2]:80",
            "5:11: address ff02::2 of a real is a multicast address: use a unicast address",
        ),
        (
            "[2001:db8::80]:80",
            "[::1]:80",
            "5:11: address ::1 of a real is a loopback address, which never leaves the host: use an address on the network",
        ),
        (
            "192.0.2.80:80",
            "192.0.2.80:80",
            "5:11: real 192.0.2.80:80 is itself the address of a service: name the server behind it",
        ),
        (
            "192.0.2.80:0",
            "192.0.2.80:81",
            "5:11: real 192.0.2.80:81 is itself the address of a service: name the server behind it",
        ),
    ] {
        let text = format!(
            "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"{vip}\"\n[[service.real]]\naddress = \"{real}\"\n"
        );
        assert_eq!(errors(&text), [expected]);
    }
}

#[test]
fn a_service_on_every_port_takes_reals_with_and_without_a_port() {
    let text = "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"192.0.2.80:0\"\n\
                [[service.real]]\naddress = \"10.0.0.2\"\n[[service.real]]\naddress = \"10.0.0.2:80\"\n";
    let model = model(text, "lb1").unwrap();
    let reals: Vec<_> = model.services[0]
        .reals
        .iter()
        .map(|real| real.address.to_string())
        .collect();
    assert_eq!(reals, ["10.0.0.2:0", "10.0.0.2:80"]);
}

#[test]
fn a_file_without_interfaces_is_refused() {
    let empty = "interfaces is empty: name at least one, as in `interfaces = [\"eth0\"]`";
    assert_eq!(errors(""), [format!("1:1: {empty}")]);
    assert_eq!(
        errors("[dataplane]\ninterfaces = []"),
        [format!("2:14: {empty}")]
    );
    assert_eq!(
        errors("dataplane = 1"),
        [
            format!("1:1: {empty}"),
            "1:13: dataplane must be a table: write `[dataplane]` on a line of its own".to_owned()
        ]
    );
}

#[test]
fn services_and_reals_are_written_as_blocks() {
    let text = "service = [{ address = \"192.0.2.80:80\" }]\ndataplane.interfaces = [\"eth0\"]\n";
    assert_eq!(
        errors(text),
        ["1:11: write each service as a block of its own that begins with `[[service]]`"]
    );
    let text = "dataplane.interfaces = [\"eth0\"]\n[[service]]\naddress = \"192.0.2.80:80\"\nreal = [\"10.0.0.2\"]\n";
    assert_eq!(
        errors(text),
        ["4:8: write each real as a block of its own that begins with `[[service.real]]`"]
    );
}

#[test]
fn columns_count_characters() {
    assert_eq!(
        errors("node.name = \"é\" # é\ndataplane = { interfaces = [\"é\", \"é\"] }"),
        ["2:34: interface `é` is named twice: name it once"]
    );
}

#[test]
fn the_timeouts_bounds_are_allowed() {
    for (timeout, good) in [
        ("999ms", false),
        ("1s", true),
        ("7days", true),
        ("7days 1s", false),
    ] {
        let text = format!("dataplane.interfaces = [\"eth0\"]\ntimeouts.udp = \"{timeout}\"");
        assert_eq!(model(&text, "lb1").is_ok(), good, "{timeout}");
    }
}

#[test]
fn wrong_peers_are_reported_with_their_positions() {
    let text = r#"dataplane.interfaces = ["eth0"]
[peers]
listen = "lb1"
interface = "a b"
key-file = "cluster.key"
nodes = ["192.168.9.2", "0.0.0.0", "192.168.9.2", "lb3", "192.168.9.4", "192.168.9.5"]
sync = "always"
port = 1
"#;
    let address = "write `192.0.2.2`, `192.0.2.2:4446`, `2001:db8::2` or `[2001:db8::2]:4446`";
    assert_eq!(
        errors(text),
        [
            format!("3:10: listen `lb1` is no address of a node: {address}"),
            "4:13: `a b` is no interface name: 1 to 15 bytes without space or `/`".to_owned(),
            "5:12: key-file `cluster.key` is no absolute path: begin it with `/`".to_owned(),
            "6:25: node 0.0.0.0:4446 has an address that no other node can have".to_owned(),
            "6:36: node 192.168.9.2:4446 is named twice: name it once".to_owned(),
            format!("6:51: node `lb3` is no address of a node: {address}"),
            "6:73: node 192.168.9.5:4446 is one too many: 4 nodes at most, this one included".to_owned(),
            "7:8: sync `always` is not known: expected `manual` or `active-pushes`".to_owned(),
            "8:1: unknown key `port` in `peers`: expected `listen`, `interface`, `key-file`, `nodes` or `sync`".to_owned(),
        ]
    );
}
