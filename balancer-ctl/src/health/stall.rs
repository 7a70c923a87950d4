//! Notices that this very process did not run: stopped, starved of CPU, or its host suspended. A probe that failed over
//! such a gap says nothing about its target. Pure: the loop says when it rests, until when, and when it woke.
//!
//! ```text
//!   woke ─── works ───▶ rests until ─ ─ ─ ▶ until ───▶ woke
//!        │◀─ lost, if ─▶│                  │◀─ lost: ──▶│
//!          it is long                        so late
//! ```
//!
//! Work is short. If it was long, then it was interrupted, or it was waited for (a file, say); answers were not looked at
//! meanwhile either way. What is lost adds up; a probe compares the sums of its beginning and its end.
//! `CLOCK_MONOTONIC`, by which timers run, stands still while the host is suspended; `CLOCK_BOOTTIME` does not, and their
//! difference is lost too.

use std::time::{Duration, Instant};

/// The longest the loop should rest while probes run, so that a gap is seen whenever it happens.
pub const LONGEST_REST: Duration = Duration::from_millis(100);

/// The longest rest while none run.
pub const LONGEST_IDLE: Duration = Duration::from_secs(1);

/// Failures of a target in a row that a stall may spoil; what follows counts all the same. A process that never runs well
/// would keep dead servers for ever else.
pub const MOST_SPOILED: u32 = 10;

/// Timers are late by as much on a busy machine, and so long may the loop work at a time.
const TOLERATED: Duration = Duration::from_millis(10);

/// Lost time that spoils any probe.
const SPOILS: Duration = Duration::from_millis(500);

/// Keeps count of lost time.
#[derive(Debug, Default)]
pub struct Stall {
    phase: Option<Phase>,
    lost: Duration,
}

/// Work or a rest.
#[derive(Clone, Copy, Debug)]
struct Phase {
    began: Instant,
    since_boot: Duration,
    /// What comes after that is late.
    until: Instant,
}

impl Stall {
    /// The loop has worked, and will not rest beyond `until`. Returns what was lost, if that is worth a word.
    pub fn rest(&mut self, now: Instant, since_boot: Duration, until: Instant) -> Option<Duration> {
        self.enter(Phase {
            began: now,
            since_boot,
            until: until.max(now),
        })
    }

    /// The loop woke, and works. Returns what was lost, if that is worth a word.
    pub fn wake(&mut self, now: Instant, since_boot: Duration) -> Option<Duration> {
        self.enter(Phase {
            began: now,
            since_boot,
            until: now,
        })
    }

    fn enter(&mut self, next: Phase) -> Option<Duration> {
        let last = self.phase.replace(next)?;
        let late = next.began.saturating_duration_since(last.until);
        let suspended = next
            .since_boot
            .saturating_sub(last.since_boot)
            .saturating_sub(next.began.saturating_duration_since(last.began));
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

    /// Works from 0 on, to so many milliseconds of both clocks.
    fn worked_until(monotonic: u32, boot: u32) -> (Option<Duration>, Duration) {
        let start = Instant::now();
        let mut stall = Stall::default();
        assert_eq!(stall.wake(start, 7 * MS), None);
        let now = start + monotonic * MS;
        // What was due next may be long over.
        let told = stall.rest(now, (7 + boot) * MS, start + 5 * MS);
        assert_eq!(stall.wake(now, (7 + boot) * MS), None, "it is lost once");
        (told, stall.lost())
    }

    #[test]
    fn short_work_loses_nothing() {
        for at in [0, 5, 10] {
            assert_eq!(worked_until(at, at), (None, Duration::ZERO), "{at} ms");
        }
    }

    #[test]
    fn long_work_is_lost() {
        assert_eq!(worked_until(150, 150), (None, 150 * MS));
        assert_eq!(worked_until(600, 600), (Some(600 * MS), 600 * MS));
    }

    #[test]
    fn suspension_while_it_works_is_lost() {
        assert_eq!(worked_until(5, 60_005), (Some(60_000 * MS), 60_000 * MS));
        assert_eq!(worked_until(600, 60_600), (Some(60_600 * MS), 60_600 * MS));
    }

    #[test]
    fn what_is_lost_adds_up() {
        let start = Instant::now();
        let mut stall = Stall::default();
        for round in 0..3 {
            let at = |after: u32| (start + (round * 1000 + after) * MS, Duration::ZERO);
            let ((woke, boot), (rests, _)) = (at(0), at(20));
            stall.wake(woke, boot);
            stall.rest(rests, boot, rests + 100 * MS);
            // 50 ms late, then 830 ms of work, a rest that ends in time.
            let ((woke, _), (rests, _)) = (at(170), at(1000));
            stall.wake(woke, boot);
            stall.rest(rests, boot, rests + 100 * MS);
        }
        assert_eq!(stall.lost(), 3 * (20 + 50 + 830) * MS);
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
