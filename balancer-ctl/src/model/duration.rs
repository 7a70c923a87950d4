//! Durations as text: "1m30s" in files, commands and JSON. Pure.

use std::time::Duration;

/// Reads a duration with its unit.
///
/// # Errors
/// It is not a duration: the rest of a sentence that begins with the key and the value.
pub fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        "is not a duration: write it with its unit, as in \"15m\" or \"90s\"".to_owned()
    })
}

/// Formats a duration exactly, in one word: "1m30s500ms".
#[must_use]
pub fn exact(duration: Duration) -> String {
    let text = humantime::format_duration(duration).to_string();
    text.replace(' ', "")
}

/// Formats a measured duration for a sentence, rounded down: milliseconds below a second, tenths below ten seconds, else whole seconds.
#[must_use]
pub fn rounded(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match milliseconds {
        0..1_000 => format!("{milliseconds}ms"),
        1_000..10_000 => match (milliseconds / 1_000, milliseconds % 1_000 / 100) {
            (seconds, 0) => format!("{seconds}s"),
            (seconds, tenths) => format!("{seconds}.{tenths}s"),
        },
        10_000.. => exact(Duration::from_secs(milliseconds / 1_000)),
    }
}

/// For serde's `with`: an optional duration as text.
pub mod option {
    use std::{borrow::Cow, time::Duration};

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::{exact, parse};

    /// Serializes the duration.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_some(&exact(*duration)),
            None => serializer.serialize_none(),
        }
    }

    /// Deserializes the duration.
    ///
    /// # Errors
    /// Those of the deserializer, and a text that is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
        let Some(text) = Option::<Cow<'de, str>>::deserialize(value)? else {
            return Ok(None);
        };
        let duration = parse(&text);
        duration
            .map(Some)
            .map_err(|sentence| D::Error::custom(format!("`{text}` {sentence}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_duration_is_read_again() {
        assert_eq!(exact(Duration::from_millis(90_500)), "1m30s500ms");
        assert_eq!(parse("1m30s500ms"), Ok(Duration::from_millis(90_500)));
        assert!(parse("90").is_err());
    }

    #[test]
    fn a_measured_duration_is_rounded_down() {
        for (milliseconds, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (2_099, "2s"),
            (9_999, "9.9s"),
            (10_168, "10s"),
            (229_168, "3m49s"),
            (3_600_001, "1h"),
        ] {
            assert_eq!(rounded(Duration::from_millis(milliseconds)), expected);
        }
    }
}
