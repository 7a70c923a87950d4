//! On tokio's paused clock, with targets that answer as they are told. Not here: threads, sockets, the state file.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    pin::pin,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::SystemTime,
};

use tokio::time::{advance, sleep, timeout};

use super::*;
use crate::{
    health::{CheckState, Updates},
    model::check::{Check, Exchange, HttpProbe, Probe, Source, Target, Timing, Tls},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// How a target answers.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Pass,
    Fail,
    /// Never.
    Hang,
    /// Passes after so long.
    Slow(Duration),
    /// The host lacks something.
    Lack,
    /// The probe cannot be made.
    Unmade,
    /// The probe cannot be made, but one that was passes.
    Kept,
    /// The probe panics.
    Panic,
}

/// All targets, as the fake probes see them.
#[derive(Default)]
struct World {
    manners: Mutex<HashMap<SocketAddr, Manner>>,
    asked: Mutex<HashMap<SocketAddr, Vec<Instant>>>,
    running: AtomicUsize,
    most: AtomicUsize,
    /// Probes made.
    made: AtomicUsize,
    /// How long the loop is held up at each of its next readings of the clock.
    delays: Mutex<VecDeque<Duration>>,
}

impl World {
    /// Reads the clock, and holds its reader up.
    fn read_clock(&self, start: Instant) -> Timestamp {
        let delay = self.delays.lock().unwrap().pop_front();
        // The clock leaps at the first poll.
        let _ =
            pin!(advance(delay.unwrap_or_default())).poll(&mut Context::from_waker(Waker::noop()));
        Timestamp {
            time: SystemTime::UNIX_EPOCH + start.elapsed(),
            since_boot: start.elapsed(),
        }
    }

    fn set(&self, port: u16, manner: Manner) {
        self.manners.lock().unwrap().insert(address(port), manner);
    }

    fn manner(&self, target: SocketAddr) -> Manner {
        let manners = self.manners.lock().unwrap();
        manners.get(&target).copied().unwrap_or(Manner::Pass)
    }

    /// When a target was asked.
    fn asked(&self, port: u16) -> Vec<Instant> {
        let asked = self.asked.lock().unwrap();
        asked.get(&address(port)).cloned().unwrap_or_default()
    }
}

struct Fake {
    world: Arc<World>,
    target: SocketAddr,
}

/// Counts those that run, dropped ones too.
struct Running<'a>(&'a World);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Probing for Fake {
    async fn probe(&self) -> Answer {
        let world = &*self.world;
        let running = world.running.fetch_add(1, Ordering::SeqCst) + 1;
        world.most.fetch_max(running, Ordering::SeqCst);
        let _running = Running(world);
        world
            .asked
            .lock()
            .unwrap()
            .entry(self.target)
            .or_default()
            .push(Instant::now());
        let pass = Answer::Pass {
            note: "fine".to_owned(),
            advice: AgentReply::default(),
        };
        match world.manner(self.target) {
            Manner::Pass | Manner::Kept => pass,
            Manner::Fail => Answer::Fail {
                reason: "refused".to_owned(),
            },
            Manner::Hang => std::future::pending().await,
            Manner::Slow(time) => {
                sleep(time).await;
                pass
            }
            Manner::Lack => Answer::Void {
                reason: "too many open files".to_owned(),
            },
            Manner::Panic => panic!("a probe that panics on purpose"),
            Manner::Unmade => unreachable!("it was not made"),
        }
    }
}

struct Scene {
    world: Arc<World>,
    commands: mpsc::UnboundedSender<Command>,
    updates: Updates,
    driver: tokio::task::JoinHandle<()>,
}

fn scene() -> Scene {
    scene_with_room(1000)
}

fn scene_with_room(room: usize) -> Scene {
    let world = Arc::new(World::default());
    let mailbox = Arc::new(Mailbox::default());
    let (commands, receiver) = mpsc::unbounded_channel();
    let (start, made, read) = (Instant::now(), world.clone(), world.clone());
    let around = DriverContext {
        make: move |watched: &CheckTarget, _: &AgentReply| match made.manner(watched.target) {
            Manner::Unmade | Manner::Kept => Err("/etc/ca.pem: no such file".to_owned()),
            _ => {
                made.made.fetch_add(1, Ordering::SeqCst);
                Ok(Fake {
                    world: made.clone(),
                    target: watched.target,
                })
            }
        },
        clock: Box::new(move || read.read_clock(start)),
        mailbox: mailbox.clone(),
        memory: None,
        room,
    };
    Scene {
        world,
        commands,
        updates: Updates(mailbox),
        driver: tokio::spawn(Driver::new(around).run(receiver)),
    }
}

impl Scene {
    fn watch(&self, wanted: Vec<CheckStart>) {
        let wanted = wanted.into_iter().map(|begin| (begin, Vec::new()));
        self.commands
            .send(Command::Watch(wanted.collect()))
            .unwrap();
    }

    /// Watches these ports.
    fn watch_ports(&self, ports: impl IntoIterator<Item = u16>) {
        self.watch(ports.into_iter().map(|port| begin(watched(port))).collect());
    }

    /// What is new by port, as `up: reason` or `down: reason`; empty if nothing is within 100 ms.
    async fn news(&mut self) -> Vec<(u16, String)> {
        let updates = timeout(100 * MS, self.updates.next()).await;
        let mut news: Vec<(u16, String)> = updates
            .unwrap_or_default()
            .into_iter()
            .map(|update| (update.watched.target.port(), words(&update.standing)))
            .collect();
        news.sort();
        news
    }

    async fn report(&self) -> Vec<view::Checker> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Report(reply)).unwrap();
        answer.await.unwrap()
    }
}

fn words(standing: &CheckState) -> String {
    format!(
        "{}: {}",
        if standing.up { "up" } else { "down" },
        standing.reason
    )
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 168, 0, 2], port))
}

/// Asked every second, for half a second at most; 2 decide either way.
fn watched(port: u16) -> CheckTarget {
    CheckTarget {
        target: address(port),
        check: Check {
            probe: Probe::Tcp(Exchange::default()),
            target: Target::default(),
            source: Source::default(),
            timing: Timing {
                interval: SECOND,
                timeout: 500 * MS,
                rise: 2,
                fall: 2,
                ..Timing::default()
            },
        },
    }
}

fn begin(watched: CheckTarget) -> CheckStart {
    CheckStart {
        watched,
        from: None,
    }
}

fn own(news: &[(u16, &str)]) -> Vec<(u16, String)> {
    news.iter()
        .map(|(port, words)| (*port, (*words).to_owned()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_daemon_is_told_of_each_turn_and_of_nothing_else() {
    let mut scene = scene();
    scene.world.set(2, Manner::Fail);
    scene.watch_ports([1, 2]);
    assert_eq!(
        scene.news().await,
        own(&[
            (1, "up: fine, first probe"),
            (2, "down: refused, first probe")
        ])
    );
    sleep(5 * SECOND).await;
    assert_eq!(scene.news().await, []);
    scene.world.set(1, Manner::Fail);
    scene.world.set(2, Manner::Pass);
    sleep(3 * SECOND).await;
    assert_eq!(
        scene.news().await,
        own(&[(1, "down: refused, 2 of 2"), (2, "up: fine, 2 of 2")])
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_down_and_delays_nobody() {
    let mut scene = scene();
    for port in 1..=20 {
        scene.world.set(port, Manner::Hang);
    }
    scene.watch_ports(1..=40);
    sleep(10 * SECOND).await;
    let news = scene.news().await;
    assert_eq!(news.len(), 40);
    for (port, words) in news {
        let expected = if port <= 20 {
            "down: no answer within 500ms, first probe"
        } else {
            "up: fine, first probe"
        };
        assert_eq!(words, expected, "{port}");
    }
    for port in 21..=40 {
        let asked = scene.world.asked(port);
        for pair in asked.windows(2) {
            let most = SECOND + COALESCE_WINDOW + 2 * MS;
            assert!(pair[1] - pair[0] <= most, "{port}: {asked:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn probes_that_are_due_close_to_one_another_start_together() {
    for (interval, together) in [(2000, 40), (400, 20)] {
        let scene = scene();
        let ports = 1..=interval;
        let checks = ports.clone().map(|port| {
            // Answers in between start nothing.
            scene
                .world
                .set(port, Manner::Slow(MS * u32::from(port % 4)));
            let mut watched = watched(port);
            watched.check.timing.interval = MS * u32::from(interval);
            watched.check.timing.timeout = 100 * MS;
            begin(watched)
        });
        scene.watch(checks.collect());
        sleep(10 * SECOND).await;
        let settled = Instant::now();
        sleep(5 * SECOND).await;
        let settled = |port: u16| {
            let mut asked = scene.world.asked(port);
            asked.retain(|at| *at > settled);
            asked
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
async fn a_flapping_server_is_told_once() {
    let mut scene = scene();
    scene.watch_ports([1]);
    assert_eq!(scene.news().await.len(), 1);
    for round in 0..40 {
        let manner = if round % 2 == 0 {
            Manner::Fail
        } else {
            Manner::Pass
        };
        scene.world.set(1, manner);
        let before = scene.world.asked(1).len();
        while scene.world.asked(1).len() == before {
            sleep(50 * MS).await;
        }
        assert_eq!(scene.news().await, [], "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_results_disagree_it_is_asked_at_the_fast_interval() {
    let mut scene = scene();
    let mut watched = watched(1);
    watched.check.timing.interval = 10 * SECOND;
    watched.check.timing.fast_interval = Some(SECOND);
    watched.check.timing.fall = 4;
    scene.watch(vec![begin(watched)]);
    scene.news().await;
    scene.world.set(1, Manner::Fail);
    sleep(15 * SECOND).await;
    assert_eq!(scene.news().await, own(&[(1, "down: refused, 4 of 4")]));
    let asked = scene.world.asked(1);
    let gaps: Vec<u128> = asked
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_millis() / 100)
        .collect();
    assert_eq!(gaps, [100, 10, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn equal_checks_of_a_target_are_one_and_go_on_undisturbed() {
    let scene = scene();
    scene.watch(vec![
        begin(watched(1)),
        begin(watched(1)),
        begin(watched(2)),
    ]);
    for round in 0..100 {
        sleep(100 * MS).await;
        // Again and again the same, with another that comes and goes.
        let ports: &[u16] = if round % 2 == 0 { &[1, 2] } else { &[1, 2, 3] };
        scene.watch_ports(ports.iter().copied());
    }
    assert_eq!(scene.report().await.len(), 3);
    for port in [1, 2] {
        let asked = scene.world.asked(port).len();
        assert!((10..=12).contains(&asked), "{port} was asked {asked} times");
    }
    // Each time it came it was asked at once.
    assert_eq!(scene.world.asked(3).len(), 50);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_longer_watched_is_dropped_with_its_probe_and_its_news() {
    let mut scene = scene();
    scene.world.set(1, Manner::Hang);
    scene.world.set(2, Manner::Fail);
    scene.watch_ports([1, 2]);
    sleep(100 * MS).await;
    assert_eq!(scene.world.running.load(Ordering::SeqCst), 1);
    scene.watch_ports([]);
    sleep(MS).await;
    assert_eq!(scene.world.running.load(Ordering::SeqCst), 0);
    assert_eq!(scene.news().await, []);
    sleep(5 * SECOND).await;
    assert_eq!(scene.world.asked(2).len(), 1);
    assert_eq!(scene.report().await, []);
}

#[tokio::test(start_paused = true)]
async fn one_goes_on_as_the_daemon_says_it_stood() {
    let mut scene = scene();
    let stood = CheckState {
        up: true,
        decided: true,
        reason: "fine, 2 of 2".to_owned(),
        advice: AgentReply::default(),
        since: crate::health::UNKNOWN_TIME,
    };
    scene.world.set(1, Manner::Fail);
    scene.watch(vec![CheckStart {
        watched: watched(1),
        from: Some(stood),
    }]);
    assert_eq!(scene.news().await, [], "the first failure does not decide");
    sleep(2 * SECOND).await;
    assert_eq!(scene.news().await, own(&[(1, "down: refused, 2 of 2")]));
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_listen_finds_the_latest_only() {
    let mut scene = scene();
    scene.watch_ports([1]);
    for round in 0..10 {
        let manner = if round % 2 == 0 {
            Manner::Fail
        } else {
            Manner::Pass
        };
        scene.world.set(1, manner);
        sleep(4 * SECOND).await;
    }
    scene.world.set(1, Manner::Fail);
    sleep(4 * SECOND).await;
    assert_eq!(scene.news().await, own(&[(1, "down: refused, 2 of 2")]));
    assert!(scene.world.asked(1).len() > 40);
    let history = &scene.report().await[0].history;
    assert_eq!(history.len(), 11);
}

#[tokio::test(start_paused = true)]
async fn failures_over_a_stall_of_our_own_do_not_count() {
    let mut scene = scene();
    let mut watched = watched(1);
    watched.check.timing.fall = 1;
    scene.watch(vec![begin(watched)]);
    assert_eq!(scene.news().await, own(&[(1, "up: fine, first probe")]));
    scene.world.set(1, Manner::Slow(100 * MS));
    let before = scene.world.asked(1).len();
    while scene.world.asked(1).len() == before {
        sleep(10 * MS).await;
    }
    scene.world.set(1, Manner::Hang);
    // The probe that runs passes; one that begins then hangs. The clock leaps while it does, as after a SIGSTOP.
    while scene.world.asked(1).len() == before + 1 {
        sleep(10 * MS).await;
    }
    scene.world.set(1, Manner::Pass);
    advance(60 * SECOND).await;
    sleep(5 * SECOND).await;
    assert_eq!(scene.news().await, [], "it never went down");
    let last = scene.report().await[0].last.clone().unwrap();
    assert!(last.passed);
    // The void one was made up for at once.
    let asked = &scene.world.asked(1)[before + 1..];
    assert!(asked[1] - asked[0] < 60 * SECOND + 100 * MS, "{asked:?}");
    scene.world.set(1, Manner::Hang);
    sleep(5 * SECOND).await;
    assert_eq!(
        scene.news().await,
        own(&[(1, "down: no answer within 500ms, 1 of 1")]),
        "without a stall it counts"
    );
}

/// The history of a target that once does not answer, with probes of another beside it, if the loop is held up for so long
/// at one of its next readings of the clock.
async fn held_up(reading: usize, time: Duration) -> Vec<String> {
    let mut scene = scene();
    let mut hung = watched(1);
    hung.check.timing.fall = 1;
    let mut other = watched(2);
    other.check.timing.interval = 50 * MS;
    other.check.timing.timeout = 50 * MS;
    scene.watch(vec![begin(hung), begin(other)]);
    assert_eq!(scene.news().await.len(), 2);
    scene.world.set(1, Manner::Hang);
    while scene.world.running.load(Ordering::SeqCst) == 0 {
        sleep(MS).await;
    }
    scene.world.set(1, Manner::Pass);
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
    assert_eq!(scene.news().await.len(), 2);
    scene.world.set(1, Manner::Hang);
    *scene.world.delays.lock().unwrap() = vec![200 * MS; 100_000].into();
    sleep(60 * SECOND).await;
    assert_eq!(
        scene.news().await,
        own(&[(1, "down: no answer within 500ms, 2 of 2")])
    );
}

#[tokio::test(start_paused = true)]
async fn a_pass_over_a_stall_counts() {
    let mut scene = scene();
    scene.world.set(1, Manner::Slow(300 * MS));
    scene.watch_ports([1]);
    sleep(100 * MS).await;
    advance(250 * MS).await;
    assert_eq!(scene.news().await, own(&[(1, "up: fine, first probe")]));
}

#[tokio::test(start_paused = true)]
async fn what_this_host_lacks_is_not_held_against_a_target() {
    let mut scene = scene();
    scene.watch_ports([1]);
    scene.news().await;
    scene.world.set(1, Manner::Lack);
    sleep(20 * SECOND).await;
    assert_eq!(scene.news().await, []);
    let asked = scene.world.asked(1).len();
    assert!((19..=23).contains(&asked), "{asked}: as often as ever");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_gone_obstructs_nothing() {
    let mut scene = scene();
    scene.world.set(1, Manner::Lack);
    scene.watch_ports([1]);
    assert_eq!(scene.news().await, []);
    assert_eq!(scene.updates.0.obstacles().len(), 1);
    scene.watch_ports([]);
    assert_eq!(scene.news().await, []);
    assert_eq!(scene.updates.0.obstacles(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_cannot_be_made_counts_for_nothing_and_is_tried_again() {
    let mut scene = scene();
    scene.world.set(1, Manner::Unmade);
    // It was up when an earlier daemon ended, and another was never asked.
    scene.world.set(2, Manner::Unmade);
    let stood = CheckState {
        up: true,
        decided: true,
        reason: "fine, 2 of 2".to_owned(),
        advice: AgentReply::default(),
        since: crate::health::UNKNOWN_TIME,
    };
    let mut first = begin(watched(1));
    first.from = Some(stood);
    scene.watch(vec![first, begin(watched(2))]);
    sleep(10 * SECOND).await;
    assert_eq!(scene.news().await, []);
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
    scene.world.set(1, Manner::Pass);
    scene.world.set(2, Manner::Pass);
    sleep(3 * SECOND).await;
    assert_eq!(scene.updates.0.obstacles(), [""; 0]);
    assert_eq!(scene.news().await, own(&[(2, "up: fine, first probe")]));
    let up = ("up".to_owned(), None);
    assert_eq!(shown(scene.report().await), [up.clone(), up]);
}

#[tokio::test(start_paused = true)]
async fn certificates_are_read_again_after_a_reload() {
    let mut scene = scene();
    let mut with_file = watched(1);
    with_file.check.probe = Probe::Http(Box::new(HttpProbe {
        tls: Some(Tls {
            ca: Some("/etc/ca.pem".into()),
            ..Tls::default()
        }),
        ..HttpProbe::default()
    }));
    let reload = |scene: &Scene| scene.watch(vec![begin(with_file.clone()), begin(watched(2))]);
    let made = |scene: &Scene| scene.world.made.load(Ordering::SeqCst);
    reload(&scene);
    sleep(5 * SECOND).await;
    assert_eq!(scene.news().await.len(), 2);
    assert_eq!(made(&scene), 2);
    reload(&scene);
    sleep(5 * SECOND).await;
    assert_eq!(made(&scene), 3, "the one with files, once");
    // A file that is gone by then does not stop a check that has read it.
    scene.world.set(1, Manner::Kept);
    reload(&scene);
    sleep(5 * SECOND).await;
    let asked = scene.world.asked(1).len();
    assert!(asked >= 14, "{asked}");
    assert_eq!(made(&scene), 3);
    scene.world.set(1, Manner::Pass);
    sleep(5 * SECOND).await;
    assert_eq!(made(&scene), 4);
    assert_eq!(scene.news().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_has_failed_and_the_others_go_on() {
    let mut scene = scene();
    scene.world.set(1, Manner::Panic);
    scene.watch_ports([1, 2]);
    assert_eq!(
        scene.news().await,
        own(&[
            (1, "down: the probe itself broke, see the log, first probe"),
            (2, "up: fine, first probe")
        ])
    );
    scene.world.set(1, Manner::Pass);
    sleep(3 * SECOND).await;
    assert_eq!(scene.news().await, own(&[(1, "up: fine, 2 of 2")]));
}

#[tokio::test(start_paused = true)]
async fn no_more_probes_run_than_there_is_room_and_all_have_their_turn() {
    let mut scene = scene_with_room(10);
    for port in 1..=50 {
        scene.world.set(port, Manner::Slow(400 * MS));
    }
    scene.watch_ports(1..=50);
    sleep(10 * SECOND).await;
    assert_eq!(scene.world.most.load(Ordering::SeqCst), 10);
    assert_eq!(scene.news().await.len(), 50);
    for port in 1..=50 {
        let asked = scene.world.asked(port).len();
        assert!((3..=7).contains(&asked), "{port} was asked {asked} times");
    }
}

#[tokio::test(start_paused = true)]
async fn without_commands_to_come_it_ends_and_drops_its_probes() {
    let scene = scene();
    scene.world.set(1, Manner::Hang);
    scene.watch_ports([1]);
    sleep(100 * MS).await;
    assert_eq!(scene.world.running.load(Ordering::SeqCst), 1);
    drop(scene.commands);
    timeout(SECOND, scene.driver).await.unwrap().unwrap();
    sleep(MS).await;
    assert_eq!(scene.world.running.load(Ordering::SeqCst), 0);
}
