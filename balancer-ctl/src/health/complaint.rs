//! What is said now and then while it lasts, so that it does not fill the log.

use std::time::Duration;

use tokio::time::Instant;

/// In such a time.
const PERIOD: Duration = Duration::from_secs(60);

/// Something that is said now and then while it lasts.
#[derive(Debug, Default)]
pub(super) struct LogRateLimit {
    period_start: Option<Instant>,
    count: u32,
}

impl LogRateLimit {
    /// Whether it may be made now, as often as this in a while.
    pub(super) fn allows(&mut self, often: u32) -> bool {
        let now = Instant::now();
        if self
            .period_start
            .is_none_or(|said| now.duration_since(said) >= PERIOD)
        {
            (self.period_start, self.count) = (Some(now), 0);
        }
        self.count += u32::from(self.count <= often);
        self.count <= often
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn complaints_are_made_so_often_in_a_minute() {
        let mut complaint = LogRateLimit::default();
        for _ in 0..2 {
            let due: Vec<_> = (0..5).map(|_| complaint.allows(3)).collect();
            assert_eq!(due, [true, true, true, false, false]);
            sleep(PERIOD).await;
        }
    }
}
