//! The limit of open files: raised for the daemon, which probes thousands of targets at once, and put back for the
//! programs that it runs. Those may close every file up to the limit, or use `select`, which knows the first 1024 only.

use std::sync::{Mutex, PoisonError};

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// What is said where the limit is reached.
pub const TOO_MANY: &str = "too many open files (raise LimitNOFILE=)";

/// What it was before the first raise.
static STARTED_WITH: Mutex<Option<Limit>> = Mutex::new(None);

/// Limits of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In force.
    pub soft: rlim_t,
    /// As far as the other may be raised.
    pub hard: rlim_t,
}

impl Limit {
    fn now() -> nix::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        Ok(Self { soft, hard })
    }
}

/// Raises the limit to what is wanted, or as far as it goes. Returns what it is then; `None` = it cannot be known.
#[must_use]
pub fn raise(wanted: u64) -> Option<u64> {
    // Held until the end, so that nobody else raises it between our look and our change.
    let mut started_with = STARTED_WITH.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Limit::now().ok()?;
    started_with.get_or_insert(now);
    let wanted = wanted.min(now.hard).max(now.soft);
    Some(match setrlimit(Resource::RLIMIT_NOFILE, wanted, now.hard) {
        Ok(()) => wanted,
        Err(_) => now.soft,
    })
}

/// The limit that this process was started with; `None` = it is still in force.
#[must_use]
pub fn started_with() -> Option<Limit> {
    *STARTED_WITH.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_raise_remembers_what_was_before_and_none_goes_back() {
        let most = Limit::now().unwrap().hard;
        let raised = raise(most).unwrap();
        let first = started_with().unwrap();
        assert_eq!((raised, first.hard), (most, most));
        assert!(first.soft <= raised);
        assert_eq!(raise(1), Some(most));
        assert_eq!(raise(u64::MAX), Some(most));
        assert_eq!(
            (started_with(), Limit::now().unwrap().soft),
            (Some(first), most)
        );
    }
}
