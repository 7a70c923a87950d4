//! Counts tests by the output of Rust's test harness.

use crate::tally::Tally;

/// Prefix of the line with which a test reports that it skipped itself: `SKIPPED name: reason`. The harness, which has no word for
/// that, then calls it passed.
const SKIPPED: &str = "SKIPPED ";

/// Reads the harness's lines one by one.
#[derive(Debug)]
pub struct Parser {
    program: String,
    tally: Tally,
    has_result: bool,
}

impl Parser {
    /// A parser for one program, whose name precedes the tests' names.
    pub fn new(program: &str) -> Self {
        Self {
            program: program.into(),
            tally: Tally::default(),
            has_result: false,
        }
    }

    /// Handles the next line.
    pub fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some((name, reason)) = skipped(line) {
            let skip = (self.name(name), reason.into());
            // A test with several fixtures prints it once for each.
            if !self.tally.skipped.contains(&skip) {
                self.tally.skipped.push(skip);
            }
        } else if let Some((name, reason)) = ignored(line) {
            self.tally.skipped.push((self.name(name), reason.into()));
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.has_result = true;
            self.tally.passed += count(counts, "passed");
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.tally.failed.push(self.name(name));
        } else if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            // What a test prints can stand between its name and FAILED; this heading names it for sure.
            let name = self.name(name);
            if !self.tally.failed.contains(&name) {
                self.tally.failed.push(name);
            }
        }
    }

    /// Returns the counts. A program that failed without naming a test, or that never came to its result, is one
    /// failure more.
    pub fn finish(mut self, success: bool, ending: &str) -> Tally {
        let marked = self
            .tally
            .skipped
            .iter()
            .filter(|(_, reason)| reason != IGNORED)
            .count() as u64;
        self.tally.passed = self.tally.passed.saturating_sub(marked);
        if (!success && self.tally.failed.is_empty())
            || (success && !self.has_result && !self.tally.failed.is_empty())
        {
            self.tally.failed.push(ending.into());
        }
        self.tally
    }

    fn name(&self, test: &str) -> String {
        format!("{}: {test}", self.program)
    }
}

/// Reason given for a test that is marked `#[ignore]` without one.
const IGNORED: &str = "is marked as ignored";

fn skipped(line: &str) -> Option<(&str, &str)> {
    let at = line.find(SKIPPED)?;
    if at > 0 && !line[..at].ends_with("... ") {
        return None;
    }
    let rest = &line[at + SKIPPED.len()..];
    // A test's path has colons, but no blank behind them.
    rest.split_once(": ")
}

fn ignored(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ignored")?;
    (rest.is_empty() || rest.starts_with(',')).then_some((name, IGNORED))
}

fn count(counts: &str, word: &str) -> u64 {
    counts
        .split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, success: bool) -> Tally {
        let mut parser = Parser::new("p");
        text.lines().for_each(|line| parser.line(line));
        parser.finish(success, "p ended with exit status: 101")
    }

    #[test]
    fn passed_failed_and_ignored_are_counted() {
        let tally = read(
            "running 3 tests\ntest a::b ... ok\ntest a::c ... FAILED\ntest d ... ignored, slow\n\nfailures:\n\n\
             ---- a::c stdout ----\nthread panicked\n\nfailures:\n    a::c\n\n\
             test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
            false,
        );
        assert_eq!(
            tally,
            Tally {
                passed: 1,
                failed: vec!["p: a::c".into()],
                skipped: vec![("p: d".into(), IGNORED.into())]
            }
        );
    }

    #[test]
    fn a_test_that_skips_itself_did_not_pass() {
        let text = "test a::one ... SKIPPED a::one: BALANCER_SKIP_PRIVILEGED is set\nok\nSKIPPED two: no\nSKIPPED two: no\n\
                    test two ... ok\ntest three ... ok\n\
                    test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let reason = "BALANCER_SKIP_PRIVILEGED is set";
        assert_eq!(
            read(text, true),
            Tally {
                passed: 1,
                failed: vec![],
                skipped: vec![
                    ("p: a::one".into(), reason.into()),
                    ("p: two".into(), "no".into())
                ],
            }
        );
    }

    #[test]
    fn a_failure_behind_a_tests_own_output_is_found() {
        let tally = read(
            "test noisy ... something\nFAILED\n\nfailures:\n\n---- noisy stdout ----\nboom\n\n\
             test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
            false,
        );
        assert_eq!(tally.failed, ["p: noisy"]);
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let tally = read("running 2 tests\ntest a ... ok\n", false);
        assert_eq!(
            tally,
            Tally {
                failed: vec!["p ended with exit status: 101".into()],
                ..Tally::default()
            }
        );
    }

    #[test]
    fn several_results_add_up_as_with_documentation_tests() {
        let one = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n";
        assert_eq!(read(&one.repeat(3), true).passed, 6);
    }

    #[test]
    fn a_word_in_a_tests_output_is_no_skip() {
        assert_eq!(
            read("the server SKIPPED this: really\n", true),
            Tally::default()
        );
    }
}
