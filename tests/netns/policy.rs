//! What a service's health policy does to clients: their connections to a dead real server, and the share of one that
//! came back.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, page},
};
use xtask::lab::wait_until;

use crate::{
    KeepAlive,
    health::{CHECKED, url, wait_for},
    shares,
};

/// [`CHECKED`] with this line in the service.
fn with(line: &str) -> String {
    CHECKED.replace("scheduler = \"rr\"", &format!("scheduler = \"rr\"\n{line}"))
}

/// [`CHECKED`] with this line in the service, whose probes ask another port than the page's.
fn beside_the_page(line: &str) -> String {
    with(line).replace("type = \"http\"", "type = \"http\"\nport = 81")
}

/// Two real servers whose page lives on when what is probed, the program that was started last, dies.
fn topology() -> Topology {
    let mut topology = Topology::with_web(Arms::Two, 2);
    for (number, real) in (1..).zip(&mut topology.reals) {
        real.start_nginx_on(81, &format!("listen 81; {}", page(number)));
    }
    topology
}

/// A connection to each real server, in their order.
fn connections(topology: &Topology) -> [KeepAlive; 2] {
    let mut one = KeepAlive::connect(topology);
    let mut two = KeepAlive::connect(topology);
    let names = [&mut one, &mut two].map(|each| each.request().expect("an answer"));
    match names.each_ref().map(String::as_str) {
        ["real1", "real2"] => [one, two],
        ["real2", "real1"] => [two, one],
        names => panic!("one each, not {names:?}"),
    }
}

#[test]
fn connections_of_a_dead_real_server_are_reset_unless_the_service_keeps_them() {
    if privileged::skipped() {
        return;
    }
    for (policy, goes_on) in [("reset", false), ("keep", true)] {
        let mut topology = topology();
        let config = beside_the_page(&format!("on-down = \"{policy}\""));
        let daemon = Daemon::start(&topology, &config);
        wait_for(&daemon, &["up", "up"]);
        let [mut dead, mut other] = connections(&topology);
        topology.reals[0].stop_last_program();
        wait_for(&daemon, &["down", "up"]);
        let start = Instant::now();
        let answer = dead.request();
        if goes_on {
            assert_eq!(answer.expect("it goes on"), "real1");
        } else {
            let error = answer.expect_err("it was reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            println!("the reset came after {:?}", start.elapsed());
        }
        assert_eq!(other.request().expect("the other goes on"), "real2");
    }
}

#[test]
fn connections_of_a_dead_real_server_go_on_until_the_delay_is_over() {
    if privileged::skipped() {
        return;
    }
    let mut topology = topology();
    let config = beside_the_page("on-down = \"reset-after 1h\"");
    let daemon = Daemon::start(&topology, &config);
    wait_for(&daemon, &["up", "up"]);
    let [mut dead, mut other] = connections(&topology);
    let before = Instant::now();
    topology.reals[0].stop_last_program();
    wait_for(&daemon, &["down", "up"]);
    assert_eq!(dead.request().expect("it goes on"), "real1");
    let answers = topology.curl(&url(), 6);
    assert_eq!(shares(&answers), [("real2", 6)].into(), "new ones");
    // A shorter delay counts from when the real server went down. Nothing but time ends it.
    let delay = Duration::from_secs(3);
    daemon.write(&daemon.read().replace("reset-after 1h", "reset-after 3s"));
    daemon.ctl("reload");
    let mut answer = dead.request();
    wait_until("the reset", Duration::from_secs(20), || {
        if answer.is_ok() {
            answer = dead.request();
        }
        Ok(answer.is_err())
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
    let error = answer.expect_err("it was reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    assert!(
        before.elapsed() >= delay,
        "too early: {:?}",
        before.elapsed()
    );
    assert_eq!(other.request().expect("the other goes on"), "real2");
}

/// The first real server's effective weight, and why.
fn effective_weight(daemon: &Daemon) -> (u64, Option<String>) {
    let listed = daemon.json("list");
    let real = &listed["services"][0]["reals"][0];
    (
        real["effective_weight"].as_u64().expect("a number"),
        real["reason"].as_str().map(str::to_owned),
    )
}

#[test]
fn a_real_server_that_came_back_gets_its_share_little_by_little() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::with_web(Arms::Two, 2);
    let config = with("slow-start = \"1h\"")
        .replace("\"rr\"", "\"wrr\"")
        .replace("[[service.real]]", "[[service.real]]\nweight = 100");
    let daemon = Daemon::start(&topology, &config);
    wait_for(&daemon, &["up", "up"]);
    assert_eq!(effective_weight(&daemon), (100, None), "at the start");
    let half = [("real1", 50), ("real2", 50)].into();
    assert_eq!(shares(&topology.curl(&url(), 100)), half, "at the start");
    topology.reals[0].stop_programs();
    wait_for(&daemon, &["down", "up"]);
    topology.reals[0].start_nginx(&format!("listen 80; {}", page(1)));
    wait_for(&daemon, &["up", "up"]);
    // For the first three minutes it weighs next to nothing.
    let reason = "slow start, 0 % of its weight";
    let first = effective_weight(&daemon);
    assert_eq!(first, (1, Some(reason.to_owned())), "first");
    let few = shares(&topology.curl(&url(), 100))
        .get("real1")
        .copied()
        .unwrap_or_default();
    assert!(few <= 1, "{few} of 100");
    // The same growth, faster. Whenever this looks, the share fits the weight before and after.
    daemon.write(&daemon.read().replace("\"1h\"", "\"8s\""));
    daemon.ctl("reload");
    let mut weights = vec![effective_weight(&daemon).0];
    let deadline = Instant::now() + Duration::from_secs(60);
    while weights.last() != Some(&100) {
        assert!(Instant::now() < deadline, "weights seen: {weights:?}");
        let answers = topology.curl(&url(), 100);
        let got = shares(&answers).get("real1").copied().unwrap_or_default();
        let (before, after) = (weights[weights.len() - 1], effective_weight(&daemon).0);
        let share = |weight: u64| weight as f64 * 100.0 / (weight + 100) as f64;
        // Each ring begins anew, so one more or less may fall to it at each change.
        let changes = after.checked_sub(before).expect("it grows") as f64 / 5.0 + 2.0;
        let fits = share(before) - changes..=share(after) + changes;
        assert!(
            fits.contains(&(got as f64)),
            "{got} of 100 at {before}..{after}"
        );
        weights.push(after);
    }
    println!("weights seen: {weights:?}");
    assert_eq!(effective_weight(&daemon), (100, None), "at the end");
    let half = [("real1", 50), ("real2", 50)].into();
    assert_eq!(shares(&topology.curl(&url(), 100)), half, "at the end");
}
