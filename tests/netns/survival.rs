//! The daemon stops, dies and comes back; packets go on.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, INSIDE, OUTSIDE, Topology, VIP, page, run, socket},
};
use xtask::lab::Process;

use crate::{KeepAlive, WEB};

/// `[connections, packets in, bytes in, packets out, bytes out]` of the only service.
fn counters(daemon: &Daemon) -> [u64; 5] {
    let listed = daemon.json("list --stats");
    let counters = &listed["services"][0]["counters"];
    [
        "connections",
        "packets_in",
        "bytes_in",
        "packets_out",
        "bytes_out",
    ]
    .map(|name| {
        counters[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name} in {listed}"))
    })
}

#[test]
fn a_killed_daemon_loses_no_request_and_comes_back_to_its_connections() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::new(Arms::Two, 2);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file"), vec![0x5a; 20_000_000]).expect("a file");
    let root = folder.path().display().to_string();
    topology.reals[0].start_nginx(&format!("listen 80; listen 81; root {root}; {}", page(1)));
    topology.reals[1].start_nginx(&format!("listen 80; {}", page(2)));
    let download = r#"
[[service]]
address = "192.0.2.80:81"
[[service.real]]
address = "192.168.0.2:81"
"#;
    let mut daemon = Daemon::start(&topology, &format!("{WEB}{download}"));
    let mut old = KeepAlive::connect(&topology);
    let name = old.request().expect("an answer");
    let copy = folder.path().join("copy");
    let mut curl = topology.client.command("curl");
    curl.args(["--silent", "--fail", "--limit-rate", "8M", "-o"])
        .arg(&copy);
    curl.arg(format!("http://{VIP}:81/file"))
        .stderr(Stdio::null());
    let mut long = Process::spawn("a long download", &mut curl).expect("start curl");
    let load = topology.start_load(socket(VIP, 80));
    load.wait_for(50);

    let before = counters(&daemon);
    daemon.process().kill().expect("it ran");
    load.wait_for(100);
    assert_eq!(old.request().expect("it goes on"), name);
    daemon.restart();
    let after = counters(&daemon);
    for (before, after) in before.iter().zip(after) {
        assert!(after > *before, "a counter went back: {before} to {after}");
    }
    assert!(
        after[0] >= before[0] + 100,
        "connections made without the daemon count"
    );
    load.wait_for(50);
    assert_eq!(old.request().expect("it goes on"), name);
    let listed = daemon.json("connections --state established");
    assert!(
        !listed
            .as_array()
            .map_or(listed.to_string().len() < 10, Vec::is_empty),
        "{listed}"
    );
    // It is master of its tables again.
    daemon.ctl("edit-real 192.168.0.3:80 -t 192.0.2.80:80 -w 0");
    assert_eq!(topology.curl(&format!("http://{VIP}/"), 6), ["real1"; 6]);

    let report = load.finish();
    assert!(report.answered >= 200);
    let status = long
        .wait(Duration::from_secs(20))
        .expect("the download ends");
    assert!(status.success(), "{status}");
    assert_eq!(fs::read(&copy).expect("the copy"), vec![0x5a; 20_000_000]);
}

#[test]
fn a_clean_stop_keeps_forwarding_and_a_start_takes_up_what_is_there() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let mut daemon = Daemon::start(&topology, WEB);
    let program = |daemon: &Daemon| daemon.json("status")["dataplane"]["interfaces"].clone();
    let mut old = KeepAlive::connect(&topology);
    let name = old.request().expect("an answer");
    let load = topology.start_load(socket(VIP, 80));
    for _ in 0..3 {
        load.wait_for(20);
        let before = counters(&daemon);
        assert_eq!(program(&daemon).as_array().map(Vec::len), Some(2));
        daemon.stop();
        load.wait_for(50);
        daemon.restart();
        assert!(counters(&daemon)[0] >= before[0] + 50);
        assert_eq!(old.request().expect("it goes on"), name);
    }
    load.finish();
}

#[test]
fn changes_to_the_file_while_the_daemon_is_dead_are_taken_up() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let mut daemon = Daemon::start(&topology, WEB);
    let load = topology.start_load(socket(VIP, 80));
    load.wait_for(20);
    daemon.process().kill().expect("it ran");
    let file = daemon.read();
    daemon.write(&file.replace("[[service.real]]\naddress = \"192.168.0.2:80\"\n", ""));
    daemon.restart();
    assert_eq!(topology.curl(&format!("http://{VIP}/"), 6), ["real2"; 6]);
    load.finish();
}

#[test]
fn detach_puts_everything_back() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let sysctls = || -> Vec<String> {
        topology
            .balancer
            .run(|| {
                ["ipv4", "ipv6"]
                    .iter()
                    .flat_map(|family| {
                        [OUTSIDE, INSIDE].map(|interface| {
                            let name =
                                format!("/proc/sys/net/{family}/conf/{interface}/forwarding");
                            fs::read_to_string(name)
                                .expect("a sysctl")
                                .trim()
                                .to_owned()
                        })
                    })
                    .collect()
            })
            .expect("enter the balancer")
    };
    let has_xdp = || {
        let listed = topology
            .balancer
            .output("ip", &["-details", "link"])
            .expect("ip link");
        listed.contains("xdp")
    };
    for family in ["ipv4", "ipv6"] {
        topology
            .balancer
            .sysctl(&format!("net.{family}.conf.{OUTSIDE}.forwarding"), "0")
            .expect("a sysctl");
    }
    let before = sysctls();
    assert!(before.contains(&"0".to_owned()) && !has_xdp());
    let mut daemon = Daemon::start(&topology, WEB);
    assert_eq!(sysctls(), ["1"; 4]);
    assert!(has_xdp() && daemon.pins().exists());
    // A clean stop leaves what forwarding needs.
    daemon.stop();
    assert_eq!(sysctls(), ["1"; 4]);
    assert_eq!(topology.curl(&format!("http://{VIP}/"), 2).len(), 2);
    daemon.detach();
    assert_eq!(sysctls(), before);
    assert!(!has_xdp(), "the program is off the interfaces");
    assert!(!daemon.pins().exists(), "no pin is left");
    assert!(
        topology
            .connect(socket(VIP, 80), Duration::from_millis(300))
            .is_err()
    );
    // And all can be had again.
    daemon.restart();
    assert_eq!(topology.curl(&format!("http://{VIP}/"), 2).len(), 2);
}

#[test]
fn another_layout_is_said_and_started_anew() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let mut daemon = Daemon::start(&topology, WEB);
    assert_eq!(topology.curl(&format!("http://{VIP}/"), 4).len(), 4);
    daemon.stop();
    // As an older program would have left it: the same name, another size.
    let path = fs::read_dir(daemon.pins())
        .expect("the pins")
        .map(|entry| entry.expect("an entry").path().join("REALS"))
        .find(|path| path.exists())
        .expect("REALS is pinned");
    fs::remove_file(&path).expect("remove a pin");
    let made = run(Command::new("bpftool")
        .args(["map", "create"])
        .arg(&path)
        .args([
            "type", "array", "key", "4", "value", "4", "entries", "8", "name", "REALS",
        ]));
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stdout)
    );
    daemon.restart();
    let log = daemon.log();
    assert!(
        log.contains("REALS"),
        "the daemon says what differs:\n{log}"
    );
    let answers = topology.curl(&format!("http://{VIP}/"), 10);
    assert!(
        answers.windows(2).all(|pair| pair[0] != pair[1]),
        "{answers:?}"
    );
    assert_eq!(counters(&daemon)[0], 10, "it began anew");
    // From then on the new tables are taken up like any others.
    daemon.stop();
    daemon.restart();
    assert_eq!(counters(&daemon)[0], 10);
}

#[test]
fn a_map_that_is_missing_is_said_and_made_anew() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let mut daemon = Daemon::start(&topology, WEB);
    daemon.stop();
    let removed = run(Command::new("find")
        .arg(daemon.pins())
        .args(["-name", "TURNS", "-delete"]));
    assert!(removed.status.success());
    daemon.restart();
    let answers = topology.curl(&format!("http://{VIP}/"), 10);
    assert!(
        answers.windows(2).all(|pair| pair[0] != pair[1]),
        "{answers:?}"
    );
}
