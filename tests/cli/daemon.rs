//! `balancerd` with the packet program in a network namespace: signals, and what stays when it goes.

use std::{fs, os::unix::net::UnixStream, time::Duration};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, run},
};
use nix::sys::signal::Signal;
use xtask::lab::wait_until;

const WEB: &str = "
[[service]]
name = \"web\"
address = \"192.0.2.80:80\"

[[service.real]]
address = \"192.168.0.2:80\"
";

fn weights(daemon: &Daemon) -> Vec<u64> {
    let services = daemon.json("list");
    let reals = services["services"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|service| {
            service["reals"]
                .as_array()
                .expect("reals")
                .iter()
                .map(|real| real["weight"].as_u64().expect("a weight"))
        });
    reals.collect()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_until(what, Duration::from_secs(10), || Ok(condition()))
        .unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn sighup_loads_the_file_again_and_a_bad_one_changes_nothing() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::One, 1);
    let mut daemon = Daemon::start(&topology, WEB);
    assert_eq!(weights(&daemon), [1]);

    daemon.write(&format!("{}weight = 7\n", daemon.read()));
    daemon.process().signal(Signal::SIGHUP).expect("it runs");
    until("the new weight", || weights(&daemon) == [7]);

    let good = daemon.read();
    daemon.write(&good.replace("weight = 7", "weight = 70000\nwheight = 1"));
    daemon.process().signal(Signal::SIGHUP).expect("it runs");
    let place = daemon.config.display().to_string();
    let line = good
        .lines()
        .position(|line| line == "weight = 7")
        .expect("the line")
        + 1;
    until("both errors in the log", || {
        let log = daemon.log();
        log.contains(&format!(
            "{place}:{line}:10: weight 70000 of real 192.168.0.2:80 is out of range: 0..=65535"
        )) && log.contains(&format!(
            "{place}:{}:1: unknown key `wheight` in `real`",
            line + 1
        ))
    });
    assert_eq!(weights(&daemon), [7]);
    assert_eq!(daemon.process().ended().expect("asked"), None);
}

#[test]
fn a_killed_daemons_socket_is_replaced_and_a_stopped_ones_is_gone() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::One, 1);
    let mut daemon = Daemon::start(&topology, WEB);
    let socket = format!("/run/balancer/{}/control.sock", daemon.instance);
    daemon.ctl("add-real 192.168.0.3 --runtime");
    daemon.process().signal(Signal::SIGKILL).expect("it runs");
    daemon
        .process()
        .wait(Duration::from_secs(10))
        .expect("it ends");
    assert!(UnixStream::connect(&socket).is_err(), "no one answers");
    assert!(
        fs::symlink_metadata(&socket).is_ok(),
        "its file is still there"
    );

    daemon.restart();
    assert_eq!(
        weights(&daemon),
        [1],
        "what the file does not say is forgotten"
    );
    daemon.stop();
    assert!(fs::symlink_metadata(&socket).is_err(), "its file is gone");
    let output = run(daemon.command("balancer-ctl").arg("list"));
    assert_eq!(output.status.code(), Some(3));
    daemon.detach();
    assert!(!daemon.pins().exists(), "nothing is pinned any more");
}

#[test]
fn without_a_file_nothing_is_written_and_the_status_says_so() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::One, 1);
    let daemon = Daemon::prepare(&topology, "");
    let mut command = daemon.command("balancerd");
    command
        .args(["--interface", "inside"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let process = xtask::lab::Process::spawn("balancerd", &mut command).expect("start");
    until("an answer", || {
        run(daemon.command("balancer-ctl").arg("status"))
            .status
            .success()
    });
    daemon.ctl("add-service 192.0.2.80:80");
    daemon.ctl("add-real 192.168.0.2");
    assert!(
        daemon
            .ctl("list")
            .lines()
            .skip(2)
            .all(|line| line.ends_with("  runtime")),
        "{}",
        daemon.ctl("list")
    );
    let status = daemon.ctl("status");
    let line = "config       none: every change is forgotten when the daemon stops";
    assert!(status.lines().any(|found| found == line), "{status}");
    assert_eq!(daemon.read(), "");
    drop(process);
    daemon.detach();
}

#[test]
fn a_start_without_a_socket_touches_nothing() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::One, 1);
    let daemon = Daemon::prepare(
        &topology,
        &format!("[dataplane]\ninterfaces = [\"inside\"]\n{WEB}"),
    );
    let socket = daemon.folder().join("control.sock");
    fs::write(&socket, "a file").expect("write");
    let output = run(daemon
        .command("balancerd")
        .arg("--config")
        .arg(&daemon.config)
        .arg("--socket")
        .arg(&socket));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!(
            "error: {} is there and is no socket: remove it or choose another with --socket\n",
            socket.display()
        )
    );
    assert!(!daemon.pins().exists());
    let note = std::path::Path::new("/var/lib/balancer").join(&daemon.instance);
    assert!(!note.exists());
    let link = topology
        .balancer
        .output("ip", &["link"])
        .expect("the links");
    assert!(!link.contains("xdp"), "{link}");
}
