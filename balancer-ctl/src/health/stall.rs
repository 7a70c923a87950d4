//! Detects that this process did not run for a while: stopped, starved of CPU, or its host suspended. A probe that
//! fails across such a stall says nothing about its target. Pure: the loop reports when it goes to sleep, until when,
//! and when it woke.
//!
//! ```text
//!   woke ─── works ───▶ sleeps until ─ ─ ─ ▶ until ───▶ woke
//!        │◀─ lost, if ─▶│                   │◀── lost ──▶│
//!          over 10 ms                         if over 10 ms
//! ```
//!
//! Work between two sleeps is short. If it took long, it was interrupted or it blocked (on a file, say); either way no
//! answer was read meanwhile. Lost time is summed up; the driver compares the sums at a probe's start and end.
//! `CLOCK_MONOTONIC`, by which timers run, stops while the host is suspended; `CLOCK_BOOTTIME` does not. Their difference
//! is lost time too.

use std::time::{Duration, Instant};

/// The longest sleep of the loop while probes run, so that a stall is noticed whenever it happens.
pub const MAX_REST: Duration = Duration::from_millis(100);

/// The longest sleep of the loop while no probes run.
pub const MAX_IDLE_REST: Duration = Duration::from_secs(1);

/// Failures of a target in a row that may be disregarded because of stalls; the next one counts regardless. Otherwise a
/// process that is always short of CPU would never take a dead server out.
pub const MAX_DISREGARDED: u32 = 10;

/// Lateness of a timer, and length of work between two sleeps, that are normal on a busy machine.
const TOLERANCE: Duration = Duration::from_millis(10);

/// Lost time that invalidates the failure of any probe, however long its timeout.
const MAX_LOSS: Duration = Duration::from_millis(500);

/// Sums up the time in which the loop should have run and did not.
#[derive(Debug, Default)]
pub struct Stall {
    phase: Option<Phase>,
    lost: Duration,
}

/// A period of work or of sleep.
#[derive(Clone, Copy, Debug)]
struct Phase {
    began: Instant,
    since_boot: Duration,
    /// When the phase should end; time after that is lost.
    until: Instant,
}

impl Stall {
    /// The loop goes to sleep until `until` at the latest. Returns the time lost while it worked if that is worth a log
    /// line (500 ms).
    pub fn rest(&mut self, now: Instant, since_boot: Duration, until: Instant) -> Option<Duration> {
        self.enter(Phase {
            began: now,
            since_boot,
            until: until.max(now),
        })
    }

    /// The loop woke up. Returns the time lost while it slept if that is worth a log line (500 ms).
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
            .filter(|lost| *lost > TOLERANCE)
            .sum();
        self.lost = self.lost.saturating_add(lost);
        (lost >= MAX_LOSS).then_some(lost)
    }

    /// Total time lost since the start.
    #[must_use]
    pub const fn lost(&self) -> Duration {
        self.lost
    }
}

/// Whether the failure of a probe during which `lost` was lost says nothing about its target.
#[must_use]
pub fn invalidates(lost: Duration, timeout: Duration) -> bool {
    !lost.is_zero() && lost >= MAX_LOSS.min(timeout / 4)
}

/// The longest sleep of the loop while probes with this timeout run.
#[must_use]
pub fn max_rest_for(timeout: Duration) -> Duration {
    (timeout / 4).clamp(TOLERANCE, MAX_REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sleeps from 0 ms to 100 ms and wakes at the given milliseconds of both clocks.
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

    /// Works from 0 ms to the given milliseconds of both clocks.
    fn worked_until(monotonic: u32, boot: u32) -> (Option<Duration>, Duration) {
        let start = Instant::now();
        let mut stall = Stall::default();
        assert_eq!(stall.wake(start, 7 * MS), None);
        let now = start + monotonic * MS;
        // The deadline for which it wants to sleep may have passed already.
        let told = stall.rest(now, (7 + boot) * MS, start + 5 * MS);
        assert_eq!(stall.wake(now, (7 + boot) * MS), None, "time is lost once");
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
            // Wakes 50 ms late, then works for 830 ms.
            let ((woke, _), (rests, _)) = (at(170), at(1000));
            stall.wake(woke, boot);
            stall.rest(rests, boot, rests + 100 * MS);
        }
        assert_eq!(stall.lost(), 3 * (20 + 50 + 830) * MS);
    }

    #[test]
    fn a_failure_is_invalid_after_half_a_second_or_a_quarter_of_the_timeout_lost() {
        let second = 1000 * MS;
        assert!(!invalidates(Duration::ZERO, Duration::ZERO));
        assert!(!invalidates(499 * MS, 10 * second));
        assert!(invalidates(500 * MS, 10 * second));
        assert!(!invalidates(49 * MS, 200 * MS));
        assert!(invalidates(50 * MS, 200 * MS));
    }
}
