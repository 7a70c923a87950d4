//! Probes that this host cannot make.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_probe_that_cannot_be_made_counts_for_nothing_and_is_tried_again() {
    let mut scene = scene();
    scene.world.set(1, Behaviour::NotMade);
    // One was up when an earlier daemon ended, the other was never probed.
    scene.world.set(2, Behaviour::NotMade);
    let earlier = CheckState {
        up: true,
        decided: true,
        reason: "fine, 2 of 2".to_owned(),
        agent_reply: AgentReply::default(),
        since: crate::health::UNKNOWN_TIME,
    };
    let mut first = begin(check_target(1));
    first.from = Some(earlier);
    scene.watch(vec![first, begin(check_target(2))]);
    sleep(10 * SECOND).await;
    assert_eq!(scene.updates().await, []);
    let shown = |report: Vec<view::Checker>| -> Vec<_> {
        let shown = report.into_iter();
        shown
            .map(|checker| (checker.state, checker.obstacle))
            .collect()
    };
    let obstacle = Some("/etc/ca.pem: no such file".to_owned());
    assert_eq!(
        shown(scene.report().await),
        [
            ("up".to_owned(), obstacle.clone()),
            ("unknown".to_owned(), obstacle)
        ]
    );
    let obstacles = [1, 2].map(|port| {
        format!(
            "check tcp of {} cannot be made and counts for nothing: /etc/ca.pem: no such file",
            address(port)
        )
    });
    assert_eq!(scene.updates.0.obstacles(), obstacles);
    scene.world.set(1, Behaviour::Pass);
    scene.world.set(2, Behaviour::Pass);
    sleep(3 * SECOND).await;
    assert_eq!(scene.updates.0.obstacles(), [""; 0]);
    assert_eq!(scene.updates().await, own(&[(2, "up: fine, first probe")]));
    let up = ("up".to_owned(), None);
    assert_eq!(shown(scene.report().await), [up.clone(), up]);
}

#[tokio::test(start_paused = true)]
async fn certificates_are_read_again_after_a_reload() {
    let mut scene = scene();
    let mut with_file = check_target(1);
    with_file.check.probe = Probe::Http(Box::new(HttpProbe {
        tls: Some(Tls {
            ca: Some("/etc/ca.pem".into()),
            ..Tls::default()
        }),
        ..HttpProbe::default()
    }));
    let reload =
        |scene: &Scene| scene.watch(vec![begin(with_file.clone()), begin(check_target(2))]);
    let made = |scene: &Scene| scene.world.probers_made.load(Ordering::SeqCst);
    reload(&scene);
    sleep(5 * SECOND).await;
    assert_eq!(scene.updates().await.len(), 2);
    assert_eq!(made(&scene), 2);
    reload(&scene);
    sleep(5 * SECOND).await;
    assert_eq!(made(&scene), 3, "the one with files, once");
    // A file that was removed does not stop a check that has read it.
    scene.world.set(1, Behaviour::NotRemade);
    reload(&scene);
    sleep(5 * SECOND).await;
    let times = scene.world.probed(1).len();
    assert!(times >= 14, "{times}");
    assert_eq!(made(&scene), 3);
    scene.world.set(1, Behaviour::Pass);
    sleep(5 * SECOND).await;
    assert_eq!(made(&scene), 4);
    assert_eq!(scene.updates().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_has_failed_and_the_others_go_on() {
    let mut scene = scene();
    scene.world.set(1, Behaviour::Panic);
    scene.watch_ports([1, 2]);
    assert_eq!(
        scene.updates().await,
        own(&[
            (1, "down: the probe panicked, see the log, first probe"),
            (2, "up: fine, first probe")
        ])
    );
    scene.world.set(1, Behaviour::Pass);
    sleep(3 * SECOND).await;
    assert_eq!(scene.updates().await, own(&[(1, "up: fine, 2 of 2")]));
}

#[tokio::test(start_paused = true)]
async fn a_lack_of_this_host_changes_no_state() {
    let mut scene = scene();
    scene.watch_ports([1]);
    scene.updates().await;
    scene.world.set(1, Behaviour::Obstacle);
    sleep(20 * SECOND).await;
    assert_eq!(scene.updates().await, []);
    let times = scene.world.probed(1).len();
    assert!((19..=23).contains(&times), "{times}: as often as ever");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_was_not_sent_counts_for_nothing_at_its_timeout() {
    let mut scene = scene();
    scene.watch_ports([1]);
    scene.updates().await;
    scene.world.set(1, Behaviour::Unsent);
    sleep(20 * SECOND).await;
    assert_eq!(scene.updates().await, []);
    let sentence = format!(
        "check tcp of {} cannot be made and counts for nothing: full",
        address(1)
    );
    assert_eq!(scene.updates.0.obstacles(), [sentence]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_check_has_no_obstacle() {
    let mut scene = scene();
    scene.world.set(1, Behaviour::Obstacle);
    scene.watch_ports([1]);
    assert_eq!(scene.updates().await, []);
    assert_eq!(scene.updates.0.obstacles().len(), 1);
    scene.watch_ports([]);
    assert_eq!(scene.updates().await, []);
    assert_eq!(scene.updates.0.obstacles(), [""; 0]);
}
