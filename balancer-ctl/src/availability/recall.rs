//! What an earlier daemon left: since when its real servers are out, or back. Pure.
//!
//! It wrote down times of day, which may have been set since; what comes out are instants, and one that cannot be is now, so
//! that at worst a time begins anew. Since when a real server is in maintenance, or down by its agent's word, is written
//! nowhere: these begin anew.

use std::time::{Instant, SystemTime};

use super::{RealStatus, ServiceStatus, Wired, judge};
use crate::{
    health::{Checkers, Standing, UNKNOWN, Watched},
    model::{VirtualService, check::Probe},
    view::RealState,
};

/// How a checker stood when an earlier daemon wrote it down.
#[derive(Clone, Debug)]
pub struct Recalled {
    /// How it stood.
    pub standing: Standing,
    /// Since when, if that is known.
    pub(super) since: Option<Instant>,
}

impl Recalled {
    /// Takes what was written down; `now` and `time` are the same moment.
    #[must_use]
    pub fn new(standing: Standing, now: Instant, time: SystemTime) -> Self {
        let since = (standing.since != UNKNOWN).then(|| {
            let ago = time.duration_since(standing.since).unwrap_or_default();
            now.checked_sub(ago).unwrap_or(now)
        });
        Self { standing, since }
    }
}

/// What checkers recall at a moment, which `now` and `time` both are.
pub fn recollection(
    checkers: &dyn Checkers,
    now: Instant,
    time: SystemTime,
) -> impl Fn(&Watched) -> Option<Recalled> {
    move |watched| {
        let standing = checkers.remembered(watched)?;
        Some(Recalled::new(standing, now, time))
    }
}

/// How an earlier daemon must have left a service. A real server that came up less than slow start ago was coming back:
/// whether that was its first pass is not written down.
pub(super) fn service(
    service: &VirtualService,
    wired: &Wired,
    standings: &[Standing],
    since: &[Option<Instant>],
    now: Instant,
) -> ServiceStatus {
    let mut status = ServiceStatus::default();
    for (real, checkers) in service.reals.iter().zip(&wired.reals) {
        let of = |up: bool| {
            let asked = service.checks.iter().zip(checkers);
            asked
                .filter(|(check, _)| !matches!(check.probe, Probe::Agent(_)))
                .filter(move |(_, index)| standings[**index].up == up)
                .filter_map(|(_, index)| since[*index])
        };
        let word = judge::word(service, real, checkers, standings);
        let (state, out_since, ramp) = match word.healthy {
            None => continue,
            // Down with the first check that failed, up with the last that passed.
            Some(false) => (RealState::Down, of(false).min(), None),
            Some(true) => (RealState::Up, None, of(true).max()),
        };
        let ramp = ramp.filter(|start| now.duration_since(*start) < service.health.slow_start);
        status.reals.insert(
            real.address,
            RealStatus {
                state,
                reason: None,
                weight: 0,
                healthy: word.healthy,
                found: word.reason,
                out_since,
                ramp,
            },
        );
    }
    status
}
