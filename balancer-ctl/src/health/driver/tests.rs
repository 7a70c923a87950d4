//! The driver on tokio's paused clock, with fake probes. Not here: threads, sockets, the state file.

mod obstacles;
mod stalls;
mod starts;

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

/// What the probes of a target do.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Pass,
    Fail,
    /// Never ends.
    Hang,
    /// Never ends, because the host could not send it.
    Unsent,
    /// Passes after this time.
    Slow(Duration),
    /// Ends without a result, because the host has run out of something.
    Obstacle,
    /// Its prober cannot be made.
    NotMade,
    /// Passes, but its prober cannot be made again.
    NotRemade,
    /// Panics.
    Panic,
}

/// All targets, as the fake probes see them.
#[derive(Default)]
struct World {
    behaviours: Mutex<HashMap<SocketAddr, Behaviour>>,
    probed: Mutex<HashMap<SocketAddr, Vec<Instant>>>,
    running: AtomicUsize,
    max_running: AtomicUsize,
    /// Number of probers made.
    probers_made: AtomicUsize,
    /// Delays of the driver at its next readings of the clock.
    delays: Mutex<VecDeque<Duration>>,
}

impl World {
    /// Reads the clock, after the next of the `delays`.
    fn read_clock(&self, start: Instant) -> Timestamp {
        let delay = self.delays.lock().unwrap().pop_front();
        // The first poll advances the clock.
        let _ =
            pin!(advance(delay.unwrap_or_default())).poll(&mut Context::from_waker(Waker::noop()));
        Timestamp {
            time: SystemTime::UNIX_EPOCH + start.elapsed(),
            since_boot: start.elapsed(),
        }
    }

    fn set(&self, port: u16, behaviour: Behaviour) {
        self.behaviours
            .lock()
            .unwrap()
            .insert(address(port), behaviour);
    }

    fn behaviour(&self, target: SocketAddr) -> Behaviour {
        let behaviours = self.behaviours.lock().unwrap();
        behaviours.get(&target).copied().unwrap_or(Behaviour::Pass)
    }

    /// When a target was probed.
    fn probed(&self, port: u16) -> Vec<Instant> {
        let times = self.probed.lock().unwrap();
        times.get(&address(port)).cloned().unwrap_or_default()
    }
}

struct Fake {
    world: Arc<World>,
    target: SocketAddr,
}

/// Counts running probes; dropped when a probe ends or is dropped.
struct Running<'a>(&'a World);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Probing for Fake {
    async fn probe(&self) -> Outcome {
        let world = &*self.world;
        let running = world.running.fetch_add(1, Ordering::SeqCst) + 1;
        world.max_running.fetch_max(running, Ordering::SeqCst);
        let _running = Running(world);
        world
            .probed
            .lock()
            .unwrap()
            .entry(self.target)
            .or_default()
            .push(Instant::now());
        let pass = Outcome::Passed {
            note: "fine".to_owned(),
            agent_reply: AgentReply::default(),
        };
        match world.behaviour(self.target) {
            Behaviour::Pass | Behaviour::NotRemade => pass,
            Behaviour::Fail => Outcome::Failed {
                reason: "refused".to_owned(),
            },
            Behaviour::Hang | Behaviour::Unsent => std::future::pending().await,
            Behaviour::Slow(time) => {
                sleep(time).await;
                pass
            }
            Behaviour::Obstacle => Outcome::Inconclusive {
                obstacle: Some("too many open files".to_owned()),
            },
            Behaviour::Panic => panic!("a probe that panics on purpose"),
            Behaviour::NotMade => unreachable!("it was not made"),
        }
    }

    fn obstacle(&self) -> Option<String> {
        matches!(self.world.behaviour(self.target), Behaviour::Unsent).then(|| "full".to_owned())
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

fn scene_with_room(max_probes: usize) -> Scene {
    let world = Arc::new(World::default());
    let mailbox = Arc::new(Mailbox::default());
    let (commands, receiver) = mpsc::unbounded_channel();
    let (start, made, read) = (Instant::now(), world.clone(), world.clone());
    let context = DriverContext {
        make_probe: move |check_target: &CheckTarget, _: &AgentReply| match made
            .behaviour(check_target.target)
        {
            Behaviour::NotMade | Behaviour::NotRemade => {
                Err("/etc/ca.pem: no such file".to_owned())
            }
            _ => {
                made.probers_made.fetch_add(1, Ordering::SeqCst);
                Ok(Fake {
                    world: made.clone(),
                    target: check_target.target,
                })
            }
        },
        clock: Box::new(move || read.read_clock(start)),
        mailbox: mailbox.clone(),
        store: None,
        max_probes,
    };
    Scene {
        world,
        commands,
        updates: Updates(mailbox),
        driver: tokio::spawn(Driver::new(context).run(receiver)),
    }
}

impl Scene {
    fn watch(&self, wanted: Vec<CheckStart>) {
        let wanted = wanted.into_iter().map(|begin| (begin, Vec::new()));
        self.commands
            .send(Command::Watch(wanted.collect()))
            .unwrap();
    }

    /// Runs checks of these ports.
    fn watch_ports(&self, ports: impl IntoIterator<Item = u16>) {
        self.watch(
            ports
                .into_iter()
                .map(|port| begin(check_target(port)))
                .collect(),
        );
    }

    /// Updates by port, as `up: reason` or `down: reason`; empty if there is none within 100 ms.
    async fn updates(&mut self) -> Vec<(u16, String)> {
        let updates = timeout(100 * MS, self.updates.next()).await;
        let mut states: Vec<(u16, String)> = updates
            .unwrap_or_default()
            .into_iter()
            .map(|update| (update.target.target.port(), words(&update.check_state)))
            .collect();
        states.sort();
        states
    }

    async fn report(&self) -> Vec<view::Checker> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Report(reply)).unwrap();
        answer.await.unwrap()
    }
}

fn words(check_state: &CheckState) -> String {
    format!(
        "{}: {}",
        if check_state.up { "up" } else { "down" },
        check_state.reason
    )
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 168, 0, 2], port))
}

/// Interval 1 s, timeout 500 ms, rise and fall 2.
fn check_target(port: u16) -> CheckTarget {
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

fn begin(check_target: CheckTarget) -> CheckStart {
    CheckStart {
        target: Arc::new(check_target),
        from: None,
        name: None,
        paused: false,
    }
}

fn own(updates: &[(u16, &str)]) -> Vec<(u16, String)> {
    updates
        .iter()
        .map(|(port, words)| (*port, (*words).to_owned()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_daemon_gets_each_change_of_state_and_nothing_else() {
    let mut scene = scene();
    scene.world.set(2, Behaviour::Fail);
    scene.watch_ports([1, 2]);
    assert_eq!(
        scene.updates().await,
        own(&[
            (1, "up: fine, first probe"),
            (2, "down: refused, first probe")
        ])
    );
    sleep(5 * SECOND).await;
    assert_eq!(scene.updates().await, []);
    scene.world.set(1, Behaviour::Fail);
    scene.world.set(2, Behaviour::Pass);
    sleep(3 * SECOND).await;
    assert_eq!(
        scene.updates().await,
        own(&[(1, "down: refused, 2 of 2"), (2, "up: fine, 2 of 2")])
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_down_and_delays_nobody() {
    let mut scene = scene();
    for port in 1..=20 {
        scene.world.set(port, Behaviour::Hang);
    }
    scene.watch_ports(1..=40);
    sleep(10 * SECOND).await;
    let updates = scene.updates().await;
    assert_eq!(updates.len(), 40);
    for (port, words) in updates {
        let expected = if port <= 20 {
            "down: no answer within 500ms, first probe"
        } else {
            "up: fine, first probe"
        };
        assert_eq!(words, expected, "{port}");
    }
    for port in 21..=40 {
        let times = scene.world.probed(port);
        for pair in times.windows(2) {
            let most = SECOND + COALESCE_WINDOW + 2 * MS;
            assert!(pair[1] - pair[0] <= most, "{port}: {times:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flapping_server_is_reported_once() {
    let mut scene = scene();
    scene.watch_ports([1]);
    assert_eq!(scene.updates().await.len(), 1);
    for round in 0..40 {
        let behaviour = if round % 2 == 0 {
            Behaviour::Fail
        } else {
            Behaviour::Pass
        };
        scene.world.set(1, behaviour);
        let before = scene.world.probed(1).len();
        while scene.world.probed(1).len() == before {
            sleep(50 * MS).await;
        }
        assert_eq!(scene.updates().await, [], "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn equal_checks_of_a_target_are_one_and_go_on_undisturbed() {
    let scene = scene();
    scene.watch(vec![
        begin(check_target(1)),
        begin(check_target(1)),
        begin(check_target(2)),
    ]);
    for round in 0..100 {
        sleep(100 * MS).await;
        // The same two again and again, and a third every other time.
        let ports: &[u16] = if round % 2 == 0 { &[1, 2] } else { &[1, 2, 3] };
        scene.watch_ports(ports.iter().copied());
    }
    assert_eq!(scene.report().await.len(), 3);
    for port in [1, 2] {
        let times = scene.world.probed(port).len();
        assert!(
            (10..=12).contains(&times),
            "{port} was probed {times} times"
        );
    }
    // It was probed at once each time it was added.
    assert_eq!(scene.world.probed(3).len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_checker_is_dropped_with_its_probe_and_its_update() {
    let mut scene = scene();
    scene.world.set(1, Behaviour::Hang);
    scene.world.set(2, Behaviour::Fail);
    scene.watch_ports([1, 2]);
    sleep(100 * MS).await;
    assert_eq!(scene.world.running.load(Ordering::SeqCst), 1);
    scene.watch_ports([]);
    sleep(MS).await;
    assert_eq!(scene.world.running.load(Ordering::SeqCst), 0);
    assert_eq!(scene.updates().await, []);
    sleep(5 * SECOND).await;
    assert_eq!(scene.world.probed(2).len(), 1);
    assert_eq!(scene.report().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_checker_starts_in_the_given_state() {
    let mut scene = scene();
    let earlier = CheckState {
        up: true,
        decided: true,
        reason: "fine, 2 of 2".to_owned(),
        agent_reply: AgentReply::default(),
        since: crate::health::UNKNOWN_TIME,
    };
    scene.world.set(1, Behaviour::Fail);
    scene.watch(vec![CheckStart {
        from: Some(earlier),
        ..begin(check_target(1))
    }]);
    assert_eq!(
        scene.updates().await,
        [],
        "the first failure does not decide"
    );
    sleep(2 * SECOND).await;
    assert_eq!(scene.updates().await, own(&[(1, "down: refused, 2 of 2")]));
}

#[tokio::test(start_paused = true)]
async fn a_paused_checker_keeps_its_state_and_probes_at_once_when_it_goes_on() {
    let mut scene = scene();
    let watch = |scene: &Scene, paused: bool| {
        scene.watch(vec![CheckStart {
            paused,
            ..begin(check_target(1))
        }]);
    };
    // It never probed.
    watch(&scene, true);
    sleep(10 * SECOND).await;
    assert_eq!(scene.updates().await, []);
    assert_eq!(scene.world.probed(1).len(), 0);
    watch(&scene, false);
    sleep(50 * MS).await;
    assert_eq!(scene.updates().await, own(&[(1, "up: fine, first probe")]));
    // A probe that runs is not waited for.
    scene.world.set(1, Behaviour::Hang);
    sleep(1100 * MS).await;
    watch(&scene, true);
    let probes = scene.world.probed(1).len();
    scene.world.set(1, Behaviour::Fail);
    sleep(20 * SECOND).await;
    assert_eq!(scene.updates().await, []);
    assert_eq!(scene.world.probed(1).len(), probes);
    watch(&scene, false);
    sleep(50 * MS).await;
    assert_eq!(scene.world.probed(1).len(), probes + 1);
    sleep(2 * SECOND).await;
    assert_eq!(scene.updates().await, own(&[(1, "down: refused, 2 of 2")]));
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_read_gets_only_the_latest_update() {
    let mut scene = scene();
    scene.watch_ports([1]);
    for round in 0..10 {
        let behaviour = if round % 2 == 0 {
            Behaviour::Fail
        } else {
            Behaviour::Pass
        };
        scene.world.set(1, behaviour);
        sleep(4 * SECOND).await;
    }
    scene.world.set(1, Behaviour::Fail);
    sleep(4 * SECOND).await;
    assert_eq!(scene.updates().await, own(&[(1, "down: refused, 2 of 2")]));
    assert!(scene.world.probed(1).len() > 40);
    let history = &scene.report().await[0].history;
    assert_eq!(history.len(), 11);
}

#[tokio::test(start_paused = true)]
async fn it_ends_and_drops_its_probes_when_the_command_sender_is_dropped() {
    let scene = scene();
    scene.world.set(1, Behaviour::Hang);
    scene.watch_ports([1]);
    sleep(100 * MS).await;
    assert_eq!(scene.world.running.load(Ordering::SeqCst), 1);
    drop(scene.commands);
    timeout(SECOND, scene.driver).await.unwrap().unwrap();
    sleep(MS).await;
    assert_eq!(scene.world.running.load(Ordering::SeqCst), 0);
}
