//! When probes start, and how many run at once.

use super::*;

#[tokio::test(start_paused = true)]
async fn probes_that_are_due_close_to_one_another_start_together() {
    for (interval, together) in [(2000, 40), (400, 20)] {
        let scene = scene();
        let ports = 1..=interval;
        let checks = ports.clone().map(|port| {
            // Results between the starts start no probes.
            scene
                .world
                .set(port, Behaviour::Slow(MS * u32::from(port % 4)));
            let mut check_target = check_target(port);
            check_target.check.timing.interval = MS * u32::from(interval);
            check_target.check.timing.timeout = 100 * MS;
            begin(check_target)
        });
        scene.watch(checks.collect());
        sleep(10 * SECOND).await;
        let settled = Instant::now();
        sleep(5 * SECOND).await;
        let settled = |port: u16| {
            let mut times = scene.world.probed(port);
            times.retain(|at| *at > settled);
            times
        };
        let mut starts: Vec<Instant> = ports.clone().flat_map(settled).collect();
        starts.sort();
        starts.dedup();
        for pair in starts.windows(2) {
            let between = pair[1] - pair[0];
            assert!(
                (together * MS..together * MS + 2 * MS).contains(&between),
                "{between:?}"
            );
        }
        for port in ports {
            for pair in settled(port).windows(2) {
                let late = (pair[1] - pair[0]).saturating_sub(MS * u32::from(interval));
                assert!(late <= together * MS + MS, "{port}: {late:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn while_results_disagree_the_fast_interval_applies() {
    let mut scene = scene();
    let mut check_target = check_target(1);
    check_target.check.timing.interval = 10 * SECOND;
    check_target.check.timing.fast_interval = Some(SECOND);
    check_target.check.timing.fall = 4;
    scene.watch(vec![begin(check_target)]);
    scene.updates().await;
    scene.world.set(1, Behaviour::Fail);
    sleep(15 * SECOND).await;
    assert_eq!(scene.updates().await, own(&[(1, "down: refused, 4 of 4")]));
    let times = scene.world.probed(1);
    let gaps: Vec<u128> = times
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_millis() / 100)
        .collect();
    assert_eq!(gaps, [100, 10, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn at_most_max_probes_run_and_all_targets_are_probed() {
    let mut scene = scene_with_room(10);
    for port in 1..=50 {
        scene.world.set(port, Behaviour::Slow(400 * MS));
    }
    scene.watch_ports(1..=50);
    sleep(10 * SECOND).await;
    assert_eq!(scene.world.max_running.load(Ordering::SeqCst), 10);
    assert_eq!(scene.updates().await.len(), 50);
    for port in 1..=50 {
        let times = scene.world.probed(port).len();
        assert!((3..=7).contains(&times), "{port} was probed {times} times");
    }
}
