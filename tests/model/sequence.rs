//! Sequences of steps, and the shortest part of one that still shows a difference.

use std::time::{Duration, Instant};

use crate::{
    driver::{Bench, Step},
    generator::Generator,
    random::Random,
};

/// Steps of a sequence.
const STEPS: usize = 400;

/// After how many steps all entries are compared.
const EVERY: usize = 24;

/// How long a difference may be made shorter.
const PATIENCE: Duration = Duration::from_secs(60);

/// How closely program and model are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// In everything.
    Exactly,
    /// In what holds in a table without room, too.
    Loosely,
}

impl Manner {
    fn take(self, bench: &mut Bench<'_>, step: &Step) -> Result<(), String> {
        match self {
            Self::Exactly => bench.take(step),
            Self::Loosely => bench.take_loosely(step),
        }
    }

    fn check_entries(self, bench: &Bench<'_>) -> Result<(), String> {
        match self {
            Self::Exactly => bench.check_entries(),
            Self::Loosely => bench.check_pairs(),
        }
    }

    fn check_counters(self, bench: &Bench<'_>) -> Result<(), String> {
        match self {
            Self::Exactly => bench.check_counters(),
            Self::Loosely => Ok(()),
        }
    }

    /// Runs the sequence of a seed; what differs is the error.
    pub fn run(self, bench: &mut Bench<'_>, seed: u64) -> Result<(), String> {
        let mut generator = Generator::new(Random(seed));
        let mut steps = Vec::with_capacity(STEPS);
        bench.reset();
        for number in 0..STEPS {
            let step = generator.step(bench.model());
            let result = self.take(bench, &step);
            steps.push(step);
            let result = result.and_then(|()| match number % EVERY {
                0 => self.check_entries(bench),
                _ => Ok(()),
            });
            if let Err(difference) = result {
                return Err(self.report(bench, seed, steps, &difference));
            }
        }
        let result = self
            .check_entries(bench)
            .and_then(|()| self.check_counters(bench));
        if let Err(difference) = result {
            return Err(self.report(bench, seed, steps, &difference));
        }
        bench.note_states();
        Ok(())
    }

    /// Takes these steps from the beginning, and compares everything after each.
    fn replay(self, bench: &mut Bench<'_>, steps: &[Step]) -> Result<(), String> {
        bench.reset();
        for step in steps {
            self.take(bench, step)?;
            self.check_entries(bench)?;
            self.check_counters(bench)?;
        }
        Ok(())
    }

    /// The shortest list of steps that still differs.
    fn report(
        self,
        bench: &mut Bench<'_>,
        seed: u64,
        mut steps: Vec<Step>,
        difference: &str,
    ) -> String {
        let all = steps.len();
        let begun = Instant::now();
        let mut difference = difference.to_owned();
        let mut size = steps.len() / 2;
        while size > 0 && begun.elapsed() < PATIENCE {
            let mut at = 0;
            let mut is_shorter = false;
            while at < steps.len() && begun.elapsed() < PATIENCE {
                let mut fewer = steps.clone();
                fewer.drain(at..(at + size).min(steps.len()));
                match self.replay(bench, &fewer) {
                    Err(new) => (steps, difference, is_shorter) = (fewer, new, true),
                    Ok(()) => at += size,
                }
            }
            if size > 1 {
                size /= 2;
            } else if !is_shorter {
                break;
            }
        }
        let lines: Vec<_> = steps.iter().map(|step| format!("  {step}")).collect();
        format!(
            "the sequence of seed {seed} differs at step {all}; so do these {} of its steps:\n{}\n{difference}",
            steps.len(),
            lines.join("\n")
        )
    }
}
