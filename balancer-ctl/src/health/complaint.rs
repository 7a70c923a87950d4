//! What is said now and then while it lasts, so that it does not fill the log.

use std::time::Duration;

use tokio::time::Instant;

/// In such a time.
const EVERY: Duration = Duration::from_secs(60);

/// Something that is said now and then while it lasts.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    said: Option<Instant>,
    times: u32,
}

impl Complaint {
    /// Whether it may be made now, as often as this in a while.
    pub(super) fn is_due(&mut self, often: u32) -> bool {
        let now = Instant::now();
        if self
            .said
            .is_none_or(|said| now.duration_since(said) >= EVERY)
        {
            (self.said, self.times) = (Some(now), 0);
        }
        self.times += u32::from(self.times <= often);
        self.times <= often
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn complaints_are_made_so_often_in_a_minute() {
        let mut complaint = Complaint::default();
        for _ in 0..2 {
            let due: Vec<_> = (0..5).map(|_| complaint.is_due(3)).collect();
            assert_eq!(due, [true, true, true, false, false]);
            sleep(EVERY).await;
        }
    }
}
