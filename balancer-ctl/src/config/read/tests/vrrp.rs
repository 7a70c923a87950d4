//! Virtual routers, good and bad, to the letter.

use super::*;
use crate::model::vrrp::{
    Checksum, Failback, Probes, TrackExec, TrackPing, TrackService, VirtualAddress, VirtualRouter,
};

const START: &str = "dataplane.interfaces = [\"eth0\"]\n";

fn addresses(texts: &[&str]) -> Vec<VirtualAddress> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The errors of a file with these lines, with their lines counted from 1.
fn errors_of(lines: &str) -> Vec<String> {
    errors(&format!("{START}{lines}"))
        .iter()
        .map(|error| {
            let (line, rest) = error.split_once(':').unwrap();
            format!("{}:{rest}", line.parse::<usize>().unwrap() - 1)
        })
        .collect()
}

#[test]
fn a_virtual_router_is_read_with_all_its_keys() {
    let text = r#"dataplane.interfaces = ["eth0", "eth1"]
[[service]]
name = "web"
address = "192.168.1.35:80"
[[vrrp]]
name = "outside"
interface = "eth0"
router-id = 51
priority = 150
advertisement-interval = "40s 950ms"
failback = "after 10m"
link-up-delay = "1m 5s"
addresses = ["192.168.1.35/24", "192.168.1.36"]
unicast-peers = ["192.168.1.3", "192.168.1.4"]
group = "pair"
track-interfaces = ["eth1"]
track-ping = { targets = ["192.168.1.1", "2001:db8::1"], interval = "500ms", timeout = "200ms", fall = 5, rise = 1, weight = 60 }
track-services = ["192.168.1.35:80"]
probes = "active-only"
checksum = "plain"
announce-interval = "never"
track-exec = [{ run = ["/bin/true", "x"], user = "nobody", interval = "5s", timeout = "2s", fall = 1, rise = 9, weight = 0 }, { run = ["/bin/false"] }]
[[vrrp]]
name = "inside"
interface = "eth1"
router-id = 51
addresses = ["fe80::1/64", "2001:db8::80"]
  [vrrp.track-ping]
  targets = ["fe80::2"]
  interval = "200ms"
  [[vrrp.track-services]]
  service = "web"
  weight = 0
  [[vrrp.track-exec]]
  run = ["/bin/true"]
"#;
    let outside = VirtualRouter {
        name: "outside".to_owned(),
        interface: "eth0".to_owned(),
        router_id: 51,
        priority: 150,
        advertisement_interval: Duration::from_millis(40_950),
        failback: Failback::After(Duration::from_secs(600)),
        link_up_delay: Duration::from_secs(65),
        addresses: addresses(&["192.168.1.35/24", "192.168.1.36/32"]),
        unicast_peers: ["192.168.1.3", "192.168.1.4"]
            .map(|one| one.parse().unwrap())
            .to_vec(),
        group: Some("pair".to_owned()),
        track_interfaces: strings(&["eth1"]),
        track_ping: Some(TrackPing {
            targets: vec![
                "192.168.1.1".parse().unwrap(),
                "2001:db8::1".parse().unwrap(),
            ],
            interval: Duration::from_millis(500),
            timeout: Duration::from_millis(200),
            fall: 5,
            rise: 1,
            weight: 60,
        }),
        track_services: vec![TrackService {
            service: "tcp/192.168.1.35:80".to_owned(),
            weight: 50,
        }],
        track_exec: vec![
            TrackExec {
                run: strings(&["/bin/true", "x"]),
                user: Some("nobody".to_owned()),
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(2),
                fall: 1,
                rise: 9,
                weight: 0,
            },
            TrackExec {
                run: strings(&["/bin/false"]),
                user: None,
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                fall: 3,
                rise: 2,
                weight: 50,
            },
        ],
        probes: Probes::ActiveOnly,
        checksum: Checksum::Plain,
        announce_interval: None,
    };
    let inside = VirtualRouter {
        addresses: addresses(&["fe80::1/64", "2001:db8::80/128"]),
        track_ping: Some(TrackPing {
            targets: vec!["fe80::2".parse().unwrap()],
            interval: Duration::from_millis(200),
            timeout: Duration::from_millis(200),
            fall: 3,
            rise: 2,
            weight: 50,
        }),
        track_services: vec![TrackService {
            service: "web".to_owned(),
            weight: 0,
        }],
        track_exec: vec![TrackExec {
            run: strings(&["/bin/true"]),
            ..outside.track_exec[1].clone()
        }],
        priority: 100,
        advertisement_interval: Duration::from_secs(1),
        failback: Failback::Never,
        link_up_delay: Duration::from_secs(30),
        unicast_peers: Vec::new(),
        group: None,
        track_interfaces: Vec::new(),
        probes: Probes::EveryNode,
        checksum: Checksum::PseudoHeader,
        announce_interval: Some(Duration::from_secs(60)),
        ..VirtualRouter::new("inside", "eth1", 51)
    };
    assert_eq!(model(text, "lb1").unwrap().vrrp, [outside, inside]);
}

#[test]
fn what_a_virtual_router_must_have_is_asked_for() {
    assert_eq!(
        errors_of(
            r#"[[vrrp]]
colour = "red"
track-ping = { color = 1 }
track-services = [{ weight = 1 }, {}]
track-exec = [{ weight = 256 }, 7]
[[vrrp]]
name = 7
interface = ["eth0"]
router-id = "51"
addresses = "192.0.2.80"
track-ping = "192.0.2.1"
track-services = "web"
track-exec = ["/bin/true"]
track-interfaces = "eth1"
unicast-peers = [1]
"#
        ),
        [
            "1:1: vrrp has no name: add one, as in `name = \"outside\"`",
            "1:1: vrrp has no interface: add one, as in `interface = \"eth0\"`",
            "1:1: vrrp has no router-id: add one, as in `router-id = 51`",
            "1:1: vrrp has no addresses: add some, as in `addresses = [\"192.0.2.80/24\"]`",
            "2:1: unknown key `colour` in `vrrp`: expected `name`, `interface`, `router-id`, `priority`, `advertisement-interval`, \
             `failback`, `link-up-delay`, `addresses`, `unicast-peers`, `group`, `track-interfaces`, `track-ping`, `track-services`, \
             `track-exec`, `probes`, `checksum` or `announce-interval`",
            "3:14: track-ping has no targets: add some, as in `targets = [\"192.0.2.1\"]`",
            "3:16: unknown key `color` in `track-ping`: expected `targets`, `interval`, `timeout`, `fall`, `rise` or `weight`",
            "4:19: track-services has no service: add one, as in `service = \"web\"`",
            "4:35: track-services has no service: add one, as in `service = \"web\"`",
            "5:15: track-exec has no program: add one, as in `run = [\"/usr/local/bin/alert\", \"--verbose\"]`",
            "5:26: weight 256 is out of range: 0..=253",
            "5:33: track-exec must be a table or a list of tables, as in `track-exec = { run = [\"/usr/local/bin/check\"] }`",
            "7:8: name must be a string in quotes",
            "8:13: interface must be a string in quotes",
            "9:13: router-id must be a whole number",
            "10:13: addresses must be a list of strings, as in [\"192.0.2.80/24\"]",
            "11:14: track-ping must be a table, as in `track-ping = { targets = [\"192.0.2.1\"] }`",
            "12:18: track-services must be a list of services, as in [\"web\"] or [{ service = \"web\", weight = 50 }]",
            "13:15: track-exec must be a table or a list of tables, as in `track-exec = { run = [\"/usr/local/bin/check\"] }`",
            "14:20: track-interfaces must be a list of strings, as in [\"eth1\"]",
            "15:17: unicast-peers must be a list of strings, as in [\"192.0.2.1\"]",
        ]
    );
    assert_eq!(
        errors_of("vrrp = { name = \"outside\" }\n"),
        ["1:8: write each vrrp as a block of its own that begins with `[[vrrp]]`"]
    );
}

#[test]
fn addresses_that_no_node_can_have_and_the_loopback_interface_are_refused() {
    let errors = |interface: &str, addresses: &str| {
        errors_of(&format!(
            "[[vrrp]]\nname = \"a\"\ninterface = \"{interface}\"\nrouter-id = 1\naddresses = [{addresses}]\n"
        ))
    };
    assert_eq!(
        errors(
            "eth0",
            r#""192.168.1.0/24", "192.168.1.255/24", "192.168.1.4/30", "192.168.1.7/30", "10.0.0.0/8", "192.0.2.0""#
        ),
        [
            "5:14: address 192.168.1.0/24 of a virtual router is its network's own address: use one of 192.168.1.1 to 192.168.1.254",
            "5:32: address 192.168.1.255/24 of a virtual router is its network's broadcast address: use one of 192.168.1.1 to \
             192.168.1.254",
            "5:52: address 192.168.1.4/30 of a virtual router is its network's own address: use one of 192.168.1.5 to 192.168.1.6",
            "5:70: address 192.168.1.7/30 of a virtual router is its network's broadcast address: use one of 192.168.1.5 to \
             192.168.1.6",
            "5:88: address 10.0.0.0/8 of a virtual router is its network's own address: use one of 10.0.0.1 to 10.255.255.254",
        ]
    );
    assert_eq!(
        errors(
            "eth0",
            r#""2001:db8::/64", "2001:db8::/127", "2001:db8:1::", "2001:db8::ffff:ffff:ffff:ffff/64""#
        ),
        [
            "5:14: address 2001:db8::/64 of a virtual router is the subnet-router anycast address, which every router of its network \
             has: use another of the network",
            "5:31: address 2001:db8:: is there twice in virtual router a: name it once",
        ]
    );
    assert_eq!(
        errors(
            "lo",
            r#""192.0.2.0/31", "192.0.2.1/31", "192.0.2.255/32", "192.0.2.254/24""#
        ),
        [
            "3:13: interface lo of virtual router a is the loopback interface, which leads to no other node: name the one that leads to \
             the network of the VIPs"
        ]
    );
}

#[test]
fn values_that_are_not_allowed_are_reported_at_their_position() {
    assert_eq!(
        errors_of(
            r#"[[vrrp]]
name = "1st"
interface = "a name"
router-id = 0
priority = 0
advertisement-interval = "5ms"
failback = "sometimes"
addresses = ["192.0.2.80/24", "192.0.2.81/33", "web"]
unicast-peers = ["192.0.2.1:80"]
group = "a b"
track-interfaces = ["eth1", "eth1", "a/b"]
track-ping = { targets = ["host", "192.0.2.1", "192.0.2.1", "224.0.0.18"], interval = "1ms", timeout = "0s", fall = 0, rise = 101, weight = 254 }
track-services = ["web", "-", "1web", { service = "192.0.2.80", weight = -1 }]
checksum = "none"
announce-interval = "0s"
[[vrrp]]
name = "second"
interface = "eth0"
router-id = 256
priority = 256
addresses = ["192.0.2.82"]
[[vrrp]]
name = "third"
interface = "eth0"
router-id = 2
advertisement-interval = "15ms"
failback = "after 8days"
addresses = []
announce-interval = "soon"
track-ping = { targets = [] }
track-exec = [
  { run = ["true"] },
  { run = ["/bin/true"], interval = "50ms", timeout = "1s" },
  { run = ["/bin/true"], interval = "1s", timeout = "1001ms", rise = 0 },
]
[[vrrp]]
name = "fourth"
interface = "eth0"
router-id = 3
advertisement-interval = "41s"
failback = "after 0s"
addresses = ["2001:db8::80"]
checksum = "plain"
announce-interval = "2days"
link-up-delay = "5m 1s"
probes = "none"
"#
        ),
        [
            "2:8: `1st` is no name for a virtual router: a letter, then up to 62 letters, digits, `.`, `_` or `-`",
            "3:13: `a name` is no interface name: 1 to 15 bytes without space or `/`",
            "4:13: router-id 0 is out of range: 1..=255",
            "5:12: priority 0 is out of range: 1..=255",
            "6:26: advertisement-interval of 5ms is out of range: 10ms to 40s 950ms",
            "7:12: failback `sometimes` is not known: expected `never`, `immediate`, `when-stable` or `after DURATION`, as in \"after 10m\"",
            "8:31: `192.0.2.81/33` is no address of a virtual router: write `192.0.2.80/24` or `2001:db8::80/64`; without a length it is /32 or /128",
            "8:48: `web` is no address of a virtual router: write `192.0.2.80/24` or `2001:db8::80/64`; without a length it is /32 or /128",
            "9:18: `192.0.2.1:80` is not an address: write `192.0.2.80` or `2001:db8::80` (names are not looked up)",
            "10:9: `a b` is no name for a group: a letter, then up to 62 letters, digits, `.`, `_` or `-`",
            "11:29: interface `eth1` is named twice: name it once",
            "11:37: `a/b` is no interface name: 1 to 15 bytes without space or `/`",
            "12:27: `host` is not an address: write `192.0.2.80` or `2001:db8::80` (names are not looked up)",
            "12:48: target 192.0.2.1 is named twice: name it once",
            "12:61: target 224.0.0.18 of track-ping is a multicast address: use a unicast address",
            "12:87: interval of 1ms is out of range: 10ms to 1day",
            "12:104: timeout of 0s is out of range: 1ms to 1day",
            "12:117: fall 0 is out of range: 1..=100",
            "12:127: rise 101 is out of range: 1..=100",
            "12:141: weight 254 is out of range: 0..=253",
            "13:19: virtual router 1st tracks service web, which is not there: add the service, or take its name out of track-services",
            "13:26: `-` is no service: name the service, as in \"web\"",
            "13:31: `1web` is not an address: write `192.0.2.80:80` or `[2001:db8::80]:80` (names are not looked up)",
            "13:51: `192.0.2.80` has no port: write `192.0.2.80:80` (port 0 stands for every port)",
            "13:74: weight -1 is out of range: 0..=253",
            "14:12: checksum `none` is not known: expected `pseudo-header` or `plain`",
            "15:21: announce-interval of 0s is out of range: 1s to 1day, or \"never\"",
            "19:13: router-id 256 is out of range: 1..=255",
            "20:12: priority 256 is out of range: 1..=255",
            "26:26: advertisement-interval of 15ms is no multiple of 10ms: VRRP counts in hundredths of a second",
            "27:12: failback `after 8days` is out of range: `after 1s` to `after 7days`",
            "28:13: addresses is empty: name at least one, as in `addresses = [\"192.0.2.80/24\"]`",
            "29:21: announce-interval `soon` is not a duration: write it with its unit, as in \"15m\" or \"90s\", or \"never\"",
            "30:26: targets is empty: name at least one, as in `targets = [\"192.0.2.1\"]`",
            "32:11: program `true` is no absolute path: write it from `/` on",
            "33:37: interval of 50ms is out of range: 100ms to 1day",
            "34:53: timeout 1s 1ms is longer than interval 1s: one must be over when the next begins",
            "34:70: rise 0 is out of range: 1..=100",
            "40:26: advertisement-interval of 41s is out of range: 10ms to 40s 950ms",
            "41:12: failback `after 0s` is out of range: `after 1s` to `after 7days`",
            "43:12: checksum plain is for IPv4: that of IPv6 always has a pseudo-header; leave checksum out",
            "44:21: announce-interval of 2days is out of range: 1s to 1day, or \"never\"",
            "45:17: link-up-delay of 5m 1s is out of range: 0s to 5m",
            "46:10: probes `none` is not known: expected `every-node` or `active-only`",
        ]
    );
}

#[test]
fn virtual_routers_that_do_not_fit_each_other_are_refused() {
    assert_eq!(
        errors_of(
            r#"[[vrrp]]
name = "a"
interface = "eth0"
router-id = 51
addresses = ["192.0.2.80/24", "192.0.2.80", "2001:db8::80", "224.0.0.1", "0.0.0.0", "127.0.0.1"]
unicast-peers = ["192.0.2.1", "192.0.2.1", "192.0.2.80", "2001:db8::1", "::1"]
group = "pair"
[[vrrp]]
name = "a"
interface = "eth0"
router-id = 51
addresses = ["192.0.2.81/24", "192.0.2.80"]
unicast-peers = ["192.0.2.90"]
group = "pair"
priority = 150
failback = "immediate"
[[vrrp]]
name = "b"
interface = "eth0"
router-id = 51
addresses = ["fe80::1"]
[[vrrp]]
name = "c"
interface = "eth1"
router-id = 51
addresses = ["192.0.2.90"]
"#
        ),
        [
            "5:31: address 192.0.2.80 is there twice in virtual router a: name it once",
            "5:45: address 2001:db8::80 is not of the family of 192.0.2.80, the first: all must be IPv4 or all IPv6; give those of the \
             other family a virtual router of their own",
            "5:61: address 224.0.0.1 of a virtual router is a multicast address: use a unicast address",
            "5:74: address 0.0.0.0 of a virtual router is unspecified: use the address itself",
            "5:85: address 127.0.0.1 of a virtual router is a loopback address, which never leaves the host: use an address on the network",
            "6:31: unicast peer 192.0.2.1 is named twice: name it once",
            "6:44: unicast peer 192.0.2.80 is a VIP of virtual router a: name the other node's own address",
            "6:58: unicast peer 2001:db8::1 is not of the family of the addresses of virtual router a: both must be IPv4 or both IPv6",
            "6:73: unicast peer ::1 of a virtual router is a loopback address, which never leaves the host: use an address on the network",
            "9:8: name `a` is taken by another virtual router: choose another",
            "11:13: router-id 51 of IPv4 is taken on interface eth0 by virtual router a: choose another",
            "12:31: address 192.0.2.80 is also one of virtual router a: a VIP belongs to one",
            "13:18: unicast peer 192.0.2.90 is a VIP of virtual router c: name the other node's own address",
            "14:9: priority of virtual router a is 150, and that of a in the same group 100: the virtual routers of a group are Active \
             together, so give them one priority",
            "14:9: failback of virtual router a is immediate, and that of a in the same group never: the virtual routers of a group are \
             Active together, so give them one failback",
        ]
    );
    let many: Vec<_> = (1..=65)
        .map(|number| format!("\"192.0.2.{number}\""))
        .collect();
    assert_eq!(
        errors_of(&format!(
            "[[vrrp]]\nname = \"a\"\ninterface = \"eth0\"\nrouter-id = 1\naddresses = [{}]\n",
            many.join(", ")
        )),
        [
            "5:13: addresses has 65 entries: 64 at most, which fit one packet on every link; give the others a virtual router of their \
             own in the same group"
        ]
    );
}

#[test]
fn the_owner_of_the_addresses_has_no_weights_and_no_failback() {
    let router = "[[vrrp]]\nname = \"a\"\ninterface = \"eth0\"\nrouter-id = 1\naddresses = [\"192.0.2.80\"]\npriority = 255\n";
    let web = "[[service]]\nname = \"web\"\naddress = \"192.0.2.80:80\"\n";
    let sentence = |weight, of: &str| {
        format!(
            "weight {weight} of {of} beside priority 255: the priority of the owner of the addresses never changes; write weight 0, \
             with which virtual router a is in fault instead"
        )
    };
    assert_eq!(
        errors_of(&format!(
            "{router}failback = \"never\"\ntrack-ping = {{ targets = [\"192.0.2.1\"] }}\n\
             track-services = [\"web\", {{ service = \"192.0.2.80:80\", weight = 3 }}]\ntrack-exec = {{ run = [\"/bin/true\"], weight = 1 }}\n{web}"
        )),
        [
            "7:12: failback has no meaning with priority 255: the owner of the addresses takes them back at once; leave failback out".to_owned(),
            format!("8:14: {}", sentence(50, "track-ping")),
            format!("9:19: {}", sentence(50, "track-services")),
            "9:38: service tcp/192.0.2.80:80 is named twice: name it once".to_owned(),
            format!("9:64: {}", sentence(3, "track-services")),
            format!("10:46: {}", sentence(1, "track-exec")),
        ]
    );
    let text = format!(
        "{START}{router}track-interfaces = [\"eth1\"]\ntrack-services = [{{ service = \"web\", weight = 0 }}]\n{web}"
    );
    assert!(model(&text, "lb1").unwrap().vrrp[0].is_owner());
}
