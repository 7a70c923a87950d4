//! The health bench: ten thousand HTTP checks every five seconds; their cost for the program that makes them, and how evenly they
//! are spread. One of the targets drops all packets. At the end another one refuses connections, and the bench measures how long it
//! still gets its share.
//!
//! The times of checks are read from the servers' access log, the cost from `/proc`. The reference is HAProxy with the same checks of
//! the same servers. The bench fails if a figure is beyond its aim.

mod effect;
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

/// Number of checks.
const CHECKS: u32 = 10_000;
/// Interval of each check.
const INTERVAL: Duration = Duration::from_secs(5);
/// Failed checks in a row that take a real server down.
const FALL: u32 = 3;
/// Time for the first checks of all targets, and for the program to settle.
const SETTLE: Duration = Duration::from_secs(15);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    /// CPU time of the program, user and system.
    Cpu,
    /// Most memory that the program ever had.
    Memory,
    /// Most checks in any 100 ms, from the start on, as a multiple of the mean.
    Burst,
    /// By how much the latest check came after its interval, without the target that drops packets.
    Delay,
    /// From the result that decides that a real server is down to the ring without it; of this project alone.
    Effect,
}

impl Figure {
    const ALL: [Self; 5] = [
        Self::Cpu,
        Self::Memory,
        Self::Burst,
        Self::Delay,
        Self::Effect,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Burst => "burst",
            Self::Delay => "delay",
            Self::Effect => "effect",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "% of a CPU",
            Self::Memory => "MB",
            Self::Burst => "x the mean",
            Self::Delay | Self::Effect => "ms",
        }
    }

    /// What this project's median may be at most.
    const fn aim(self) -> Option<f64> {
        match self {
            Self::Cpu => Some(15.0),
            Self::Memory => Some(200.0),
            Self::Burst => Some(2.0),
            Self::Delay => None,
            Self::Effect => Some(10.0),
        }
    }

    const fn is_of(self, peer: Peer) -> bool {
        !matches!((self, peer), (Self::Effect, Peer::Haproxy))
    }

    fn row(self, peer: Peer) -> String {
        format!("{}{}", self.name(), peer.suffix())
    }
}

/// The figures of one round, in the order of [`Figure::ALL`]; NaN = not measured.
type Found = [f64; Figure::ALL.len()];

/// Names of all rows.
pub fn rows() -> Vec<String> {
    all().map(|(figure, peer)| figure.row(peer)).collect()
}

fn all() -> impl Iterator<Item = (Figure, Peer)> {
    Figure::ALL
        .into_iter()
        .flat_map(|figure| Peer::ALL.into_iter().map(move |peer| (figure, peer)))
        .filter(|(figure, peer)| figure.is_of(*peer))
}

/// Measures, prints the table, and returns its rows, and a sentence about those that are beyond their aim.
///
/// # Errors
/// No rights, a tool is missing, or a void measurement.
pub fn run(options: &Options) -> Result<(Vec<Row>, Option<String>)> {
    let scene = Scene::build(CHECKS)?;
    let length = Duration::from_secs(u64::from(options.health_seconds));
    let mut found: [Vec<Found>; 2] = [Vec::new(), Vec::new()];
    for round in 1..=options.rounds() {
        eprintln!("round {round} of {}", options.rounds());
        for (peer, found) in Peer::ALL.into_iter().zip(&mut found) {
            let with_effect = peer == Peer::Balancer && options.wants(Figure::Effect.name());
            let measured = measure(&scene, peer, length, with_effect);
            found.push(measured.with_context(|| format!("{peer:?} in round {round}"))?);
        }
    }
    let rows = report(options, &found);
    let missed = missed(&rows);
    Ok((rows, missed))
}

fn measure(scene: &Scene, peer: Peer, length: Duration, with_effect: bool) -> Result<Found> {
    let start = scene.logged()?;
    let asker = peer.start(scene)?;
    wait(SETTLE)?;
    let (before, settled) = (Usage::of(asker.id())?, seconds_since_1970()?);
    wait(length)?;
    let (after, end) = (Usage::of(asker.id())?, seconds_since_1970()?);
    let effect = if with_effect {
        effect::measure(scene)?
    } else {
        f64::NAN
    };
    drop(asker);
    // Waits for lines that the servers have not written yet.
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
        effect,
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
        let ratio = match figure.is_of(Peer::Haproxy) {
            true => format!("{:.2}", row.ratio),
            false => String::new(),
        };
        let aim = figure.aim().filter(|_| peer == Peer::Balancer);
        let aim = aim.map(|aim| aim.to_string()).unwrap_or_default();
        println!(
            "{:<28} {:>14} {:>12.2} {:>12.2} {ratio:>10} {aim:>8}",
            row.row, row.unit, row.median, row.minimum
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

/// A sentence about this project's rows that are beyond their aim.
fn missed(rows: &[Row]) -> Option<String> {
    let missed: Vec<String> = Figure::ALL
        .into_iter()
        .filter_map(|figure| {
            let row = rows.iter().find(|row| row.row == figure.name())?;
            let aim = figure.aim().filter(|aim| row.median > *aim)?;
            Some(format!(
                "{} is {:.2} {}, and may be {aim}",
                row.row, row.median, row.unit
            ))
        })
        .collect();
    (!missed.is_empty()).then(|| format!("health checks miss their aim: {}", missed.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, median: f64) -> Row {
        Row {
            suite: "health",
            row: name.to_owned(),
            unit: "MB",
            median,
            minimum: 0.0,
            reference: 1.0,
            ratio: 1.0,
        }
    }

    #[test]
    fn what_is_beyond_its_aim_is_said() {
        let good = [
            row("cpu", 15.0),
            row("cpu/haproxy", 99.0),
            row("memory", 200.0),
            row("memory/haproxy", 999.0),
            row("burst", 2.0),
            row("burst/haproxy", 9.0),
            row("delay", 9999.0),
            row("effect", 10.0),
        ];
        assert_eq!(missed(&good), None);
        assert_eq!(missed(&[]), None, "what was not measured is not judged");
        let bad = [row("memory", 200.01), row("cpu", 3.0), row("burst", 2.5)];
        let said = "health checks miss their aim: memory is 200.01 MB, and may be 200; burst is 2.50 MB, and may be 2";
        assert_eq!(missed(&bad).as_deref(), Some(said));
    }

    #[test]
    fn each_figure_has_its_rows() {
        let expected = [
            "cpu",
            "cpu/haproxy",
            "memory",
            "memory/haproxy",
            "burst",
            "burst/haproxy",
            "delay",
            "delay/haproxy",
            "effect",
        ];
        assert_eq!(rows(), expected);
    }
}
