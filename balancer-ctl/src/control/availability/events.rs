//! Events of health: the differences between two states of a service. Pure.

use std::{net::SocketAddr, time::Instant};

use super::{RealStatus, ServiceStatus};
use crate::{
    health::{AgentRequest, RequestedWeight},
    model::{AdminState, VirtualService, diff::Event, event::EventKind},
};

/// The conditions of a service that last: the event that begins each, and when it began.
pub(super) fn lasting_conditions(
    service: &VirtualService,
    status: &ServiceStatus,
    now: Instant,
) -> Vec<(Event, Instant)> {
    let mut events = Vec::new();
    add_events(service, None, status, &mut events);
    let begin = |event: Event| {
        let began = match (event.kind, event.real) {
            (EventKind::RealDown, Some(real)) => status.reals.get(&real)?.out_since,
            (EventKind::QuorumLost, _) => status.quorum_since,
            _ => return None,
        };
        Some((event, began.unwrap_or(now)))
    };
    events.into_iter().filter_map(begin).collect()
}

/// Appends the events between two states of a service. A service without a state `before` has only those of its probe results.
pub(super) fn add_events(
    service: &VirtualService,
    before: Option<&ServiceStatus>,
    after: &ServiceStatus,
    events: &mut Vec<Event>,
) {
    let mut add = |kind, real, message| {
        events.push(Event {
            kind,
            service: Some(service.key.to_string()),
            real,
            peer: None,
            message,
        });
    };
    for real in &service.reals {
        let Some(status) = after.reals.get(&real.address) else {
            continue;
        };
        let old = before.and_then(|before| before.reals.get(&real.address));
        // A real server that the operator has in maintenance is not probed and requests nothing.
        if let Some(old) = old
            && real.state != AdminState::Maintenance
            && let Some(message) = request_change(old.requested, status.requested)
        {
            add(EventKind::RealChanged, Some(real.address), message);
        }
        let (old, new) = (
            old.and_then(RealStatus::reported_health),
            status.reported_health(),
        );
        if service.checks.is_empty() || old == new {
            continue;
        }
        let message = status.probe_result.clone();
        match new {
            Some(true) => add(EventKind::RealUp, Some(real.address), message),
            Some(false) => add(EventKind::RealDown, Some(real.address), message),
            None => {}
        }
    }
    let enough = before.and_then(|before| before.quorum);
    let live = format!(
        "live weight {}, quorum {}",
        after.live_weight, service.health.quorum
    );
    match (enough, after.quorum) {
        (Some(true) | None, Some(false)) => add(EventKind::QuorumLost, None, live),
        (Some(false), Some(true)) => add(EventKind::QuorumRegained, None, live),
        _ => {}
    }
    let backups = before.map_or(&[][..], |before| &before.backups_in);
    if backups != after.backups_in {
        let names = |backups: &[SocketAddr]| {
            let names: Vec<_> = backups.iter().map(ToString::to_string).collect();
            names.join(", ")
        };
        if after.backups_in.is_empty() {
            add(EventKind::BackupsOut, None, names(backups));
        } else {
            add(EventKind::BackupsIn, None, names(&after.backups_in));
        }
    }
}

/// The message about a changed request of a real server: its state, or its weight to and from 0. Other weights are not reported, since
/// some agents send another one with each reply.
fn request_change(old: AgentRequest, new: AgentRequest) -> Option<String> {
    let state = |request: AgentRequest| request.state.unwrap_or_default();
    let weight = |request: AgentRequest| {
        request
            .weight
            .map_or_else(|| "unset".to_owned(), |weight| weight.to_string())
    };
    let mut changes = Vec::new();
    if state(old) != state(new) {
        changes.push(format!(
            "state {} -> {}",
            state(old).name(),
            state(new).name()
        ));
    }
    let is_none = |request: AgentRequest| {
        matches!(
            request.weight,
            Some(RequestedWeight::Absolute(0) | RequestedWeight::Percent(0))
        )
    };
    if is_none(old) != is_none(new) {
        changes.push(format!("weight {} -> {}", weight(old), weight(new)));
    }
    (!changes.is_empty()).then(|| format!("by its check: {}", changes.join(", ")))
}
