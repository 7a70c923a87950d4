//! The packet program against a model of it that shares nothing with it but the wire formats, driven with random sequences of packets,
//! time and the operator's changes. What differs is printed as the shortest list of steps that shows it; it becomes a test of the
//! packet suite. Single CPU, rings in turn: persistence, other schedulers, limits of real servers and connections that another node has
//! begun have tests of their own there.
//!
//! `BALANCER_MODEL_SEED` begins elsewhere, `BALANCER_MODEL_PACKETS` and `BALANCER_MODEL_SECONDS` say when to end (the first of the two that is
//! reached).

mod driver;
mod generator;
mod model;
mod random;
mod sequence;
mod wire;
mod world;

use std::{
    env,
    io::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use balancer_common::verdict::Discard::{self, *};
use balancer_tests::{
    dataplane::{Options, run_with},
    privileged,
};

use crate::{
    driver::{Bench, Seen, network::surround},
    model::Model,
    random::Random,
    sequence::Manner,
    world::Surroundings,
};

/// The seed unless another one is given.
const SEED: u64 = 1;
/// Packets unless another number is given.
const PACKETS: u64 = 5_200_000;
/// As [`PACKETS`], for a table without room.
const FEWER_PACKETS: u64 = 400_000;
/// Sequences of which one data plane, with its surroundings, is used.
const EPOCH: u64 = 250;
/// Threads, each with a data plane of its own.
const THREADS: u64 = 2;

/// Reasons that no sequence reaches: what they need is beyond one CPU, a roomy table and this network.
const UNREACHED: [Discard; 6] = [
    RealsFullReject,
    RealsFull,
    TableFull,
    Busy,
    ForwardingOff,
    SnatExhausted,
];

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {value}")),
    )
}

/// What all threads share.
struct Run {
    manner: Manner,
    options: Options,
    seed: u64,
    packets: u64,
    end: Option<Instant>,
    epochs: AtomicU64,
    taken: AtomicU64,
    has_failed: AtomicBool,
    seen: Mutex<Seen>,
}

impl Run {
    fn is_over(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
            || self.taken.load(Ordering::Relaxed) >= self.packets
            || self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// Runs one epoch after the other.
    fn go(&self) -> Result<(), String> {
        while !self.is_over() {
            let epoch = self.epochs.fetch_add(1, Ordering::Relaxed);
            self.epoch(epoch).inspect_err(|_| {
                self.has_failed.store(true, Ordering::Relaxed);
            })?;
        }
        Ok(())
    }

    fn epoch(&self, epoch: u64) -> Result<(), String> {
        let mut random = Random(self.seed.wrapping_mul(1 << 40).wrapping_add(epoch));
        let around = Surroundings {
            knows_host: random.percent(60),
            mtu: random.of(&[[1_400, 1_300], [1_500, 1_500], [1_300, 1_400]]),
            redirects_back: random.percent(25),
            has_egress: !random.percent(10),
        };
        let mut result = Ok(());
        run_with(self.options, |lb| {
            surround(lb, around);
            let mut bench = Bench::new(lb, around);
            for _ in 0..EPOCH {
                if self.is_over() {
                    break;
                }
                let before = bench.seen.frames;
                result = self.manner.run(&mut bench, random.next());
                self.taken
                    .fetch_add(bench.seen.frames - before, Ordering::Relaxed);
                if result.is_err() {
                    break;
                }
            }
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.add(&bench.seen);
            bench.reset();
        });
        result.map_err(|error| format!("{around:?}\n{error}"))
    }
}

/// Runs all threads, and returns what they have seen.
fn run(manner: Manner, options: Options, packets: u64) -> Seen {
    let seconds = setting("BALANCER_MODEL_SECONDS");
    let wanted = setting("BALANCER_MODEL_PACKETS");
    let begun = Instant::now();
    let run = Run {
        manner,
        options,
        seed: setting("BALANCER_MODEL_SEED").unwrap_or(SEED),
        packets: wanted.unwrap_or(if seconds.is_some() { u64::MAX } else { packets }),
        end: seconds.map(|seconds| begun + Duration::from_secs(seconds)),
        epochs: AtomicU64::new(0),
        taken: AtomicU64::new(0),
        has_failed: AtomicBool::new(false),
        seen: Mutex::default(),
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| run.go())).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.collect()
    });
    let seen = run
        .seen
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let seconds = begun.elapsed().as_secs_f64();
    // Past libtest's capture.
    let _ = writeln!(
        std::io::stdout(),
        "{manner:?}: {} packets in {seconds:.0} s, {:.0} a second, seed {}\n  {:?}\n  {:?}\n  {:?}",
        seen.frames,
        seen.frames as f64 / seconds,
        run.seed,
        seen.verdicts,
        seen.reasons,
        seen.states
    );
    for result in results {
        match result {
            Ok(Ok(())) => {}
            Ok(Err(difference)) => panic!("{difference}"),
            Err(panicked) => std::panic::resume_unwind(panicked),
        }
    }
    seen
}

#[test]
fn the_program_does_what_the_model_says() {
    if privileged::skipped() {
        return;
    }
    let seen = run(Manner::Exactly, Options::DEFAULT, PACKETS);
    if seen.frames < 1_000_000 {
        return;
    }
    let missing: Vec<_> = Discard::ALL
        .iter()
        .filter(|reason| !UNREACHED.contains(reason) && !seen.reasons.contains_key(reason.name()))
        .collect();
    assert!(missing.is_empty(), "never reached: {missing:?}");
}

#[test]
fn connections_are_whole_in_a_table_without_room() {
    if privileged::skipped() {
        return;
    }
    let options = Options {
        max_connections: 8,
        ..Options::DEFAULT
    };
    run(Manner::Loosely, options, FEWER_PACKETS);
}

/// A mistake in the model, and what the report says of the difference.
type Mistake = (fn(&mut Model), &'static str);

const MISTAKES: [Mistake; 4] = [
    (|model| model.world.reals[0].port += 1, "found Redirect"),
    (|model| model.world.any_port = false, "expected Pass"),
    (|model| model.turns[0] += 1, "found Redirect"),
    (|model| model.traffic[0].connections += 1, "traffic of 0"),
];

#[test]
fn a_mistake_is_found_and_reported_in_one_step() {
    if privileged::skipped() {
        return;
    }
    let around = Surroundings {
        knows_host: true,
        mtu: [1_500; 2],
        redirects_back: false,
        has_egress: true,
    };
    for (mistake, difference) in MISTAKES {
        run_with(Options::DEFAULT, |lb| {
            surround(lb, around);
            let mut bench = Bench::new(lb, around);
            bench.begin_with(mistake);
            let reports = (SEED..).map(|seed| Manner::Exactly.run(&mut bench, seed));
            let report = reports.take(20).find_map(Result::err);
            let report = report.expect("a difference");
            let is_short = report.contains("these 1 of its steps:\n  ");
            assert!(is_short && report.contains(difference), "{report}");
            bench.reset();
        });
    }
}
