//! A sign that the checkers' loop turns, for another thread to see. Pure: time is an argument.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::stall::LONGEST_IDLE;

/// How old the last sign of a loop that turns may be: many times its longest rest, so that a busy host is not taken for a
/// loop that stands still.
const OLDEST: Duration = Duration::from_secs(10 * LONGEST_IDLE.as_secs());

/// The last sign.
#[derive(Debug)]
pub(super) struct Heartbeat {
    zero: Instant,
    /// Milliseconds after `zero`.
    last: AtomicU64,
}

impl Heartbeat {
    /// One whose first sign is now.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            zero: now,
            last: AtomicU64::new(0),
        }
    }

    /// Gives a sign.
    pub(super) fn beat(&self, now: Instant) {
        self.last.store(self.milliseconds(now), Ordering::Relaxed);
    }

    /// Whether the last sign is fresh.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let age = self
            .milliseconds(now)
            .saturating_sub(self.last.load(Ordering::Relaxed));
        Duration::from_millis(age) <= OLDEST
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.zero).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_is_fresh_for_ten_rests() {
        let zero = crate::os::clock::now();
        let second = |seconds| zero + Duration::from_secs(seconds);
        let heartbeat = Heartbeat::new(zero);
        assert!(heartbeat.is_fresh(second(10)));
        assert!(!heartbeat.is_fresh(second(11)));
        heartbeat.beat(second(11));
        assert!(heartbeat.is_fresh(second(21)));
        assert!(!heartbeat.is_fresh(second(22)));
        // Whoever looks may have read the clock first.
        heartbeat.beat(second(30));
        assert!(heartbeat.is_fresh(second(29)));
    }
}
