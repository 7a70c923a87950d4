//! Limits how often something is logged. Pure.

use std::time::{Duration, Instant};

/// Time in which lines are counted.
const INTERVAL: Duration = Duration::from_secs(60);
/// Lines that may be logged in that time.
const MAX: u32 = 5;

/// Allows 5 lines per 60 s.
#[derive(Debug, Default)]
pub struct LogLimit {
    began: Option<Instant>,
    count: u32,
}

impl LogLimit {
    /// Whether another line may be logged at `now`.
    pub fn allows(&mut self, now: Instant) -> bool {
        let is_over = |began: Instant| now.saturating_duration_since(began) >= INTERVAL;
        if self.began.is_none_or(is_over) {
            (self.began, self.count) = (Some(now), 0);
        }
        self.count = self.count.saturating_add(1);
        self.count <= MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_lines_are_allowed_per_minute() {
        let now = Instant::now();
        let mut limit = LogLimit::default();
        for minute in 0..2 {
            let now = now + minute * INTERVAL;
            let allowed = (0..10).filter(|_| limit.allows(now)).count();
            assert_eq!(allowed, 5);
        }
    }
}
