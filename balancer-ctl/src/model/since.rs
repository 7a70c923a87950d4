//! From when on events are wanted, as a command or request says it.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use super::duration;

/// A time, or how long ago it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// So long before now.
    Ago(Duration),
    /// A time of day.
    At(SystemTime),
}

impl Since {
    /// The time that is meant; none before 1970.
    #[must_use]
    pub fn time(self, now: SystemTime) -> SystemTime {
        match self {
            Self::Ago(duration) => {
                let time = now.checked_sub(duration);
                time.map_or(SystemTime::UNIX_EPOCH, |time| {
                    time.max(SystemTime::UNIX_EPOCH)
                })
            }
            Self::At(time) => time,
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(duration) = duration::parse(text) {
            return Ok(Self::Ago(duration));
        }
        let midnight = format!("{text}T00:00:00");
        let time = humantime::parse_rfc3339_weak(text)
            .or_else(|_| humantime::parse_rfc3339_weak(&midnight));
        time.map(Self::At).map_err(|_| {
            format!(
                "`{text}` is neither a duration nor a time: write `10m`, `2026-11-22` or `2026-11-22T03:14:08Z` (UTC)"
            )
        })
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ago(ago) => f.write_str(&duration::exact(*ago)),
            Self::At(time) => humantime::format_rfc3339_millis(*time).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_duration_or_a_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (text, shown, seconds) in [
            ("10m", "10m", 1_000_000 - 600),
            ("1h 30s", "1h30s", 1_000_000 - 3_630),
            ("0s", "0s", 1_000_000),
            ("1000years", "1000years", 0),
            ("1970-01-02", "1970-01-02T00:00:00.000Z", 86_400),
            ("1970-01-02 00:00:01", "1970-01-02T00:00:01.000Z", 86_401),
            ("1970-01-02T00:00:01Z", "1970-01-02T00:00:01.000Z", 86_401),
            (
                "2001-09-09T01:46:40.000Z",
                "2001-09-09T01:46:40.000Z",
                1_000_000_000,
            ),
        ] {
            let since: Since = text.parse().unwrap();
            assert_eq!(since.to_string(), shown);
            assert_eq!(since.to_string().parse(), Ok(since));
            let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(since.time(now), expected, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "10",
            "-10m",
            "yesterday",
            "03:14:08",
            "2026-13-01",
            "2026-11-22T03:14:08+01:00",
            "10000-01-01",
        ] {
            assert_eq!(
                text.parse::<Since>(),
                Err(format!(
                    "`{text}` is neither a duration nor a time: write `10m`, `2026-11-22` or `2026-11-22T03:14:08Z` (UTC)"
                ))
            );
        }
    }
}
