//! What holds whatever the model says: for tables so small that connections give way to others.

use std::collections::HashMap;

use balancer_common::{
    tcp::State,
    verdict::Discard::{NoNeighbour, ToFragment},
};
use balancer_tests::dataplane::Verdict;

use super::{Bench, Step};
use crate::{
    model::states::{Flow, ORIGINAL},
    wire::hex,
};

impl Bench<'_> {
    /// Takes one step; what must never be is the error.
    pub fn take_loosely(&mut self, step: &Step) -> Result<(), String> {
        let Step::Frame(side, frame) = step else {
            return self.take(step);
        };
        // What is under way in a table with room is near enough to what is under way.
        self.model.take(*side, frame);
        let translated =
            |this: &Self| this.lb.discarded(NoNeighbour) + this.lb.discarded(ToFragment);
        let before = translated(self);
        let (verdict, out) = self.lb.send(*side, frame);
        self.seen.note(verdict);
        if verdict == Verdict::Aborted {
            return Err("it was aborted".into());
        }
        if verdict == Verdict::Pass && out != *frame && translated(self) == before {
            return Err(format!("passed, but changed: {}", hex(&out)));
        }
        Ok(())
    }

    /// Both entries of each connection are there, or none, and loads are what they count.
    pub fn check_pairs(&self) -> Result<(), String> {
        let found = self.lb.plain_entries();
        let flow = |source, destination, protocol| Flow {
            source,
            destination,
            protocol,
        };
        let by_flow: HashMap<_, _> = found
            .iter()
            .map(|entry| (flow(entry.source, entry.destination, entry.protocol), entry))
            .collect();
        if by_flow.len() != found.len() {
            return Err(format!("a flow has two entries: {found:?}"));
        }
        let mut loads: HashMap<u32, [u32; 2]> = HashMap::new();
        for entry in &found {
            let real = &self.model.world.reals[entry.real as usize];
            let vip = self.model.world.services[real.service].key.0;
            let other = if usize::from(entry.direction) == ORIGINAL {
                let load = loads.entry(entry.real).or_default();
                match State::from_number(entry.state) {
                    Some(State::Established) => load[0] += 1,
                    Some(State::TimeWait | State::Closed) => {}
                    Some(_) => load[1] += 1,
                    None => return Err(format!("a place is taken for ever: {entry:?}")),
                }
                flow((real.address, entry.port), entry.source, entry.protocol)
            } else {
                flow(entry.destination, (vip, entry.port), entry.protocol)
            };
            let is_pair = by_flow.get(&other).is_some_and(|other| {
                other.direction != entry.direction
                    && other.real == entry.real
                    && other.state == entry.state
            });
            if !is_pair {
                return Err(format!("{entry:?} has no other half among {found:?}"));
            }
        }
        for id in 0..self.model.world.reals.len() as u32 {
            let expected = loads.get(&id).copied().unwrap_or_default();
            if self.lb.counts_of(id) != expected {
                return Err(format!(
                    "load of {id}: {:?}, expected {expected:?}",
                    self.lb.counts_of(id)
                ));
            }
        }
        Ok(())
    }
}
