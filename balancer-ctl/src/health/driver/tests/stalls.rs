//! Stalls of this process.

use super::*;

#[tokio::test(start_paused = true)]
async fn failures_over_a_stall_of_our_own_do_not_count() {
    let mut scene = scene();
    let mut check_target = check_target(1);
    check_target.check.timing.fall = 1;
    scene.watch(vec![begin(check_target)]);
    assert_eq!(scene.updates().await, own(&[(1, "up: fine, first probe")]));
    scene.world.set(1, Behaviour::Slow(100 * MS));
    let before = scene.world.probed(1).len();
    while scene.world.probed(1).len() == before {
        sleep(10 * MS).await;
    }
    scene.world.set(1, Behaviour::Hang);
    // The running probe passes and the next one hangs. Meanwhile the clock is advanced, as if by a SIGSTOP.
    while scene.world.probed(1).len() == before + 1 {
        sleep(10 * MS).await;
    }
    scene.world.set(1, Behaviour::Pass);
    advance(60 * SECOND).await;
    sleep(5 * SECOND).await;
    assert_eq!(scene.updates().await, [], "it never went down");
    let last = scene.report().await[0].last.clone().unwrap();
    assert!(last.passed);
    // The inconclusive probe was repeated at once.
    let times = &scene.world.probed(1)[before + 1..];
    assert!(times[1] - times[0] < 60 * SECOND + 100 * MS, "{times:?}");
    scene.world.set(1, Behaviour::Hang);
    sleep(5 * SECOND).await;
    assert_eq!(
        scene.updates().await,
        own(&[(1, "down: no answer within 500ms, 1 of 1")]),
        "without a stall it counts"
    );
}

/// Returns the history of a target that once does not answer, while the driver is delayed by `time` at the given one of its
/// next readings of the clock. Probes of another target run beside it.
async fn held_up(reading: usize, time: Duration) -> Vec<String> {
    let mut scene = scene();
    let mut hung = check_target(1);
    hung.check.timing.fall = 1;
    let mut other = check_target(2);
    other.check.timing.interval = 50 * MS;
    other.check.timing.timeout = 50 * MS;
    scene.watch(vec![begin(hung), begin(other)]);
    assert_eq!(scene.updates().await.len(), 2);
    scene.world.set(1, Behaviour::Hang);
    while scene.world.running.load(Ordering::SeqCst) == 0 {
        sleep(MS).await;
    }
    scene.world.set(1, Behaviour::Pass);
    let mut delays = vec![Duration::ZERO; reading];
    delays.push(time);
    *scene.world.delays.lock().unwrap() = delays.into();
    sleep(2 * SECOND).await;
    assert_eq!(scene.world.delays.lock().unwrap().len(), 0);
    // Up again by then, if it went down.
    sleep(3 * SECOND).await;
    let changes = scene.report().await.remove(0).history.into_iter();
    changes
        .map(|change| format!("{}: {}", change.state, change.reason))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn failures_over_work_that_was_held_up_do_not_count() {
    for reading in 0..20 {
        assert_eq!(
            held_up(reading, 600 * MS).await,
            ["up: fine, first probe"],
            "reading {reading}"
        );
        assert_eq!(
            held_up(reading, 5 * MS).await,
            [
                "up: fine, 2 of 2",
                "down: no answer within 500ms, 1 of 1",
                "up: fine, first probe"
            ],
            "reading {reading}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_never_runs_well_sees_dead_servers_all_the_same() {
    let mut scene = scene();
    scene.watch_ports([1, 2]);
    assert_eq!(scene.updates().await.len(), 2);
    scene.world.set(1, Behaviour::Hang);
    *scene.world.delays.lock().unwrap() = vec![200 * MS; 100_000].into();
    sleep(60 * SECOND).await;
    assert_eq!(
        scene.updates().await,
        own(&[(1, "down: no answer within 500ms, 2 of 2")])
    );
}

#[tokio::test(start_paused = true)]
async fn a_pass_over_a_stall_counts() {
    let mut scene = scene();
    scene.world.set(1, Behaviour::Slow(300 * MS));
    scene.watch_ports([1]);
    sleep(100 * MS).await;
    advance(250 * MS).await;
    assert_eq!(scene.updates().await, own(&[(1, "up: fine, first probe")]));
}
