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
}

impl LogRateLimit {
    /// Whether another line may be logged at `now`: at most `max` per 60 s.
    pub fn allows(&mut self, max: u32, now: Instant) -> bool {
        let is_over = |start: Instant| now.saturating_duration_since(start) >= INTERVAL;
        if self.interval_start.is_none_or(is_over) {
            (self.interval_start, self.count) = (Some(now), 0);
        }
        self.count += u32::from(self.count <= max);
        self.count <= max
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
