//! trace: what the loaded program says it would do is what it does.

use std::net::SocketAddrV4;

use balancer_tests::{
    client::request_from,
    daemon::Daemon,
    privileged,
    topology::{Arms, CLIENT, Topology, VIP},
};

#[test]
fn a_client_gets_the_real_server_that_trace_names() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 3);
    let daemon = Daemon::start(&topology, "");
    let vip = SocketAddrV4::new(VIP.parse().expect("an address"), 80);
    let mut port = 41_000;
    for (scheduler, by) in [
        ("rr", "scheduler"),
        ("wrr", "scheduler"),
        ("sh", "scheduler"),
        ("mh", "scheduler"),
        ("mh --hash client-port", "scheduler"),
        ("dh", "scheduler"),
        ("lc", "least-load"),
        ("wlc", "least-load"),
        ("sed", "least-load"),
        ("nq", "least-load"),
        ("fo", "least-load"),
        ("ovf", "least-load"),
        ("rr --persistent 60", "persistence"),
    ] {
        daemon.ctl(&format!("add-service {VIP}:80 -s {scheduler}"));
        for last in 2..=4 {
            daemon.ctl(&format!("add-real 192.168.0.{last}:80"));
        }
        for round in 0..4 {
            port += 1;
            let client = SocketAddrV4::new(CLIENT.parse().expect("an address"), port);
            let ask = || daemon.json(&format!("trace --client {client}"));
            let told = ask();
            assert_eq!(ask(), told, "{scheduler}: asking changes nothing");
            // The first connection decides which real server is kept.
            let by = if round == 0 && by == "persistence" {
                "scheduler"
            } else {
                by
            };
            assert_eq!(told["by"], by, "{scheduler}: {told}");
            let real = told["real"].as_str().expect("a real server");
            let number: u8 = real["192.168.0.".len()..real.len() - ":80".len()]
                .parse()
                .expect("a number");
            let answer = topology.client.run(|| request_from(client, vip));
            let answer = answer.expect("enter the client").expect("an answer");
            assert_eq!(answer, format!("real{}", number - 1), "{scheduler}: {told}");
        }
        daemon.ctl(&format!("del-service {VIP}:80"));
    }
    // With nobody left it says why.
    daemon.ctl(&format!("add-service {VIP}:80"));
    daemon.ctl("add-real 192.168.0.2:80 -w 0");
    let told = daemon.json("trace --client 203.0.113.10:1");
    assert_eq!(
        (&told["real"], &told["by"]),
        (&serde_json::Value::Null, &"none".into())
    );
    assert_eq!(told["reason"], "no real server takes new connections");
}
