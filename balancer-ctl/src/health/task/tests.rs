//! The thread with real probes over the loopback interface.

use std::{
    net::{SocketAddr, TcpListener},
    time::Instant,
};

use super::*;
use crate::{
    health::{CheckState, CheckUpdate},
    model::check::{Check, Exchange, Probe, Source, Target, Timing},
};

fn check_target(target: SocketAddr) -> CheckTarget {
    let interval = Duration::from_millis(50);
    CheckTarget {
        target,
        check: Check {
            probe: Probe::Tcp(Exchange::default()),
            target: Target::default(),
            source: Source::default(),
            timing: Timing {
                interval,
                timeout: interval,
                rise: 2,
                fall: 2,
                ..Timing::default()
            },
        },
    }
}

fn begin(check_target: &CheckTarget, from: Option<CheckState>) -> Vec<CheckStart> {
    vec![CheckStart {
        target: Arc::new(check_target.clone()),
        from,
        name: None,
        paused: false,
    }]
}

fn web() -> ServiceKey {
    crate::model::address::service_key("tcp/192.0.2.80:80").unwrap()
}

fn restored(health: &Health, check_target: &CheckTarget) -> Option<CheckState> {
    let restored = health.restored(check_target, &web(), check_target.target)?;
    Some(restored.check_state)
}

async fn next(updates: &mut Updates) -> CheckUpdate {
    let soon = Duration::from_secs(20);
    let received = tokio::time::timeout(soon, updates.next()).await.unwrap();
    assert_eq!(received.len(), 1);
    received.into_iter().next().unwrap()
}

#[tokio::test]
async fn a_daemon_that_starts_again_continues_from_the_stored_states() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("health.json");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let check_target = check_target(listener.local_addr().unwrap());

    let (mut health, mut updates) = Health::start(Some(file.clone())).unwrap();
    assert_eq!(restored(&health, &check_target), None);
    health.watch(begin(&check_target, None));
    let first = next(&mut updates).await;
    assert_eq!(
        (first.check_state.up, first.check_state.reason.as_str()),
        (true, "connected, first probe")
    );
    drop(health);

    let (mut health, mut updates) = Health::start(Some(file.clone())).unwrap();
    let earlier = restored(&health, &check_target).unwrap();
    let rounded = first.check_state.since.since_boot - earlier.since.since_boot;
    assert!(rounded < Duration::from_millis(1));
    let expected = CheckState {
        since: earlier.since,
        ..first.check_state
    };
    assert_eq!(earlier, expected);
    drop(listener);
    health.watch(begin(&check_target, Some(earlier)));
    assert_eq!(
        restored(&health, &check_target),
        None,
        "it was for the start only"
    );
    let second = next(&mut updates).await;
    assert_eq!(
        (second.check_state.up, second.check_state.reason.as_str()),
        (false, "connection refused, 2 of 2")
    );
    let (reply, answer) = oneshot::channel();
    health.report(reply);
    let states: Vec<String> = answer.await.unwrap()[0]
        .history
        .iter()
        .map(|change| change.state.clone())
        .collect();
    assert_eq!(states, ["down", "up"], "its past goes on too");
    drop(health);

    let (health, _updates) = Health::start(Some(file)).unwrap();
    assert_eq!(
        restored(&health, &check_target).unwrap().reason,
        second.check_state.reason
    );
}

#[tokio::test]
async fn a_clock_that_was_set_changes_no_time_that_has_passed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("health.json");
    let check_target = check_target(
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap(),
    );
    let mut since = Timestamp::now();
    since.since_boot -= Duration::from_secs(10);
    // The clock has been set by a year since then.
    since.time -= Duration::from_secs(31_536_000);
    let earlier = CheckState {
        up: false,
        decided: true,
        reason: "connection refused".to_owned(),
        agent_reply: AgentReply::default(),
        since,
    };
    let (mut health, _updates) = Health::start(Some(file.clone())).unwrap();
    health.watch(begin(&check_target, Some(earlier)));
    let quorum = Quorum {
        holds: false,
        since: Instant::now() - Duration::from_secs(20),
    };
    health.persist(vec![PersistedService {
        key: web(),
        reals: vec![check_target.target],
        quorum: Some(quorum),
    }]);
    let stopped = Instant::now();
    drop(health);
    let (health, _updates) = Health::start(Some(file)).unwrap();
    let close = |found: Instant, wanted: Instant| {
        let apart = found.max(wanted) - found.min(wanted);
        assert!(apart < Duration::from_secs(2), "{apart:?} apart");
    };
    let restored = health
        .restored(&check_target, &web(), check_target.target)
        .unwrap();
    close(restored.since.unwrap(), stopped - Duration::from_secs(10));
    let restored = health.quorum(&web()).unwrap();
    assert!(!restored.holds);
    close(restored.since, quorum.since);
    close(health.last_written().unwrap(), stopped);
}

#[tokio::test]
async fn a_stop_drops_probes_that_run() {
    let (mut health, mut updates) = Health::start(None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut check_target = check_target(listener.local_addr().unwrap());
    check_target.check.probe = Probe::Tcp(Exchange {
        send: Vec::new(),
        expect: Some(crate::model::check::Pattern::new("never").unwrap()),
    });
    check_target.check.timing.interval = Duration::from_secs(100);
    check_target.check.timing.timeout = Duration::from_secs(100);
    health.watch(begin(&check_target, None));
    // The probe is connected, and waits for a server that never speaks.
    let accepted = tokio::task::spawn_blocking(move || listener.accept()).await;
    let _connection = accepted.unwrap().unwrap();
    let began = Instant::now();
    drop(health);
    assert!(began.elapsed() < Duration::from_secs(2));
    // No update came, and none comes any more.
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    assert!(
        std::pin::pin!(updates.next())
            .poll(&mut context)
            .is_pending()
    );
}

#[test]
fn the_limit_of_open_files_limits_the_probes() {
    // 512 files are reserved, and a probe may take 4.
    for (limit, probes) in [
        (0, 4),
        (512, 4),
        (1024, 128),
        (4096, 896),
        (33_279, 8191),
        (33_280, 8192),
        (u64::MAX, 8192),
    ] {
        assert_eq!(probes_within(limit), probes, "{limit} files");
    }
}

#[test]
fn a_thread_that_panicked_is_not_alive() {
    let make = |_: &CheckTarget, _: &AgentReply| -> Result<Prober, String> { panic!("a bug") };
    let (mut health, _updates) = Health::start_with(None, make).unwrap();
    assert!(health.alive());
    health.watch(begin(&check_target(([127, 0, 0, 1], 9).into()), None));
    let deadline = Instant::now() + Duration::from_secs(20);
    while health.alive() && Instant::now() < deadline {
        thread::yield_now();
    }
    assert!(!health.alive());
}

#[test]
fn a_stop_does_not_wait_for_a_thread_that_blocks() {
    let (_open, closes) = channel::<()>();
    let make = move |_: &CheckTarget, _: &AgentReply| -> Result<Prober, String> {
        // For as long as the test runs.
        let _ = closes.recv();
        Err(String::new())
    };
    let (mut health, _updates) = Health::start_with(None, make).unwrap();
    health.watch(begin(&check_target(([127, 0, 0, 1], 9).into()), None));
    let dropped = thread::spawn(move || drop(health));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !dropped.is_finished() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(dropped.is_finished());
}
