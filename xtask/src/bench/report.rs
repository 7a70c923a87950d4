//! The results: rows from the figures of rounds, and the JSON file.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// A row of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `packet`, `driver`, `lab`, `health`, `failover` or `ipvs`.
    pub suite: &'static str,
    /// Name of the row.
    pub row: String,
    /// Unit of the figures.
    pub unit: &'static str,
    /// Median over the rounds.
    pub median: f64,
    /// Minimum over the rounds.
    pub minimum: f64,
    /// Median of the reference in the same run. Suite `driver` has rows for the peers; there this project is the reference.
    pub reference: f64,
    /// Median over the rounds of the row's figure divided by the reference's of the same round.
    pub ratio: f64,
}

/// The aim for a ratio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
}

impl Aim {
    /// Whether `ratio` misses it; NaN does.
    pub fn is_missed_by(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio.is_nan() || ratio > most,
            Self::AtLeast(least) => ratio.is_nan() || ratio < least,
        }
    }

    /// The aim and whether it was met, for the last column of a table.
    pub fn remark(aim: Option<Self>, ratio: f64) -> String {
        match aim {
            None => String::new(),
            Some(aim) if aim.is_missed_by(ratio) => format!("{aim}  MISSED"),
            Some(aim) => aim.to_string(),
        }
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(formatter, "<= {most}"),
            Self::AtLeast(least) => write!(formatter, ">= {least}"),
        }
    }
}

/// The quotients of two series, round by round.
pub fn ratios(values: &[f64], references: &[f64]) -> Vec<f64> {
    values
        .iter()
        .zip(references)
        .map(|(value, reference)| value / reference)
        .collect()
}

/// The middle value; of an even number, the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// The smallest value.
pub fn minimum(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Writes all rows as one JSON document.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(path: &Path, rows: &[Row]) -> Result<()> {
    let mut text = serde_json::to_string_pretty(rows)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_met_up_to_its_bound() {
        assert!(!Aim::AtMost(0.9).is_missed_by(0.9));
        assert!(Aim::AtMost(0.9).is_missed_by(0.91));
        assert!(!Aim::AtLeast(4.5).is_missed_by(4.5));
        assert!(Aim::AtLeast(4.5).is_missed_by(4.4));
        assert!(Aim::AtLeast(4.5).is_missed_by(f64::NAN));
        assert_eq!(Aim::remark(Some(Aim::AtMost(6.0)), 7.0), "<= 6  MISSED");
        assert_eq!(Aim::remark(Some(Aim::AtLeast(1.05)), 1.1), ">= 1.05");
        assert_eq!(Aim::remark(None, 1.0), "");
    }

    #[test]
    fn the_median_is_the_middle_of_the_sorted_values() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < f64::EPSILON);
        assert!((minimum(&[3.0, 1.0, 2.0]) - 1.0).abs() < f64::EPSILON);
    }
}
