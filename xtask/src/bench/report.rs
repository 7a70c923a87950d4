//! Figures: how rounds become a row, and the file.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `packet`, `lab`, `health` or `ipvs`.
    pub suite: &'static str,
    /// Name of the row.
    pub row: String,
    /// Unit of the figures.
    pub unit: &'static str,
    /// Median over the rounds.
    pub median: f64,
    /// Minimum over the rounds.
    pub minimum: f64,
    /// Median of the reference in the same run.
    pub reference: f64,
    /// Median over the rounds of ours divided by the reference of the same round.
    pub ratio: f64,
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
    fn the_median_is_the_middle_of_the_sorted_values() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < f64::EPSILON);
        assert!((minimum(&[3.0, 1.0, 2.0]) - 1.0).abs() < f64::EPSILON);
    }
}
