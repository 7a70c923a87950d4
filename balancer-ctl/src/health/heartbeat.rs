//! Lets another thread see whether the driver's loop still runs. Pure: time is an argument.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::stall::MAX_IDLE_REST;

/// Age of the last beat above which the loop counts as stalled: ten times its longest sleep, so that a busy host is not
/// mistaken for a stalled loop.
const MAX_AGE: Duration = Duration::from_secs(10 * MAX_IDLE_REST.as_secs());

/// Time of the loop's last turn.
#[derive(Debug)]
pub(super) struct Heartbeat {
    started: Instant,
    /// Time of the last beat, in ms after `started`.
    last_beat: AtomicU64,
}

impl Heartbeat {
    /// Counts `now` as the first beat.
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            started: now,
            last_beat: AtomicU64::new(0),
        }
    }

    /// Records that the loop ran at `now`.
    pub(super) fn beat(&self, now: Instant) {
        self.last_beat
            .store(self.milliseconds_since_start(now), Ordering::Relaxed);
    }

    /// Whether the last beat is at most [`MAX_AGE`] old.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        let age = self
            .milliseconds_since_start(now)
            .saturating_sub(self.last_beat.load(Ordering::Relaxed));
        Duration::from_millis(age) <= MAX_AGE
    }

    fn milliseconds_since_start(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_is_fresh_for_ten_seconds() {
        let zero = crate::os::clock::now();
        let second = |seconds| zero + Duration::from_secs(seconds);
        let heartbeat = Heartbeat::new(zero);
        assert!(heartbeat.is_fresh(second(10)));
        assert!(!heartbeat.is_fresh(second(11)));
        heartbeat.beat(second(11));
        assert!(heartbeat.is_fresh(second(21)));
        assert!(!heartbeat.is_fresh(second(22)));
        // The reader may have read the clock before the beat.
        heartbeat.beat(second(30));
        assert!(heartbeat.is_fresh(second(29)));
    }
}
