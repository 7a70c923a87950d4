//! Limits how often a lasting condition is logged. Pure but for the clock.

use std::time::Duration;

use tokio::time::Instant;

/// Time in which [`LogRateLimit::allows`] counts log lines.
const INTERVAL: Duration = Duration::from_secs(60);

/// Counts the log lines of one kind in the current interval of 60 s.
#[derive(Debug, Default)]
pub(super) struct LogRateLimit {
    interval_start: Option<Instant>,
    count: u32,
}

impl LogRateLimit {
    /// Whether another line may be logged: at most `max` per 60 s.
    pub(super) fn allows(&mut self, max: u32) -> bool {
        let now = Instant::now();
        if self
            .interval_start
            .is_none_or(|start| now.duration_since(start) >= INTERVAL)
        {
            (self.interval_start, self.count) = (Some(now), 0);
        }
        self.count += u32::from(self.count <= max);
        self.count <= max
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn at_most_max_lines_are_allowed_per_interval() {
        let mut limit = LogRateLimit::default();
        for _ in 0..2 {
            let allowed: Vec<_> = (0..5).map(|_| limit.allows(3)).collect();
            assert_eq!(allowed, [true, true, true, false, false]);
            sleep(INTERVAL).await;
        }
    }
}
