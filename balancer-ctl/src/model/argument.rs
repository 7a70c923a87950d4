//! Parsers of the values of command-line options. Pure.

use std::{ops::RangeInclusive, time::Duration};

use super::{duration, enumeration::listed, names::Named};

/// Parses the name of a value.
///
/// # Errors
/// No value has this name.
pub fn named<T: Named>(name: &str) -> Result<T, String> {
    T::from_name(name).ok_or_else(|| {
        let expected = format!("expected {}", listed(T::NAMES));
        if let Some(why) = T::why_refused(name) {
            format!("not offered, as {why}: {expected}")
        } else if T::PLANNED.contains(&name) {
            format!("this version does not have it yet: {expected}")
        } else {
            expected
        }
    })
}

/// Parses a duration with its unit.
///
/// # Errors
/// It is not a duration.
pub fn time(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|_| "not a duration: a number and a unit, such as 30s".to_owned())
}

/// Parses a whole number within a range.
///
/// # Errors
/// It is not a whole number, or out of range.
pub fn number(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    let (least, most) = range.into_inner();
    number.ok_or_else(|| format!("expected a whole number from {least} to {most}"))
}
