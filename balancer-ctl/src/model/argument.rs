//! Values as they are typed behind an option. Pure.

use std::{ops::RangeInclusive, time::Duration};

use super::{duration, enumeration::listed, names::Named};

/// A value by its name.
///
/// # Errors
/// There is none of this name.
pub fn named<T: Named>(name: &str) -> Result<T, String> {
    T::from_name(name).ok_or_else(|| {
        let expected = format!("expected {}", listed(T::NAMES));
        if T::PLANNED.contains(&name) {
            format!("this version does not have it yet: {expected}")
        } else {
            expected
        }
    })
}

/// A duration with its unit.
///
/// # Errors
/// It is none.
pub fn time(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|_| "not a duration: a number and a unit, such as 30s".to_owned())
}

/// A whole number within a range.
///
/// # Errors
/// It is none, or out of range.
pub fn number(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    let (least, most) = range.into_inner();
    number.ok_or_else(|| format!("expected a whole number from {least} to {most}"))
}
