//! The state of a service as an earlier daemon stored it: its quorum, and when its real servers went out or came back. Pure.
//!
//! When a real server entered maintenance is not stored: that time begins anew.

use std::time::Instant;

use super::{CheckIndex, RealStatus, ServiceStatus, evaluate};
use crate::{
    health::{CheckState, Quorum},
    model::{VirtualService, view::RealState},
};

/// When a check state began, and whether it followed a failure, as far as that was stored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RestoredSince {
    pub(super) since: Option<Instant>,
    pub(super) has_returned: bool,
}

/// The state in which an earlier daemon left a service.
pub(super) fn service(
    service: &VirtualService,
    check_index: &CheckIndex,
    check_states: &[CheckState],
    since: &[RestoredSince],
    quorum: Option<Quorum>,
) -> ServiceStatus {
    let mut status = ServiceStatus {
        quorum: quorum.map(|quorum| quorum.holds),
        quorum_since: quorum.map(|quorum| quorum.since),
        ..ServiceStatus::default()
    };
    for (real, checkers) in service.reals.iter().zip(&check_index.reals) {
        let checks = || {
            service
                .checks
                .iter()
                .zip(checkers)
                .map(|(check, index)| (check, &check_states[*index], since[*index]))
        };
        let failed = checks().filter(|(check, check_state, _)| {
            check_state.agent_reply.down.is_some() || !(check_state.up || check.probe.is_agent())
        });
        let passed =
            checks().filter(|(check, check_state, _)| check_state.up && !check.probe.is_agent());
        let verdict = evaluate::verdict(service, real, checkers, check_states);
        let (state, out_since, ramp) = match verdict.healthy {
            None => continue,
            // Down with the first check that failed, up with the last that passed.
            Some(false) => (
                RealState::Down,
                failed.filter_map(|(.., since)| since.since).min(),
                None,
            ),
            Some(true) => {
                let has_returned = passed.clone().any(|(.., since)| since.has_returned);
                let last = passed.filter_map(|(.., since)| since.since).max();
                // Slow start begins after a return, not after the first pass ever.
                (RealState::Up, None, last.filter(|_| has_returned))
            }
        };
        status.reals.insert(
            real.address,
            RealStatus {
                state,
                reason: None,
                weight: 0,
                healthy: verdict.healthy,
                requested: verdict.requested,
                probe_result: verdict.reason,
                out_since,
                ramp_since: ramp,
            },
        );
    }
    status
}
