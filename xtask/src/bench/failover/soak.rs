//! The soak: two nodes of this project at the shortest interval, on a machine whose CPUs are all busy. Each time that a node takes over
//! is a false failover, unless the machine itself stood still: then no program could have sent.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use xtask::lab::Process;

use super::{
    super::report::Row,
    Pair,
    peer::Peer,
    record::{longest_silence, takeovers},
    scene::Scene,
    stalls::{Stalls, explained},
};

/// The advertisement interval.
const INTERVAL: Duration = Duration::from_millis(10);
/// Niceness of the daemons and of the programs that use the CPUs: that of any program.
const NICENESS: i32 = 0;
/// A CPU that runs nobody for so long may cause a takeover: the other node waits three intervals, of which one may have passed.
const STALL: Duration = Duration::from_millis(2 * 10);
/// How long after the end of a stall a takeover may follow from it: as long as the other node waits.
const REACH: Duration = Duration::from_millis(4 * 10);
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
    let stalls = Stalls::watch(cpus, STALL)?;
    scene.record.clear();
    let (start, mut told) = (Instant::now(), Instant::now());
    while start.elapsed() < duration {
        scene.check()?;
        thread::sleep(Duration::from_millis(100).min(duration.saturating_sub(start.elapsed())));
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let count = takeovers(&scene.record.sorted()).len();
            eprintln!("after {} s: {count} takeovers", start.elapsed().as_secs());
        }
    }
    let (seen, stalls) = (scene.record.sorted(), stalls.found()?);
    let takeovers = takeovers(&seen);
    let of_machine = explained(&takeovers, &stalls, REACH);
    let count = takeovers.len() - of_machine;
    if !takeovers.is_empty() {
        eprintln!("{}", pair.said());
    }
    let longest = stalls.iter().map(|(from, to)| *to - *from).max();
    println!(
        "{count} false failovers in {} at an interval of {} ms with {cpus} of {cpus} CPUs busy   aim: 0{}\n\
         Beside them {of_machine} takeovers while the machine itself stood still: {} times a CPU ran nobody for {} ms or more, also not\n\
         a thread of the bench that comes before all others, at most for {:.0} ms.\n\
         The longest time between two advertisements was {:.1} ms.",
        humantime::format_duration(duration),
        INTERVAL.as_millis(),
        if count == 0 { "" } else { "  MISSED" },
        stalls.len(),
        STALL.as_millis(),
        1e3 * longest.unwrap_or_default().as_secs_f64(),
        1e3 * longest_silence(&seen).as_secs_f64(),
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
