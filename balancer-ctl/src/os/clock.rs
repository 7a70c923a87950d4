//! Reads the clocks, and formats the time of day.

use std::time::{Duration, Instant, SystemTime};

/// The monotonic clock.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
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
