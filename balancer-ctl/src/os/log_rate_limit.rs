//! Limits how often a lasting condition, or what strangers bring about, is logged. Pure.

use std::time::{Duration, Instant};

/// Time in which [`LogRateLimit::allows`] counts log lines.
const INTERVAL: Duration = Duration::from_secs(60);

/// Lines of one kind about what strangers bring about, in that time.
pub const MAX_BY_STRANGERS: u32 = 5;

/// Counts the log lines of one kind in the current interval of 60 s.
#[derive(Debug, Default)]
pub struct LogRateLimit {
    interval_start: Option<Instant>,
    count: u32,
    left_out: u64,
}

impl LogRateLimit {
    /// Whether another line may be logged at `now`: at most `max` per 60 s.
    pub fn allows(&mut self, max: u32, now: Instant) -> bool {
        if self.interval_start.is_none() || self.is_over(now) {
            (self.interval_start, self.count, self.left_out) = (Some(now), 0, 0);
        }
        self.count += u32::from(self.count <= max);
        let is_allowed = self.count <= max;
        self.left_out += u64::from(!is_allowed);
        is_allowed
    }

    /// How many lines were not allowed in an interval that is over: once for each such interval, if the next has not begun.
    pub fn left_out(&mut self, now: Instant) -> Option<u64> {
        if !self.is_over(now) || self.left_out == 0 {
            return None;
        }
        Some(std::mem::take(&mut self.left_out))
    }

    fn is_over(&self, now: Instant) -> bool {
        let is_over = |start: Instant| now.saturating_duration_since(start) >= INTERVAL;
        self.interval_start.is_some_and(is_over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::clock;

    #[test]
    fn at_most_max_lines_are_allowed_per_interval() {
        let mut limit = LogRateLimit::default();
        let mut now = clock::now();
        for _ in 0..2 {
            let allowed: Vec<_> = (0..5).map(|_| limit.allows(3, now)).collect();
            assert_eq!(allowed, [true, true, true, false, false]);
            now += INTERVAL;
        }
    }

    #[test]
    fn lines_that_are_left_out_are_counted_until_the_interval_is_over() {
        let mut limit = LogRateLimit::default();
        let start = clock::now();
        assert_eq!(limit.left_out(start), None);
        for _ in 0..5 {
            limit.allows(3, start);
        }
        let over = start + INTERVAL;
        assert_eq!(limit.left_out(over - Duration::from_secs(1)), None);
        assert_eq!(limit.left_out(over), Some(2));
        assert_eq!(limit.left_out(over), None);
        assert!(limit.allows(3, over));
        assert_eq!(limit.left_out(over + INTERVAL), None);
    }

    #[test]
    fn strangers_bring_about_five_lines_per_minute() {
        let mut limit = LogRateLimit::default();
        let mut now = clock::now();
        for _ in 0..2 {
            let lines = (0..1000).filter(|_| limit.allows(MAX_BY_STRANGERS, now));
            assert_eq!(lines.count(), 5);
            now += INTERVAL;
        }
    }
}
