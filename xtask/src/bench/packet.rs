//! The packet bench: the packet program's cost per packet, on one CPU, compared with a minimal NAT with the
//! kernel's hash table and as many connections (`minimal-nat`).
//!
//! Every round measures every row once, so that whatever else the machine does hits all alike. A figure counts only if
//! the program's own counters say that each packet was translated (or passed, where the row is about that): a bench
//! that measured how fast packets are refused is void.

mod arrangement;
mod case;
pub mod connect;
pub mod cpus;
pub mod frame;
mod instructions;
mod measured;
mod minimal;
pub mod network;
mod pair;
pub mod route;
pub mod runner;
pub mod target;

use std::{collections::BTreeMap, fs, path::Path, thread};

use anyhow::{Context as _, Result, bail, ensure};

use self::{
    case::{Against, Case, Subject, Table},
    measured::{Generators, Measured, Place},
    network::NEW_FLOWS,
    route::Route,
    runner::{Delivery, Front, Walk},
    target::{DEFAULT_CONNECTIONS, Target},
};
use super::{
    Options,
    report::{Aim, Row, median, minimum, ratios},
};

/// Packets of a row that are sent before the first round.
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
    let allowed = cpus::allowed()?;
    let cases = wanted(options, allowed.len())?;
    if cases.is_empty() {
        return Ok(Vec::new());
    }
    // On a thread of its own, which enters another network namespace and stays on one CPU.
    // The value of one map takes a megabyte.
    let thread = thread::Builder::new().stack_size(128 << 20);
    thread::scope(|scope| {
        thread
            .spawn_scoped(scope, || {
                Bench::new(options, built, cases, &allowed)?.run(options)
            })
            .context("starting the bench's thread")?
            .join()
            .unwrap_or_else(|_| bail!("the bench panicked"))
    })
}

struct Bench {
    ifindex: u32,
    /// The CPU of this thread, and another if there is one.
    cpus: (usize, Option<usize>),
    targets: BTreeMap<Table, Target>,
    rows: Vec<Measured>,
    /// The bench's own programs without a front program, and the drop at the far end.
    references: Front,
}

/// The references' times, by round.
#[derive(Default)]
struct References {
    floor: Vec<f64>,
    live: Vec<f64>,
}

impl Bench {
    fn new(options: &Options, built: &Path, cases: Vec<Case>, allowed: &[usize]) -> Result<Self> {
        let own = read(&built.join("bench"))?;
        let object = read(options.object.as_ref().unwrap_or(&built.join("balancer")))?;
        instructions::print(&object)?;
        let cpus = (
            *allowed.last().context("no CPU may be used")?,
            allowed.iter().rev().nth(1).copied(),
        );
        cpus::stay_on(cpus.0)?;
        let interfaces = network::build()?;
        let ifindex = interfaces.near;

        let frame = cases.first().context("no row was chosen")?.frames[0].clone();
        let references = Front::far_ends(&own, &frame)?;

        let mut bench = Self {
            ifindex,
            cpus,
            targets: BTreeMap::new(),
            rows: Vec::new(),
            references,
        };
        for case in cases {
            if let Subject::Balancer(table) = case.subject
                && !bench.targets.contains_key(&table)
            {
                let room = connections(table, options);
                let mut target = Target::load(&object, room, &interfaces)?;
                if let Table::Scheduled(arrangement) = table {
                    target.arrange(arrangement)?;
                }
                bench.targets.insert(table, target);
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
        let fronts = self.generators(own, &case)?;
        let outcome = match case.subject {
            Subject::Balancer(table) => {
                let target = &self.targets[&table];
                self.connect(own, target, &case)?;
                runner::run_once(target.program()?, self.ifindex, &case.frames[0])?
            }
            Subject::Reference(name) => {
                let Generators::One(front) = &fronts else {
                    bail!("references are measured on one CPU");
                };
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
        Ok(Measured::new(case, fronts))
    }

    /// Loads what sends the row's packets; the connections of a reference are filled in.
    fn generators(&self, own: &[u8], case: &Case) -> Result<Generators> {
        let load = |start, flows| {
            let walk = Walk { start, ..case.walk };
            Front::load(own, &case.frames, walk, flows)
        };
        if case.against == Against::Alone {
            let (first, second) = self.cpus;
            let second = second.context("there is one CPU only")?;
            // Parts of the walk that no other row comes to.
            let part = u64::from(NEW_FLOWS / 4);
            let fronts = Box::new([load(part, 0)?, load(2 * part, 0)?]);
            return Ok(Generators::Two(fronts, [first, second]));
        }
        let flows = case.walk.flows;
        let front = match case.subject {
            Subject::Balancer(_) => load(0, 0)?,
            Subject::Reference(_) => {
                let mut front = load(0, flows)?;
                front.fill_nat(&routes(flows))?;
                front
            }
        };
        Ok(Generators::One(Box::new(front)))
    }

    /// Makes the row's connections as clients and real servers do: the program itself writes what it will look up.
    fn connect(&self, own: &[u8], target: &Target, case: &Case) -> Result<()> {
        if !case.made_by.is_empty() {
            connect::through(target, own, self.ifindex, &case.made_by, case.walk.flows)?;
        }
        for frame in &case.before {
            runner::run_once(target.program()?, self.ifindex, frame)?;
        }
        Ok(())
    }

    fn run(mut self, options: &Options) -> Result<Vec<Row>> {
        self.round(WARM_UP.min(options.packets), &mut References::default())?;
        self.rows.iter_mut().for_each(Measured::clear);
        let mut references = References::default();
        for round in 1..=options.rounds() {
            eprintln!("round {round} of {}", options.rounds());
            self.round(options.packets, &mut references)?;
        }
        Ok(self.report(&references))
    }

    fn round(&mut self, packets: u32, references: &mut References) -> Result<()> {
        let far_end = &self.references;
        let plain = |name, delivery| far_end.measure_own(name, self.ifindex, packets, delivery);
        references.floor.push(plain("floor", Delivery::Verdict)?);
        if self
            .rows
            .iter()
            .any(|row| row.case.delivery == Delivery::Live)
        {
            references.live.push(plain("empty", Delivery::Live)?);
        }
        for number in 0..self.rows.len() {
            crate::interrupt::check()?;
            let name = self.rows[number].case.name;
            self.measure(number, packets)
                .with_context(|| format!("row {name}"))?;
        }
        Ok(())
    }

    /// Measures a row, and right after it, since the machine's speed changes with time, what it is compared with.
    fn measure(&mut self, number: usize, packets: u32) -> Result<()> {
        let row = &mut self.rows[number];
        let mut place = Place {
            target: match row.case.subject {
                Subject::Balancer(table) => Some(&self.targets[&table]),
                Subject::Reference(_) => None,
            },
            far_end: &self.references,
            ifindex: self.ifindex,
        };
        row.round(&place, packets)?;
        if let Against::Row(name) = row.case.against {
            let mut rows = self.rows.iter_mut();
            let reference = rows.find(|other| other.case.name == name);
            let reference = reference.context("the row's reference is not measured")?;
            place.target = match reference.case.subject {
                Subject::Balancer(table) => Some(&self.targets[&table]),
                Subject::Reference(_) => None,
            };
            let time = reference.time(&place, packets)?;
            self.rows[number].note_reference(time);
        }
        Ok(())
    }

    fn report(&self, references: &References) -> Vec<Row> {
        for (name, figures) in [
            ("floor (MAC swap, XDP_TX)", &references.floor),
            ("plain XDP_TX, live frames", &references.live),
        ] {
            if !figures.is_empty() {
                let (median, minimum) = (median(figures), minimum(figures));
                println!("{name}: {median:.1} ns, minimum {minimum:.1}");
            }
        }
        println!(
            "ratio: the median over the rounds of a row's time to its reference's in the same round; of min.: the\n\
             quotient of both minima. The reference is minimal-nat with as many flows, or with one; of the row on two\n\
             CPUs it is the same work on one CPU at a time; of other schedulers and of persistence new-connection.\n"
        );
        println!(
            "{:<28} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}   aim",
            "row", "ns", "minimum", "front", "ref.", "ratio", "of min."
        );
        self.rows.iter().map(|row| self.line(row)).collect()
    }

    /// Prints a row and returns it.
    fn line(&self, row: &Measured) -> Row {
        let costs = row.costs();
        let front = match row.case.against {
            Against::Alone => row.front(),
            Against::Row(name) => self
                .rows
                .iter()
                .find(|other| other.case.name == name)
                .map_or(f64::NAN, Measured::front),
        };
        let reference = row.reference(front);
        let result = Row {
            suite: "packet",
            row: row.case.name.to_owned(),
            unit: "ns",
            median: median(&costs),
            minimum: minimum(&costs),
            reference: median(&reference),
            ratio: median(&ratios(&costs, &reference)),
        };
        println!(
            "{:<28} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>7.2}x {:>7.2}x   {}",
            result.row,
            result.median,
            result.minimum,
            row.front(),
            result.reference,
            result.ratio,
            result.minimum / minimum(&reference),
            Aim::remark(row.case.aim, result.ratio),
        );
        result
    }
}

/// The rows that are wanted and can be measured on `cpus` CPUs, and what they are compared with.
fn wanted(options: &Options, cpus: usize) -> Result<Vec<Case>> {
    let all = case::all()?;
    let mut chosen: Vec<&Case> = all.iter().filter(|case| options.wants(case.name)).collect();
    if cpus < 2 {
        for case in chosen.iter().filter(|case| case.against == Against::Alone) {
            eprintln!("skipped: {}: it needs two CPUs", case.name);
        }
        chosen.retain(|case| case.against != Against::Alone);
    }
    let is_needed = |case: &Case| {
        chosen
            .iter()
            .any(|row| row.name == case.name || row.against == Against::Row(case.name))
    };
    Ok(all.iter().filter(|case| is_needed(case)).cloned().collect())
}

/// The connections of a minimal NAT.
fn routes(flows: u32) -> Vec<Route> {
    if flows == 1 {
        return vec![Route::lone()];
    }
    (0..flows).map(Route::of_set).collect()
}

/// How many connections a table has room for.
fn connections(table: Table, options: &Options) -> u32 {
    match table {
        Table::Default | Table::New | Table::Scheduled(_) => DEFAULT_CONNECTIONS,
        Table::Million => 1 << 21,
        Table::Handshakes => ((options.rounds() + 1) * options.packets) / 2 + 64,
    }
}

/// Reads an object.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}
