//! What is written is read again: to the letter for one file, and for any model.

mod vrrp;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use proptest::{collection::vec, option, prelude::*, sample::select};

use self::vrrp::virtual_router;
use super::*;
use crate::{
    config::{read::notify::EVENTS, validate::validate},
    model::{
        Backups, Filter, ForwardMethod, Hairpin, HashKey, HealthPolicy, NoReal, OnDown,
        Persistence, PortRange, RealServer, Scheduler,
        check::{
            AgentProbe, DnsProbe, Exchange, ExecProbe, GrpcProbe, HttpProbe, HttpVersion, Initial,
            Pattern, Probe, Source, Target, Timing, Tls,
        },
        filter::Rate,
        limits::{
            MAX_CONNECTIONS, MAX_PERSISTENCE, MAX_THRESHOLD, MAX_TIMEOUT, MAX_WEIGHT, RATE,
            TRACK_WEIGHT,
        },
        names::Named,
        prefix::Prefix,
        vrrp::{DEFAULT_WEIGHT, TrackService},
    },
};

const FILE: &str = r#"[node]
name = "lb1"

[dataplane]
interfaces = ["eth0", "eth1"]
mode = "generic"
max-connections = 4096
stray-replies = "reset"

[timeouts]
tcp-fin = "1m30s"

[[service]]
name = "web"
address = "192.0.2.80:80"
scheduler = "rr"
no-real = "drop"
on-down = "reset-after 30s"
quorum = 2

[service.check]
type = "http"
interval = "1s"
headers = { Accept = "text/html" }

[[service.real]]
address = "10.0.0.2:80"

[[service.real]]
address = "10.0.0.3:8080"
weight = 0
backup = true
state = "drain"

[[service]]
address = "[2001:db8::80]:0"
protocol = "udp"

[[service.check]]
type = "ping"

[[service.check]]
type = "exec"
run = ["/usr/local/bin/check", "line\nbreak"]

[[notify]]
on = ["real-down", "real-up"]
run = ["/usr/local/bin/alert"]
services = ["web"]
timeout = "5s"
alert-after = "10s"
alert-every = "1h"
always-up = true
stdin = "mon"

[[vrrp]]
name = "outside"
interface = "eth0"
router-id = 51
addresses = ["192.0.2.80/24"]

[[vrrp]]
name = "inside"
interface = "eth1"
router-id = 52
priority = 150
advertisement-interval = "100ms"
failback = "when-stable"
link-up-delay = "0s"
addresses = ["2001:db8::80/64", "2001:db8::81/128"]
unicast-peers = ["2001:db8::1"]
group = "pair"
track-interfaces = ["eth0"]
track-ping = { targets = ["2001:db8::2"], interval = "2s", timeout = "500ms", rise = 1, weight = 0 }
track-services = ["web", { service = "udp/[2001:db8::80]:0", weight = 20 }]
track-exec = { run = ["/usr/local/bin/check"], user = "nobody" }
probes = "active-only"
announce-interval = "never"
"#;

#[test]
fn a_file_in_this_layout_is_written_as_it_was() {
    assert_eq!(text(&read::model(FILE, "other").unwrap()), FILE);
    let least = "[node]\nname = \"lb1\"\n\n[dataplane]\ninterfaces = [\"eth0\"]\n";
    assert_eq!(text(&read::model(least, "other").unwrap()), least);
}

fn one_of<T: Named + std::fmt::Debug>() -> impl Strategy<Value = T> {
    select(T::ALL)
}

fn duration(least: Duration, most: Duration) -> impl Strategy<Value = Duration> {
    let (least, most) = (least.as_nanos() as u64, most.as_nanos() as u64);
    let steps = select(vec![1_u64, 1_000_000, 1_000_000_000]);
    (least..=most, steps)
        .prop_map(move |(nanos, step)| Duration::from_nanos((nanos / step * step).max(least)))
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9._-]{0,9}"
}

fn host() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_-]{0,5}(\\.[a-z]{1,3}){0,2}"
}

/// Any text, quotes and line breaks included, but for the zero byte.
fn word() -> impl Strategy<Value = String> {
    "[^\0]{0,6}|[\"'\\\\#\n\r\t\u{7f}\u{85}=\\[]{1,5}"
}

fn address(v4: bool) -> impl Strategy<Value = IpAddr> {
    (1_u8..200).prop_map(move |number| match v4 {
        true => Ipv4Addr::new(10, 0, 0, number).into(),
        false => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
    })
}

fn timing() -> impl Strategy<Value = Timing> {
    let interval = duration(Duration::from_millis(10), DAY);
    let times = (interval, option::of(1_u32..4), option::of(1_u32..4));
    (times, 1_u32..=100, 1_u32..=100, one_of()).prop_map(
        |((interval, faster, shorter), rise, fall, initial): (_, _, _, Initial)| {
            let fast_interval = faster.map(|by| (interval / by).max(Duration::from_millis(10)));
            let fastest = fast_interval.unwrap_or(interval);
            let usual = Timing::default_timeout(interval, fast_interval);
            Timing {
                interval,
                fast_interval,
                timeout: shorter.map_or(usual, |by| fastest / by),
                rise,
                fall,
                initial,
            }
        },
    )
}

fn pattern() -> impl Strategy<Value = Pattern> {
    "[^\0]{0,6}".prop_map(|text| Pattern::new(&regex::escape(&text)).unwrap())
}

fn exchange() -> impl Strategy<Value = Exchange> {
    (sent(), option::of(pattern())).prop_map(|(send, expect)| Exchange { send, expect })
}

fn sent() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..6), word().prop_map(String::into_bytes)]
}

fn tls() -> impl Strategy<Value = Tls> {
    let path = || word().prop_map(|word| PathBuf::from(format!("/{word}")));
    let files = (option::of(path()), option::of((path(), path())));
    (option::of(host()), files, any::<bool>()).prop_map(
        |(server_name, (ca, certificate), insecure)| Tls {
            server_name,
            insecure: insecure && ca.is_none(),
            ca,
            certificate,
        },
    )
}

fn http() -> impl Strategy<Value = HttpProbe> {
    let request = (
        select(&["GET", "HEAD", "M-SEARCH"]),
        option::of(host()),
        "/[a-z0-9%?=&./]{0,6}",
        proptest::collection::btree_map("[A-Za-z-]{6,8}", "[ -~]{0,6}", 0..3),
        "[ -~\r\n]{0,6}",
    );
    let answer = (
        vec((100_u16..350, 350_u16..=599), 1..3),
        option::of(pattern()),
    );
    (option::of(tls()), one_of(), request, answer).prop_map(
        |(tls, version, (method, host, path, headers, request_body), (status, body)): (
            _,
            HttpVersion,
            _,
            _,
        )| {
            HttpProbe {
                tls,
                version,
                method: method.to_owned(),
                host,
                path,
                headers: headers.into_iter().collect(),
                request_body,
                status,
                // To `HEAD` no answer has a body.
                body: body.filter(|_| method != "HEAD"),
            }
        },
    )
}

fn probe() -> impl Strategy<Value = Probe> {
    let dns = (host(), select(&["CNAME", "TXT", "MX"]), option::of(word()));
    prop_oneof![
        exchange().prop_map(Probe::Tcp),
        exchange().prop_map(Probe::Udp),
        http().prop_map(|http| Probe::Http(Box::new(http))),
        dns.prop_map(|(name, record, answer)| Probe::Dns(DnsProbe {
            name,
            record: record.to_owned(),
            answer,
        })),
        Just(Probe::Ping),
        (word(), option::of(tls()))
            .prop_map(|(service, tls)| Probe::Grpc(Box::new(GrpcProbe { service, tls }))),
        (run(), option::of(word())).prop_map(|(run, user)| Probe::Exec(ExecProbe {
            run,
            user,
            is_monitor: true
        })),
        sent().prop_map(|send| Probe::Agent(AgentProbe { send })),
    ]
}

fn run() -> impl Strategy<Value = Vec<String>> {
    (word(), vec(word(), 0..3)).prop_map(|(program, arguments)| {
        let program = format!("/{program}");
        std::iter::once(program).chain(arguments).collect()
    })
}

/// A check of a service of this family.
fn check_of(v4: bool) -> impl Strategy<Value = Check> {
    let asked = (option::of(address(v4)), 1_u16..);
    let from = (
        option::of(address(v4)),
        option::of("[a-z0-9]{1,15}"),
        option::of(any::<u32>()),
    );
    (probe(), asked, from, timing()).prop_map(|(probe, (target, port), from, timing)| {
        let (address, interface, mark) = from;
        let source = Source {
            address,
            interface,
            mark,
        };
        let is_program = matches!(probe, Probe::Exec(_));
        Check {
            target: Target {
                address: target,
                port: (!matches!(probe, Probe::Ping)).then_some(port),
            },
            source: if is_program {
                Source::default()
            } else {
                source
            },
            probe,
            timing,
        }
    })
}

fn real_of(v4: bool) -> impl Strategy<Value = RealServer> {
    let decided = (any::<bool>(), one_of());
    let thresholds = (0..=MAX_THRESHOLD, 0..=MAX_THRESHOLD);
    let weights = (0..=MAX_WEIGHT, thresholds);
    (address(v4), 1_u16.., weights, option::of(one_of()), decided).prop_map(
        |(address, port, weights, forwarding, (backup, state)): (
            _,
            _,
            _,
            Option<ForwardMethod>,
            _,
        )| {
            let (weight, (one, other)) = weights;
            RealServer {
                address: SocketAddr::new(address, port),
                weight,
                forwarding,
                upper: one.max(other),
                lower: one.min(other),
                backup,
                state,
                runtime: false,
            }
        },
    )
}

fn health() -> impl Strategy<Value = HealthPolicy> {
    let on_down = prop_oneof![
        Just(OnDown::Keep),
        Just(OnDown::Reset),
        duration(Duration::from_millis(1), DAY).prop_map(OnDown::ResetAfter),
    ];
    let slow_start = prop_oneof![Just(Duration::ZERO), duration(SECOND, DAY)];
    (on_down, slow_start, 1_u32..100, any::<u32>(), one_of()).prop_map(
        |(on_down, slow_start, quorum, hysteresis, backups): (_, _, _, _, Backups)| HealthPolicy {
            on_down,
            slow_start,
            quorum,
            hysteresis: hysteresis % quorum,
            backups,
        },
    )
}

/// Persistence, of a group of its own or of the one group of its family.
fn persistence_of(v4: bool) -> impl Strategy<Value = Persistence> {
    let (group, most) = if v4 { ("v4", 31_u8) } else { ("v6", 127) };
    let group = prop_oneof![Just(None), Just(Some(group.to_owned()))];
    let timeout = prop_oneof![
        Just(Persistence::default().timeout),
        duration(SECOND, MAX_TIMEOUT)
    ];
    (timeout, option::of(1..=most), group, one_of()).prop_map(|(timeout, netmask, group, drain)| {
        match group {
            None => Persistence {
                timeout,
                netmask,
                group,
                drain,
            },
            Some(_) => Persistence {
                group,
                ..Persistence::default()
            },
        }
    })
}

prop_compose! {
    fn filter_of(v4: bool)(
        prefixes in vec((any::<u32>(), 0_u8..=64), 0..12),
        denied in 0..12_usize,
        rate in option::of((RATE, option::of(0_u8..=32))),
    ) -> Filter {
        let prefixes: BTreeSet<_> = prefixes.into_iter().map(|(bits, length)| {
            let address = match v4 {
                true => Ipv4Addr::from(bits).into(),
                false => Ipv6Addr::from_bits(u128::from(bits) << 70 | 1 << 127).into(),
            };
            Prefix::of(address, length)
        }).collect();
        let prefixes: Vec<_> = prefixes.into_iter().collect();
        let (deny, allow) = prefixes.split_at(denied.min(prefixes.len()));
        Filter {
            allow: allow.iter().rev().copied().collect(),
            deny: deny.iter().copied().collect(),
            rate: rate.map(|(per_second, length)| Rate {
                per_second,
                length: length.filter(|length| *length < 32),
            }),
        }
    }
}

prop_compose! {
    fn service_of(v4: bool)(
        host in 1_u8..200,
        port in 1_u16..,
        protocol in one_of::<Protocol>(),
        name in option::of(name()),
        scheduler in one_of::<Scheduler>(),
        hash in option::of(one_of::<HashKey>()),
        persistence in option::of(persistence_of(v4)),
        (no_real, forwarding, hairpin) in (one_of::<NoReal>(), one_of::<ForwardMethod>(), one_of::<Hairpin>()),
        checks in vec(check_of(v4), 0..4),
        health in health(),
        filter in filter_of(v4),
        reals in vec(real_of(v4), 0..4),
    ) -> VirtualService {
        let vip: IpAddr = match v4 {
            true => Ipv4Addr::new(192, 0, 2, host).into(),
            false => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into(),
        };
        let key = ServiceKey { protocol, address: SocketAddr::new(vip, port) };
        let hash = hash.filter(|_| scheduler.hashes_client());
        VirtualService {
            key, name, scheduler, hash, persistence, no_real, forwarding, hairpin, checks, health, filter, reals, runtime: false,
        }
    }
}

prop_compose! {
    fn notify()(
        on in proptest::sample::subsequence(EVENTS.to_vec(), 1..5),
        services in vec(name(), 0..3),
        run in run(),
        user in option::of(word()),
        timeout in prop_oneof![Just(DEFAULT_TIMEOUT), duration(SECOND, 60 * SECOND)],
        alert_after in prop_oneof![Just(Duration::ZERO), duration(SECOND, DAY)],
        alert_every in option::of(duration(SECOND, DAY)),
        always_up in any::<bool>(),
        stdin in one_of::<Stdin>(),
    ) -> Notify {
        Notify { on, services, run, user, timeout, alert_after, alert_every, always_up, stdin }
    }
}

prop_compose! {
    fn peers()(
        port in 1..=u16::MAX,
        interface in option::of("[a-z0-9]{1,9}"),
        key in option::of("/[a-z/ ]{1,20}"),
        nodes in 0_u8..=3,
        sync in one_of::<Sync>(),
    ) -> PeerSettings {
        PeerSettings {
            listen: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
            interface,
            key_file: key.map(Into::into),
            nodes: (1..=nodes).map(|last| SocketAddr::new(Ipv4Addr::new(192, 0, 2, last).into(), port)).collect(),
            sync,
        }
    }
}

prop_compose! {
    fn snat()(
        hosts in proptest::collection::btree_set(1_u8..200, 0..8),
        hosts6 in proptest::collection::btree_set(1_u16.., 0..8),
        first in 2024..60_000_u16,
        count in PortRange::FEWEST..5_000,
    ) -> (Vec<IpAddr>, PortRange) {
        let v4 = hosts.into_iter().map(|host| IpAddr::from([10, 0, 0, host]));
        let v6 = hosts6.into_iter().map(|host| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, host]));
        (v6.chain(v4).collect(), PortRange { first, last: first + (count - 1) })
    }
}

prop_compose! {
    fn model()(
        node in "[a-z0-9.\"'\\\\#-]{1,9}",
        interfaces in proptest::collection::btree_set("[a-z0-9.@\"#]{3,15}", 1..3),
        mode in one_of::<Mode>(),
        sizes in (MAX_CONNECTIONS, option::of(MAX_CONNECTIONS)),
        max_persistence in MAX_PERSISTENCE,
        (stray_replies, (snat_addresses, snat_ports)) in (one_of::<StrayReplies>(), snat()),
        timeouts in [1, 2, 3].map(|_| option::of(duration(SECOND, DAY))),
        mut services in vec(any::<bool>().prop_flat_map(service_of), 0..5),
        notify in vec(notify(), 0..3),
        vrrp in (virtual_router(0), virtual_router(1), virtual_router(2)),
        routers in 0_usize..=3,
        peers in peers(),
        weight in TRACK_WEIGHT,
    ) -> Model {
        let (mut keys, mut names) = (Vec::new(), Vec::new());
        services.retain_mut(|service| {
            if service.name.as_ref().is_some_and(|name| names.contains(name)) {
                service.name = None;
            }
            names.extend(service.name.clone());
            let mut seen = Vec::new();
            service.checks.retain(|check| !seen.contains(check) && { seen.push(check.clone()); true });
            let mut seen = Vec::new();
            service.reals.retain(|real| !seen.contains(&real.address) && { seen.push(real.address); true });
            !keys.contains(&service.key) && { keys.push(service.key); true }
        });
        let usual = read::DEFAULT_TIMEOUTS;
        let [tcp, tcp_fin, udp] = timeouts;
        let timeouts = Timeouts {
            tcp: tcp.unwrap_or(usual.tcp),
            tcp_fin: tcp_fin.unwrap_or(usual.tcp_fin),
            udp: udp.unwrap_or(usual.udp),
        };
        let (max_connections, of_ipv6) = sizes;
        let dataplane = DataplaneSettings {
            interfaces: interfaces.into_iter().collect(),
            mode,
            max_connections,
            max_connections_ipv6: of_ipv6.unwrap_or_else(|| max_connections_ipv6(max_connections)),
            max_persistence,
            stray_replies,
            snat_addresses,
            snat_ports,
            timeouts,
        };
        let mut vrrp = vec![vrrp.0, vrrp.1, vrrp.2];
        vrrp.truncate(routers);
        for (index, router) in vrrp.iter_mut().enumerate() {
            let weights = if router.is_owner() { [0, 0] } else { [weight, DEFAULT_WEIGHT] };
            let tracked = services.iter().skip(index).zip(weights);
            router.track_services = tracked
                .map(|(service, weight)| TrackService {
                    service: service.name.clone().unwrap_or_else(|| service.key.to_string()),
                    weight,
                })
                .collect();
        }
        Model { node, dataplane, services, notify, vrrp, peers }
    }
}

/// Any services whose keys, names and addresses are distinct.
pub(crate) fn services() -> impl Strategy<Value = Vec<VirtualService>> {
    model().prop_map(|model| model.services)
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_again(model in model()) {
        prop_assert_eq!(validate(&model), []);
        let text = text(&model);
        let read = read::model(&text, "other");
        prop_assert_eq!(read.as_ref(), Ok(&model), "{}", text);
        // So is what an editor that ends lines as on Windows makes of it.
        let read = read::model(&text.replace('\n', "\r\n"), "other");
        prop_assert_eq!(read.as_ref(), Ok(&model), "{}", text);
    }
}
