//! All that packets have left behind, on both sides.

use std::collections::HashMap;

use balancer_common::verdict::Discard;
use balancer_tests::plain::PlainEntry;

use super::{Bench, DRIFT};
use crate::model::states::{Flow, ORIGINAL};

impl Bench<'_> {
    /// Compares all entries.
    pub fn check_entries(&self) -> Result<(), String> {
        let now = self.lb.jiffies() as u32;
        let found = self.lb.plain_entries();
        let expected = &self.model.connections;
        if found.len() != 2 * expected.len() {
            return Err(format!(
                "{} entries, expected {}\n{}",
                found.len(),
                2 * expected.len(),
                self.connections(&found)
            ));
        }
        let mut loads: HashMap<usize, [u64; 2]> = HashMap::new();
        for entry in &found {
            self.check_entry(entry, now)
                .map_err(|error| format!("{error}\n{}", self.connections(&found)))?;
        }
        for connection in expected.values() {
            let load = loads.entry(connection.real).or_default();
            let [active, inactive] = connection.load();
            load[0] += active;
            load[1] += inactive;
        }
        for id in 0..self.model.world.reals.len() {
            let expected = loads.get(&id).copied().unwrap_or_default();
            let found = self.lb.counts_of(id as u32).map(u64::from);
            if found != expected {
                return Err(format!("load of {id}: {found:?}, expected {expected:?}"));
            }
        }
        Ok(())
    }

    fn check_entry(&self, entry: &PlainEntry, now: u32) -> Result<(), String> {
        let flow = Flow {
            source: entry.source,
            destination: entry.destination,
            protocol: entry.protocol,
        };
        let Some((connection, direction)) = self.model.connection(&flow) else {
            return Err(format!("an entry of no connection: {entry:?}"));
        };
        let other = connection.flows[1 - direction];
        let is_original = direction == ORIGINAL;
        let port = if is_original {
            other.source.1
        } else {
            other.destination.1
        };
        let silent = self.model.now - connection.seen[direction];
        let really = u64::from(now.wrapping_sub(entry.last_seen));
        let is_right = usize::from(entry.direction) == direction
            && entry.state == connection.state as u8
            && entry.real as usize == connection.real
            && entry.port == port
            && (!is_original
                || entry.number == connection.kept
                    && entry.heard == connection.heard
                    && entry.is_ended == connection.is_ended)
            && really + 200 >= silent
            && really <= silent + DRIFT;
        if is_right {
            return Ok(());
        }
        Err(format!(
            "the entry {entry:?}, silent for {really}\nexpected {connection:?} {direction}, silent for {silent}"
        ))
    }

    fn connections(&self, found: &[PlainEntry]) -> String {
        let list = |lines: Vec<String>| lines.join("\n  ");
        format!(
            "found:\n  {}\nexpected:\n  {}",
            list(found.iter().map(|entry| format!("{entry:?}")).collect()),
            list(
                self.model
                    .connections
                    .values()
                    .map(|connection| format!("{connection:?}"))
                    .collect()
            )
        )
    }

    /// Compares everything that is counted.
    pub fn check_counters(&self) -> Result<(), String> {
        for reason in Discard::ALL {
            if self.has_counted(*reason) {
                return Err(self.counted());
            }
        }
        for (id, before) in self.traffic.iter().enumerate() {
            let (now, expected) = (self.traffic_of(id), self.model.traffic[id]);
            let mut sum = *before;
            sum.connections += expected.connections;
            for (sum, counts) in sum.directions.iter_mut().zip(expected.directions) {
                sum[0] += counts[0];
                sum[1] += counts[1];
            }
            if now != sum {
                return Err(format!("traffic of {id}: {now:?}, expected {sum:?}"));
            }
        }
        for (id, expected) in (1..).zip(&self.model.filters.counted) {
            let found = self.lb.counted(id);
            if found != *expected {
                return Err(format!(
                    "counted by rule {id}: {found}, expected {expected}"
                ));
            }
        }
        for (service, turns) in self.services.iter().zip(&self.model.turns) {
            if self.lb.turns_of(*service) != *turns {
                return Err(format!(
                    "turns of {service:?}: {}, expected {turns}",
                    self.lb.turns_of(*service)
                ));
            }
        }
        Ok(())
    }
}
