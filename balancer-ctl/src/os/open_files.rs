//! The limit of open files: raised for the daemon, which probes thousands of targets at once, and restored for the programs
//! that it runs. Those may close every file up to the limit, or use `select`, which handles the first 1024 only.

use std::sync::{Mutex, PoisonError};

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// The error text when the limit is reached.
pub const TOO_MANY: &str = "too many open files (raise LimitNOFILE=)";

/// The limit before the first [`raise`].
static INITIAL_LIMIT: Mutex<Option<Limit>> = Mutex::new(None);

/// Limits of open files (`RLIMIT_NOFILE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The limit in force.
    pub soft: rlim_t,
    /// The most to which the soft limit may be raised.
    pub hard: rlim_t,
}

impl Limit {
    fn now() -> nix::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        Ok(Self { soft, hard })
    }
}

/// Raises the soft limit to `wanted`, or to the hard limit if that is lower; never lowers it. Returns the soft limit in
/// force, `None` if it cannot be read.
#[must_use]
pub fn raise(wanted: u64) -> Option<u64> {
    // Held until the end, so that no other thread raises the limit between the look and the change.
    let mut initial = INITIAL_LIMIT.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Limit::now().ok()?;
    initial.get_or_insert(now);
    let wanted = wanted.min(now.hard).max(now.soft);
    Some(match setrlimit(Resource::RLIMIT_NOFILE, wanted, now.hard) {
        Ok(()) => wanted,
        Err(_) => now.soft,
    })
}

/// The limit with which this process was started; `None` = it was never raised.
#[must_use]
pub fn started_with() -> Option<Limit> {
    *INITIAL_LIMIT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_raise_records_the_initial_limit_and_none_lowers_it() {
        let hard = Limit::now().unwrap().hard;
        let raised = raise(hard).unwrap();
        let first = started_with().unwrap();
        assert_eq!((raised, first.hard), (hard, hard));
        assert!(first.soft <= raised);
        assert_eq!(raise(1), Some(hard));
        assert_eq!(raise(u64::MAX), Some(hard));
        assert_eq!(
            (started_with(), Limit::now().unwrap().soft),
            (Some(first), hard)
        );
    }
}
