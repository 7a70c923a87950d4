//! The unit file: the daemon works with the capabilities that it has under systemd, and keeps systemd's watchdog quiet; systemd
//! understands the file. That its sandbox lets the daemon work only a machine with systemd shows.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use balancer_tests::{
    daemon::{Daemon, binary},
    privileged,
    topology::{Arms, Topology},
};
use xtask::lab::wait_until;

const UNIT: &str = include_str!("../../balancer-ctl/packaging/debian/balancerd.service");

/// The values of a setting, which may be on several lines.
fn values(setting: &str) -> Vec<&'static str> {
    let lines = UNIT.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == setting)
        .flat_map(|(_, values)| values.split(' '))
        .collect()
}

/// The command in the capabilities of the unit.
fn confined(command: &Command) -> Command {
    let mut allowed = "-all".to_owned();
    for capability in values("CapabilityBoundingSet") {
        let name = capability.strip_prefix("CAP_").expect("a capability");
        allowed.push_str(&format!(",+{}", name.to_lowercase()));
    }
    let mut confined = Command::new("setpriv");
    confined
        .args(["--bounding-set", &allowed])
        .arg(command.get_program())
        .args(command.get_args());
    confined
}

fn program(folder: &Path, name: &str, lines: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("write a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    path.display().to_string()
}

#[test]
fn the_daemon_does_all_its_work_with_the_capabilities_of_the_unit() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let folder = tempfile::Builder::new()
        .prefix("balancer-tests-")
        .tempdir_in("/tmp")
        .expect("a folder");
    let path = folder.path();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("its mode");
    let programs = tempfile::Builder::new()
        .prefix("balancer-tests-")
        .tempdir_in("/usr/local")
        .expect("a folder");
    fs::set_permissions(programs.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    let check = program(programs.path(), "check", "test \"$(id -un)\" = nobody");
    let stuck = program(programs.path(), "stuck", "sleep 60");
    let alert = program(
        programs.path(),
        "alert",
        &format!("id -un > {}/told", path.display()),
    );
    let mut daemon = Daemon::prepare(
        &topology,
        &format!(
            "[dataplane]\ninterfaces = {}\n\
             [[notify]]\non = [\"service-added\"]\nrun = [\"{alert}\"]\nuser = \"nobody\"\n\
             [[vrrp]]\nname = \"outside\"\ninterface = \"outside\"\nrouter-id = 51\npriority = 150\n\
             advertisement-interval = \"100ms\"\nlink-up-delay = \"0s\"\naddresses = [\"203.0.113.80/24\"]\n\
             [[service]]\nname = \"web\"\naddress = \"203.0.113.80:80\"\nscheduler = \"rr\"\n\
             [[service.check]]\ntype = \"exec\"\nrun = [\"{check}\"]\nuser = \"nobody\"\ninterval = \"2s\"\nrise = 1\n\
             [[service.check]]\ntype = \"ping\"\ninterval = \"2s\"\nrise = 1\n\
             [[service.check]]\ntype = \"http\"\ninterface = \"inside\"\nmark = 7\ninterval = \"2s\"\nrise = 1\n\
             [[service.real]]\naddress = \"192.168.0.2:80\"\n[[service.real]]\naddress = \"192.168.0.3:80\"\n\
             [[service]]\nname = \"stuck\"\naddress = \"203.0.113.80:81\"\n\
             [[service.check]]\ntype = \"exec\"\nrun = [\"{stuck}\"]\nuser = \"nobody\"\ninterval = \"300ms\"\ntimeout = \"200ms\"\n\
             [[service.real]]\naddress = \"192.168.0.2:80\"\n",
            topology.interfaces(),
        ),
    );
    // The second time it takes a running packet program over.
    for _ in 0..2 {
        daemon.restart_with(|command| confined(&command));
        let are_up = || {
            let list = daemon.json("list");
            let reals = list["services"][0]["reals"].as_array().cloned();
            let state = |real: &serde_json::Value| real["state"] == "up";
            Ok(reals.is_some_and(|reals| reals.iter().all(state)))
        };
        wait_until("both real servers up", Duration::from_secs(20), are_up)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.ctl("health")));
        let is_active = || Ok(daemon.json("status")["vrrp"][0]["state"] == "active");
        wait_until("the node is Active", Duration::from_secs(10), is_active)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.ctl("status")));
        assert_eq!(
            topology.curl("http://203.0.113.80/", 4),
            ["real1", "real2", "real1", "real2"]
        );
        let stuck = || Ok(daemon.ctl("health").contains("no answer within 200ms"));
        wait_until("a check is killed", Duration::from_secs(10), stuck)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.ctl("health")));
        daemon.ctl("add-service 203.0.113.80:82");
        daemon.ctl("del-service 203.0.113.80:82");
        daemon.stop();
    }
    let told = fs::read_to_string(path.join("told")).expect("the program ran");
    assert_eq!(told, "nobody\n");
    let log = daemon.log();
    for word in ["not permitted", "EPERM", "denied"] {
        assert!(!log.contains(word), "{log}");
    }
    daemon.detach();
}

#[test]
fn systemd_is_told_of_the_start_and_twice_within_the_watchdogs_time_that_the_daemon_lives() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::Two, 1);
    let mut daemon = Daemon::prepare(
        &topology,
        &format!("[dataplane]\ninterfaces = {}\n", topology.interfaces()),
    );
    let socket = daemon.folder().join("notify");
    let systemd = UnixDatagram::bind(&socket).expect("a socket");
    systemd
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a timeout");
    let next = || {
        let mut buffer = [0; 512];
        let length = systemd.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    daemon.restart_with(|mut command| {
        command
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", "400000");
        command
    });
    // Signs of life may come before it answers.
    while next().trim() != "READY=1" {}
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(next().trim(), "WATCHDOG=1");
    }
    let time = start.elapsed();
    let (least, most) = (Duration::from_millis(1500), Duration::from_millis(3000));
    assert!((least..most).contains(&time), "{time:?}");
    daemon.stop();
    let mut last = next();
    while last.trim() == "WATCHDOG=1" {
        last = next();
    }
    assert_eq!(last.trim(), "STOPPING=1");
    // Without a watchdog nobody is told.
    daemon.restart_with(|mut command| {
        command.env("NOTIFY_SOCKET", &socket);
        command
    });
    assert_eq!(next().trim(), "READY=1");
    thread::sleep(Duration::from_millis(1500));
    daemon.stop();
    assert_eq!(next().trim(), "STOPPING=1");
    daemon.detach();
}

/// What `systemd-analyze` says with these arguments and the unit, whose program is the one that was built. `None` = it is not installed.
fn analyzed(arguments: &[&str]) -> Option<Output> {
    let folder = tempfile::tempdir().expect("a folder");
    let unit = folder.path().join("balancerd.service");
    let program = binary("balancerd").display().to_string();
    fs::write(&unit, UNIT.replace("/usr/sbin/balancerd", &program)).expect("write the unit");
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(&unit)
        .output();
    output
        .inspect_err(|error| privileged::skip(&format!("systemd-analyze cannot be run: {error}")))
        .ok()
}

#[test]
fn systemd_knows_all_that_the_unit_says() {
    if privileged::skipped() {
        return;
    }
    if let Some(output) = analyzed(&["verify", "--man=no"]) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""));
    }
}

#[test]
fn the_unit_is_not_more_exposed_than_its_comment_says() {
    if privileged::skipped() {
        return;
    }
    // 4.5 by systemd 252; later versions may count more.
    if let Some(output) = analyzed(&["security", "--offline=true", "--threshold=50"]) {
        assert!(output.status.success(), "{output:?}");
    }
}
