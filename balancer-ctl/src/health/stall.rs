//! Notices that this very process did not run: stopped, starved of CPU, or its host suspended. A probe that failed over
//! such a gap says nothing about its target. Pure: the loop says when it rests, until when, and when it woke.
//!
//! ```text
//!   woke ── works ── rests until ─ ─ ─ ▶ until │◀── lost: it woke this much too late ──▶│ woke
//! ```
//!
//! What is lost adds up; a probe compares the sums of its beginning and its end. `CLOCK_MONOTONIC`, by which timers run,
//! stands still while the host is suspended; `CLOCK_BOOTTIME` does not, and their difference is lost too.

use std::time::{Duration, Instant};

/// The longest the loop should rest while probes run, so that a gap is seen whenever it happens.
pub const LONGEST_REST: Duration = Duration::from_millis(100);

/// The longest rest while none run.
pub const LONGEST_IDLE: Duration = Duration::from_secs(1);

/// Timers are late by as much on a busy machine.
const TOLERATED: Duration = Duration::from_millis(10);

/// Lost time that spoils any probe.
const SPOILS: Duration = Duration::from_millis(500);

/// Keeps count of lost time.
#[derive(Debug, Default)]
pub struct Stall {
    rest: Option<Rest>,
    lost: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    woke: Instant,
    since_boot: Duration,
    until: Instant,
}

impl Stall {
    /// The loop, awake since `now`, will not rest beyond `until`.
    pub fn rest(&mut self, now: Instant, since_boot: Duration, until: Instant) {
        self.rest = Some(Rest {
            woke: now,
            since_boot,
            until,
        });
    }

    /// The loop woke. Returns what was lost, if that is worth a word.
    pub fn wake(&mut self, now: Instant, since_boot: Duration) -> Option<Duration> {
        let rest = self.rest.take()?;
        let late = now.saturating_duration_since(rest.until);
        let suspended = since_boot
            .saturating_sub(rest.since_boot)
            .saturating_sub(now.saturating_duration_since(rest.woke));
        let lost: Duration = [late, suspended]
            .into_iter()
            .filter(|lost| *lost > TOLERATED)
            .sum();
        self.lost = self.lost.saturating_add(lost);
        (lost >= SPOILS).then_some(lost)
    }

    /// All time lost since the start.
    #[must_use]
    pub const fn lost(&self) -> Duration {
        self.lost
    }
}

/// Whether a failure after losing so much time says nothing about the target.
#[must_use]
pub fn spoils(lost: Duration, timeout: Duration) -> bool {
    !lost.is_zero() && lost >= SPOILS.min(timeout / 4)
}

/// The longest rest while probes with such a timeout run.
#[must_use]
pub fn rest_for(timeout: Duration) -> Duration {
    (timeout / 4).clamp(TOLERATED, LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sleeps from 0 for 100 ms, and wakes at so many milliseconds of both clocks.
    fn woken_at(monotonic: u32, boot: u32) -> (Option<Duration>, Duration) {
        let start = Instant::now();
        let mut stall = Stall::default();
        stall.rest(start, 7 * MS, start + 100 * MS);
        let told = stall.wake(start + monotonic * MS, 7 * MS + boot * MS);
        (told, stall.lost())
    }

    #[test]
    fn waking_early_in_time_or_a_little_late_loses_nothing() {
        for at in [3, 100, 110] {
            assert_eq!(woken_at(at, at), (None, Duration::ZERO), "{at} ms");
        }
    }

    #[test]
    fn waking_late_loses_what_it_is_late() {
        assert_eq!(woken_at(150, 150), (None, 50 * MS));
        assert_eq!(woken_at(2100, 2100), (Some(2000 * MS), 2000 * MS));
    }

    #[test]
    fn suspension_is_lost_although_the_monotonic_clock_stood_still() {
        assert_eq!(woken_at(50, 60_050), (Some(60_000 * MS), 60_000 * MS));
        assert_eq!(woken_at(1100, 61_100), (Some(61_000 * MS), 61_000 * MS));
    }

    #[test]
    fn what_is_lost_adds_up_and_a_loop_that_did_not_rest_loses_nothing() {
        let start = Instant::now();
        let mut stall = Stall::default();
        assert_eq!(stall.wake(start, Duration::ZERO), None);
        for round in 0..3 {
            let now = start + round * 1000 * MS;
            stall.rest(now, Duration::ZERO, now + 100 * MS);
            stall.wake(now + 150 * MS, Duration::ZERO);
            assert_eq!(stall.wake(now + 900 * MS, Duration::ZERO), None);
        }
        assert_eq!(stall.lost(), 150 * MS);
    }

    #[test]
    fn a_probe_is_spoiled_by_half_a_second_or_a_quarter_of_its_timeout() {
        let second = 1000 * MS;
        assert!(!spoils(Duration::ZERO, Duration::ZERO));
        assert!(!spoils(499 * MS, 10 * second));
        assert!(spoils(500 * MS, 10 * second));
        assert!(!spoils(49 * MS, 200 * MS));
        assert!(spoils(50 * MS, 200 * MS));
    }
}
