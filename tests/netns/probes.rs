//! Probes against the servers that they are made for, each in a network namespace of its own.

use std::{fs, future::Future, net::SocketAddr, time::Duration};

use balancer_ctl::{
    health::{Advice, Answer, Watched, probe::Prober},
    model::check::{
        Check, DnsProbe, Exchange, ExecProbe, GrpcProbe, HttpProbe, HttpVersion, Pattern, Probe,
        Source, Target, Timing, Tls,
    },
};
use balancer_tests::{
    privileged,
    servers::Grpc,
    topology::{Arms, INSIDE, OUTSIDE, Topology, page, socket},
};
use rcgen::CertifiedKey;

/// When a probe that is expected to be in vain is given up.
const SHORT: Duration = Duration::from_millis(300);
/// When one is given up that is not.
const LONG: Duration = Duration::from_secs(5);

/// One real server, and the balancer that asks it.
struct Scene(Topology);

impl Scene {
    fn new() -> Self {
        Self(Topology::new(Arms::Two, 1))
    }

    fn target(&self, port: u16) -> SocketAddr {
        socket(&self.0.reals[0].address, port)
    }

    fn target6(&self, port: u16) -> SocketAddr {
        socket(&self.0.reals[0].address6, port)
    }

    /// Asks from the balancer; `None` = there is no answer in time.
    fn ask_from(
        &self,
        source: Source,
        target: SocketAddr,
        probe: Probe,
        limit: Duration,
    ) -> Option<Answer> {
        let watched = Watched {
            target,
            check: Check {
                probe,
                target: Target::default(),
                source,
                timing: Timing {
                    timeout: limit,
                    ..Timing::default()
                },
            },
        };
        let asked = self.0.balancer.run(|| {
            let prober = Prober::new(&watched).expect("a probe");
            block_on(async { tokio::time::timeout(limit, prober.probe()).await.ok() })
        });
        asked.expect("enter the balancer")
    }

    fn ask(&self, target: SocketAddr, probe: Probe) -> Answer {
        self.ask_from(Source::default(), target, probe, LONG)
            .expect("an answer")
    }

    fn asks_in_vain(&self, target: SocketAddr, probe: Probe) {
        let answer = self.ask_from(Source::default(), target, probe, SHORT);
        assert_eq!(answer, None);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

fn pass(note: &str) -> Answer {
    Answer::Pass {
        note: note.into(),
        advice: Advice::default(),
    }
}

fn fail(reason: &str) -> Answer {
    Answer::Fail {
        reason: reason.into(),
    }
}

fn pattern(expression: &str) -> Option<Pattern> {
    Some(Pattern::new(expression).expect("an expression"))
}

fn exchange(send: &[u8], expect: &str) -> Exchange {
    Exchange {
        send: send.to_vec(),
        expect: pattern(expect),
    }
}

fn tcp() -> Probe {
    Probe::Tcp(Exchange::default())
}

fn http(probe: HttpProbe) -> Probe {
    Probe::Http(Box::new(probe))
}

#[test]
fn banners_and_answers_of_real_servers_are_recognised() {
    if privileged::skipped() {
        return;
    }
    let mut scene = Scene::new();
    let real = &mut scene.0.reals[0];
    let log = real.start_sshd();
    real.start_mariadb();
    real.start_redis();
    let lines = || fs::read_to_string(&log).expect("a log").lines().count();
    let before = lines();
    assert_eq!(scene.ask(scene.target(22), tcp()), pass("connected"));
    assert_eq!(lines(), before, "sshd has noticed a plain tcp probe");
    let Answer::Pass { note, .. } = scene.ask(
        scene.target(22),
        Probe::Tcp(exchange(b"", r"^SSH-2\.0-OpenSSH_[0-9.p]+ Debian")),
    ) else {
        panic!("sshd does not greet");
    };
    assert!(note.starts_with("answered \"SSH-2.0-OpenSSH_"), "{note}");
    assert_eq!(
        scene.ask(
            scene.target(6379),
            Probe::Tcp(exchange(b"PING\r\n", r"^\+PONG\r\n"))
        ),
        pass("answered \"+PONG\"")
    );
    // Length, number 0, protocol 10, version: MariaDB's first packet. An error's has 0xff for the protocol.
    let greeting = exchange(b"", r"(?s-u)^...\x00\x0a[^\x00]*MariaDB[^\x00]*\x00");
    let mysql = Probe::Tcp(greeting);
    for _ in 0..150 {
        let Answer::Pass { .. } = scene.ask(scene.target(3306), mysql.clone()) else {
            panic!("MariaDB does not greet");
        };
    }
    // It waits for an answer to its greeting, and so does the probe.
    scene.asks_in_vain(scene.target(3306), Probe::Tcp(exchange(b"", "^220 ")));
}

#[test]
fn nginx_answers_http_in_all_its_forms() {
    if privileged::skipped() {
        return;
    }
    let mut scene = Scene::new();
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["www.example".to_owned()]).expect("a certificate");
    let folder = scene.0.reals[0].folder().to_owned();
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    fs::write(&certificate, cert.pem()).expect("a file");
    fs::write(&key, signing_key.serialize_pem()).expect("a file");
    scene.0.reals[0].start_nginx(&format!(
        "listen 80; listen [::]:80; listen 81 http2; listen 443 ssl http2;
         ssl_certificate {}; ssl_certificate_key {};
         location = /busy {{ return 503; }} {}",
        certificate.display(),
        key.display(),
        page(1)
    ));
    let named = HttpProbe {
        body: pattern("^real1\n$"),
        ..HttpProbe::default()
    };
    let busy = HttpProbe {
        path: "/busy".into(),
        ..HttpProbe::default()
    };
    let version2 = |probe: &HttpProbe| HttpProbe {
        version: HttpVersion::Http2,
        ..probe.clone()
    };
    let secure = |probe: &HttpProbe| HttpProbe {
        host: Some("www.example".into()),
        tls: Some(Tls {
            ca: Some(certificate.clone()),
            ..Tls::default()
        }),
        ..probe.clone()
    };
    let failed = fail("http 503, wanted 200-299");
    for (target, good, bad) in [
        (scene.target(80), named.clone(), busy.clone()),
        (scene.target6(80), named.clone(), busy.clone()),
        (scene.target(81), version2(&named), version2(&busy)),
        (scene.target(443), secure(&named), secure(&busy)),
        (
            scene.target(443),
            secure(&version2(&named)),
            secure(&version2(&busy)),
        ),
    ] {
        assert_eq!(scene.ask(target, http(good)), pass("http 200"));
        assert_eq!(scene.ask(target, http(bad)), failed);
    }
    let other = HttpProbe {
        host: Some("other.example".into()),
        ..secure(&named)
    };
    assert_eq!(
        scene.ask(scene.target(443), http(other)),
        fail("certificate is for www.example, not other.example")
    );
}

/// A query for the TXT records of `whoami.test`, as it goes over the wire.
const QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06whoami\x04test\x00\x00\x10\x00\x01";

#[test]
fn dnsmasq_answers_dns_and_plain_datagrams() {
    if privileged::skipped() {
        return;
    }
    let mut scene = Scene::new();
    scene.0.reals[0].start_dns("real1");
    let dns = |name: &str, answer: Option<&str>| {
        Probe::Dns(DnsProbe {
            name: name.into(),
            record: "TXT".into(),
            answer: answer.map(str::to_owned),
        })
    };
    for target in [scene.target(53), scene.target6(53)] {
        assert_eq!(
            scene.ask(target, dns("whoami.test", None)),
            pass("dns noerror, 1 answers")
        );
        assert_eq!(
            scene.ask(target, dns("whoami.test", Some("real1"))),
            pass("dns real1")
        );
        assert_eq!(
            scene.ask(target, dns("whoami.test", Some("real2"))),
            fail("dns real1, wanted real2")
        );
        assert_eq!(
            scene.ask(target, dns("nobody.test", None)),
            fail("dns refused")
        );
        assert!(matches!(
            scene.ask(
                target,
                Probe::Udp(exchange(QUERY, r"(?-u)^\x12\x34[\x80-\xff].*real1"))
            ),
            Answer::Pass { .. }
        ));
    }
    assert_eq!(
        scene.ask(scene.target(54), Probe::Udp(Exchange::default())),
        fail("port unreachable")
    );
}

#[test]
fn ping_asks_in_both_families_with_either_kind_of_socket() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new();
    // In a new namespace nobody may use the kernel's echo sockets: a raw one is taken. Then root may.
    for range in ["1 0", "0 0"] {
        scene
            .0
            .balancer
            .sysctl("net.ipv4.ping_group_range", range)
            .expect("a sysctl");
        let replied = pass("echo reply");
        assert_eq!(scene.ask(scene.target(0), Probe::Ping), replied);
        assert_eq!(scene.ask(scene.target6(0), Probe::Ping), replied);
        assert_eq!(scene.ask(socket("127.0.0.1", 0), Probe::Ping), replied);
        assert_eq!(scene.ask(socket("::1", 0), Probe::Ping), replied);
        // Nobody has this address, and the neighbour's silence takes the kernel three seconds to notice.
        let absent = fail("no route to host");
        assert_eq!(scene.ask(socket("192.168.0.99", 0), Probe::Ping), absent);
    }
}

#[test]
fn what_routers_say_is_heard() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new();
    let (balancer, real) = (&scene.0.balancer, &scene.0.reals[0].namespace);
    // The real server is a router that knows no way to the one, and is forbidden to use the one to the other.
    balancer
        .ip("route add 198.51.100.0/24 via 192.168.0.2")
        .expect("a route");
    real.sysctl("net.ipv4.ip_forward", "1").expect("a sysctl");
    real.ip("route add unreachable 198.51.100.1")
        .expect("a route");
    real.sysctl("net.ipv4.icmp_ratelimit", "0")
        .expect("a sysctl");
    let beyond = |port| socket("198.51.100.1", port);
    for probe in [
        tcp(),
        http(HttpProbe::default()),
        Probe::Udp(Exchange::default()),
        Probe::Ping,
    ] {
        assert_eq!(
            scene.ask(beyond(80), probe.clone()),
            fail("no route to host"),
            "{probe:?}"
        );
    }
    // And this host knows no way to a third.
    let nowhere = fail("network unreachable");
    for probe in [tcp(), Probe::Udp(Exchange::default()), Probe::Ping] {
        assert_eq!(
            scene.ask(socket("100.64.0.1", 80), probe.clone()),
            nowhere,
            "{probe:?}"
        );
    }
}

#[test]
fn a_host_that_swallows_packets_is_out_of_time() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new();
    scene
        .0
        .balancer
        .ip("neighbour add 192.168.0.99 lladdr 02:00:00:00:00:99 dev inside nud permanent")
        .expect("a neighbour");
    let silent = socket("192.168.0.99", 80);
    scene.asks_in_vain(silent, tcp());
    scene.asks_in_vain(silent, http(HttpProbe::default()));
    scene.asks_in_vain(silent, Probe::Ping);
    scene.asks_in_vain(silent, Probe::Udp(exchange(b"x", "x")));
    // Nothing is expected and nothing said: UDP knows no more.
    let quiet = Probe::Udp(Exchange::default());
    assert_eq!(
        scene.ask_from(Source::default(), silent, quiet, SHORT),
        Some(pass("no answer and no icmp error"))
    );
}

#[test]
fn a_grpc_server_is_asked_by_service() {
    if privileged::skipped() {
        return;
    }
    let scene = Scene::new();
    let server = Grpc::start(&scene.0.reals[0], 50051);
    block_on(async {
        let serving = tonic_health::ServingStatus::Serving;
        let not_serving = tonic_health::ServingStatus::NotServing;
        server.health.set_service_status("shop", serving).await;
        server.health.set_service_status("stock", not_serving).await;
    });
    let service = |service: &str| {
        Probe::Grpc(Box::new(GrpcProbe {
            service: service.into(),
            tls: None,
        }))
    };
    let target = scene.target(50051);
    assert_eq!(scene.ask(target, service("")), pass("grpc SERVING"));
    assert_eq!(scene.ask(target, service("shop")), pass("grpc SERVING"));
    assert_eq!(
        scene.ask(target, service("stock")),
        fail("grpc NOT_SERVING")
    );
    let Answer::Fail { reason } = scene.ask(target, service("nothing")) else {
        panic!("there is no such service");
    };
    assert!(
        reason.starts_with("grpc NOT_FOUND (it does not know the service)"),
        "{reason}"
    );
}

#[test]
fn a_check_says_from_where_it_asks() {
    if privileged::skipped() {
        return;
    }
    let mut scene = Scene::new();
    scene.0.reals[0].start_nginx("listen 80; location = / { return 200 \"$remote_addr\\n\"; }");
    let balancer = &scene.0.balancer;
    balancer
        .ip("address add 192.168.0.77/32 dev inside")
        .expect("an address");
    let from = |client: &str| {
        http(HttpProbe {
            body: pattern(&format!("^{}\n$", client.replace('.', r"\."))),
            ..HttpProbe::default()
        })
    };
    let ask =
        |source: Source, client: &str| scene.ask_from(source, scene.target(80), from(client), LONG);
    let source = Source::default;
    let passed = Some(pass("http 200"));
    assert_eq!(ask(source(), "192.168.0.1"), passed);
    let address = Source {
        address: Some("192.168.0.77".parse().expect("an address")),
        ..source()
    };
    assert_eq!(ask(address, "192.168.0.77"), passed);
    let on = |interface: &str| Source {
        interface: Some(interface.into()),
        ..source()
    };
    assert_eq!(ask(on(INSIDE), "192.168.0.1"), passed);
    // Nobody outside has the real server's address.
    let outside = scene.ask_from(on(OUTSIDE), scene.target(80), tcp(), SHORT);
    assert_eq!(outside, None);
    // What bears the mark is shown another way.
    balancer
        .ip("rule add fwmark 7 table 77 priority 100")
        .expect("a rule");
    balancer
        .ip("route add prohibit default table 77")
        .expect("a route");
    let marked = |mark| Source {
        mark: Some(mark),
        ..source()
    };
    assert_eq!(ask(marked(8), "192.168.0.1"), passed);
    let forbidden = Some(fail("not permitted on this host (a firewall rule?)"));
    for probe in [tcp(), Probe::Udp(Exchange::default()), Probe::Ping] {
        let answer = scene.ask_from(marked(7), scene.target(80), probe.clone(), SHORT);
        assert_eq!(answer, forbidden, "{probe:?}");
    }
}

/// Files and processes of this process.
fn possessions() -> (usize, usize) {
    let files = fs::read_dir("/proc/self/fd").expect("a list").count();
    let children = fs::read_dir("/proc/self/task")
        .expect("a list")
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .map(|children| children.split_whitespace().count())
        .sum();
    (files, children)
}

#[test]
fn hundreds_of_probes_leave_no_file_and_no_process_behind() {
    if privileged::skipped() {
        return;
    }
    let mut scene = Scene::new();
    scene.0.reals[0].start_nginx(&format!("listen 80; {}", page(1)));
    scene
        .0
        .balancer
        .ip("neighbour add 192.168.0.99 lladdr 02:00:00:00:00:99 dev inside nud permanent")
        .expect("a neighbour");
    let shell = |script: &str| {
        Probe::Exec(ExecProbe {
            run: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        })
    };
    let (good, silent) = (scene.target(80), socket("192.168.0.99", 80));
    let probes = [
        (good, tcp()),
        (good, http(HttpProbe::default())),
        (good, Probe::Tcp(exchange(b"x", "never"))),
        (good, Probe::Udp(Exchange::default())),
        (good, Probe::Ping),
        (good, shell("sleep 100 & exit 0")),
        (good, shell("trap '' TERM; sleep 100 & sleep 100")),
        (silent, tcp()),
        (silent, http(HttpProbe::default())),
        (silent, Probe::Udp(exchange(b"x", "x"))),
        (silent, Probe::Ping),
    ];
    let probers = || {
        let prober = |(target, probe): &(SocketAddr, Probe)| {
            Prober::new(&Watched {
                target: *target,
                check: Check {
                    probe: probe.clone(),
                    target: Target::default(),
                    source: Source::default(),
                    timing: Timing::default(),
                },
            })
        };
        probes
            .iter()
            .cycle()
            .take(probes.len() * 30)
            .map(|probe| prober(probe).expect("a probe"))
            .collect::<Vec<_>>()
    };
    let (before, after) = scene
        .0
        .balancer
        .run(|| {
            block_on(async {
                // The first lets the runtime open what it needs.
                let _ = tokio::time::timeout(LONG, probers()[5].probe()).await;
                let before = possessions();
                let local = tokio::task::LocalSet::new();
                for prober in probers() {
                    local.spawn_local(async move {
                        // Some answer, some do not: both must leave nothing.
                        let _ = tokio::time::timeout(SHORT, prober.probe()).await;
                    });
                }
                local.await;
                // tokio fetches the dead when another child ends.
                for _ in 0..100 {
                    let _ = tokio::time::timeout(LONG, probers()[5].probe()).await;
                    if possessions() == before {
                        break;
                    }
                }
                (before, possessions())
            })
        })
        .expect("enter the balancer");
    assert_eq!(after, before, "(files, children)");
}
