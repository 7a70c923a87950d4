//! Changes while traffic runs.

use std::time::{Duration, Instant};

use balancer_tests::{
    client::request,
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, VIP, socket},
};
use xtask::lab::wait_until;

use crate::{KeepAlive, WEB};

#[test]
fn reloads_under_traffic_lose_no_request() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, WEB);
    let file = daemon.read();
    let only_first = file.replace("[[service.real]]\naddress = \"192.168.0.3:80\"\n", "");
    let only_second = file.replace("[[service.real]]\naddress = \"192.168.0.2:80\"\n", "");
    assert!(only_first != file && only_second != file);
    let weighted = file
        .replace("\"rr\"", "\"wrr\"")
        .replace("0.2:80\"", "0.2:80\"\nweight = 7");
    let load = topology.start_load(socket(VIP, 80));
    for _ in 0..5 {
        for text in [&only_first, &only_second, &weighted, &file] {
            daemon.write(text);
            daemon.ctl("reload");
            load.wait_for(20);
        }
    }
    let report = load.finish();
    assert!(report.answered >= 400);
    // What was loaded last holds.
    let answers = topology.curl(&format!("http://{VIP}/"), 10);
    assert!(
        answers.windows(2).all(|pair| pair[0] != pair[1]),
        "{answers:?}"
    );
}

#[test]
fn a_file_that_is_wrong_changes_nothing() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, WEB);
    let load = topology.start_load(socket(VIP, 80));
    let file = daemon.read();
    daemon.write(&file.replace("192.168.0.3:80", "192.168.0.300:80"));
    let output = balancer_tests::topology::run(daemon.command("balancer-ctl").arg("reload"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("192.168.0.300:80"), "{said}");
    load.wait_for(50);
    load.finish();
    let answers = topology.curl(&format!("http://{VIP}/"), 4);
    assert!(
        answers.windows(2).all(|pair| pair[0] != pair[1]),
        "{answers:?}"
    );
}

#[test]
fn a_new_real_server_gets_the_next_connection() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, WEB);
    let mut slowest = Duration::ZERO;
    let mut firsts = Vec::new();
    for round in 0..10 {
        daemon.ctl("del-real 192.168.0.3:80");
        assert!(
            !daemon.read().contains("192.168.0.3"),
            "the file is written before the return"
        );
        assert_eq!(topology.curl(&format!("http://{VIP}/"), 3), ["real1"; 3]);
        daemon.ctl("add-real 192.168.0.3:80");
        let returned = Instant::now();
        let answers = topology
            .client
            .run(|| {
                let first = request(socket(VIP, 80)).expect("the first");
                let took = returned.elapsed();
                (first, took, request(socket(VIP, 80)).expect("the second"))
            })
            .expect("enter the client");
        slowest = slowest.max(answers.1);
        assert_ne!(answers.0, answers.2, "round {round}");
        firsts.push(answers.0);
        assert!(
            daemon.read().contains("192.168.0.3"),
            "the file is written before the return"
        );
    }
    // Five connections a round: the new real server's turn is first every other time.
    assert_eq!(
        firsts.iter().filter(|name| *name == "real2").count(),
        5,
        "{firsts:?}"
    );
    println!("the first answer came {slowest:?} after the command's return at most");
}

#[test]
fn weight_0_drains_a_real_server() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, WEB);
    let mut old = KeepAlive::connect(&topology);
    let real = old.request().expect("an answer");
    let (address, other) = if real == "real1" {
        ("192.168.0.2:80", "real2")
    } else {
        ("192.168.0.3:80", "real1")
    };
    daemon.ctl(&format!("edit-real {address} -w 0"));
    assert_eq!(topology.curl(&format!("http://{VIP}/"), 20), [other; 20]);
    for _ in 0..20 {
        assert_eq!(old.request().expect("the old connection goes on"), real);
    }
    let listed = daemon.json("list");
    let drained = listed["services"][0]["reals"].as_array().expect("reals");
    let drained = drained
        .iter()
        .find(|real| real["address"] == address)
        .expect("it is there");
    assert_eq!(drained["state"], "draining");
    assert_eq!(drained["active"], 1);
    daemon.ctl(&format!("edit-real {address} -w 1"));
    let answers = topology.curl(&format!("http://{VIP}/"), 20);
    assert!(
        answers.windows(2).all(|pair| pair[0] != pair[1]),
        "{answers:?}"
    );
    assert_eq!(old.request().expect("the old connection goes on"), real);
}

#[test]
fn a_removed_real_server_keeps_its_connections() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, WEB);
    let mut old = KeepAlive::connect(&topology);
    let real = old.request().expect("an answer");
    let (address, other) = if real == "real1" {
        ("192.168.0.2:80", "real2")
    } else {
        ("192.168.0.3:80", "real1")
    };
    daemon.ctl(&format!("del-real {address}"));
    assert_eq!(topology.curl(&format!("http://{VIP}/"), 20), [other; 20]);
    for _ in 0..20 {
        assert_eq!(old.request().expect("the old connection goes on"), real);
    }
    // It comes back while its old connection is still there.
    daemon.ctl(&format!("add-real {address}"));
    let answers = topology.curl(&format!("http://{VIP}/"), 20);
    assert!(
        answers.windows(2).all(|pair| pair[0] != pair[1]),
        "{answers:?}"
    );
    assert_eq!(old.request().expect("the old connection goes on"), real);
}

#[test]
fn a_purged_real_server_loses_its_connections_at_once() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, WEB);
    let mut old = KeepAlive::connect(&topology);
    let real = old.request().expect("an answer");
    let address = if real == "real1" {
        "192.168.0.2:80"
    } else {
        "192.168.0.3:80"
    };
    daemon.ctl(&format!("del-real {address} --purge"));
    // The host's stack answers the next packet with a reset.
    let error = old.request().expect_err("the connection is gone");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

#[test]
fn a_real_servers_new_mac_address_is_followed() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, WEB);
    let mut connections = [KeepAlive::connect(&topology), KeepAlive::connect(&topology)];
    let names = connections
        .each_mut()
        .map(|old| old.request().expect("an answer"));
    assert_ne!(names[0], names[1]);
    for real in &topology.reals {
        // As most systems do when an address moves: it is announced.
        real.namespace
            .sysctl("net.ipv4.conf.eth0.arp_notify", "1")
            .expect("arp_notify");
        let number = real.address.rsplit('.').next().expect("four numbers");
        real.namespace
            .ip(&format!(
                "link set dev eth0 address 02:aa:bb:cc:dd:0{number}"
            ))
            .expect("a new MAC address");
    }
    let reaches = |old: &mut KeepAlive| {
        old.0
            .get_ref()
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        old.request()
    };
    for (old, name) in connections.iter_mut().zip(names) {
        // TCP says again what the old MAC address swallowed.
        assert_eq!(reaches(old).expect("the connection goes on"), name);
    }
    wait_until("both to answer", Duration::from_secs(5), || {
        let answers: Vec<_> = topology.client.run(|| {
            (0..4)
                .map(|_| request(socket(VIP, 80)).unwrap_or_default())
                .collect()
        })?;
        Ok(answers.windows(2).all(|pair| pair[0] != pair[1]) && !answers.contains(&String::new()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
}
