//! The health bench: ten thousand HTTP checks every five seconds, what they cost the one who asks, and how evenly they
//! are spread. One of the targets swallows packets.
//!
//! The servers' access log says when each was asked; `/proc` says what the asker used. The reference is HAProxy with the
//! same checks of the same servers.

mod log;
mod peer;
mod scene;
mod usage;

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};

use self::{peer::Peer, scene::Scene, usage::Usage};
use super::{
    Options,
    report::{Row, median, minimum},
};

/// Checks.
const CHECKS: u32 = 10_000;
/// How often each is made.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long the first checks of all may take, and the asker to settle.
const SETTLE: Duration = Duration::from_secs(15);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    /// Of the asker, user and system.
    Cpu,
    /// Of the asker, the most it ever had.
    Memory,
    /// Most checks in any 100 ms, from the start on, as a multiple of the mean.
    Burst,
    /// By how much any check but that of the target that swallows packets came later than its interval, the most.
    Delay,
}

impl Figure {
    const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Burst, Self::Delay];

    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Burst => "burst",
            Self::Delay => "delay",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "% of a CPU",
            Self::Memory => "MB",
            Self::Burst => "x the mean",
            Self::Delay => "ms",
        }
    }

    const fn aim(self) -> &'static str {
        match self {
            Self::Cpu => "15",
            Self::Memory => "200",
            Self::Burst => "2",
            Self::Delay => "",
        }
    }

    fn row(self, peer: Peer) -> String {
        format!("{}{}", self.name(), peer.suffix())
    }
}

/// What one round found, in the order of [`Figure::ALL`].
type Found = [f64; 4];

/// Names of all rows.
pub fn rows() -> Vec<String> {
    all().map(|(figure, peer)| figure.row(peer)).collect()
}

fn all() -> impl Iterator<Item = (Figure, Peer)> {
    Figure::ALL
        .into_iter()
        .flat_map(|figure| Peer::ALL.into_iter().map(move |peer| (figure, peer)))
}

/// Measures, prints the table, and returns its rows.
///
/// # Errors
/// No rights, a tool is missing, or a void measurement.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let scene = Scene::build(CHECKS)?;
    let length = Duration::from_secs(u64::from(options.health_seconds));
    let mut found: [Vec<Found>; 2] = [Vec::new(), Vec::new()];
    for round in 1..=options.rounds {
        eprintln!("round {round} of {}", options.rounds);
        for (peer, found) in Peer::ALL.into_iter().zip(&mut found) {
            let measured = measure(&scene, peer, length);
            found.push(measured.with_context(|| format!("{peer:?} in round {round}"))?);
        }
    }
    Ok(report(options, &found))
}

fn measure(scene: &Scene, peer: Peer, length: Duration) -> Result<Found> {
    let start = scene.logged()?;
    let asker = peer.start(scene)?;
    wait(SETTLE)?;
    let (before, settled) = (Usage::of(asker.id())?, seconds_since_1970()?);
    wait(length)?;
    let (after, end) = (Usage::of(asker.id())?, seconds_since_1970()?);
    drop(asker);
    // What the servers have not written yet.
    thread::sleep(scene::LOG_DELAY);
    let spread = scene.log_from(start)?.spread(settled, end);
    let expected = f64::from(CHECKS - 1) * (end - settled) / INTERVAL.as_secs_f64();
    ensure!(
        spread.targets == CHECKS as usize - 1,
        "the measurement is void: {} of {} targets were asked",
        spread.targets,
        CHECKS - 1
    );
    ensure!(
        spread.checks as f64 > 0.9 * expected,
        "the measurement is void: {} checks were made instead of {expected:.0}",
        spread.checks
    );
    let mean = f64::from(CHECKS - 1) * log::WINDOW.as_secs_f64() / INTERVAL.as_secs_f64();
    Ok([
        100.0 * (after.cpu - before.cpu).as_secs_f64() / (end - settled),
        after.most_memory as f64 / 1e6,
        spread.largest_burst as f64 / mean,
        1e3 * (spread.longest_gap - INTERVAL.as_secs_f64()).max(0.0),
    ])
}

fn seconds_since_1970() -> Result<f64> {
    Ok(SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs_f64())
}

fn wait(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        crate::interrupt::check()?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn report(options: &Options, found: &[Vec<Found>; 2]) -> Vec<Row> {
    println!(
        "{:<28} {:>14} {:>12} {:>12} {:>10} {:>8}",
        "row", "unit", "median", "minimum", "of haproxy", "aim"
    );
    let values = |figure: Figure, peer: Peer| -> Vec<f64> {
        let of_peer = &found[usize::from(peer == Peer::Haproxy)];
        of_peer.iter().map(|found| found[figure as usize]).collect()
    };
    let mut reported = Vec::new();
    for (figure, peer) in all() {
        if !options.wants(&figure.row(peer)) {
            continue;
        }
        let (own, reference) = (values(figure, peer), values(figure, Peer::Haproxy));
        let ratios: Vec<f64> = own
            .iter()
            .zip(&reference)
            .map(|(own, reference)| own / reference)
            .collect();
        let row = Row {
            suite: "health",
            row: figure.row(peer),
            unit: figure.unit(),
            median: median(&own),
            minimum: minimum(&own),
            reference: median(&reference),
            ratio: median(&ratios),
        };
        let aim = match peer {
            Peer::Balancer => figure.aim(),
            Peer::Haproxy => "",
        };
        println!(
            "{:<28} {:>14} {:>12.2} {:>12.2} {:>10.2} {:>8}",
            row.row, row.unit, row.median, row.minimum, row.ratio, aim
        );
        reported.push(row);
    }
    println!(
        "\n{CHECKS} HTTP checks every {} s, one of which is of a target that swallows packets. The whole program is counted,\n\
         for balancerd its packet program's control too; what the kernel does for it on its own threads is not.",
        INTERVAL.as_secs()
    );
    reported
}
