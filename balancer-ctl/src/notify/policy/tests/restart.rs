//! Conditions that lasted when the daemon was restarted.

use super::*;

#[test]
fn reports_due_before_a_restart_are_not_repeated_and_those_due_meanwhile_are_made() {
    // The condition began 2500 ms before the restart, which is at 10000.
    let quick = health(0, None, false);
    let often = health(300, Some(1000), false);
    let slow = health(3000, None, false);
    let mut only_up = health(1000, Some(100), false);
    only_up.on = vec![EventKind::RealUp];
    let reported = |until: u64, ends: u64| {
        let mut scene = Scene::new(&[quick.clone(), often.clone(), slow.clone(), only_up.clone()]);
        scene.now = 7500;
        let event = scene.event(EventKind::RealDown, WEB, "10.0.0.2:80");
        let at = |time| scene.zero + ms(time);
        scene.policy.assume(&event, at(7500), at(until));
        scene.now = 10_000;
        let notifications = scene.policy.expire(at(10_000));
        scene.note(notifications);
        scene.wait_until(ends);
        scene.up(ends);
        scene.reported
    };
    // The earlier daemon ran until the new one started.
    assert_eq!(
        reported(10_000, 10_100),
        [
            "10100: #0 real-up 10.0.0.2:80 at 10100",
            "10100: #1 real-up 10.0.0.2:80 at 10100",
            "10100: #3 real-up 10.0.0.2:80 at 10100",
        ]
    );
    assert_eq!(
        reported(10_000, 12_000),
        [
            // Reported at 7800, 8800 and 9800 before.
            "10500: #2 real-down 10.0.0.2:80 at 7500",
            "10800: #1 real-down 10.0.0.2:80 at 7500 again 3",
            "11800: #1 real-down 10.0.0.2:80 at 7500 again 4",
            "12000: #0 real-up 10.0.0.2:80 at 12000",
            "12000: #1 real-up 10.0.0.2:80 at 12000",
            "12000: #2 real-up 10.0.0.2:80 at 12000",
            "12000: #3 real-up 10.0.0.2:80 at 12000",
        ]
    );
    // It stopped at 7700, when only the first entry had reported.
    assert_eq!(
        reported(7700, 10_400),
        [
            "10000: #1 real-down 10.0.0.2:80 at 7500",
            "10400: #0 real-up 10.0.0.2:80 at 10400",
            "10400: #1 real-up 10.0.0.2:80 at 10400",
            "10400: #3 real-up 10.0.0.2:80 at 10400",
        ]
    );
}

#[test]
fn a_restart_within_alert_after_neither_loses_a_condition_nor_reports_a_false_end() {
    for (ends, reported) in [
        (500, &[][..]),
        (
            1500,
            &[
                "1000: #0 real-down 10.0.0.2:80 at 0",
                "1500: #0 real-up 10.0.0.2:80 at 1500",
            ],
        ),
    ] {
        let mut scene = Scene::new(&[health(1000, None, false)]);
        let event = scene.event(EventKind::RealDown, WEB, "10.0.0.2:80");
        scene
            .policy
            .assume(&event, scene.zero, scene.zero + ms(400));
        scene.wait_until(ends);
        scene.up(ends);
        scene.expect(reported);
    }
}

#[test]
fn a_condition_that_began_after_the_restart_counts_from_then() {
    let mut scene = Scene::new(&[health(1000, Some(1000), false)]);
    let event = scene.event(EventKind::RealDown, WEB, "10.0.0.2:80");
    scene.policy.assume(&event, scene.zero + ms(50), scene.zero);
    scene.wait_until(1100);
    scene.expect(&["1050: #0 real-down 10.0.0.2:80 at 0"]);
}
