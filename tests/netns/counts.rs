//! Counts of active connections stay exact, whenever the daemon is killed.

use std::time::{Duration, Instant};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, VIP, socket},
};
use xtask::lab::wait_until;

use crate::{KeepAlive, WEB};

/// Active and inactive connections of all real servers, as `list` shows them.
fn listed(daemon: &Daemon) -> [u64; 2] {
    let listed = daemon.json("list");
    let reals = listed["services"][0]["reals"].as_array().expect("a list");
    ["active", "inactive"].map(|name| {
        let counts = reals.iter().map(|real| real[name].as_u64());
        counts.map(|count| count.expect("a number")).sum()
    })
}

#[test]
fn a_daemon_that_is_killed_again_and_again_leaves_every_count_right() {
    counts_stay_exact(12, Duration::from_millis(700), 1_000);
}

/// Takes some minutes. Run it with `cargo test -p balancer-tests --test netns -- --ignored --nocapture a_million_connections`.
#[test]
#[ignore = "takes some minutes"]
fn a_million_connections_and_killed_daemons_leave_every_count_right() {
    counts_stay_exact(30, Duration::from_secs(3), 1_000_000);
}

/// Kills the daemon so often, with such pauses, while a client makes connections without a pause: at least so many.
fn counts_stay_exact(kills: u32, pause: Duration, connections: u32) {
    const HELD: u64 = 5;
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    // So that it ends connections all the time.
    let config = format!(
        "[dataplane]\ninterfaces = {}\n[timeouts]\ntcp-fin = \"1s\"\n{WEB}",
        topology.interfaces()
    );
    let mut daemon = Daemon::start_with(&topology, &config);
    let mut held: Vec<_> = (0..HELD).map(|_| KeepAlive::connect(&topology)).collect();
    let load = topology.start_load(socket(VIP, 80));
    let start = Instant::now();
    for number in 0..kills {
        // At another moment of its work each time.
        std::thread::sleep(pause + Duration::from_millis(u64::from(number * 37)));
        daemon.process().kill().expect("it ran");
        daemon.restart();
        // So that the server does not end them for their silence.
        for one in &mut held {
            one.request().expect("an answer");
        }
    }
    let report = load.finish();
    println!(
        "{} connections in {:?}, {kills} times killed",
        report.answered,
        start.elapsed()
    );
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert!(report.answered >= connections, "{}", report.answered);
    // All that are over end; those that are held stay.
    wait_until(
        "the end of all that is over",
        Duration::from_secs(30),
        || Ok(daemon.json("status")["dataplane"]["connections"] == HELD),
    )
    .unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(listed(&daemon), [HELD, 0]);
    drop(held);
    wait_until(
        "the end of those that were held",
        Duration::from_secs(30),
        || Ok(daemon.json("status")["dataplane"]["connections"] == 0),
    )
    .unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(listed(&daemon), [0, 0]);
}
