//! Real servers die and return: what clients notice, what operators see, what programs are told.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::UdpSocket,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use balancer_tests::{
    client::request,
    daemon::Daemon,
    privileged,
    servers::Server,
    topology::{Arms, INSIDE, Topology, VIP, VIP6, page, socket},
};
use xtask::lab::wait_until;

use crate::{KeepAlive, shares};

/// V:80 over `rr`, its first two real servers asked five times a second.
pub const CHECKED: &str = r#"
[[service]]
name = "web"
address = "192.0.2.80:80"
scheduler = "rr"

[service.check]
type = "http"
interval = "200ms"
timeout = "150ms"
rise = 2
fall = 2

[[service.real]]
address = "192.168.0.2:80"

[[service.real]]
address = "192.168.0.3:80"
"#;

/// How much later than promised something may be on a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// States of the first service's real servers, in order.
fn states(daemon: &Daemon) -> Vec<String> {
    let listed = daemon.json("list");
    let reals = listed["services"][0]["reals"].as_array().expect("reals");
    reals
        .iter()
        .map(|real| real["state"].as_str().expect("a state").to_owned())
        .collect()
}

#[track_caller]
pub fn wait_for(daemon: &Daemon, wanted: &[&str]) {
    let mut last = Vec::new();
    wait_until("the states", Duration::from_secs(15), || {
        last = states(daemon);
        Ok(last == wanted)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}, not {wanted:?}\n{}", daemon.log()));
}

pub fn url() -> String {
    format!("http://{VIP}/")
}

#[test]
fn a_dead_real_server_is_reported_with_its_reason_until_it_returns() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, CHECKED);
    wait_for(&daemon, &["up", "up"]);
    assert_eq!(
        shares(&topology.curl(&url(), 10)),
        [("real1", 5), ("real2", 5)].into()
    );
    topology.reals[0].stop_programs();
    wait_for(&daemon, &["down", "up"]);
    assert_eq!(shares(&topology.curl(&url(), 50)), [("real2", 50)].into());
    let listed = daemon.json("list");
    let dead = &listed["services"][0]["reals"][0];
    assert_eq!(dead["reason"], "connection refused, 2 of 2");
    assert_eq!(
        (&dead["weight"], &dead["effective_weight"]),
        (&1.into(), &0.into())
    );
    let status = daemon.json("status");
    assert_eq!(status["overall"], "limited");
    assert!(
        status["reasons"]
            .to_string()
            .contains("real 192.168.0.2:80 of service web is down: connection refused, 2 of 2"),
        "{status}"
    );
    topology.reals[0].start_nginx(&format!("listen 80; {}", page(1)));
    wait_for(&daemon, &["up", "up"]);
    assert_eq!(
        shares(&topology.curl(&url(), 10)),
        [("real1", 5), ("real2", 5)].into()
    );
    let log = daemon.log();
    for line in ["real down", "real up", "connection refused, 2 of 2"] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn a_silent_udp_host_goes_down_when_it_is_switched_off() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let real = &topology.reals[0].namespace;
    let _silent = real
        .run(|| UdpSocket::bind("0.0.0.0:53").expect("a socket"))
        .expect("enter the real server");
    // Neighbours are believed for a second instead of half a minute, and asked after one more instead of five.
    for (name, value) in [
        ("base_reachable_time_ms", "1000"),
        ("delay_first_probe_time", "1"),
    ] {
        let name = format!("net.ipv4.neigh.{INSIDE}.{name}");
        topology.balancer.sysctl(&name, value).expect("a sysctl");
    }
    let daemon = Daemon::start(
        &topology,
        "[[service]]\nname = \"dns\"\naddress = \"192.0.2.80:53\"\nprotocol = \"udp\"\n\
         [service.check]\ntype = \"udp\"\ninterval = \"1s\"\ntimeout = \"500ms\"\nrise = 1\nfall = 2\n\
         [[service.real]]\naddress = \"192.168.0.2:53\"\n",
    );
    wait_for(&daemon, &["up"]);
    real.ip("link set eth0 down").expect("switch it off");
    wait_for(&daemon, &["down"]);
    let listed = daemon.json("list");
    let reason = listed["services"][0]["reals"][0]["reason"].as_str();
    let reason = reason.expect("a reason");
    // The second is what the kernel says of a question that it has given up meanwhile.
    let reasons = ["192.168.0.2 does not answer arp", "no route to host"];
    assert!(
        reasons
            .map(|reason| format!("{reason}, 2 of 2"))
            .contains(&reason.to_owned()),
        "{reason}"
    );
    real.ip("link set eth0 up").expect("switch it on");
    wait_for(&daemon, &["up"]);
}

/// Waits until the first real server was probed just now.
fn wait_for_probe(daemon: &Daemon) {
    let last = || {
        let health = daemon.json("health");
        let mut checkers = health["checkers"].as_array().expect("checkers").iter();
        let first = checkers.find(|checker| checker["target"] == "192.168.0.2:80");
        first.expect("a checker")["last"]["time"].clone()
    };
    let before = last();
    wait_until("a probe", Duration::from_secs(15), || Ok(last() != before))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
}

#[test]
fn the_share_goes_over_within_fall_intervals_and_comes_back_within_rise() {
    if privileged::skipped() {
        return;
    }
    let interval = Duration::from_millis(1500);
    let mut topology = Topology::with_web(Arms::Two, 2);
    let config = CHECKED
        .replace("\"200ms\"", "\"1500ms\"")
        .replace("\"150ms\"", "\"1s\"");
    let daemon = Daemon::start(&topology, &config);
    wait_for(&daemon, &["up", "up"]);
    let mut events = daemon.follow_events();
    // Right after a probe the whole of `fall` intervals is left; one more would be noticed, as an interval is longer
    // than the slack.
    assert!(SLACK < interval);
    // The first intervals are shorter, until its probes have found their place among the others'.
    for _ in 0..3 {
        wait_for_probe(&daemon);
    }
    let stopped = Instant::now();
    topology.reals[0].stop_programs();
    let (came, event) = events.next_with("real-down");
    let load = topology.start_load(socket(VIP, 80));
    let took = came - stopped;
    println!("it went down after {took:?}: {event}");
    assert!(event.contains("connection refused, 2 of 2"), "{event}");
    assert!(took <= 2 * interval + SLACK, "{took:?}");
    assert_eq!(shares(&topology.curl(&url(), 50)), [("real2", 50)].into());

    wait_for_probe(&daemon);
    let started = Instant::now();
    topology.reals[0].start_nginx(&format!("listen 80; {}", page(1)));
    let (came, event) = events.next_with("real-up");
    let took = came - started;
    println!("it came up after {took:?}: {event}");
    assert!(event.contains("http 200, 2 of 2"), "{event}");
    assert!(took <= 2 * interval + SLACK, "{took:?}");
    load.wait_for(10);
    // From the event that it was down, through its return, and since: not one request failed.
    let report = load.finish();
    println!("{report:?}");
    assert_eq!(
        shares(&topology.curl(&url(), 10)),
        [("real1", 5), ("real2", 5)].into()
    );
}

#[test]
fn health_outlives_a_reload_an_edit_and_a_killed_daemon() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::with_web(Arms::Two, 3);
    let config = CHECKED.to_owned() + "[[service.real]]\naddress = \"192.168.0.4:80\"\n";
    let mut daemon = Daemon::start(&topology, &config);
    wait_for(&daemon, &["up", "up", "up"]);
    topology.reals[0].stop_programs();
    wait_for(&daemon, &["down", "up", "up"]);
    let load = topology.start_load(socket(VIP, 80));
    load.wait_for(50);
    daemon.write(
        &daemon
            .read()
            .replace("interval = \"200ms\"", "interval = \"300ms\""),
    );
    daemon.ctl("reload");
    assert_eq!(states(&daemon), ["down", "up", "up"], "after a reload");
    daemon.ctl("edit-real 192.168.0.3:80 -w 5");
    assert_eq!(states(&daemon), ["down", "up", "up"], "after an edit");
    load.wait_for(50);
    daemon.process().kill().expect("it ran");
    load.wait_for(50);
    daemon.restart();
    assert_eq!(states(&daemon), ["down", "up", "up"], "after a restart");
    load.wait_for(50);
    load.finish();
    let log = daemon.log();
    assert_eq!(log.matches("real down").count(), 1, "{log}");
}

#[test]
fn hundreds_of_real_servers_die_at_once_and_clients_are_refused_at_once() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::new(Arms::Two, 1);
    let mut server = String::from("listen 80; ");
    let mut config = CHECKED
        .split("[[service.real]]")
        .next()
        .expect("a head")
        .to_owned();
    for port in 8000..8400 {
        server += &format!("listen {port}; ");
        config += &format!("[[service.real]]\naddress = \"192.168.0.2:{port}\"\n");
    }
    topology.reals[0].start_nginx(&(server + &page(1)));
    let daemon = Daemon::start(&topology, &config);
    wait_for(&daemon, &["up"; 400]);
    topology
        .curl(&url(), 5)
        .iter()
        .for_each(|answer| assert_eq!(answer, "real1"));
    topology.reals[0].stop_programs();
    wait_for(&daemon, &["down"; 400]);
    let refused = topology
        .client
        .run(|| request(socket(VIP, 80)))
        .expect("enter the client");
    assert_eq!(
        refused.expect_err("nobody answers").kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    assert_eq!(daemon.json("status")["overall"], "down");
    assert!(daemon.log().contains("quorum lost"));
}

#[test]
fn operators_drain_and_maintain_apart_from_health() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, CHECKED);
    wait_for(&daemon, &["up", "up"]);
    let mut old = KeepAlive::connect(&topology);
    let name = old.request().expect("an answer");
    let (mine, other) = if name == "real1" {
        ("192.168.0.2:80", "real2")
    } else {
        ("192.168.0.3:80", "real1")
    };
    daemon.ctl(&format!("drain {mine}"));
    assert!(
        daemon.read().contains("state = \"drain\""),
        "{}",
        daemon.read()
    );
    assert_eq!(shares(&topology.curl(&url(), 6)), [(other, 6)].into());
    assert_eq!(old.request().expect("it goes on"), name);
    daemon.ctl(&format!("maintenance {mine}"));
    assert!(states(&daemon).contains(&"maintenance".to_owned()));
    let error = old.request().expect_err("it is reset as `on-down` says");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    daemon.ctl(&format!("ready {mine}"));
    wait_for(&daemon, &["up", "up"]);
    assert_eq!(
        topology
            .curl(&url(), 10)
            .iter()
            .filter(|answer| **answer == name)
            .count(),
        5
    );
}

#[test]
fn a_backup_serves_while_no_other_can() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, &format!("{CHECKED}backup = true\n"));
    wait_for(&daemon, &["up", "up"]);
    assert_eq!(shares(&topology.curl(&url(), 6)), [("real1", 6)].into());
    topology.reals[0].stop_programs();
    wait_for(&daemon, &["down", "up"]);
    assert_eq!(shares(&topology.curl(&url(), 6)), [("real2", 6)].into());
    topology.reals[0].start_nginx(&format!("listen 80; {}", page(1)));
    wait_for(&daemon, &["up", "up"]);
    assert_eq!(shares(&topology.curl(&url(), 6)), [("real1", 6)].into());
}

#[test]
fn an_ipv6_real_server_is_probed_over_ipv6() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::with_web(Arms::Two, 1);
    let config = CHECKED
        .replace(VIP, &format!("[{VIP6}]"))
        .replace("192.168.0.2", "[fd00:1::2]")
        .replace("[[service.real]]\naddress = \"192.168.0.3:80\"\n", "");
    let daemon = Daemon::start(&topology, &config);
    wait_for(&daemon, &["up"]);
    assert_eq!(topology.curl(&format!("http://[{VIP6}]/"), 2), ["real1"; 2]);
    topology.reals[0].stop_programs();
    wait_for(&daemon, &["down"]);
}

#[test]
fn a_notify_program_is_called_like_mons_alerts() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::with_web(Arms::Two, 2);
    // Programs run as root, so only where nobody else may write.
    let folder = tempfile::Builder::new()
        .prefix("balancer-tests-")
        .tempdir_in("/root")
        .expect("a folder");
    let program = folder.path().join("alert");
    let said = folder.path().join("said");
    fs::write(
        &program,
        format!("#!/bin/sh\n{{ echo \"$MON_ALERTTYPE $*\"; echo \"$MON_LAST_SUMMARY\"; cat; echo; }} >> {}\n", said.display()),
    )
    .expect("write the program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let notify = format!(
        "[[notify]]\non = [\"real-down\", \"real-up\"]\nrun = [\"{}\"]\n",
        program.display()
    );
    let daemon = Daemon::start(&topology, &format!("{notify}{CHECKED}"));
    wait_for(&daemon, &["up", "up"]);
    topology.reals[0].stop_programs();
    wait_for(&daemon, &["down", "up"]);
    topology.reals[0].start_nginx(&format!("listen 80; {}", page(1)));
    wait_for(&daemon, &["up", "up"]);
    let mut text = String::new();
    wait_until(
        "the program to be told twice",
        Duration::from_secs(5),
        || {
            text = fs::read_to_string(&said).unwrap_or_default();
            Ok(text.contains("\"event\":\"real-up\""))
        },
    )
    .unwrap_or_else(|error| panic!("{error:#}: {text}\n{}", daemon.log()));
    assert!(text.contains("\"event\":\"real-down\""), "{text}");
    assert!(text.contains("192.168.0.2"), "{text}");
    assert!(text.contains("connection refused, 2 of 2"), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("failure ")),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|line| line.starts_with("up ") && line.contains("-u")),
        "{text}"
    );
}

/// What is promised is a hundredth of a second; this is a debug build on a busy machine, and the event's way through
/// `balancer-ctl` is in it.
const AT_ONCE: Duration = Duration::from_millis(250);

/// From the answer that decides to the event, which is told once the ring is in the kernel.
#[test]
fn the_ring_follows_the_deciding_answer_at_once() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::with_web(Arms::Two, 2);
    topology.reals[1].start_nginx_on(81, &format!("listen 81; {}", page(2)));
    // When each failing answer was begun, once it is to fail.
    let failures = Arc::new(Mutex::new(None::<Vec<Instant>>));
    let told = Arc::clone(&failures);
    let _server = Server::start(&topology.reals[0], 81, move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let mut status = "200 OK";
        if let Some(failures) = &mut *told.lock().expect("a lock") {
            failures.push(Instant::now());
            status = "503 Out";
        }
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    });
    let config = CHECKED.replace("type = \"http\"", "type = \"http\"\nport = 81");
    let daemon = Daemon::start(&topology, &config);
    wait_for(&daemon, &["up", "up"]);
    let mut events = daemon.follow_events();
    *failures.lock().expect("a lock") = Some(Vec::new());
    let (came, event) = events.next_with("real-down");
    assert!(
        event.contains("http 503, wanted 200-299, 2 of 2"),
        "{event}"
    );
    let decided = failures.lock().expect("a lock").as_ref().expect("failures")[1];
    let took = came - decided;
    println!("the event came {took:?} after the deciding answer was begun: {event}");
    assert!(took <= AT_ONCE, "{took:?}");
    // The event is told when the kernel has the ring: not one request more goes there.
    let answers = topology.curl(&url(), 6);
    assert_eq!(shares(&answers), [("real2", 6)].into());
}
