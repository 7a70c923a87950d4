//! What was seen of the two nodes, and the figures in it. Pure, but for the lock.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// A time since 1970, by the clock that the kernel stamps packets with.
pub type Time = Duration;

/// The time now.
pub fn now() -> Time {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// What a node did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It sent an advertisement.
    Advertisement {
        /// With this priority.
        priority: u8,
    },
    /// It told all neighbours where the VIP is: gratuitous ARP.
    Announcement,
    /// It answered a probe of the VIP.
    Answer,
    /// Its kernel has the VIP from now on.
    Set,
    /// Its kernel has the VIP no longer.
    Removed,
}

/// Something that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: Time,
    /// Which node did it, from 0.
    pub node: usize,
    /// What it did.
    pub what: What,
}

/// All that was seen; several threads write it.
#[derive(Debug, Default)]
pub struct Record(Mutex<Vec<Seen>>);

impl Record {
    /// Adds to it.
    pub fn add(&self, seen: Seen) {
        self.lock().push(seen);
    }

    /// Begins anew.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// All so far, in the order of time.
    pub fn sorted(&self) -> Vec<Seen> {
        let mut all = self.lock().clone();
        all.sort_by_key(|seen| seen.at);
        all
    }

    /// The latest that fits.
    pub fn last(&self, mut fits: impl FnMut(&Seen) -> bool) -> Option<Seen> {
        self.lock().iter().rev().find(|seen| fits(seen)).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was seen around an event, in the order of time. Until then node 0 had the VIP.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// All that was seen, before the event too.
    pub seen: &'a [Seen],
    /// When it happened.
    pub event: Time,
}

impl Around<'_> {
    /// From the event until a node did something for the first time.
    pub fn first(&self, node: usize, what: What) -> Option<Duration> {
        let fits = |seen: &&Seen| seen.at >= self.event && (seen.node, seen.what) == (node, what);
        let first = self.seen.iter().find(fits)?;
        Some(first.at - self.event)
    }

    /// The longest time from one answer to the next, from the last before the event on. What still lasts does not count.
    pub fn gap(&self) -> Option<Duration> {
        let answers = self.seen.iter().filter(|seen| seen.what == What::Answer);
        let times: Vec<Time> = answers.map(|seen| seen.at).collect();
        let after = times.partition_point(|at| *at < self.event);
        let around = times.get(after.checked_sub(1)?..)?;
        around.windows(2).map(|pair| pair[1] - pair[0]).max()
    }

    /// How long after the event neither node had the VIP; `None` = at the end neither has it.
    pub fn without_address(&self) -> Option<Duration> {
        let mut has = [true, false];
        let (mut total, mut since) = (Duration::ZERO, None);
        for seen in self.seen.iter().filter(|seen| seen.at >= self.event) {
            match seen.what {
                What::Set => has[seen.node] = true,
                What::Removed => has[seen.node] = false,
                What::Advertisement { .. } | What::Announcement | What::Answer => continue,
            }
            match (has, since) {
                ([false, false], None) => since = Some(seen.at),
                ([false, false], Some(_)) | (_, None) => {}
                (_, Some(lost)) => {
                    total += seen.at - lost;
                    since = None;
                }
            }
        }
        since.is_none().then_some(total)
    }

    /// How long after the event both nodes claimed to be Active: until the last advertisement of the one that ceased. Zero = one of
    /// them sent none. `None` = both still do in the last `pause` before the end.
    pub fn both_claim(&self, pause: Duration) -> Option<Duration> {
        let end = self.seen.last()?.at;
        let last = |node: usize| {
            let claims = |seen: &&Seen| {
                let of_node = seen.at >= self.event && seen.node == node;
                of_node && matches!(seen.what, What::Advertisement { priority: 1.. })
            };
            let last = self.seen.iter().rev().find(claims);
            last.map_or(Duration::ZERO, |seen| seen.at - self.event)
        };
        let ceased = last(0).min(last(1));
        (self.event + ceased + pause <= end).then_some(ceased)
    }
}

/// When a node got the VIP.
pub fn takeovers(seen: &[Seen]) -> Vec<Time> {
    let sets = seen.iter().filter(|seen| seen.what == What::Set);
    sets.map(|seen| seen.at).collect()
}

/// The longest time between two advertisements of Active nodes.
pub fn longest_silence(seen: &[Seen]) -> Duration {
    let claims = seen
        .iter()
        .filter(|seen| matches!(seen.what, What::Advertisement { priority: 1.. }));
    let times: Vec<Time> = claims.map(|seen| seen.at).collect();
    let pauses = times.windows(2).map(|pair| pair[1] - pair[0]);
    pauses.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIVE: What = What::Advertisement { priority: 100 };
    const LEAVING: What = What::Advertisement { priority: 0 };

    fn millis(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn seen(all: &[(u64, usize, What)]) -> Vec<Seen> {
        let of = |(at, node, what): &(u64, usize, What)| Seen {
            at: millis(*at),
            node: *node,
            what: *what,
        };
        all.iter().map(of).collect()
    }

    /// What follows an event at 100 ms.
    fn around(seen: &[Seen]) -> Around<'_> {
        Around {
            seen,
            event: millis(100),
        }
    }

    #[test]
    fn a_takeover_is_timed_from_the_event() {
        let seen = seen(&[
            (10, 1, What::Announcement),
            (98, 0, What::Answer),
            (99, 0, What::Answer),
            (101, 0, What::Answer),
            (130, 0, What::Removed),
            (150, 1, What::Set),
            (160, 1, What::Announcement),
            (163, 1, What::Answer),
            (164, 1, What::Answer),
            (170, 1, What::Announcement),
        ]);
        let around = around(&seen);
        assert_eq!(around.first(1, What::Announcement), Some(millis(60)));
        assert_eq!(around.first(0, What::Removed), Some(millis(30)));
        assert_eq!(around.first(0, What::Set), None);
        assert_eq!(around.gap(), Some(millis(62)));
        assert_eq!(around.without_address(), Some(millis(20)));
    }

    #[test]
    fn who_keeps_the_vip_until_the_other_has_it_leaves_no_time_without() {
        let kept = seen(&[(150, 1, What::Set), (151, 0, What::Removed)]);
        assert_eq!(around(&kept).without_address(), Some(Duration::ZERO));
        let never = seen(&[(151, 0, What::Removed)]);
        assert_eq!(around(&never).without_address(), None);
        let left_behind = seen(&[(150, 1, What::Set)]);
        assert_eq!(around(&left_behind).first(0, What::Removed), None);
        assert_eq!(around(&left_behind).without_address(), Some(Duration::ZERO));
    }

    #[test]
    fn without_answers_on_both_sides_there_is_no_gap() {
        assert_eq!(around(&[]).gap(), None);
        assert_eq!(around(&seen(&[(150, 1, What::Answer)])).gap(), None);
        assert_eq!(around(&seen(&[(50, 0, What::Answer)])).gap(), None);
    }

    #[test]
    fn both_claim_until_the_last_advertisement_of_one() {
        let ceases = seen(&[
            (90, 1, ACTIVE),
            (120, 0, ACTIVE),
            (140, 1, ACTIVE),
            (150, 1, LEAVING),
            (220, 0, ACTIVE),
            (320, 0, ACTIVE),
        ]);
        assert_eq!(around(&ceases).both_claim(millis(150)), Some(millis(40)));
        assert_eq!(around(&ceases).both_claim(millis(250)), None);
        let at_once = seen(&[(90, 1, ACTIVE), (120, 0, ACTIVE), (320, 0, ACTIVE)]);
        assert_eq!(
            around(&at_once).both_claim(millis(150)),
            Some(Duration::ZERO)
        );
        assert_eq!(around(&[]).both_claim(millis(1)), None);
    }

    #[test]
    fn takeovers_and_silence_are_found() {
        let all = seen(&[
            (10, 0, ACTIVE),
            (20, 0, ACTIVE),
            (25, 0, LEAVING),
            (45, 1, What::Set),
            (46, 1, ACTIVE),
            (47, 0, What::Removed),
        ]);
        assert_eq!(takeovers(&all), [millis(45)]);
        assert_eq!(longest_silence(&all), millis(26));
        assert_eq!(longest_silence(&[]), Duration::ZERO);
    }

    #[test]
    fn a_record_is_read_in_the_order_of_time() {
        let record = Record::default();
        for seen in seen(&[(2, 0, What::Set), (1, 1, What::Removed)]) {
            record.add(seen);
        }
        assert_eq!(record.sorted()[0].at, millis(1));
        let of_first = record.last(|seen| seen.node == 0);
        assert_eq!(of_first.map(|seen| seen.what), Some(What::Set));
        record.clear();
        assert!(record.sorted().is_empty());
    }
}
