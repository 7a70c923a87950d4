//! When unresolved next hops are probed again: less and less often, and the longest due first. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::neighbour::NextHop;

/// From the first probe to the second. Each later pause is twice as long.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two probes.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The unresolved next hops, with the probes made so far.
#[derive(Debug, Default)]
pub struct ProbePacing {
    hops: BTreeMap<NextHop, ProbeHistory>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProbeHistory {
    probes: u32,
    /// When the next one is due.
    due: Instant,
}

/// The next hops to probe now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeBatch {
    /// Those to probe.
    pub hops: Vec<NextHop>,
    /// Whether others are due, too, and wait until there is room.
    pub others_wait: bool,
}

impl ProbePacing {
    /// Adds unresolved next hops; those that are new are due at once.
    pub fn add(&mut self, unresolved: &BTreeSet<NextHop>, now: Instant) {
        for hop in unresolved {
            self.hops.entry(*hop).or_insert(ProbeHistory {
                probes: 0,
                due: now,
            });
        }
    }

    /// Forgets all but these.
    pub fn retain(&mut self, hops: &BTreeSet<NextHop>) {
        self.hops.retain(|hop, _| hops.contains(hop));
    }

    /// Forgets these: they have resolved, or are not ours to probe.
    pub fn forget<'a>(&mut self, hops: impl IntoIterator<Item = &'a NextHop>) {
        for hop in hops {
            self.hops.remove(hop);
        }
    }

    /// Whether a next hop was probed and has not resolved since.
    pub fn was_probed(&self, hop: &NextHop) -> bool {
        self.hops.get(hop).is_some_and(|history| history.probes > 0)
    }

    /// Makes all due at once, as if none had been probed more than once.
    pub fn make_all_due(&mut self, now: Instant) {
        for history in self.hops.values_mut() {
            *history = ProbeHistory {
                probes: history.probes.min(1),
                due: now,
            };
        }
    }

    /// Chooses the next hops to probe now: the longest due, as many of IPv4 and IPv6 as `room` allows. A hop that is
    /// being resolved (`in_progress`) is left out until that ends.
    pub fn next_batch(
        &mut self,
        room: [usize; 2],
        in_progress: impl Fn(&NextHop) -> bool,
        now: Instant,
    ) -> ProbeBatch {
        let mut due: Vec<_> = self
            .hops
            .iter()
            .filter(|(hop, history)| history.due <= now && !in_progress(hop))
            .map(|(hop, history)| (history.due, *hop))
            .collect();
        due.sort_unstable();
        let mut left = room;
        let mut batch = ProbeBatch::default();
        for (_, hop) in due {
            let left = &mut left[usize::from(hop.1.is_ipv6())];
            if *left == 0 {
                batch.others_wait = true;
                continue;
            }
            *left -= 1;
            if let Some(history) = self.hops.get_mut(&hop) {
                history.due = now + pause(history.probes);
                history.probes = history.probes.saturating_add(1);
            }
            batch.hops.push(hop);
        }
        batch
    }

    /// When the next probe is due; `None` when everything is resolved.
    pub fn next_due(&self) -> Option<Instant> {
        self.hops.values().map(|history| history.due).min()
    }
}

/// The pause after a probe before which `probes` were made.
fn pause(probes: u32) -> Duration {
    MIN_PAUSE
        .saturating_mul(1_u32.checked_shl(probes).unwrap_or(u32::MAX))
        .min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(numbers: impl IntoIterator<Item = u8>) -> BTreeSet<NextHop> {
        numbers
            .into_iter()
            .map(|number| (2, [10, 0, 0, number].into()))
            .collect()
    }

    fn nothing(_: &NextHop) -> bool {
        false
    }

    #[test]
    fn a_hop_that_never_resolves_is_probed_less_and_less_often() {
        let start = Instant::now();
        let mut pacing = ProbePacing::default();
        let one = hops([1]);
        let mut probed = Vec::new();
        for second in 0..=300 {
            let now = start + Duration::from_secs(second);
            pacing.add(&one, now);
            if !pacing.next_batch([9, 9], nothing, now).hops.is_empty() {
                probed.push(second);
            }
        }
        assert_eq!(probed, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        assert!(pacing.was_probed(&(2, [10, 0, 0, 1].into())));
        // Once resolved, it begins anew.
        pacing.forget(&one);
        assert_eq!(pacing.next_due(), None);
        let later = start + Duration::from_secs(301);
        pacing.add(&one, later);
        assert_eq!(pacing.next_batch([9, 9], nothing, later).hops.len(), 1);
        assert_eq!(pacing.next_due(), Some(later + MIN_PAUSE));
    }

    #[test]
    fn each_gets_its_turn_when_there_is_room_for_few() {
        let start = Instant::now();
        let mut pacing = ProbePacing::default();
        let all = hops(0..10);
        pacing.add(&all, start);
        let mut probed = Vec::new();
        for second in 0..4 {
            let now = start + Duration::from_secs(second);
            let batch = pacing.next_batch([4, 9], nothing, now);
            let numbers: Vec<_> = batch.hops.iter().map(|hop| hop.1.to_string()).collect();
            probed.push((numbers.join(" "), batch.others_wait));
        }
        assert_eq!(
            probed,
            [
                ("10.0.0.0 10.0.0.1 10.0.0.2 10.0.0.3".into(), true),
                ("10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.7".into(), true),
                ("10.0.0.8 10.0.0.9 10.0.0.0 10.0.0.1".into(), true),
                ("10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5".into(), true),
            ]
            .map(|(hops, wait): (String, bool)| (hops, wait))
        );
    }

    #[test]
    fn families_do_not_take_each_others_room_and_what_is_in_progress_waits() {
        let now = Instant::now();
        let mut pacing = ProbePacing::default();
        let mut all = hops(0..3);
        let v6: BTreeSet<NextHop> = ["fd00::1", "fd00::2"]
            .map(|address| (2, address.parse().unwrap()))
            .into();
        all.extend(&v6);
        pacing.add(&all, now);
        let batch = pacing.next_batch([0, 1], nothing, now);
        assert_eq!(
            batch,
            ProbeBatch {
                hops: v6.iter().take(1).copied().collect(),
                others_wait: true
            }
        );
        let in_progress = |hop: &NextHop| hop.1.is_ipv6();
        let batch = pacing.next_batch([9, 9], in_progress, now);
        assert_eq!(
            batch,
            ProbeBatch {
                hops: hops(0..3).into_iter().collect(),
                others_wait: false
            }
        );
    }

    #[test]
    fn an_interface_that_comes_back_makes_all_due() {
        let start = Instant::now();
        let mut pacing = ProbePacing::default();
        pacing.add(&hops([1, 2]), start);
        for minute in 0..10 {
            pacing.next_batch([9, 9], nothing, start + minute * MAX_PAUSE);
        }
        let now = start + 9 * MAX_PAUSE + MIN_PAUSE;
        assert_eq!(
            pacing.next_batch([9, 9], nothing, now),
            ProbeBatch::default()
        );
        pacing.make_all_due(now);
        assert_eq!(pacing.next_batch([9, 9], nothing, now).hops.len(), 2);
        assert_eq!(pacing.next_due(), Some(now + 2 * MIN_PAUSE));
    }
}
