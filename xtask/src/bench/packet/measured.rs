//! A row while it is measured: its figures by round, and the check that each packet was dealt with as it should.

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    case::{Case, Count, Subject},
    pair::{self, Fronts},
    runner::{Delivery, Front},
    target::{Expected, Target},
};
use crate::bench::report::minimum;

/// A row while it is measured.
pub struct Measured {
    /// What is measured.
    pub case: Case,
    fronts: Generators,
    /// Nanoseconds per packet, by round, with the program under test behind the front program.
    whole: Vec<f64>,
    /// The same on one CPU at a time; of a row on two CPUs.
    alone: Vec<f64>,
    /// With `empty` behind the front program.
    front_only: Vec<f64>,
}

/// What sends a row's packets.
pub enum Generators {
    /// One CPU.
    One(Box<Front>),
    /// Two CPUs, with flows of their own.
    Two(Box<Fronts>, [usize; 2]),
}

/// Where a row is measured.
pub struct Place<'a> {
    /// The program under test, if the row is about it.
    pub target: Option<&'a Target>,
    /// Counts what is truly delivered.
    pub far_end: &'a Front,
    /// The interface by which all packets come in.
    pub ifindex: u32,
}

impl Measured {
    /// Begins without figures.
    pub fn new(case: Case, fronts: Generators) -> Self {
        Self {
            case,
            fronts,
            whole: Vec::new(),
            alone: Vec::new(),
            front_only: Vec::new(),
        }
    }

    /// Forgets the figures so far.
    pub fn clear(&mut self) {
        self.whole.clear();
        self.alone.clear();
        self.front_only.clear();
    }

    /// What the front program adds to a packet, where the cheapest run with `empty` alone took `idle`.
    ///
    /// A few nanoseconds: the smallest figures are those that nobody else disturbed.
    pub fn front(&self, idle: f64) -> f64 {
        (minimum(&self.front_only) - idle).max(0.0)
    }

    /// Nanoseconds per packet without the front program, by round.
    pub fn costs(&self, idle: f64) -> Vec<f64> {
        let front = self.front(idle);
        self.whole.iter().map(|whole| whole - front).collect()
    }

    /// The same on one CPU at a time.
    pub fn costs_alone(&self, idle: f64) -> Vec<f64> {
        let front = self.front(idle);
        self.alone.iter().map(|alone| alone - front).collect()
    }

    /// Measures the row once.
    ///
    /// # Errors
    /// The kernel refused a run, or the measurement is void.
    pub fn round(&mut self, place: &Place<'_>, packets: u32) -> Result<()> {
        let packets = self.case.packets(packets);
        self.aim_own("empty")?;
        let front_only = self.measure(place, packets)?;
        self.front_only.push(front_only);
        match (self.case.subject, place.target) {
            (Subject::Reference(name), _) => self.aim_own(name)?,
            (Subject::Balancer(_), Some(target)) => self.aim(target)?,
            (Subject::Balancer(_), None) => bail!("the row's program is not loaded"),
        }
        let counted = place.target.map(Target::counters).transpose()?;
        let done = self.done()?;
        let arrived = place.far_end.arrived()?;
        let whole = self.measure(place, packets)?;
        self.whole.push(whole);
        let mut sent = u64::from(packets);
        if let Generators::Two(fronts, cpus) = &self.fronts {
            let both = pair::at_once(fronts, *cpus, place.ifindex, packets)?;
            // What was just measured was alone.
            self.alone.extend(self.whole.pop());
            self.whole.push(both);
            sent *= 4;
        }
        if self.case.delivery == Delivery::Live {
            place.far_end.expect_arrival(arrived + sent)?;
        }
        if let (Some(target), Some(before)) = (place.target, counted) {
            return target
                .counters()?
                .since(&before)
                .expect(self.expected(sent));
        }
        let done = self.done()? - done;
        ensure!(
            done == sent,
            "the measurement is void: {done} packets were dealt with instead of {sent}"
        );
        Ok(())
    }

    /// What the program under test must count for `sent` packets.
    fn expected(&self, sent: u64) -> Expected {
        match self.case.count {
            Count::Packets(per_turn) => {
                let turns = sent / self.case.frames.len() as u64;
                Expected::Packets(per_turn.map(|count| count * turns))
            }
            Count::NotOurs => Expected::NotOurs(sent),
            Count::Done => Expected::Packets([0, 0]),
        }
    }

    /// Runs what the front programs are aimed at, on one CPU at a time.
    fn measure(&self, place: &Place<'_>, packets: u32) -> Result<f64> {
        match &self.fronts {
            Generators::One(front) => front.measure(place.ifindex, packets, self.case.delivery),
            Generators::Two(fronts, cpus) => {
                pair::one_by_one(fronts, *cpus, place.ifindex, packets)
            }
        }
    }

    fn aim(&mut self, target: &Target) -> Result<()> {
        for front in self.fronts.all() {
            front.aim(target.program()?)?;
        }
        Ok(())
    }

    fn aim_own(&mut self, name: &str) -> Result<()> {
        for front in self.fronts.all() {
            front
                .aim_own(name)
                .with_context(|| format!("aiming at {name}"))?;
        }
        Ok(())
    }

    /// Packets that the references behind the front program have dealt with.
    fn done(&self) -> Result<u64> {
        match &self.fronts {
            Generators::One(front) => front.done(),
            Generators::Two(fronts, _) => Ok(fronts[0].done()? + fronts[1].done()?),
        }
    }
}

impl Generators {
    fn all(&mut self) -> &mut [Front] {
        match self {
            Self::One(front) => std::slice::from_mut(front),
            Self::Two(fronts, _) => fronts.as_mut_slice(),
        }
    }
}
