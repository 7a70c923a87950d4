//! The servers' access log: when which target was checked.

use std::{collections::HashMap, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};

/// Length of the window in which checks are counted as a burst.
pub const WINDOW: Duration = Duration::from_millis(100);

/// Checks in the order of time: seconds since 1970, and the target.
#[derive(Clone, Debug, PartialEq)]
pub struct Log(Vec<(f64, Ipv4Addr)>);

impl Log {
    /// Reads lines such as `1700000000.123 10.77.0.1`.
    ///
    /// # Errors
    /// One is not like that.
    pub fn parse(text: &str) -> Result<Self> {
        let mut checks = text
            .lines()
            .map(|line| {
                let (time, address) = line.split_once(' ')?;
                Some((time.parse().ok()?, address.parse().ok()?))
            })
            .collect::<Option<Vec<(f64, Ipv4Addr)>>>()
            .context("a line is not a time and an address")?;
        checks.sort_by(|one, other| one.0.total_cmp(&other.0));
        Ok(Self(checks))
    }

    /// How evenly checks are spread, over all and from `settled` (seconds since 1970) to `end`.
    pub fn spread(&self, settled: f64, end: f64) -> Spread {
        let mut last: HashMap<Ipv4Addr, f64> = HashMap::new();
        let mut longest_gap: f64 = 0.0;
        let mut first = 0;
        let mut largest_burst = 0;
        let mut checks = 0;
        for (index, (time, target)) in self.0.iter().enumerate() {
            if *time > end {
                break;
            }
            // The log's times are whole milliseconds.
            while time - self.0[first].0 > WINDOW.as_secs_f64() - 0.0005 {
                first += 1;
            }
            largest_burst = largest_burst.max(index - first + 1);
            let before = last.insert(*target, *time);
            if *time >= settled {
                checks += 1;
                longest_gap = longest_gap.max(before.map_or(0.0, |before| time - before));
            }
        }
        // Targets that were not checked again are late too.
        longest_gap = last
            .values()
            .map(|last| end - last)
            .fold(longest_gap, f64::max);
        Spread {
            targets: last.len(),
            checks,
            largest_burst,
            longest_gap,
        }
    }
}

/// How evenly checks are spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// Number of targets that were checked.
    pub targets: usize,
    /// Checks after all had settled.
    pub checks: usize,
    /// Most checks in any window, from the first on.
    pub largest_burst: usize,
    /// Longest time between two checks of one target after all had settled, in seconds.
    pub longest_gap: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_and_gaps_are_read_from_the_log() {
        let text = "100.000 10.77.0.1\n100.050 10.77.0.2\n100.099 10.77.0.3\n100.100 10.77.0.4\n\
                    105.000 10.77.0.1\n105.051 10.77.0.2\n105.090 10.77.0.3\n106.100 10.77.0.4\n110.001 10.77.0.1\n";
        let log = Log::parse(text).unwrap();
        let spread = log.spread(102.0, 108.0);
        assert_eq!((spread.targets, spread.checks), (4, 4));
        assert_eq!(spread.largest_burst, 3);
        assert!((spread.longest_gap - 6.0).abs() < 1e-6);
        let longest = log.spread(102.0, 112.0).longest_gap;
        assert!(
            (longest - 6.949).abs() < 1e-6,
            "10.77.0.2 was forgotten: {longest}"
        );
    }

    #[test]
    fn other_lines_are_refused() {
        assert!(Log::parse("100.0 ten\n").is_err());
        assert!(Log::parse("100.0\n").is_err());
    }
}
