//! The way to the real server: pings, what routers say, silence, and from where a check asks.

use balancer_ctl::model::check::{Exchange, HttpProbe, Probe, Source};
use balancer_tests::{
    privileged,
    topology::{INSIDE, OUTSIDE, socket},
};

use super::{LONG, SHORT, Scene, exchange, fail, http, pass, pattern, tcp};

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
    // No kind of error is limited. A limit of 0 would not do: it takes the tokens of unreachable routes too (they share
    // them, `inet_peer_xrlim_allow`), and the next error does not come.
    real.sysctl("net.ipv4.icmp_ratemask", "0")
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
        let answer = scene.ask_from(marked(7), scene.target(80), probe.clone(), LONG);
        assert_eq!(answer, forbidden, "{probe:?}");
    }
}
