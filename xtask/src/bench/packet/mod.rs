//! The packet bench: what the packet program costs per packet, on one CPU, against a program that swaps the MAC
//! addresses and transmits (the floor).
//!
//! Every round measures every row once, so that whatever else the machine does hits all alike. A figure counts only if
//! the program's own counters say that each packet was translated (or passed, where the row is about that): a bench
//! that measured how fast packets are refused is void.

mod case;
mod frame;
mod instructions;
mod network;
mod runner;
mod target;

use std::{collections::BTreeMap, fs, path::Path, thread};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::Xdp;
use balancer_common::verdict::Discard;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use self::{
    case::{Case, Count, Subject, Table},
    runner::{Delivery, Front, Walk},
    target::{Counters, Target},
};
use super::{
    Options,
    report::{Row, median, minimum},
};

/// Packets of a row that are run before the first round.
const WARM_UP: u32 = 300_000;

/// Names of all rows.
///
/// # Errors
/// See [`case::all`].
pub fn rows() -> Result<Vec<String>> {
    Ok(case::all()?
        .into_iter()
        .map(|case| case.name.to_owned())
        .collect())
}

/// Measures, prints the table, and returns its rows.
///
/// # Errors
/// No rights, no object, or a void measurement.
pub fn run(options: &Options, built: &Path) -> Result<Vec<Row>> {
    // A thread of its own: it leaves for another network namespace and stays on one CPU.
    thread::scope(|scope| {
        scope
            .spawn(|| Bench::new(options, built)?.run(options))
            .join()
            .unwrap_or_else(|_| bail!("the bench panicked"))
    })
}

/// A row while it is measured.
struct Measured {
    case: Case,
    front: Front,
    /// Nanoseconds per packet, by round: with the program under test behind the front program, and with `empty`.
    whole: Vec<f64>,
    front_only: Vec<f64>,
}

struct Bench {
    ifindex: u32,
    targets: BTreeMap<Table, Target>,
    rows: Vec<Measured>,
    /// The bench's own programs without a front program, and the drop at the far end.
    references: Front,
}

/// What the references took, by round.
#[derive(Default)]
struct References {
    floor: Vec<f64>,
    empty: Vec<f64>,
    live: Vec<f64>,
}

impl Bench {
    fn new(options: &Options, built: &Path) -> Result<Self> {
        let own = read(&built.join("bench"))?;
        let object = read(options.object.as_ref().unwrap_or(&built.join("balancer")))?;
        let cases: Vec<Case> = case::all()?
            .into_iter()
            .filter(|case| options.wants(case.name))
            .collect();
        instructions::print(&object)?;
        pin_to_last_cpu()?;
        let interfaces = network::build()?;
        let ifindex = interfaces.near;

        let lone = Walk {
            flows: 1,
            multiplier: runner::IN_ORDER,
        };
        let frame = cases.first().context("no row was chosen")?.frames[0].clone();
        let mut references = Front::load(&own, &[frame], lone, 0)?;
        // All ends need a native program: without one at the far end frames are not delivered, and without one at the
        // near end the kernel knows no receive queue that test runs can name.
        for interface in [
            network::NEAR,
            network::FAR,
            network::INSIDE,
            network::INSIDE_FAR,
        ] {
            references.drop_at(interface)?;
        }

        let mut bench = Self {
            ifindex,
            targets: BTreeMap::new(),
            rows: Vec::new(),
            references,
        };
        for case in cases {
            if let Subject::Balancer(table) = case.subject
                && !bench.targets.contains_key(&table)
            {
                let room = connections(table, options);
                bench
                    .targets
                    .insert(table, Target::load(&object, room, &interfaces)?);
            }
            let name = case.name;
            let row = bench
                .prepare(&own, case)
                .with_context(|| format!("row {name}"))?;
            bench.rows.push(row);
        }
        Ok(bench)
    }

    /// Makes the row's connections and looks at one packet: a row counts only for a program that does its work.
    fn prepare(&self, own: &[u8], case: Case) -> Result<Measured> {
        let mut front;
        let outcome = match case.subject {
            Subject::Balancer(table) => {
                let target = &self.targets[&table];
                self.connect(own, target, &case)?;
                front = Front::load(own, &case.frames, case.walk, 0)?;
                runner::run_once(target.program()?, self.ifindex, &case.frames[0])?
            }
            Subject::Reference(name) => {
                front = Front::load(own, &case.frames, case.walk, case.walk.flows)?;
                front.fill_nat(case::translations(case.walk.flows))?;
                runner::run_once(front.program(name)?, self.ifindex, &case.frames[0])?
            }
        };
        let (action, frame) = &case.expected;
        ensure!(
            outcome.action == *action && outcome.frame == *frame,
            "the program does not do what is to be measured: action {} instead of {action}\nframe    {:02x?}\nexpected {:02x?}",
            outcome.action,
            outcome.frame,
            frame,
        );
        Ok(Measured {
            case,
            front,
            whole: Vec::new(),
            front_only: Vec::new(),
        })
    }

    /// Makes the row's connections as clients and real servers do: the program itself writes what it will look up.
    fn connect(&self, own: &[u8], target: &Target, case: &Case) -> Result<()> {
        let program = target.program()?;
        if !case.made_by.is_empty() {
            let walk = Walk {
                multiplier: runner::IN_ORDER,
                ..case.walk
            };
            let mut maker = Front::load(own, &case.made_by, walk, 0)?;
            maker.aim(program)?;
            let packets = case.walk.flows * u32::try_from(case.made_by.len())?;
            let flows = u64::from(case.walk.flows);
            let before = target.counters()?;
            maker.measure(self.ifindex, packets, Delivery::Verdict)?;
            let counted = target.counters()?.since(&before);
            expect(&counted, [2 * flows, flows], None).context("making the connections")?;
        }
        for frame in &case.before {
            runner::run_once(program, self.ifindex, frame)?;
        }
        Ok(())
    }

    fn run(mut self, options: &Options) -> Result<Vec<Row>> {
        self.round(WARM_UP.min(options.packets), &mut References::default())?;
        for row in &mut self.rows {
            row.whole.clear();
            row.front_only.clear();
        }
        let mut references = References::default();
        for round in 1..=options.rounds {
            eprintln!("round {round} of {}", options.rounds);
            self.round(options.packets, &mut references)?;
        }
        Ok(self.report(&references))
    }

    fn round(&mut self, packets: u32, references: &mut References) -> Result<()> {
        let ifindex = self.ifindex;
        let frame = self.rows[0].case.frames[0].clone();
        let plain =
            |program: &Xdp, delivery| runner::measure(program, ifindex, &frame, packets, delivery);
        references
            .floor
            .push(plain(self.references.program("floor")?, Delivery::Verdict)?);
        references
            .empty
            .push(plain(self.references.program("empty")?, Delivery::Verdict)?);
        if self
            .rows
            .iter()
            .any(|row| row.case.delivery == Delivery::Live)
        {
            let before = self.references.arrived()?;
            references
                .live
                .push(plain(self.references.program("empty")?, Delivery::Live)?);
            self.references
                .expect_arrival(before + u64::from(packets))?;
        }
        for row in &mut self.rows {
            crate::interrupt::check()?;
            let target = match row.case.subject {
                Subject::Balancer(table) => Some(&self.targets[&table]),
                Subject::Reference(_) => None,
            };
            let packets = row.case.packets(packets);
            row.round(target, &self.references, ifindex, packets)
                .with_context(|| format!("row {}", row.case.name))?;
        }
        Ok(())
    }

    fn report(&self, references: &References) -> Vec<Row> {
        println!(
            "floor (MAC swap, XDP_TX): {:.1} ns, minimum {:.1}; plain XDP_TX live: {:.1} ns, minimum {:.1}\n",
            median(&references.floor),
            minimum(&references.floor),
            median(&references.live),
            minimum(&references.live)
        );
        println!(
            "{:<28} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "row", "ns", "minimum", "front", "ratio", "of min.", "aim"
        );
        let mut rows = Vec::new();
        for row in &self.rows {
            let (reference, idle) = match row.case.delivery {
                Delivery::Verdict => (&references.floor, &references.empty),
                Delivery::Live => (&references.live, &references.live),
            };
            // A few nanoseconds: the smallest figures are those that nobody else disturbed.
            let front = (minimum(&row.front_only) - minimum(idle)).max(0.0);
            let costs: Vec<f64> = row.whole.iter().map(|whole| whole - front).collect();
            let ratios: Vec<f64> = costs
                .iter()
                .zip(reference)
                .map(|(cost, reference)| cost / reference)
                .collect();
            let result = Row {
                suite: "packet",
                row: row.case.name.to_owned(),
                unit: "ns",
                median: median(&costs),
                minimum: minimum(&costs),
                reference: median(reference),
                ratio: median(&ratios),
            };
            println!(
                "{:<28} {:>8.1} {:>8.1} {:>8.1} {:>7.2}x {:>7.2}x {:>8}",
                result.row,
                result.median,
                result.minimum,
                front,
                result.ratio,
                result.minimum / minimum(reference),
                row.case.aim.map_or(String::new(), |aim| format!("{aim}x")),
            );
            rows.push(result);
        }
        rows
    }
}

impl Measured {
    fn round(
        &mut self,
        target: Option<&Target>,
        references: &Front,
        ifindex: u32,
        packets: u32,
    ) -> Result<()> {
        self.front.aim_own("empty")?;
        self.front_only
            .push(self.front.measure(ifindex, packets, self.case.delivery)?);
        match (self.case.subject, target) {
            (Subject::Reference(name), _) => self.front.aim_own(name)?,
            (Subject::Balancer(_), Some(target)) => self.front.aim(target.program()?)?,
            (Subject::Balancer(_), None) => bail!("the row's program is not loaded"),
        }
        let before = target.map(Target::counters).transpose()?;
        let done = self.front.done()?;
        let arrived = references.arrived()?;
        self.whole
            .push(self.front.measure(ifindex, packets, self.case.delivery)?);
        if self.case.delivery == Delivery::Live {
            references.expect_arrival(arrived + u64::from(packets))?;
        }
        let packets = u64::from(packets);
        if let (Some(target), Some(before)) = (target, before) {
            let counted = target.counters()?.since(&before);
            match self.case.count {
                Count::Packets(per_turn) => {
                    let turns = packets / self.case.frames.len() as u64;
                    expect(&counted, per_turn.map(|n| n * turns), None)?;
                }
                Count::Discard(reason) => expect(&counted, [0, 0], Some((reason, packets)))?,
                Count::Done => expect(&counted, [0, 0], None)?,
            }
        } else {
            let done = self.front.done()? - done;
            ensure!(
                done == packets,
                "the measurement is void: {done} packets were dealt with instead of {packets}"
            );
        }
        Ok(())
    }
}

impl Case {
    /// The number of packets that is next to `packets` and makes whole turns.
    fn packets(&self, packets: u32) -> u32 {
        let frames = u32::try_from(self.frames.len()).unwrap_or(1);
        packets / frames * frames
    }
}

/// Compares everything that was counted with what must have been.
fn expect(counted: &Counters, packets: [u64; 2], discard: Option<(Discard, u64)>) -> Result<()> {
    let mut discards = vec![0; Discard::COUNT as usize];
    if let Some((reason, count)) = discard {
        discards[reason as usize] = count;
    }
    ensure!(
        counted.packets == packets && counted.discards == discards,
        "the measurement is void: {:?} packets [from the client, from the real server] were translated instead of {packets:?}; discards: {:?}",
        counted.packets,
        counted.discards_by_name(),
    );
    Ok(())
}

/// Room in a table.
fn connections(table: Table, options: &Options) -> u32 {
    match table {
        Table::Default | Table::New => case::DEFAULT_CONNECTIONS,
        Table::Million => 1 << 20,
        Table::Handshakes => ((options.rounds + 1) * options.packets).div_ceil(3) + 1,
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn pin_to_last_cpu() -> Result<()> {
    let last = thread::available_parallelism()?.get() - 1;
    let mut cpus = CpuSet::new();
    cpus.set(last)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("staying on one CPU")
}
