//! keepalived as the other node.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use balancer_tests::{
    advertisements::{Seen, contest},
    keepalived::Keepalived,
    pair::{Pair, SOON, VIP, VIP6},
    privileged,
    topology::OUTSIDE,
};

use crate::outside_at;

/// Tells whether the running test is to be skipped, and says so.
fn skipped() -> bool {
    if privileged::skipped() {
        return true;
    }
    let is_missing = !Keepalived::is_installed();
    if is_missing {
        privileged::skip("not installed: keepalived");
    }
    is_missing
}

/// The same virtual router on both nodes.
struct Scene {
    vip: &'static str,
    length: u8,
    interval: Duration,
    /// Added to ours, and to keepalived's.
    more: [&'static str; 2],
}

impl Scene {
    fn ours(&self, priority: u8, more: &str) -> String {
        let interval = format!("{}ms", self.interval.as_millis());
        let more = format!("{}\n{more}", self.more[0]);
        outside_at(priority, &interval, &more)
            .replace("203.0.113.80/24", &format!("{}/{}", self.vip, self.length))
    }

    fn theirs(&self, priority: u8, more: &str) -> String {
        format!(
            "state BACKUP\ninterface {OUTSIDE}\nvirtual_router_id 51\npriority {priority}\nadvert_int {}\n\
             virtual_ipaddress {{\n{}/{} dev {OUTSIDE}\n}}\n{}\n{more}",
            self.interval.as_secs_f64(),
            self.vip,
            self.length,
            self.more[1],
        )
    }

    /// A node that hears nothing takes over within this, on a busy machine.
    fn detected(&self) -> Duration {
        4 * self.interval + Duration::from_secs(2)
    }

    /// A node that hears priority 0 takes over within a skew, which is less than an interval; on a busy machine.
    fn relieved(&self) -> Duration {
        self.interval + Duration::from_millis(500)
    }
}

/// Takes the VIP from one to the other and back, in all ways.
fn take_over(scene: &Scene) {
    let mut pair = Pair::new(2, 0);
    let vip = scene.vip;
    pair.nodes[0].start(&scene.ours(200, "failback = \"immediate\""));
    pair.wait_for(vip, &[0]);
    let began = SystemTime::now();
    pair.nodes[1].start_keepalived(&scene.theirs(100, ""));
    pair.assert_stays(vip, &[0], 5 * scene.interval + Duration::from_millis(500));

    // Ours gives up on purpose. It wants the VIP back as long as it hears nobody else, but not from whom it was given to.
    pair.nodes[0].daemon().ctl("failover");
    pair.wait_for_within(vip, &[1], scene.relieved());
    pair.assert_stays(vip, &[1], 5 * scene.interval);
    let router = pair.nodes[0].router();
    assert_eq!(router["state"], "backup", "{router:#}");
    assert!(!router["active_node"].is_null(), "{router:#}");

    // keepalived is stopped: it sends priority 0.
    pair.nodes[1].keepalived = None;
    pair.wait_for_within(vip, &[0], scene.relieved());

    // keepalived of higher priority takes over from ours, or does not.
    pair.nodes[1].start_keepalived(&scene.theirs(250, "nopreempt"));
    pair.assert_stays(vip, &[0], 5 * scene.interval + Duration::from_millis(500));
    pair.nodes[1].start_keepalived(&scene.theirs(250, ""));
    pair.wait_for(vip, &[1]);
    let router = pair.nodes[0].wait_for_state("backup");
    assert_eq!(
        router["vrrp"][0]["refused"]
            .as_object()
            .map(serde_json::Map::len),
        Some(0)
    );

    // keepalived is killed: it leaves its VIP behind, which its next run removes at its end.
    let peer = pair.nodes[1].keepalived.take().expect("it runs");
    peer.kill();
    pair.wait_for_within(vip, &[0, 1], scene.detected());
    pair.nodes[1].start_keepalived(&scene.theirs(100, ""));
    pair.wait_for(vip, &[0]);

    // Ours is killed: its guard sends priority 0.
    pair.nodes[0].kill();
    pair.wait_for_within(vip, &[1], scene.relieved());
    // It comes back, and takes the VIP back.
    pair.nodes[0].daemon_mut().restart();
    pair.wait_for(vip, &[0]);

    // Its cable is out, and in again.
    pair.plug(0, OUTSIDE, false);
    pair.wait_for_within(vip, &[1], scene.detected());
    pair.plug(0, OUTSIDE, true);
    pair.wait_for(vip, &[0]);

    // keepalived does not yield to ours without failback.
    pair.nodes[0].daemon_mut().stop();
    assert!(pair.holders(vip).ends_with(&[1]));
    pair.wait_for_within(vip, &[1], SOON);
    let config = scene.ours(200, "");
    pair.nodes[0].start(&config);
    pair.assert_stays(vip, &[1], 5 * scene.interval + Duration::from_millis(200));

    let seen = pair.recorder.since(began);
    let contest = contest(&seen);
    let limit = scene.interval * 3 / 2 + Duration::from_millis(20);
    assert!(contest <= limit, "{contest:?}: {seen:#?}");
    let is_unicast = scene.more[0].contains("unicast");
    let is_to_all = |one: &Seen| one.destination.is_multicast();
    assert!(seen.iter().all(|one| is_to_all(one) != is_unicast));
}

#[test]
fn ours_and_keepalived_take_over_from_each_other_over_ipv4() {
    if skipped() {
        return;
    }
    take_over(&Scene {
        vip: VIP,
        length: 24,
        interval: Duration::from_millis(100),
        more: ["", ""],
    });
}

#[test]
fn ours_and_keepalived_take_over_from_each_other_over_ipv6() {
    if skipped() {
        return;
    }
    take_over(&Scene {
        vip: VIP6,
        length: 64,
        interval: Duration::from_millis(100),
        more: ["", ""],
    });
}

#[test]
fn ours_and_keepalived_take_over_from_each_other_by_unicast() {
    if skipped() {
        return;
    }
    take_over(&Scene {
        vip: VIP,
        length: 24,
        interval: Duration::from_millis(100),
        more: [
            "unicast-peers = [\"203.0.113.22\"]",
            "unicast_src_ip 203.0.113.22\nunicast_peer {\n203.0.113.21\n}",
        ],
    });
}

#[test]
fn ours_and_keepalived_understand_each_other_at_the_longest_and_shortest_usual_intervals() {
    if skipped() {
        return;
    }
    let mut pair = Pair::new(2, 0);
    for interval in [10, 1000].map(Duration::from_millis) {
        let scene = Scene {
            vip: VIP,
            length: 24,
            interval,
            more: ["", ""],
        };
        pair.nodes[0].start(&scene.ours(200, "failback = \"immediate\""));
        pair.wait_for(VIP, &[0]);
        pair.nodes[1].start_keepalived(&scene.theirs(100, ""));
        if interval < Duration::from_millis(100) {
            // The machine itself may stall for three intervals: the node notices, steps back and returns.
            thread::sleep(Duration::from_secs(1));
            pair.wait_for(VIP, &[0]);
        } else {
            pair.assert_stays(VIP, &[0], Duration::from_secs(1) + 4 * interval);
        }
        pair.nodes[0].kill();
        pair.wait_for_within(VIP, &[1], scene.relieved());
        pair.nodes[0].daemon_mut().restart();
        pair.wait_for(VIP, &[0]);
        pair.nodes[0].daemon().ctl("failover");
        pair.wait_for_within(VIP, &[1], scene.relieved());
        pair.nodes[1].keepalived = None;
        pair.wait_for_within(VIP, &[0], scene.relieved());
    }
}
