//! A token bucket, kept as the time at which its next token would be due if they were taken evenly: one number. It is full at zero.

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// What stands in a bucket after a token was taken at time `now`, where `due` stood before; nothing where it has none. Nanoseconds, all of
/// them: `each` is how long a token takes to come back, `burst` by how much one may be taken earlier than evenly, which is what all
/// tokens but one are worth.
#[inline(always)]
#[must_use]
pub const fn take(due: u64, now: u64, each: u64, burst: u64) -> Option<u64> {
    let earliest = if due > now { due } else { now };
    if earliest - now > burst {
        return None;
    }
    Some(earliest + each)
}
