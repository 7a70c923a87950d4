//! A row while it is measured: its figures by round, and the check that each packet was processed as expected.

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    case::{Case, Count, Subject},
    pair::{self, Fronts},
    runner::{Delivery, Front},
    target::{Expected, Target},
};
use crate::bench::report::median;

/// A row while it is measured. Figures are nanoseconds per packet, by round.
pub struct Measured {
    /// What is measured.
    pub case: Case,
    fronts: Generators,
    /// With the program under test behind the front program.
    whole: Vec<f64>,
    /// The reference of the row, right after.
    reference: Vec<f64>,
    /// What the front program adds.
    front: Vec<f64>,
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
    /// A row without figures.
    pub fn new(case: Case, fronts: Generators) -> Self {
        Self {
            case,
            fronts,
            whole: Vec::new(),
            reference: Vec::new(),
            front: Vec::new(),
        }
    }

    /// Removes all figures.
    pub fn clear(&mut self) {
        self.whole.clear();
        self.reference.clear();
        self.front.clear();
    }

    /// What the front program adds to a packet: the median of differences of neighbours in time.
    pub fn front(&self) -> f64 {
        median(&self.front).max(0.0)
    }

    /// The row's times without the front program.
    pub fn costs(&self) -> Vec<f64> {
        less(&self.whole, self.front())
    }

    /// Its reference's times without the front program, which adds `front` to each.
    pub fn reference(&self, front: f64) -> Vec<f64> {
        less(&self.reference, front)
    }

    /// Measures the row once.
    ///
    /// # Errors
    /// The kernel refused a run, or the measurement is void.
    pub fn round(&mut self, place: &Place<'_>, packets: u32) -> Result<()> {
        let packets = self.case.packets(packets);
        let delivery = self.case.delivery;
        let idle = place
            .far_end
            .measure_own("empty", place.ifindex, packets, delivery)?;
        self.aim_own("empty")?;
        let front = self.one_by_one(place, packets)?;
        self.front.push(front - idle);
        let whole = self.time(place, packets)?;
        let Generators::Two(fronts, cpus) = &self.fronts else {
            self.whole.push(whole);
            return Ok(());
        };
        let both = self.checked(place, 2 * u64::from(packets), || {
            pair::at_once(fronts, *cpus, place.ifindex, packets)
        })?;
        self.whole.push(both);
        self.note_reference(whole);
        Ok(())
    }

    /// Adds the reference's time in this round.
    pub fn note_reference(&mut self, time: f64) {
        self.reference.push(time);
    }

    /// Measures the row's program behind the front program, on one CPU at a time, and returns what it took.
    ///
    /// # Errors
    /// The kernel refused a run, or the measurement is void.
    pub fn time(&mut self, place: &Place<'_>, packets: u32) -> Result<f64> {
        match (self.case.subject, place.target) {
            (Subject::Reference(name), _) => self.aim_own(name)?,
            (Subject::Balancer(_), Some(target)) => self.aim(target)?,
            (Subject::Balancer(_), None) => bail!("the row's program is not loaded"),
        }
        let packets = self.case.packets(packets);
        let sent = match self.fronts {
            Generators::One(_) => u64::from(packets),
            Generators::Two(..) => 2 * u64::from(packets),
        };
        self.checked(place, sent, || self.one_by_one(place, packets))
    }

    /// Does `work`, and checks that each of the `sent` packets was processed as the row says.
    fn checked(
        &self,
        place: &Place<'_>,
        sent: u64,
        work: impl FnOnce() -> Result<f64>,
    ) -> Result<f64> {
        let counted = place.target.map(Target::counters).transpose()?;
        let done = self.done()?;
        let time = work()?;
        if let (Some(target), Some(before)) = (place.target, counted) {
            let counted = target.counters()?.since(&before);
            counted.expect(self.expected(sent))?;
            return Ok(time);
        }
        let done = self.done()? - done;
        ensure!(
            done == sent,
            "the measurement is void: {done} packets were dealt with instead of {sent}"
        );
        Ok(time)
    }

    /// What the program under test must count for `sent` packets.
    fn expected(&self, sent: u64) -> Expected {
        if let Generators::Two(..) = self.fronts {
            return Expected::Contended(sent);
        }
        match self.case.count {
            Count::Packets(per_turn) => {
                let turns = sent / self.case.frames.len() as u64;
                Expected::Packets(per_turn.map(|count| count * turns))
            }
            Count::NotOurs => Expected::NotOurs(sent),
            Count::Done => Expected::Packets([0, 0]),
        }
    }

    /// Runs what the front programs are aimed at, on one CPU at a time, and sees that frames arrive if they leave.
    fn one_by_one(&self, place: &Place<'_>, packets: u32) -> Result<f64> {
        match &self.fronts {
            Generators::One(front) => {
                let arrived = place.far_end.arrived()?;
                let time = front.measure(place.ifindex, packets, self.case.delivery)?;
                if self.case.delivery != Delivery::Verdict {
                    let sent = u64::from(packets);
                    place.far_end.expect_arrival(arrived + sent)?;
                }
                Ok(time)
            }
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

    /// Packets that the references behind the front program have processed.
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

fn less(figures: &[f64], part: f64) -> Vec<f64> {
    figures.iter().map(|figure| figure - part).collect()
}
