//! The time of day, for what people read.

use std::time::{Duration, Instant, SystemTime};

/// Now, on the clock that only goes forward.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Now, in UTC, as RFC 3339 with milliseconds.
#[must_use]
pub fn now_utc() -> String {
    utc(SystemTime::now())
}

/// A time in UTC, as RFC 3339 with milliseconds.
#[must_use]
pub fn utc(time: SystemTime) -> String {
    // The format ends before the year 10000; a clock beyond is shown at its end.
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let time = time.clamp(SystemTime::UNIX_EPOCH, end);
    humantime::format_rfc3339_millis(time).to_string()
}
