//! The soak: two nodes of this project at the shortest interval, on a machine whose CPUs are all busy. Each time that a node takes over
//! is a false one.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use xtask::lab::Process;

use super::{super::report::Row, Pair, peer::Peer, record::takeovers, scene::Scene};

/// The advertisement interval.
const INTERVAL: Duration = Duration::from_millis(10);
/// Niceness of the daemons and of the programs that use the CPUs: that of any program.
const NICENESS: i32 = 0;
/// How often the soak tells how it goes.
const PROGRESS: Duration = Duration::from_secs(60);

/// Runs it, prints what was counted, and returns it as a row.
///
/// # Errors
/// Something does not start, or ends.
pub fn run(duration: Duration) -> Result<Row> {
    let scene = Scene::build()?;
    let pair = Pair::start(&scene, Peer::Balancer, INTERVAL, Some(NICENESS))?;
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let _busy: Vec<Process> = (0..cpus).map(|_| spin()).collect::<Result<_>>()?;
    scene.record.clear();
    let (start, mut told) = (Instant::now(), Instant::now());
    while start.elapsed() < duration {
        scene.check()?;
        thread::sleep(Duration::from_millis(100).min(duration.saturating_sub(start.elapsed())));
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let (count, silence) = takeovers(&scene.record.sorted());
            eprintln!(
                "after {} s: {count} takeovers, longest silence {:.1} ms",
                start.elapsed().as_secs(),
                1e3 * silence.as_secs_f64()
            );
        }
    }
    let seen = scene.record.sorted();
    let (count, silence) = takeovers(&seen);
    if count > 0 {
        eprintln!("{}", pair.said());
    }
    println!(
        "{count} false failovers in {} at an interval of {} ms with {cpus} of {cpus} CPUs busy; the longest time between two\n\
         advertisements was {:.1} ms, of {} seen.   aim: 0{}",
        humantime::format_duration(duration),
        INTERVAL.as_millis(),
        1e3 * silence.as_secs_f64(),
        seen.len(),
        if count == 0 { "" } else { "  MISSED" }
    );
    let count = count as f64;
    Ok(Row {
        suite: "failover",
        row: "soak-10ms".to_owned(),
        unit: "false failovers",
        median: count,
        minimum: count,
        reference: f64::NAN,
        ratio: f64::NAN,
    })
}

/// A program that uses a whole CPU, if it gets it.
fn spin() -> Result<Process> {
    let mut command = Command::new("sh");
    command
        .args(["-c", "while :; do :; done"])
        .stdout(Stdio::null());
    Process::spawn("a busy program", &mut command).context("starting a busy program")
}
