//! The failover bench: how long clients are without the VIP when the node that has it dies, gives up, or loses its daemon, beside
//! keepalived in the same lab, and how fast two nodes agree again.
//!
//! Times are the kernel's: those of frames at the switch, and of changes of addresses. Both programs face an event at the same
//! point of their advertisement interval, another in each round.

mod case;
mod frame;
mod peer;
mod record;
mod scene;
pub mod soak;
mod stalls;
mod watch;

use std::{
    fs::File,
    io::Read as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use xtask::lab::wait_until;

use self::{
    case::{Case, Event, Figure},
    peer::{Peer, Running},
    record::{Around, Time, What, now},
    scene::Scene,
};
use super::{
    Options,
    report::{Aim, Row, median, minimum, ratios},
};

/// For how many intervals the nodes do not hear each other.
const SPLIT: u32 = 20;
/// How long the lab is watched after a takeover.
const AFTERWARDS: Duration = Duration::from_millis(200);

/// The figures of a case, by peer in the order of [`Peer::ALL`], then by round, then in the order of [`Case::figures`].
type Found = [Vec<Vec<f64>>; Peer::ALL.len()];

/// Names of all rows.
pub fn rows() -> Vec<String> {
    let of_case = |case: Case| case.figures().iter().map(move |figure| case.row(*figure));
    Case::ALL.into_iter().flat_map(of_case).collect()
}

/// Measures, prints the table and returns its rows.
///
/// # Errors
/// No rights, a tool is missing, or a void measurement.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let scene = Scene::build()?;
    let is_wanted = |case: &Case| {
        let mut figures = case.figures().iter();
        figures.any(|figure| options.wants(&case.row(*figure)))
    };
    let mut measured: Vec<(Case, Found)> = Case::ALL
        .into_iter()
        .filter(is_wanted)
        .map(|case| (case, Found::default()))
        .collect();
    let rounds = options.failover_rounds();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let phase = phase(round, rounds, random()?);
        for (case, found) in &mut measured {
            for (peer, found) in Peer::ALL.into_iter().zip(found.iter_mut()) {
                let figures = measure(&scene, peer, *case, phase);
                let figures = figures
                    .with_context(|| format!("{peer:?}, {} in round {}", case.name(), round + 1))?;
                found.push(figures);
            }
        }
    }
    Ok(report(options, &measured))
}

/// Where in the advertisement interval the event of a round is, from 0 to 1: rounds share the interval evenly, and `random` says where
/// in its share each is.
fn phase(round: u32, rounds: u32, random: f64) -> f64 {
    (f64::from(round) + random) / f64::from(rounds)
}

/// A random number from 0 to 1.
fn random() -> Result<f64> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("reading /dev/urandom")?;
    Ok(f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX))
}

/// Both nodes of a peer, running; the first is Active.
struct Pair<'a> {
    nodes: [Running<'a>; 2],
}

impl<'a> Pair<'a> {
    /// Starts it, and waits until the first node is Active and the second Backup.
    fn start(
        scene: &'a Scene,
        peer: Peer,
        interval: Duration,
        niceness: Option<i32>,
    ) -> Result<Self> {
        scene.mend()?;
        scene.record.clear();
        let first = peer.start(scene, 0, interval, niceness)?;
        let limit = 10 * interval + Duration::from_secs(20);
        let active = wait_until("the first node to be Active", limit, || {
            scene.check()?;
            let answers = |seen: &record::Seen| (seen.node, seen.what) == (0, What::Answer);
            Ok(scene.record.last(answers).is_some())
        });
        active.with_context(|| format!("{peer:?} says:\n{}", first.said()))?;
        let mut second = peer.start(scene, 1, interval, niceness)?;
        second.wait_for_backup()?;
        // The Backup node has then heard more than one advertisement.
        crate::interrupt::sleep(2 * interval)?;
        let pair = Self {
            nodes: [first, second],
        };
        let set_there = |seen: &record::Seen| (seen.node, seen.what) == (1, What::Set);
        ensure!(
            scene.record.last(set_there).is_none(),
            "both nodes have been Active:\n{}",
            pair.said()
        );
        Ok(pair)
    }

    fn said(&self) -> String {
        let [first, second] = &self.nodes;
        format!("node 0:\n{}\nnode 1:\n{}", first.said(), second.said())
    }
}

/// Starts the pair, lets the case's event happen, and returns its figures.
fn measure(scene: &Scene, peer: Peer, case: Case, phase: f64) -> Result<Vec<f64>> {
    let mut pair = Pair::start(scene, peer, case.interval, None)?;
    if case.event == Event::Heal {
        scene.split(true)?;
        crate::interrupt::sleep(SPLIT * case.interval)?;
        let set_there = |seen: &record::Seen| (seen.node, seen.what) == (1, What::Set);
        ensure!(
            scene.record.last(set_there).is_some(),
            "the measurement is void: the nodes still hear each other"
        );
    }
    wait_for_phase(scene, case.interval.mul_f64(phase))?;
    let event = now();
    let [active, _] = &mut pair.nodes;
    match case.event {
        Event::NodeDeath => {
            active.kill_all()?;
            scene.take_down(0)?;
        }
        Event::OnPurpose => active.give_up()?,
        Event::DaemonKilled => active.kill_daemon()?,
        Event::Heal => scene.split(false)?,
    }
    let watched = match case.event {
        Event::NodeDeath | Event::OnPurpose | Event::DaemonKilled => {
            watch_takeover(scene, event, case.interval)
        }
        Event::Heal => crate::interrupt::sleep(10 * case.interval),
    };
    watched.with_context(|| pair.said())?;
    let seen = scene.record.sorted();
    let around = Around { seen: &seen, event };
    let figures = case.figures().iter();
    Ok(figures
        .map(|figure| case.measure(*figure, &around))
        .collect())
}

/// Waits for an advertisement of the Active node, and then for `phase`.
fn wait_for_phase(scene: &Scene, phase: Duration) -> Result<()> {
    let start = now();
    let sent = |seen: &record::Seen| {
        let advertises = matches!(seen.what, What::Advertisement { priority: 1.. });
        seen.at >= start && seen.node == 0 && advertises
    };
    let limit = Instant::now() + Duration::from_secs(5);
    let at: Time = loop {
        scene.check()?;
        ensure!(
            Instant::now() < limit,
            "the Active node sends no advertisements"
        );
        if let Some(seen) = scene.record.last(sent) {
            break seen.at;
        }
        thread::sleep(Duration::from_micros(200));
    };
    thread::sleep((at + phase).saturating_sub(now()));
    Ok(())
}

/// Waits until the second node answers, and a moment more.
fn watch_takeover(scene: &Scene, event: Time, interval: Duration) -> Result<()> {
    let answers =
        |seen: &record::Seen| seen.at >= event && (seen.node, seen.what) == (1, What::Answer);
    let limit = 10 * interval + Duration::from_secs(5);
    wait_until("the second node to take over", limit, || {
        scene.check()?;
        Ok(scene.record.last(answers).is_some())
    })?;
    crate::interrupt::sleep(AFTERWARDS.max(3 * interval.min(Duration::from_millis(100))))
}

fn report(options: &Options, measured: &[(Case, Found)]) -> Vec<Row> {
    println!(
        "{:<28} {:>9} {:>9} {:>9} {:>9} {:>11} {:>9} {:>8}   aim (each round)",
        "row", "median ms", "minimum", "maximum", "intervals", "keepalived", "maximum", "ratio"
    );
    let mut rows = Vec::new();
    for (case, found) in measured {
        for (number, figure) in case.figures().iter().enumerate() {
            if options.wants(&case.row(*figure)) {
                let [ours, theirs] = found.each_ref().map(|rounds| {
                    let of_figure = rounds.iter().map(|figures| figures[number]);
                    of_figure.collect::<Vec<f64>>()
                });
                rows.push(line(*case, *figure, &ours, &theirs));
            }
        }
    }
    println!(
        "\nratio: the median over the rounds of the quotients with keepalived's figure of the same round, in which the event is at the\n\
         same point of the advertisement interval. Priorities 200 and 100, VRRPv3, one VIP, keepalived without\n\
         vrrp_garp_master_delay. never = not until 0.2 s after the takeover at least.\n\
         node-death: processes killed and the switch's port down, until the other node's first gratuitous ARP. on-purpose: how long\n\
         neither node has the VIP; keepalived is stopped (SIGTERM), since it has no command for it. daemon-killed: until the other\n\
         node has the VIP (-removed: until the killed one has it no longer); of keepalived, child and parent, whose VIP stays there and\n\
         goes on to answer beside the other node's. heal: how long both advertise that they are Active after {SPLIT} intervals in which\n\
         they did not hear each other. -gap: the longest time between two answers to a probe each millisecond."
    );
    rows
}

/// Prints a row and returns it.
fn line(case: Case, figure: Figure, ours: &[f64], theirs: &[f64]) -> Row {
    let row = Row {
        suite: "failover",
        row: case.row(figure),
        unit: "ms",
        median: median(ours),
        minimum: minimum(ours),
        reference: median(theirs),
        ratio: median(&ratios(ours, theirs)),
    };
    let most = maximum(ours);
    println!(
        "{:<28} {:>9} {:>9} {:>9} {:>9} {:>11} {:>9} {:>7.2}x   {}",
        row.row,
        shown(row.median),
        shown(row.minimum),
        shown(most),
        shown(row.median / (1e3 * case.interval.as_secs_f64())),
        shown(row.reference),
        shown(maximum(theirs)),
        row.ratio,
        Aim::remark(case.aim(figure), most),
    );
    row
}

fn maximum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// A figure for the table.
fn shown(value: f64) -> String {
    if value.is_infinite() {
        "never".to_owned()
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_a_row_of_its_own() {
        let mut rows = rows();
        assert_eq!(
            rows[..3],
            ["node-death-1s", "node-death-1s-gap", "node-death-100ms"]
        );
        let count = rows.len();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), count);
        assert_eq!(count, 6 * 2 + 3 + 1);
    }

    #[test]
    fn rounds_share_the_interval_evenly() {
        assert!(phase(0, 10, 0.0).abs() < f64::EPSILON);
        assert!((phase(4, 10, 0.5) - 0.45).abs() < 1e-9);
        assert!((phase(9, 10, 1.0) - 1.0).abs() < 1e-9);
        assert!((0.0..=1.0).contains(&random().unwrap()));
    }

    #[test]
    fn what_never_ended_is_shown_so() {
        assert_eq!(shown(f64::INFINITY), "never");
        assert_eq!(shown(12.345), "12.35");
        assert!((maximum(&[1.0, 3.0, 2.0]) - 3.0).abs() < f64::EPSILON);
    }
}
