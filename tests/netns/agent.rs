//! An agent on a real server: what it asks for is done, is shown with its reason, and stands in no file.

use std::{io::ErrorKind, time::Duration};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    servers::Agent,
    topology::{Arms, Topology},
};
use xtask::lab::wait_until;

use crate::{KeepAlive, health::url, shares};

/// V:80 over `wrr`; nobody listens on the second real server's agent port.
const ADVISED: &str = r#"
[[service]]
name = "web"
address = "192.0.2.80:80"
scheduler = "wrr"

[[service.check]]
type = "http"
interval = "200ms"
timeout = "150ms"

[[service.check]]
type = "agent"
port = 9000
interval = "200ms"
timeout = "150ms"

[[service.real]]
address = "192.168.0.2:80"
weight = 100

[[service.real]]
address = "192.168.0.3:80"
weight = 100
"#;

/// Waits until the first real server stands so, and asserts that the second does not care.
#[track_caller]
fn wait_for(daemon: &Daemon, state: &str, effective_weight: u32, reason: Option<&str>) {
    let mut last = serde_json::Value::Null;
    wait_until("the agent's word", Duration::from_secs(15), || {
        last = daemon.json("list")["services"][0]["reals"].take();
        let first = &last[0];
        Ok(first["state"] == state
            && first["effective_weight"] == effective_weight
            && first["reason"].as_str() == reason)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last:#}\n{}", daemon.log()));
    assert_eq!(last[0]["weight"], 100, "what is configured stays");
    assert_eq!(last[1]["state"], "up", "{last:#}");
    assert_eq!(last[1]["effective_weight"], 100, "{last:#}");
    assert!(last[1]["reason"].is_null(), "{last:#}");
}

#[test]
fn new_connections_follow_an_agents_word() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let agent = Agent::start(&topology.reals[0], 9000, "up ready 100%");
    let daemon = Daemon::start(&topology, ADVISED);
    let file = daemon.read();
    let both = [("real1", 50), ("real2", 50)].into();
    let other = [("real2", 100)].into();
    let share = || topology.curl(&url(), 100);
    wait_for(&daemon, "up", 100, None);
    assert_eq!(shares(&share()), both);
    let mut old = KeepAlive::connect(&topology);
    while old.request().expect("an answer") != "real1" {
        old = KeepAlive::connect(&topology);
    }

    // 50 to 100: every third connection.
    agent.say("50%");
    wait_for(&daemon, "up", 50, Some("50 % of its weight by its agent"));
    let answers = topology.curl(&url(), 90);
    assert_eq!(shares(&answers), [("real1", 30), ("real2", 60)].into());

    agent.say("drain");
    wait_for(&daemon, "draining", 0, Some("by its agent"));
    assert_eq!(shares(&share()), other, "none new");
    assert_eq!(old.request().expect("the old one goes on"), "real1");

    agent.say("maint");
    wait_for(&daemon, "maintenance", 0, Some("by its agent"));
    assert_eq!(shares(&share()), other);
    let error = old.request().expect_err("it is reset as `on-down` says");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");

    agent.say("up ready 100%");
    wait_for(&daemon, "up", 100, None);
    assert_eq!(shares(&share()), both, "as before");

    agent.say("down # disk full");
    let reason = "its agent says down: disk full";
    wait_for(&daemon, "down", 0, Some(reason));
    assert_eq!(shares(&share()), other);
    // It falls silent: its word holds.
    drop(agent);
    wait_until("its silence to be noticed", Duration::from_secs(15), || {
        let report = daemon.json("health");
        let checkers = report["checkers"].as_array().into_iter().flatten();
        let mut last = checkers
            .filter(|checker| checker["target"] == "192.168.0.2:9000")
            .map(|checker| &checker["last"]);
        Ok(last.any(|last| last["passed"] == false && last["in_a_row"].as_u64() >= Some(3)))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
    wait_for(&daemon, "down", 0, Some(reason));
    let agent = Agent::start(&topology.reals[0], 9000, "up");
    wait_for(&daemon, "up", 100, None);
    assert_eq!(shares(&share()), both, "as before");
    assert_eq!(daemon.read(), file, "an agent writes no file");
    drop(agent);
}
