//! A node fails, or the network between nodes.

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use balancer_tests::{
    advertisements::contest,
    pair::{Pair, SOON, VIP},
    privileged,
    topology::OUTSIDE,
};
use nix::sys::signal::{Signal, kill};

use crate::outside;

/// The interval of all virtual routers here.
const INTERVAL: Duration = Duration::from_millis(100);
/// Others take over within three intervals and a skew; and as much for a busy machine.
const DETECTED: Duration = Duration::from_millis(1000);
/// The kernel removes addresses that nobody renews: it counts in seconds.
const EXPIRED: Duration = Duration::from_secs(8);

/// Two nodes, of which the first is Active by its priority.
fn pair(more: &str) -> Pair {
    let mut pair = Pair::new(2, 0);
    pair.start_first_active(outside, &[200, 100], more);
    pair
}

/// That two nodes called themselves Active for at most an interval since then; and half of one for a busy machine.
#[track_caller]
fn assert_one_active(pair: &Pair, since: SystemTime) {
    let seen = pair.recorder.since(since);
    let contest = contest(&seen);
    assert!(contest <= INTERVAL * 3 / 2, "{contest:?}: {seen:#?}");
}

#[test]
fn when_systemds_watchdog_aborts_the_whole_control_group_the_guard_still_removes_the_vip() {
    if privileged::skipped() {
        return;
    }
    let mut pair = pair("");
    let guard = pair.nodes[0].guard();
    let aborted = Instant::now();
    kill(guard, Signal::SIGABRT).expect("it runs");
    pair.nodes[0].signal(Signal::SIGABRT);
    while pair.nodes[0].has(VIP) {
        assert!(aborted.elapsed() < SOON, "the guard does nothing");
    }
    let gone = aborted.elapsed();
    assert!(gone < Duration::from_millis(300), "{gone:?}");
    pair.wait_for(VIP, &[1]);
}

#[test]
fn when_the_daemon_is_killed_its_guard_removes_the_vip_and_the_peer_takes_over() {
    if privileged::skipped() {
        return;
    }
    let began = SystemTime::now();
    let mut pair = pair("failback = \"immediate\"");
    assert_eq!(pair.claimants(VIP), [0]);
    let killed = Instant::now();
    pair.nodes[0].kill();
    while pair.nodes[0].has(VIP) {
        assert!(killed.elapsed() < SOON, "the guard does nothing");
    }
    let gone = killed.elapsed();
    pair.wait_for(VIP, &[1]);
    let taken = killed.elapsed();
    assert!(gone < Duration::from_millis(300), "{gone:?}");
    assert!(taken < DETECTED, "{taken:?}");
    assert_eq!(pair.claimants(VIP), [1]);
    assert_one_active(&pair, began);

    // It takes the VIP back, and loses it again, with its guard: the kernel removes it.
    pair.nodes[0].daemon_mut().restart();
    pair.wait_for(VIP, &[0]);
    assert_one_active(&pair, began);
    pair.nodes[0].kill_with_guard();
    pair.wait_for_within(VIP, &[0, 1], DETECTED);
    pair.wait_for_within(VIP, &[1], EXPIRED);

    // A guard alone is replaced, and the VIP stays.
    let began = SystemTime::now();
    pair.nodes[0].daemon_mut().restart();
    pair.wait_for(VIP, &[0]);
    let guard = pair.nodes[0].guard();
    kill(guard, Signal::SIGKILL).expect("it runs");
    pair.assert_stays(VIP, &[0], Duration::from_secs(6));
    assert_ne!(pair.nodes[0].guard(), guard);
    let status = pair.nodes[0].daemon().json("status");
    assert_eq!(status["role"], "active", "{status:#}");
    assert!(
        status["reasons"].as_array().is_some_and(Vec::is_empty),
        "{status:#}"
    );
    assert_one_active(&pair, began);
}

#[test]
fn a_dead_machine_and_an_unplugged_interface_are_replaced() {
    if privileged::skipped() {
        return;
    }
    let mut pair = pair("");
    let began = SystemTime::now();
    pair.plug(0, OUTSIDE, false);
    pair.wait_for_within(VIP, &[1], DETECTED);
    let fault = pair.nodes[0].wait_for_state("fault");
    assert_eq!(fault["vrrp"][0]["reason"], "interface outside has no link");
    assert_eq!(fault["role"], "fault");
    pair.nodes[0]
        .wait_for_reason("virtual router outside is in fault: interface outside has no link");
    // It is back, and lets the other go on.
    pair.plug(0, OUTSIDE, true);
    let back = pair.nodes[0].wait_for_status("the Active node", |status| {
        status["vrrp"][0]["active_node"] == "203.0.113.22"
    });
    assert_eq!(back["role"], "backup");
    assert_eq!(back["high_availability"], true, "{back:#}");
    pair.assert_stays(VIP, &[1], 5 * INTERVAL);
    assert_one_active(&pair, began);

    let dead = Instant::now();
    pair.die(1);
    while !pair.nodes[0].has(VIP) {
        assert!(dead.elapsed() < DETECTED, "nobody takes over");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(pair.claimants(VIP), [0]);
    let status = pair.nodes[0].wait_for_state("active");
    assert_eq!(status["vrrp"][0]["reason"], "no other node is Active");
}

#[test]
fn a_node_behind_a_port_that_blocks_does_not_win_when_it_forwards() {
    if privileged::skipped() {
        return;
    }
    let pair = pair("");
    let port = |pair: &Pair| {
        for rule in ["iifname outside0", "oifname outside0"] {
            pair.drop_at_switch(rule);
        }
    };
    pair.plug(0, OUTSIDE, false);
    pair.wait_for_within(VIP, &[1], DETECTED);
    // The link is there, and nothing passes.
    port(&pair);
    pair.plug(0, OUTSIDE, true);
    let listens = pair.nodes[0].wait_for_state("backup");
    assert_eq!(
        listens["vrrp"][0]["reason"],
        "its link has come up, so it listens whether another node is Active"
    );
    pair.assert_stays(VIP, &[1], 20 * INTERVAL);
    let healed = SystemTime::now();
    pair.heal();
    pair.nodes[0].wait_for_status("the Active node", |status| {
        status["vrrp"][0]["active_node"] == "203.0.113.22"
    });
    pair.assert_stays(VIP, &[1], 10 * INTERVAL);
    assert_one_active(&pair, healed);

    // Nobody is Active: once the port forwards, what others send says so.
    pair.plug(0, OUTSIDE, false);
    pair.nodes[0].wait_for_state("fault");
    pair.plug(1, OUTSIDE, false);
    pair.wait_for_within(VIP, &[], DETECTED);
    pair.plug(0, OUTSIDE, true);
    pair.nodes[0].wait_for_state("backup");
    assert_eq!(pair.claimants(VIP), [0_usize; 0]);
    pair.wait_for_within(VIP, &[0], 2 * DETECTED);
}

#[test]
fn a_divided_network_has_two_active_nodes_until_it_is_one_again() {
    if privileged::skipped() {
        return;
    }
    let mut pair = pair("");
    // The Backup node hears nothing, but is heard: the Active one answers it, in vain.
    pair.cut(0, 1);
    pair.wait_for_within(VIP, &[0, 1], DETECTED);
    pair.assert_stays(VIP, &[0, 1], 10 * INTERVAL);
    let healed = SystemTime::now();
    pair.heal();
    pair.wait_for_within(VIP, &[0], DETECTED);
    pair.assert_stays(VIP, &[0], 5 * INTERVAL);
    assert_one_active(&pair, healed);

    // The Active node is not heard, and hears nothing.
    pair.split(0, 1);
    pair.wait_for_within(VIP, &[0, 1], DETECTED);
    thread::sleep(3 * INTERVAL);
    let healed = SystemTime::now();
    pair.heal();
    pair.wait_for_within(VIP, &[0], DETECTED);
    pair.assert_stays(VIP, &[0], 5 * INTERVAL);
    assert_one_active(&pair, healed);
    // Neighbours have learnt that it is there again.
    assert_eq!(pair.claimants(VIP), [0]);

    // The Active node hears nothing, but is heard: nothing happens.
    pair.cut(1, 0);
    pair.assert_stays(VIP, &[0], 10 * INTERVAL);
    pair.heal();

    // Both begin at the same moment.
    for node in &mut pair.nodes {
        node.daemon_mut().stop();
    }
    assert_eq!(pair.holders(VIP), [0_usize; 0]);
    let began = SystemTime::now();
    pair.start(&[&outside(100, ""), &outside(100, "")]);
    pair.nodes[0].wait_for_status("a role", |status| status["role"] != "fault");
    thread::sleep(10 * INTERVAL);
    let holders = pair.holders(VIP);
    assert_eq!(holders.len(), 1);
    pair.assert_stays(VIP, &holders, 5 * INTERVAL);
    assert_one_active(&pair, began);
}

#[test]
fn a_node_that_stood_still_does_not_come_back_as_if_nothing_had_been() {
    if privileged::skipped() {
        return;
    }
    let mut pair = pair("");
    let began = SystemTime::now();
    pair.nodes[0].signal(Signal::SIGSTOP);
    // Its guard notices, before the other node takes over.
    pair.wait_for_within(VIP, &[1], DETECTED);
    pair.assert_stays(VIP, &[1], 10 * INTERVAL);
    pair.nodes[0].signal(Signal::SIGCONT);
    pair.assert_stays(VIP, &[1], 10 * INTERVAL);
    let router = pair.nodes[0].router();
    assert_eq!(router["state"], "backup", "{router:#}");
    assert_eq!(router["active_node"], "203.0.113.22", "{router:#}");
    assert_one_active(&pair, began);

    // As a whole machine that stands still, with its guard.
    let guard = pair.nodes[1].guard();
    pair.nodes[1].signal(Signal::SIGSTOP);
    kill(guard, Signal::SIGSTOP).expect("it runs");
    pair.wait_for_within(VIP, &[0, 1], DETECTED);
    thread::sleep(5 * INTERVAL);
    kill(guard, Signal::SIGCONT).expect("it runs");
    pair.nodes[1].signal(Signal::SIGCONT);
    pair.wait_for_within(VIP, &[0], DETECTED);
    pair.assert_stays(VIP, &[0], 10 * INTERVAL);
    pair.nodes[1].wait_for_state("backup");
    assert_one_active(&pair, began);

    // Who owns the VIP does not step back: its guard has removed the VIP, and sets it again.
    pair.nodes[0].reload(&outside(255, ""));
    pair.nodes[0].wait_for_status("the owner", |status| status["vrrp"][0]["priority"] == 255);
    pair.nodes[0].signal(Signal::SIGSTOP);
    pair.wait_for_within(VIP, &[1], DETECTED);
    pair.nodes[0].signal(Signal::SIGCONT);
    pair.wait_for_within(VIP, &[0], DETECTED);
    pair.assert_stays(VIP, &[0], 10 * INTERVAL);
}

#[test]
fn of_three_nodes_the_one_with_the_next_priority_follows() {
    if privileged::skipped() {
        return;
    }
    let mut pair = Pair::new(3, 0);
    let began = SystemTime::now();
    pair.start_first_active(outside, &[200, 100, 150], "");
    for (dies, follows) in [(0, 2), (2, 1)] {
        pair.assert_stays(VIP, &[dies], 5 * INTERVAL);
        pair.nodes[dies].kill();
        pair.wait_for_within(VIP, &[follows], DETECTED);
    }
    assert_one_active(&pair, began);
}
