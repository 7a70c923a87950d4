//! When to restart the watch thread, and when to treat everything as changed while it does not run. Pure.

use std::time::{Duration, Instant};

/// While the thread does not run, everything counts as changed once per this interval.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// From the thread's end to the first attempt to restart it. Each later pause is twice as long.
const MIN_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between attempts to restart it.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(30);
/// After a run of this length the pauses begin with the shortest again.
const STEADY_AFTER: Duration = Duration::from_secs(60);

/// Whether the thread runs, and how often it has failed.
#[derive(Debug)]
pub struct WatchSupervision {
    /// Why it does not run; `None` while it does.
    outage: Option<Outage>,
    /// When it was last started.
    started_at: Instant,
    /// How often it ended or could not be started without having run for [`STEADY_AFTER`] in between.
    failures: u32,
}

#[derive(Debug)]
struct Outage {
    reason: String,
    retry_at: Instant,
    poll_at: Instant,
}

/// What the caller has to do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Try to restart the thread.
    pub restart: bool,
    /// Treat everything as changed.
    pub poll: bool,
}

impl WatchSupervision {
    /// The thread has just been started.
    pub const fn started(now: Instant) -> Self {
        Self {
            outage: None,
            started_at: now,
            failures: 0,
        }
    }

    /// Why the thread does not run; `None` while it does.
    pub fn failure(&self) -> Option<&str> {
        self.outage.as_ref().map(|outage| outage.reason.as_str())
    }

    /// The thread ended, or could not be started.
    pub fn record_failure(&mut self, reason: String, now: Instant) {
        if self.outage.is_none() && now.saturating_duration_since(self.started_at) >= STEADY_AFTER {
            self.failures = 0;
        }
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        self.outage = Some(Outage {
            reason,
            retry_at: now + MIN_RETRY_PAUSE.saturating_mul(factor).min(MAX_RETRY_PAUSE),
            poll_at: self.outage.as_ref().map_or(now, |outage| outage.poll_at),
        });
    }

    /// The thread was restarted.
    pub fn record_restart(&mut self, now: Instant) {
        self.outage = None;
        self.started_at = now;
    }

    /// What is due at `now`; a poll that is returned counts as done.
    pub fn take_due(&mut self, now: Instant) -> Due {
        let Some(outage) = &mut self.outage else {
            return Due::default();
        };
        let poll = now >= outage.poll_at;
        if poll {
            outage.poll_at = now + POLL_INTERVAL;
        }
        Due {
            restart: now >= outage.retry_at,
            poll,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is due in each of the next seconds: a `p`oll, or an attempt to `l`isten, which fails.
    fn seconds(supervision: &mut WatchSupervision, from: Instant, count: u64) -> String {
        let second = |number| {
            let now = from + Duration::from_secs(number);
            let due = supervision.take_due(now);
            if due.restart {
                supervision.record_failure("again".into(), now);
            }
            match (due.poll, due.restart) {
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
    fn while_the_thread_is_down_it_polls_and_tries_less_and_less_often() {
        let start = Instant::now();
        let mut supervision = WatchSupervision::started(start);
        assert_eq!(seconds(&mut supervision, start, 5), ".....");
        assert_eq!(supervision.failure(), None);
        supervision.record_failure("the socket failed".into(), start);
        assert_eq!(supervision.failure(), Some("the socket failed"));
        // Attempts after 1, 2, 4, 8, 16 and 30 seconds.
        let expected: String = (0..62)
            .map(|second| match second {
                1 | 3 | 7 | 15 | 31 | 61 => 'l',
                even if even % 2 == 0 => 'p',
                _ => '.',
            })
            .collect();
        assert_eq!(seconds(&mut supervision, start, 62), expected);
        assert_eq!(supervision.failure(), Some("again"));
        let now = start + Duration::from_secs(62);
        supervision.record_restart(now);
        assert_eq!(supervision.failure(), None);
        assert_eq!(seconds(&mut supervision, now, 5), ".....");
    }

    #[test]
    fn a_thread_that_fails_soon_again_waits_longer_and_a_steady_one_does_not() {
        let start = Instant::now();
        let mut supervision = WatchSupervision::started(start);
        let retry = |supervision: &WatchSupervision| supervision.outage.as_ref().unwrap().retry_at;
        supervision.record_failure(String::new(), start);
        assert_eq!(retry(&supervision), start + MIN_RETRY_PAUSE);
        supervision.record_restart(start + MIN_RETRY_PAUSE);
        let soon = start + 2 * MIN_RETRY_PAUSE;
        supervision.record_failure(String::new(), soon);
        assert_eq!(retry(&supervision), soon + 2 * MIN_RETRY_PAUSE);
        supervision.record_restart(soon);
        let later = soon + STEADY_AFTER;
        supervision.record_failure(String::new(), later);
        assert_eq!(retry(&supervision), later + MIN_RETRY_PAUSE);
        // Everything counts as changed at once, and then every two seconds.
        assert_eq!(
            supervision.take_due(later),
            Due {
                restart: false,
                poll: true
            }
        );
        assert_eq!(
            supervision.take_due(later + POLL_INTERVAL),
            Due {
                restart: true,
                poll: true
            }
        );
    }
}
