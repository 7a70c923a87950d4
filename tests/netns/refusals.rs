//! What the daemon refuses at its start, and what goes on meanwhile.

use std::{process::Output, time::Duration};

use aya::{
    EbpfLoader,
    programs::{Xdp, XdpMode},
};
use balancer_ctl::dataplane::object::OBJECT;
use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, INSIDE, Topology, VIP, run},
};
use xtask::lab::wait_until;

use crate::WEB;

/// Starts a daemon that is expected to give up.
fn refused(daemon: &Daemon) -> (Output, String) {
    let mut command = daemon.command("balancerd");
    command.arg("--config").arg(&daemon.config);
    // One that does not give up must not hold the test.
    let mut limited = std::process::Command::new("timeout");
    limited
        .arg("10")
        .arg(command.get_program())
        .args(command.get_args());
    let output = run(&mut limited);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    (output, said)
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let mut daemon = Daemon::start(&topology, WEB);
    let (_, said) = refused(&daemon);
    assert!(said.contains("error: "), "{said}");
    assert!(
        said.to_lowercase().contains("already") || said.contains("runs"),
        "{said}"
    );
    assert_eq!(daemon.process().ended().expect("asked"), None);
    daemon.ctl("status");
    let answers = topology.curl(&format!("http://{VIP}/"), 4);
    assert!(
        answers.windows(2).all(|pair| pair[0] != pair[1]),
        "{answers:?}"
    );
}

#[test]
fn a_missing_interface_is_refused_by_name() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let config = format!("[dataplane]\ninterfaces = [\"inside\", \"nowhere0\"]\n{WEB}");
    let daemon = Daemon::prepare(&topology, &config);
    let (_, said) = refused(&daemon);
    assert!(said.contains("nowhere0"), "{said}");
    let listed = topology
        .balancer
        .output("ip", &["-details", "link"])
        .expect("ip link");
    assert!(
        !listed.contains("xdp"),
        "nothing is left on the other interface: {listed}"
    );
    // A running daemon refuses it alike and goes on.
    let daemon = Daemon::start(&topology, WEB);
    daemon.write(&config);
    let output = run(daemon.command("balancer-ctl").arg("reload"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nowhere0"), "{said}");
    let answers = topology.curl(&format!("http://{VIP}/"), 4);
    assert!(
        answers.windows(2).all(|pair| pair[0] != pair[1]),
        "{answers:?}"
    );
}

#[test]
fn another_programs_xdp_is_refused_and_left_in_place() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let mut ebpf = EbpfLoader::new().load(OBJECT).expect("load");
    let theirs: &mut Xdp = ebpf
        .program_mut("clock")
        .expect("clock")
        .try_into()
        .expect("XDP");
    theirs.load().expect("load");
    for mode in [XdpMode::Driver, XdpMode::Skb] {
        let link = topology
            .balancer
            .run(|| theirs.attach(INSIDE, mode))
            .expect("enter the balancer")
            .expect("attach");
        let listed = || {
            let listed = topology
                .balancer
                .output("ip", &["-details", "link", "show", INSIDE]);
            let listed = listed.expect("ip link");
            let at = listed
                .find("prog/xdp")
                .unwrap_or_else(|| panic!("no program: {listed}"));
            listed[at..]
                .split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let before = listed();
        let config = format!("[dataplane]\ninterfaces = {}\n{WEB}", topology.interfaces());
        let daemon = Daemon::prepare(&topology, &config);
        let (_, said) = refused(&daemon);
        assert!(
            said.contains(INSIDE) && said.to_lowercase().contains("xdp"),
            "{said}"
        );
        assert_eq!(listed(), before, "the other program stays");
        let all = topology
            .balancer
            .output("ip", &["-details", "link"])
            .expect("ip link");
        assert_eq!(
            all.matches("prog/xdp").count(),
            1,
            "nothing is left on the other: {all}"
        );
        theirs.detach(link).expect("detach");
    }
}

#[test]
fn a_real_server_that_is_the_balancer_itself_is_refused_and_one_that_becomes_it_is_reported() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let daemon = Daemon::start(&topology, WEB);
    assert!(!daemon.log().contains("WARN"), "{}", daemon.log());
    let file = daemon.read();
    let own = "address 192.168.0.1 of a real is an address of this host itself: it must be another host's address";
    let broadcast = "address 192.168.0.255 of a real is the broadcast address of a network that this host is connected to: it must be \
                     another host's address";
    let refused = |arguments: &str| {
        let output = run(daemon
            .command("balancer-ctl")
            .args(arguments.split_whitespace()));
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (real, sentence) in [("192.168.0.1:8080", own), ("192.168.0.255", broadcast)] {
        for runtime in ["", " --runtime"] {
            let said = refused(&format!("add-real {real}{runtime}"));
            assert_eq!(said, format!("error: {sentence}\n"));
        }
    }
    assert_eq!(daemon.read(), file);
    let wrong = file.replace("192.168.0.3:80", "192.168.0.1:80");
    daemon.write(&wrong);
    let at = wrong
        .lines()
        .position(|line| line.contains("192.168.0.1:80"));
    let path = daemon.config.display();
    let said = refused("reload");
    let line = at.expect("it was written") + 1;
    assert_eq!(said, format!("error: {path}:{line}:11: {own}\n"));
    daemon.write(&file);
    let overall = || {
        let status = daemon.json("status");
        (status["overall"].clone(), status["reasons"].clone())
    };
    assert_eq!(overall(), ("running".into(), serde_json::json!([])));
    let answers = topology.curl(&format!("http://{VIP}/"), 4);
    assert!(
        answers.windows(2).all(|pair| pair[0] != pair[1]),
        "{answers:?}"
    );

    // Its address comes to the balancer: that is told until it goes, and a daemon that starts meanwhile starts.
    let expected = (
        "limited".into(),
        serde_json::json!([
            "real 192.168.0.3:80 of service tcp/192.0.2.80:80 cannot work: 192.168.0.3 is an address of this host: name another \
             host's address"
        ]),
    );
    let until = |what: &str, expected: &(serde_json::Value, serde_json::Value)| {
        wait_until(what, Duration::from_secs(10), || Ok(overall() == *expected)).expect(what);
    };
    let address = |verb: &str| {
        let command = format!("address {verb} 192.168.0.3/32 dev {INSIDE}");
        topology.balancer.ip(&command).expect("ip address");
    };
    address("add");
    until("the real server to be told", &expected);
    daemon.ctl("edit-real 192.168.0.3:80 -w 2");
    daemon.ctl("reload");
    let file = daemon.read();
    let mut daemon = daemon;
    daemon.stop();
    daemon.restart();
    assert_eq!(daemon.read(), file);
    let overall = || {
        let status = daemon.json("status");
        (status["overall"].clone(), status["reasons"].clone())
    };
    wait_until("it to be told again", Duration::from_secs(10), || {
        Ok(overall() == expected)
    })
    .expect("told again");
    address("del");
    wait_until("the end", Duration::from_secs(10), || {
        Ok(overall().0 == "running")
    })
    .expect("the end");
}
