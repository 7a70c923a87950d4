//! A daemon that does not run for a while: what it misses says nothing about real servers.

use std::{
    io::{Read as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    servers::Server,
    topology::{Arms, Topology},
};
use nix::sys::signal::Signal;

use crate::health::{CHECKED, wait_for};

/// How long a slow server thinks: two probes in five are under way at any time.
const THINKS: Duration = Duration::from_millis(200);

/// A server that gives every answer late.
fn slow(topology: &Topology, port: u16) -> Server {
    Server::start(&topology.reals[0], port, |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        thread::sleep(THINKS);
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    })
}

#[test]
fn a_daemon_that_is_stopped_again_and_again_blames_no_real_server() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let ports: Vec<u16> = (8000..8020).collect();
    let mut servers: Vec<_> = ports.iter().map(|port| slow(&topology, *port)).collect();
    let mut config = CHECKED
        .split("[[service.real]]")
        .next()
        .expect("a head")
        .replace("interval = \"200ms\"", "interval = \"500ms\"")
        .replace("timeout = \"150ms\"", "timeout = \"400ms\"")
        .replace("fall = 2", "fall = 1");
    for port in &ports {
        config += &format!("[[service.real]]\naddress = \"192.168.0.2:{port}\"\n");
    }
    let mut daemon = Daemon::start(&topology, &config);
    let all_up = vec!["up"; ports.len()];
    wait_for(&daemon, &all_up);
    let mut events = daemon.follow_events();
    // Once; in a row with hardly a moment between; and for different parts of a probe's time.
    for (stopped, runs) in [
        (900, 2000),
        (900, 50),
        (900, 10),
        (900, 150),
        (900, 300),
        (450, 100),
        (600, 250),
        (900, 0),
        (900, 2000),
    ] {
        daemon.process().signal(Signal::SIGSTOP).expect("it runs");
        thread::sleep(Duration::from_millis(stopped));
        daemon.process().signal(Signal::SIGCONT).expect("it runs");
        thread::sleep(Duration::from_millis(runs));
    }
    wait_for(&daemon, &all_up);
    let told = events.rest();
    assert!(told.is_empty(), "{told:#?}\n{}", daemon.log());
    let log = daemon.log();
    assert!(log.contains("checks were stalled"), "{log}");
    // One that really dies is still noticed.
    let dies = Instant::now();
    drop(servers.remove(0));
    let (came, event) = events.next_with("real-down");
    let took = came - dies;
    println!("its death was told after {took:?}: {event}");
    assert!(event.contains("192.168.0.2:8000"), "{event}");
    assert!(event.contains("connection refused, 1 of 1"), "{event}");
    let mut expected = all_up;
    expected[0] = "down";
    wait_for(&daemon, &expected);
    assert!(
        took <= Duration::from_millis(500) + THINKS + Duration::from_secs(1),
        "{took:?}"
    );
}
