//! The lab bench: real clients and servers, with a balancer between them.
//!
//! Everything, clients and servers included, shares this machine's CPUs, so a rate says how much of them one request
//! takes from end to end. Plain routing reaches one real server, all others two: the work is the same, as neither
//! real server is the bottleneck that a CPU of its own would make it.
//!
//! The reference is nftables: the kernel's own way to do the same work. Plain routing stands beside it for scale; on
//! veth nothing that uses native XDP can reach it, because each TCP frame is copied before XDP may see it.

mod load;
mod peer;
mod scene;

use anyhow::{Context as _, Result, ensure};

use self::{
    load::Load,
    peer::{Counted, Peer, Programs, Running},
    scene::Scene,
};
use crate::cargo;

use super::{
    Options,
    report::{Aim, Row, median, minimum, ratios},
};

/// The peer to whose rate all others are compared.
const REFERENCE: Peer = Peer::Nftables;

/// One peer under one load.
struct Measured {
    load: Load,
    peer: Peer,
    rates: Vec<f64>,
}

impl Measured {
    fn name(&self) -> String {
        format!("{}{}", self.load.name(), self.peer.suffix())
    }
}

/// Measures, prints the table, and returns its rows.
///
/// # Errors
/// No rights, a tool is missing, or a void measurement.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let programs = Programs {
        balancerd: cargo::target().join("release/balancerd"),
        balancer_ctl: cargo::target().join("release/balancer-ctl"),
    };
    let mut rows = wanted(options);
    let scene = Scene::build()?;
    for round in 0..=options.rounds() {
        // The first round only warms up.
        let seconds = if round == 0 { 1 } else { options.seconds };
        eprintln!("round {round} of {}", options.rounds());
        for peer in Peer::ALL {
            self::round(&scene, &programs, &mut rows, peer, seconds)
                .with_context(|| format!("{peer:?} in round {round}"))?;
        }
        if round == 0 {
            rows.iter_mut().for_each(|row| row.rates.clear());
        }
    }
    Ok(report(&rows))
}

/// Names of all rows.
pub fn rows() -> Vec<String> {
    all().map(|row| row.name()).collect()
}

fn all() -> impl Iterator<Item = Measured> {
    let pairs = Load::ALL
        .into_iter()
        .flat_map(|load| Peer::ALL.into_iter().map(move |peer| (load, peer)));
    // One download has one source.
    let pairs = pairs.filter(|pair| *pair != (Load::Bulk, Peer::PlainTwo));
    pairs.map(|(load, peer)| Measured {
        load,
        peer,
        rates: Vec::new(),
    })
}

/// The rows that are wanted, and those that each is compared with.
fn wanted(options: &Options) -> Vec<Measured> {
    let loads: Vec<Load> = all()
        .filter(|row| options.wants(&row.name()))
        .map(|row| row.load)
        .collect();
    let is_wanted = |row: &Measured| {
        let is_compared_with = matches!(row.peer, Peer::Plain | REFERENCE);
        options.wants(&row.name()) || is_compared_with && loads.contains(&row.load)
    };
    all().filter(is_wanted).collect()
}

fn round(
    scene: &Scene,
    programs: &Programs,
    rows: &mut [Measured],
    peer: Peer,
    seconds: u32,
) -> Result<()> {
    if !rows.iter().any(|row| row.peer == peer) {
        return Ok(());
    }
    let running = peer.start(scene, programs)?;
    for row in rows.iter_mut().filter(|row| row.peer == peer) {
        crate::interrupt::check()?;
        let before = counted(&running)?;
        let rate = row
            .load
            .run(scene, peer.addresses(), seconds)
            .with_context(|| row.name())?;
        if let (Some(before), Some(after)) = (before, counted(&running)?) {
            // A request or an answer is a packet at least; what the kernel's own stack forwarded is not counted there.
            let least = match row.load {
                Load::KeepAlive | Load::NewConnections => 2.0 * rate * f64::from(seconds),
                Load::Bulk => rate * 1e9 / 8.0 / 1500.0 * f64::from(seconds),
            };
            let packets = (after.translated - before.translated) as f64;
            ensure!(
                packets > 0.9 * least,
                "the measurement of {} is void: the packet program carried {packets} packets, but the load was {least:.0} at least",
                row.name()
            );
            let discards = after.discards_since(&before);
            if !discards.is_empty() {
                eprintln!(
                    "{}: {packets} packets translated; left early: {}",
                    row.name(),
                    discards.join(", ")
                );
            }
        }
        row.rates.push(rate);
    }
    Ok(())
}

fn counted(running: &Running<'_>) -> Result<Option<Counted>> {
    match running {
        Running::Balancer(run) => run.counted().map(Some),
        Running::Nothing | Running::Proxy(_) | Running::Rules(_) => Ok(None),
    }
}

fn report(rows: &[Measured]) -> Vec<Row> {
    println!(
        "{:<28} {:>14} {:>12} {:>12} {:>12} {:>10}   aim (of nftables)",
        "row", "unit", "median", "minimum", "of nftables", "of plain"
    );
    let reported = rows.iter().map(|row| line(row, rows)).collect();
    println!(
        "\nof nftables, of plain: medians over the rounds of the quotients of the same round's rates.\n\
         Everything shares this machine's {} CPUs. Frames on all cables are as on a wire: no segmentation or checksum\n\
         offload, GRO on at the ends that face the balancer (its XDP needs that on veth), its own interfaces as the kernel\n\
         makes them. Plain routing leads to one real server, the others balance over two; bulk goes to one.\n\
         Why native XDP cannot reach plain routing here: TCP keeps each frame that it sends, as a clone, until it is\n\
         acknowledged, and veth copies a cloned frame before XDP may change it (skb_pp_cow_data). Routing copies nothing.\n\
         A network card's driver hands XDP its own buffer and copies nothing either.",
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    reported
}

/// Prints a row and returns it; `rows` are all.
fn line(row: &Measured, rows: &[Measured]) -> Row {
    let rates_of = |peer| {
        let other = rows
            .iter()
            .find(|other| other.load == row.load && other.peer == peer);
        other.map_or(&[][..], |other| &other.rates)
    };
    let (reference, plain) = (rates_of(REFERENCE), rates_of(Peer::Plain));
    let result = Row {
        suite: "lab",
        row: row.name(),
        unit: row.load.unit(),
        median: median(&row.rates),
        minimum: minimum(&row.rates),
        reference: median(reference),
        ratio: median(&ratios(&row.rates, reference)),
    };
    println!(
        "{:<28} {:>14} {:>12.2} {:>12.2} {:>12.2} {:>10.2}   {}",
        result.row,
        result.unit,
        result.median,
        result.minimum,
        result.ratio,
        median(&ratios(&row.rates, plain)),
        Aim::remark(aim(row), result.ratio),
    );
    result
}

/// What a row's rate should be, as a part of nftables'.
fn aim(row: &Measured) -> Option<Aim> {
    if row.peer != Peer::Balancer {
        return None;
    }
    Some(Aim::AtLeast(match row.load {
        Load::KeepAlive | Load::NewConnections => 1.1,
        Load::Bulk => 1.05,
    }))
}
