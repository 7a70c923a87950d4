//! Reads the clocks, and formats the time of day.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use nix::time::{ClockId, clock_gettime};

/// The monotonic clock.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// The monotonic clock, with the time that the host was suspended, which [`now`] leaves out: who acts by agreement with other hosts has
/// to notice it. The two are to be compared each with itself.
#[must_use]
pub fn now_with_suspend() -> Instant {
    static ORIGIN: OnceLock<Origin> = OnceLock::new();
    let since_boot = since_boot();
    let origin = ORIGIN.get_or_init(|| Origin {
        now: now(),
        since_boot,
    });
    origin.at(since_boot)
}

/// The time since the boot, suspended or not; without that clock, as [`now`].
#[must_use]
pub fn since_boot() -> Duration {
    static WITHOUT: OnceLock<Instant> = OnceLock::new();
    match clock_gettime(ClockId::CLOCK_BOOTTIME) {
        Ok(time) => time.into(),
        Err(_) => WITHOUT.get_or_init(now).elapsed(),
    }
}

/// A moment by both clocks.
struct Origin {
    now: Instant,
    since_boot: Duration,
}

impl Origin {
    fn at(&self, since_boot: Duration) -> Instant {
        self.now + since_boot.saturating_sub(self.since_boot)
    }
}

/// The current time in UTC, as RFC 3339 with milliseconds.
#[must_use]
pub fn now_utc() -> String {
    utc(SystemTime::now())
}

/// A time in UTC, as RFC 3339 with milliseconds.
#[must_use]
pub fn utc(time: SystemTime) -> String {
    // The format ends with the year 9999; a later time is shown as its end.
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let time = time.clamp(SystemTime::UNIX_EPOCH, end);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_the_host_was_suspended_counts() {
        let (now, second) = (now(), Duration::from_secs(1));
        let origin = Origin {
            now,
            since_boot: 100 * second,
        };
        // Three seconds, of which it ran for one.
        assert_eq!(origin.at(103 * second), now + 3 * second);
        assert_eq!(origin.at(99 * second), now, "never backwards");
    }

    #[test]
    fn it_advances_as_the_other_clock_does_while_the_host_runs() {
        let (with, without) = (now_with_suspend(), now());
        std::thread::sleep(Duration::from_millis(50));
        let (with, without) = (now_with_suspend() - with, without.elapsed());
        assert!(with >= Duration::from_millis(49), "{with:?}");
        assert!(with.abs_diff(without) < Duration::from_secs(1));
    }
}
