//! Counts passed, failed and skipped tests.

use std::{fmt, process::ExitCode};

/// The number of passed tests, and the names of all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many passed.
    pub passed: u64,
    /// Names of those that failed.
    pub failed: Vec<String>,
    /// Names of those that were skipped, with the reason.
    pub skipped: Vec<(String, String)>,
}

impl Tally {
    /// Adds another's counts.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    /// A line for each skipped test, with the reason, and for each failed one.
    pub fn details(&self) -> Vec<String> {
        let failed = self.failed.iter().map(|name| format!("failed: {name}"));
        let skipped = self
            .skipped
            .iter()
            .map(|(name, why)| format!("skipped: {name}: {why}"));
        skipped.chain(failed).collect()
    }

    /// Success if a test passed and none failed. A run without tests is a failure, because it shows nothing.
    pub fn exit_code(&self) -> ExitCode {
        if self.failed.is_empty() && self.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_run_is_no_success() {
        let code = |passed, failed: &[&str]| {
            let tally = Tally {
                passed,
                failed: failed.iter().map(ToString::to_string).collect(),
                skipped: vec![],
            };
            format!("{:?}", tally.exit_code())
        };
        let (success, failure) = (
            format!("{:?}", ExitCode::SUCCESS),
            format!("{:?}", ExitCode::FAILURE),
        );
        assert_eq!(code(0, &[]), failure);
        assert_eq!(code(1, &[]), success);
        assert_eq!(code(1, &["x"]), failure);
    }

    #[test]
    fn the_closing_line_has_the_contracts_form() {
        let mut tally = Tally {
            passed: 3,
            failed: vec!["a".into()],
            skipped: vec![],
        };
        tally.add(Tally {
            passed: 4,
            failed: vec![],
            skipped: vec![("b".into(), "no root".into())],
        });
        assert_eq!(tally.to_string(), "7 passed, 1 failed, 1 skipped");
        assert_eq!(tally.details(), ["skipped: b: no root", "failed: a"]);
    }
}
