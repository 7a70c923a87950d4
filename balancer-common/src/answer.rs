//! How many answers the packet program gives in a virtual service's place: a token bucket per CPU.

use crate::token_bucket::{SECOND, take};

/// Answers that one CPU gives in a second, however evenly they are asked for.
pub const PER_SECOND: u64 = 1_000;

/// Answers that one CPU gives at once after a second of silence.
pub const BURST: u64 = 1_000;

const EACH: u64 = SECOND / PER_SECOND;

/// Whether an answer may go out at time `now` (nanoseconds); `due` is the bucket, at first zero.
#[inline(always)]
#[must_use]
pub const fn admit(due: &mut u64, now: u64) -> bool {
    match take(*due, now, EACH, (BURST - 1) * EACH) {
        Some(next) => {
            *due = next;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(due: &mut u64, now: u64, asked: u64) -> u64 {
        (0..asked).filter(|_| admit(due, now)).count() as u64
    }

    #[test]
    fn a_burst_goes_out_at_once_and_then_one_answer_each_interval() {
        let (mut due, now) = (0, 5 * SECOND);
        assert_eq!(admitted(&mut due, now, 3 * BURST), BURST);
        assert_eq!(admitted(&mut due, now + EACH - 1, 5), 0);
        assert_eq!(admitted(&mut due, now + EACH, 5), 1);
        assert_eq!(admitted(&mut due, now + 11 * EACH, 50), 10);
        // A long silence saves up no more than a burst.
        assert_eq!(admitted(&mut due, now + 100 * SECOND, 3 * BURST), BURST);
    }

    #[test]
    fn in_the_long_run_no_second_has_more_than_the_rate_and_a_burst() {
        let mut due = 0;
        let total: u64 = (0..10_000)
            .map(|i| admitted(&mut due, SECOND + i * EACH / 10, 1))
            .sum();
        assert_eq!(total, BURST + 999);
    }
}
