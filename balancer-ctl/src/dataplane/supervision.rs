//! Whether changes of routes are heard of, and what is due while they are not. Pure.

use std::time::{Duration, Instant};

/// While nothing is heard, everything counts as changed so often.
const POLL_EVERY: Duration = Duration::from_secs(2);
/// From the end of listening to the first attempt to listen again. Each later pause is twice as long.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest pause between attempts.
const LONGEST: Duration = Duration::from_secs(30);
/// Whoever has listened so long begins with the shortest pause again.
const STEADY: Duration = Duration::from_secs(60);

/// Whether the thread listens.
#[derive(Debug)]
pub struct Supervision {
    /// Why it does not.
    outage: Option<Outage>,
    /// When it began to listen last.
    since: Instant,
    /// How often it ended, or could not begin, without having listened for [`STEADY`] in between.
    failures: u32,
}

#[derive(Debug)]
struct Outage {
    reason: String,
    retry: Instant,
    poll: Instant,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// To try to listen again.
    pub listen: bool,
    /// To treat everything as changed.
    pub poll: bool,
}

impl Supervision {
    /// It listens.
    pub const fn begin(now: Instant) -> Self {
        Self {
            outage: None,
            since: now,
            failures: 0,
        }
    }

    /// Why it does not listen; none while it does.
    pub fn reason(&self) -> Option<&str> {
        self.outage.as_ref().map(|outage| outage.reason.as_str())
    }

    /// It has ended, or could not begin.
    pub fn failed(&mut self, reason: String, now: Instant) {
        if self.outage.is_none() && now.saturating_duration_since(self.since) >= STEADY {
            self.failures = 0;
        }
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        self.outage = Some(Outage {
            reason,
            retry: now + SHORTEST.saturating_mul(factor).min(LONGEST),
            poll: self.outage.as_ref().map_or(now, |outage| outage.poll),
        });
    }

    /// It listens again.
    pub fn listens(&mut self, now: Instant) {
        self.outage = None;
        self.since = now;
    }

    /// What is due now; a poll counts as made.
    pub fn due(&mut self, now: Instant) -> Due {
        let Some(outage) = &mut self.outage else {
            return Due::default();
        };
        let poll = now >= outage.poll;
        if poll {
            outage.poll = now + POLL_EVERY;
        }
        Due {
            listen: now >= outage.retry,
            poll,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is due in each of the next seconds: a `p`oll, or an attempt to `l`isten, which fails.
    fn seconds(supervision: &mut Supervision, from: Instant, count: u64) -> String {
        let second = |number| {
            let now = from + Duration::from_secs(number);
            let due = supervision.due(now);
            if due.listen {
                supervision.failed("again".into(), now);
            }
            match (due.poll, due.listen) {
                (true, listen) => {
                    assert!(!listen, "they never fall together here");
                    'p'
                }
                (false, true) => 'l',
                (false, false) => '.',
            }
        };
        (0..count).map(second).collect()
    }

    #[test]
    fn while_nothing_is_heard_it_polls_and_tries_less_and_less_often() {
        let start = Instant::now();
        let mut supervision = Supervision::begin(start);
        assert_eq!(seconds(&mut supervision, start, 5), ".....");
        assert_eq!(supervision.reason(), None);
        supervision.failed("the socket failed".into(), start);
        assert_eq!(supervision.reason(), Some("the socket failed"));
        // Attempts after 1, 2, 4, 8, 16 and 30 seconds.
        let expected: String = (0..62)
            .map(|second| match second {
                1 | 3 | 7 | 15 | 31 | 61 => 'l',
                even if even % 2 == 0 => 'p',
                _ => '.',
            })
            .collect();
        assert_eq!(seconds(&mut supervision, start, 62), expected);
        assert_eq!(supervision.reason(), Some("again"));
        let now = start + Duration::from_secs(62);
        supervision.listens(now);
        assert_eq!(supervision.reason(), None);
        assert_eq!(seconds(&mut supervision, now, 5), ".....");
    }

    #[test]
    fn whoever_fails_soon_again_waits_longer_and_whoever_was_steady_does_not() {
        let start = Instant::now();
        let mut supervision = Supervision::begin(start);
        let retry = |supervision: &Supervision| supervision.outage.as_ref().unwrap().retry;
        supervision.failed(String::new(), start);
        assert_eq!(retry(&supervision), start + SHORTEST);
        supervision.listens(start + SHORTEST);
        let soon = start + 2 * SHORTEST;
        supervision.failed(String::new(), soon);
        assert_eq!(retry(&supervision), soon + 2 * SHORTEST);
        supervision.listens(soon);
        let later = soon + STEADY;
        supervision.failed(String::new(), later);
        assert_eq!(retry(&supervision), later + SHORTEST);
        // Everything counts as changed at once, and then every two seconds.
        assert_eq!(
            supervision.due(later),
            Due {
                listen: false,
                poll: true
            }
        );
        assert_eq!(
            supervision.due(later + POLL_EVERY),
            Due {
                listen: true,
                poll: true
            }
        );
    }
}
