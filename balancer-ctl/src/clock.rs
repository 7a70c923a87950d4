//! The time of day, for what people read.

use std::time::SystemTime;

/// Now, in UTC, as RFC 3339 with milliseconds.
#[must_use]
pub fn now_utc() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}
