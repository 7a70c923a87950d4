//! What an operator says, and what the configuration file says about taking over.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use balancer_tests::{
    advertisements::contest,
    pair::{Pair, SOON, VIP},
    privileged,
};

use crate::{outside, refused};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_node_gives_up_on_purpose_if_another_takes_over() {
    if privileged::skipped() {
        return;
    }
    let mut pair = Pair::new(2, 0);
    let began = SystemTime::now();
    pair.start_first_active(outside, &[200, 100], "failback = \"immediate\"");
    let said = refused(&pair, 1, "failover");
    assert!(said.contains("this node is not Active"), "{said}");
    // To and fro; who gave up does not take the VIP back.
    for (from, to) in [(0, 1), (1, 0), (0, 1)] {
        let said = pair.nodes[from].daemon().ctl("failover");
        let sentence = format!(
            "outside: gave up on purpose, {} took over",
            pair.nodes[to].address()
        );
        assert!(said.contains(&sentence), "{said}");
        pair.wait_for_within(VIP, &[to], SECOND);
        pair.assert_stays(VIP, &[to], SECOND);
    }
    let gap = contest(&pair.recorder.since(began));
    assert!(gap <= Duration::from_millis(150), "{gap:?}");

    // Nobody is there to take over.
    pair.nodes[0].daemon_mut().stop();
    let said = refused(&pair, 1, "failover");
    assert!(
        said.contains("no other node took over, so this node keeps the VIPs (outside: gave up on purpose, and no other node took over)"),
        "{said}"
    );
    pair.assert_stays(VIP, &[1], SECOND);
    let status = pair.nodes[1].daemon().json("status");
    assert_eq!(status["role"], "active", "{status:#}");
}

#[test]
fn a_node_in_maintenance_stays_away_until_it_is_ready() {
    if privileged::skipped() {
        return;
    }
    let mut pair = Pair::new(2, 0);
    pair.start_first_active(outside, &[200, 100], "failback = \"immediate\"");
    let said = pair.nodes[0].daemon().ctl("node maintenance");
    // It has waited for the other node.
    assert!(
        said.contains(&format!("{} took over", pair.nodes[1].address())),
        "{said}"
    );
    assert_eq!(pair.holders(VIP), [1]);
    pair.nodes[0].wait_for_reason(
        "this node is in maintenance and will not be Active: `balancer-ctl node ready` ends that",
    );
    pair.assert_stays(VIP, &[1], SECOND);
    // Also when it starts again, and when there is nobody else.
    pair.nodes[0].daemon_mut().stop();
    pair.nodes[0].daemon_mut().restart();
    pair.nodes[1].kill();
    pair.wait_for_within(VIP, &[], SECOND);
    pair.assert_stays(VIP, &[], SECOND);
    let router = pair.nodes[0].router();
    assert_eq!(
        router["reason"], "this node is in maintenance",
        "{router:#}"
    );
    pair.nodes[0].daemon().ctl("node ready");
    pair.wait_for_within(VIP, &[0], 2 * SECOND);
    pair.nodes[1].daemon_mut().restart();
    // Ready survives, too.
    pair.nodes[0].kill();
    pair.wait_for_within(VIP, &[1], 2 * SECOND);
    pair.nodes[0].daemon_mut().restart();
    pair.wait_for_within(VIP, &[0], SOON);
    // The last node goes into maintenance only by force: nobody has the VIP then.
    pair.nodes[1].daemon_mut().stop();
    let said = refused(&pair, 0, "node maintenance");
    assert!(
        said.starts_with("error: no other node took over, so this node keeps the VIPs"),
        "{said}"
    );
    assert_eq!(pair.holders(VIP), [0]);
    pair.nodes[0].daemon().ctl("node maintenance --force");
    pair.wait_for_within(VIP, &[], 2 * SECOND);
    pair.nodes[0].wait_for_reason("no node is Active for outside: nobody answers for the VIPs");
    pair.nodes[0].wait_for_status("no node", |status| status["overall"] == "down");
}

#[test]
fn a_node_takes_the_vip_back_as_configured_and_follows_a_reload() {
    if privileged::skipped() {
        return;
    }
    let mut pair = Pair::new(2, 0);
    // After a time.
    let after = "failback = \"after 2s\"";
    pair.start_first_active(outside, &[200, 100], after);
    pair.nodes[0].kill();
    pair.wait_for_within(VIP, &[1], 2 * SECOND);
    let starts = std::time::Instant::now();
    pair.nodes[0].daemon_mut().restart();
    pair.wait_for(VIP, &[0]);
    let took = starts.elapsed();
    assert!(took >= 2 * SECOND, "{took:?}");
    // Once it is stable, which takes a minute.
    for (node, priority) in pair.nodes.iter().zip([200, 100]) {
        node.reload(&outside(priority, "failback = \"when-stable\""));
    }
    pair.nodes[0].daemon().ctl("failover");
    pair.nodes[0].daemon_mut().stop();
    pair.nodes[0].daemon_mut().restart();
    pair.assert_stays(VIP, &[1], 3 * SECOND);

    // The priority changes while it runs.
    let immediate = "failback = \"immediate\"";
    for (node, priority) in pair.nodes.iter().zip([200, 100]) {
        node.reload(&outside(priority, immediate));
    }
    pair.wait_for_within(VIP, &[0], 2 * SECOND);
    pair.nodes[0].reload(&outside(50, immediate));
    pair.wait_for_within(VIP, &[1], 2 * SECOND);
    pair.nodes[0].reload(&outside(200, immediate));
    pair.wait_for_within(VIP, &[0], 2 * SECOND);

    // Another VIP while it is Active; the other node hears of it.
    let second = "203.0.113.81";
    let with_second = |priority| {
        let addresses = format!("\"203.0.113.80/24\", \"{second}/24\"");
        outside(priority, immediate).replace("\"203.0.113.80/24\"", &addresses)
    };
    pair.nodes[0].reload(&with_second(200));
    pair.wait_for_within(second, &[0], SECOND);
    pair.nodes[1].wait_for_reason(
        "203.0.113.21 advertises other addresses for outside (203.0.113.80, 203.0.113.81) than this node has (203.0.113.80): give \
         all nodes the same addresses in the same order",
    );
    assert_eq!(pair.claimants(second), [0]);
    pair.nodes[1].reload(&with_second(100));
    pair.nodes[1].wait_for_status("agreement", |status| status["overall"] == "running");
    // It goes again; the first VIP stays all the while.
    pair.nodes[0].reload(&outside(200, immediate));
    pair.wait_for_within(second, &[], SECOND);
    assert_eq!(pair.holders(VIP), [0]);

    // No virtual router is left here.
    pair.nodes[0].reload("");
    pair.wait_for_within(VIP, &[1], SECOND);
    let status = pair.nodes[0].daemon().json("status");
    assert_eq!(status["role"], "standalone", "{status:#}");
    thread::sleep(SECOND / 2);
    pair.nodes[0].reload(&outside(200, immediate));
    pair.wait_for_within(VIP, &[0], 2 * SECOND);
}
