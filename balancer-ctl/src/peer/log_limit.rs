//! Limits how often what strangers bring about is logged. Pure.

use std::time::{Duration, Instant};

/// Time in which lines are counted.
const INTERVAL: Duration = Duration::from_secs(60);
/// Most lines in an interval.
const MAX_LINES: u32 = 5;

/// Counts the log lines of one kind.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    interval_start: Option<Instant>,
    count: u32,
}

impl LogLimit {
    /// Whether another line may be logged: at most five per minute.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        let is_over = |start: Instant| now.saturating_duration_since(start) >= INTERVAL;
        if self.interval_start.is_none_or(is_over) {
            (self.interval_start, self.count) = (Some(now), 0);
        }
        self.count = self.count.saturating_add(1);
        self.count <= MAX_LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_lines_a_minute_are_allowed() {
        let mut limit = LogLimit::default();
        let mut now = crate::os::clock::now();
        for _ in 0..2 {
            let allowed = (0..1000).filter(|_| limit.allows(now)).count();
            assert_eq!(allowed, 5);
            now += INTERVAL;
        }
    }
}
