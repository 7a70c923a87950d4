//! When next hops that do not resolve are asked for again: less and less often, and each in its turn. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::neighbour::NextHop;

/// From the first attempt to the second. Each later pause is twice as long.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// The unresolved next hops.
#[derive(Debug, Default)]
pub struct Pace {
    hops: BTreeMap<NextHop, Attempts>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempts {
    made: u32,
    /// When the next one may be made.
    due: Instant,
}

/// Whose turn it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// To be asked for now.
    pub hops: Vec<NextHop>,
    /// Others are due, too, and wait until there is room.
    pub others_wait: bool,
}

impl Pace {
    /// Takes in that these are unresolved; those that are new are due at once.
    pub fn add(&mut self, unresolved: &BTreeSet<NextHop>, now: Instant) {
        for hop in unresolved {
            self.hops
                .entry(*hop)
                .or_insert(Attempts { made: 0, due: now });
        }
    }

    /// Forgets all but these.
    pub fn keep_only(&mut self, hops: &BTreeSet<NextHop>) {
        self.hops.retain(|hop, _| hops.contains(hop));
    }

    /// Forgets these: they have resolved, or are not ours to ask for.
    pub fn forget<'a>(&mut self, hops: impl IntoIterator<Item = &'a NextHop>) {
        for hop in hops {
            self.hops.remove(hop);
        }
    }

    /// Whether a hop was asked for and has not been known to resolve since.
    pub fn has_asked(&self, hop: &NextHop) -> bool {
        self.hops.get(hop).is_some_and(|attempts| attempts.made > 0)
    }

    /// All are due at once, as if none had been asked for more than once: an interface has come back.
    pub fn start_over(&mut self, now: Instant) {
        for attempts in self.hops.values_mut() {
            *attempts = Attempts {
                made: attempts.made.min(1),
                due: now,
            };
        }
    }

    /// Chooses whose turn it is: those that are due for longest, as many of each family as `room` allows. Whatever `in_progress`
    /// says is being resolved waits for the outcome.
    pub fn turn(
        &mut self,
        room: [usize; 2],
        in_progress: impl Fn(&NextHop) -> bool,
        now: Instant,
    ) -> Turn {
        let mut due: Vec<_> = self
            .hops
            .iter()
            .filter(|(hop, attempts)| attempts.due <= now && !in_progress(hop))
            .map(|(hop, attempts)| (attempts.due, *hop))
            .collect();
        due.sort_unstable();
        let mut left = room;
        let mut turn = Turn::default();
        for (_, hop) in due {
            let left = &mut left[usize::from(hop.1.is_ipv6())];
            if *left == 0 {
                turn.others_wait = true;
                continue;
            }
            *left -= 1;
            if let Some(attempts) = self.hops.get_mut(&hop) {
                attempts.due = now + pause(attempts.made);
                attempts.made = attempts.made.saturating_add(1);
            }
            turn.hops.push(hop);
        }
        turn
    }

    /// When the next attempt may be made; none when everything is resolved.
    pub fn next_due(&self) -> Option<Instant> {
        self.hops.values().map(|attempts| attempts.due).min()
    }
}

/// The pause after an attempt before which `made` were made.
fn pause(made: u32) -> Duration {
    SHORTEST
        .saturating_mul(1_u32.checked_shl(made).unwrap_or(u32::MAX))
        .min(LONGEST)
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
    fn a_hop_that_never_resolves_is_asked_for_less_and_less_often() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let one = hops([1]);
        let mut asked = Vec::new();
        for second in 0..=300 {
            let now = start + Duration::from_secs(second);
            pace.add(&one, now);
            if !pace.turn([9, 9], nothing, now).hops.is_empty() {
                asked.push(second);
            }
        }
        assert_eq!(asked, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        assert!(pace.has_asked(&(2, [10, 0, 0, 1].into())));
        // Once resolved, it begins anew.
        pace.forget(&one);
        assert_eq!(pace.next_due(), None);
        let later = start + Duration::from_secs(301);
        pace.add(&one, later);
        assert_eq!(pace.turn([9, 9], nothing, later).hops.len(), 1);
        assert_eq!(pace.next_due(), Some(later + SHORTEST));
    }

    #[test]
    fn each_gets_its_turn_when_there_is_room_for_few() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let all = hops(0..10);
        pace.add(&all, start);
        let mut asked = Vec::new();
        for second in 0..4 {
            let now = start + Duration::from_secs(second);
            let turn = pace.turn([4, 9], nothing, now);
            let numbers: Vec<_> = turn.hops.iter().map(|hop| hop.1.to_string()).collect();
            asked.push((numbers.join(" "), turn.others_wait));
        }
        assert_eq!(
            asked,
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
        let mut pace = Pace::default();
        let mut all = hops(0..3);
        let v6: BTreeSet<NextHop> = ["fd00::1", "fd00::2"]
            .map(|address| (2, address.parse().unwrap()))
            .into();
        all.extend(&v6);
        pace.add(&all, now);
        let turn = pace.turn([0, 1], nothing, now);
        assert_eq!(
            turn,
            Turn {
                hops: v6.iter().take(1).copied().collect(),
                others_wait: true
            }
        );
        let in_progress = |hop: &NextHop| hop.1.is_ipv6();
        let turn = pace.turn([9, 9], in_progress, now);
        assert_eq!(
            turn,
            Turn {
                hops: hops(0..3).into_iter().collect(),
                others_wait: false
            }
        );
    }

    #[test]
    fn an_interface_that_comes_back_makes_all_due() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.add(&hops([1, 2]), start);
        for minute in 0..10 {
            pace.turn([9, 9], nothing, start + minute * LONGEST);
        }
        let now = start + 9 * LONGEST + SHORTEST;
        assert_eq!(pace.turn([9, 9], nothing, now), Turn::default());
        pace.start_over(now);
        assert_eq!(pace.turn([9, 9], nothing, now).hops.len(), 2);
        assert_eq!(pace.next_due(), Some(now + 2 * SHORTEST));
    }
}
