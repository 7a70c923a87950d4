//! The state of one service and its real servers, from the model, the check states, the previous state and the time. Pure.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use super::{CheckIndex, RealStatus, ServiceStatus};
use crate::{
    dataplane::{self, Connections},
    health::{AgentRequest, CheckState, RequestedWeight},
    model::{
        AdminState, Backups, HealthPolicy, MAX_WEIGHT, OnDown, PersistenceDrain, RealServer,
        Scheduler, VirtualService, view::RealState,
    },
};

/// Number of steps of a slow start.
const RAMP_STEPS: u32 = RING_SCALE;
/// Shortest step of a slow start.
const MIN_RAMP_STEP: Duration = Duration::from_millis(100);
/// Ring slots per unit of weight while a real server of the service is in slow start: steps of 5 %. Finer steps need longer rings,
/// for which there may be no room while many services have a slow start.
const RING_SCALE: u32 = 20;

/// Evaluates a service: its state, and what the packet program is to run for it.
pub fn service(
    service: &VirtualService,
    check_index: &CheckIndex,
    check_states: &[CheckState],
    before: Option<&ServiceStatus>,
    now: Instant,
) -> (ServiceStatus, dataplane::Service) {
    let mut status = ServiceStatus::default();
    let mut undecided = false;
    for (real, checkers) in service.reals.iter().zip(&check_index.reals) {
        let old = before.and_then(|before| before.reals.get(&real.address));
        let evaluated = evaluate_real(service, real, checkers, check_states, old, now);
        if !real.backup {
            status.live_weight += u64::from(if evaluated.state == RealState::Up {
                evaluated.weight
            } else {
                0
            });
            undecided |= evaluated.healthy.is_none() && evaluated.state != RealState::Maintenance;
        }
        status.reals.insert(real.address, evaluated);
    }
    let quorum_before = before.and_then(|before| before.quorum);
    // A service that had a quorum state before does not wait: real servers without a first result count as not up.
    let awaited_until = (undecided && quorum_before.is_none()).then(|| {
        before
            .and_then(|before| before.awaited_until)
            .unwrap_or_else(|| now + startup_wait(service))
    });
    let is_awaited = awaited_until.is_some_and(|until| now < until);
    status.awaited_until = awaited_until;
    status.quorum = quorum(service, quorum_before, status.live_weight, is_awaited);
    status.quorum_since = status.quorum.map(|_| {
        before
            .filter(|before| before.quorum == status.quorum)
            .and_then(|before| before.quorum_since)
            .unwrap_or(now)
    });
    // While others are awaited it is too early for backups, unless somebody has served.
    let is_short = status.live_weight == 0 || status.quorum == Some(false);
    let has_served =
        before.is_some_and(|before| before.live_weight > 0 || !before.backups_in.is_empty());
    assign_backups(
        service,
        &mut status,
        is_short && (!is_awaited || has_served),
    );
    let desired = run(service, &mut status, now);
    if is_awaited && status.quorum != Some(true) {
        status.deadline = status.deadline.into_iter().chain(awaited_until).min();
    }
    (status, desired)
}

/// How long a new service waits for its first probe results. All probes start within one interval; a check that cannot be made
/// has no result.
fn startup_wait(service: &VirtualService) -> Duration {
    let timings = service.checks.iter().map(|check| &check.timing);
    timings
        .map(|timing| timing.interval.saturating_add(timing.timeout))
        .max()
        .unwrap_or_default()
}

/// Whether the live weight meets the quorum. `None` while first probe results are awaited, unless it is met already.
fn quorum(
    service: &VirtualService,
    before: Option<bool>,
    live: u64,
    is_awaited: bool,
) -> Option<bool> {
    let HealthPolicy {
        quorum, hysteresis, ..
    } = service.health;
    let (quorum, hysteresis) = (u64::from(quorum), u64::from(hysteresis));
    match before {
        Some(true) => Some(live >= quorum.saturating_sub(hysteresis)),
        Some(false) => Some(live >= quorum + hysteresis),
        None if live >= quorum => Some(true),
        None if is_awaited || service.reals.is_empty() => None,
        None => Some(false),
    }
}

/// Decides which backups serve; the others stand by with weight 0.
fn assign_backups(service: &VirtualService, status: &mut ServiceStatus, is_needed: bool) {
    let most = match service.health.backups {
        Backups::First => 1,
        Backups::All => usize::MAX,
    };
    for real in service.reals.iter().filter(|real| real.backup) {
        let Some(backup) = status.reals.get_mut(&real.address) else {
            continue;
        };
        if backup.state != RealState::Up {
            continue;
        }
        if is_needed && status.backups_in.len() < most {
            status.backups_in.push(real.address);
            backup.reason = Some("backup, stepped in".to_owned());
        } else {
            backup.weight = 0;
            backup.ramp_since = None;
            backup.reason = Some("backup, standing by".to_owned());
        }
    }
}

fn evaluate_real(
    service: &VirtualService,
    real: &RealServer,
    checkers: &[usize],
    check_states: &[CheckState],
    before: Option<&RealStatus>,
    now: Instant,
) -> RealStatus {
    let verdict = verdict(service, real, checkers, check_states);
    let (state, reason) = match (real.state, verdict.requested.state, verdict.healthy) {
        (AdminState::Maintenance, ..) => {
            (RealState::Maintenance, Some("by the operator".to_owned()))
        }
        (_, Some(AdminState::Maintenance), _) => {
            (RealState::Maintenance, Some("by its agent".to_owned()))
        }
        (admin, agent, Some(false) | None) => {
            let also = match (admin, agent) {
                (AdminState::Drain, _) => "; drained by the operator",
                (_, Some(AdminState::Drain)) => "; drained by its agent",
                _ => "",
            };
            (RealState::Down, Some(format!("{}{also}", verdict.reason)))
        }
        (AdminState::Drain, _, Some(true)) => {
            (RealState::Draining, Some("by the operator".to_owned()))
        }
        (AdminState::Ready, Some(AdminState::Drain), Some(true)) => {
            (RealState::Draining, Some("by its agent".to_owned()))
        }
        (AdminState::Ready, Some(AdminState::Ready) | None, Some(true)) => {
            state_by_weight(real, verdict.requested.weight)
        }
    };
    let out_since = match state {
        RealState::Down | RealState::Maintenance => {
            // A real server that was never seen up or down is not out of service, it is not in it yet.
            let is_out = state == RealState::Maintenance || verdict.healthy == Some(false);
            before
                .and_then(|before| before.out_since)
                .or(is_out.then_some(now))
        }
        // One that recovers while it is drained begins slowly once it is ready.
        RealState::Draining => before.and_then(|before| before.out_since),
        RealState::Up => None,
    };
    let has_recovered =
        out_since.is_none() && before.is_some_and(|before| before.out_since.is_some());
    let ramp = match before.and_then(|before| before.ramp_since) {
        _ if state != RealState::Up => None,
        _ if has_recovered => Some(now),
        ramp => ramp,
    };
    RealStatus {
        state,
        reason,
        weight: if state == RealState::Up {
            requested_weight(real.weight, verdict.requested.weight)
        } else {
            0
        },
        healthy: verdict.healthy,
        requested: verdict.requested,
        probe_result: verdict.reason,
        out_since,
        ramp_since: ramp.filter(|start| now.duration_since(*start) < service.health.slow_start),
    }
}

/// What probes and the agent say of a real server.
pub(super) struct HealthVerdict {
    pub(super) healthy: Option<bool>,
    pub(super) reason: String,
    pub(super) requested: AgentRequest,
}

pub(super) fn verdict(
    service: &VirtualService,
    real: &RealServer,
    checkers: &[usize],
    check_states: &[CheckState],
) -> HealthVerdict {
    let mut verdict = HealthVerdict {
        healthy: Some(true),
        reason: String::new(),
        requested: AgentRequest::default(),
    };
    if real.state == AdminState::Maintenance && !service.checks.is_empty() {
        verdict.healthy = None; // it is not probed
        return verdict;
    }
    for (check, index) in service.checks.iter().zip(checkers) {
        let check_state = &check_states[*index];
        let agent_reply = &check_state.agent_reply;
        verdict.requested = verdict.requested.overridden_by(agent_reply.request());
        // An agent that has not reported its server as down does not count.
        let (up, decided, reason) = match &agent_reply.down {
            Some(words) => (false, true, Cow::Owned(format!("its agent says {words}"))),
            None if check.probe.is_agent() => continue,
            None => (
                check_state.up,
                check_state.decided,
                Cow::Borrowed(&check_state.reason),
            ),
        };
        let healthy = if up || decided { Some(up) } else { None };
        // The reason of a failed check is preferred, then that of an undecided one.
        let rank = |healthy: Option<bool>| match healthy {
            Some(false) => 0,
            None => 1,
            Some(true) => 2,
        };
        if rank(healthy) < rank(verdict.healthy) || verdict.reason.is_empty() {
            verdict.healthy = if rank(healthy) < rank(verdict.healthy) {
                healthy
            } else {
                verdict.healthy
            };
            verdict.reason = reason.into_owned();
        }
    }
    if verdict.reason.is_empty() && !service.checks.is_empty() {
        // It has agent checks only.
        verdict.reason.push_str("its agent does not call it down");
    }
    verdict
}

/// The state of a real server that is healthy and ready, by its weight.
fn state_by_weight(
    real: &RealServer,
    requested: Option<RequestedWeight>,
) -> (RealState, Option<String>) {
    let weight = requested_weight(real.weight, requested);
    let by_agent = match requested {
        Some(RequestedWeight::Absolute(weight)) => Some(format!("weight {weight} by its answer")),
        Some(RequestedWeight::Percent(percent)) if percent != 100 => {
            Some(format!("{percent} % of its weight by its agent"))
        }
        Some(RequestedWeight::Percent(_)) | None => None,
    };
    match weight {
        0 if real.weight == 0 => (RealState::Draining, Some("weight 0".to_owned())),
        0 => (RealState::Draining, by_agent),
        _ => (RealState::Up, by_agent),
    }
}

/// A real server's weight with its agent's request applied; a configured weight above 0 stays at least 1 under a percentage.
fn requested_weight(weight: u32, requested: Option<RequestedWeight>) -> u32 {
    match requested {
        None => weight,
        // With weight 0 the operator has ruled out new connections; no agent overrides that.
        Some(_) if weight == 0 => 0,
        Some(RequestedWeight::Absolute(weight)) => weight.min(MAX_WEIGHT),
        Some(RequestedWeight::Percent(percent)) => {
            let scaled = (u64::from(weight) * u64::from(percent)).div_ceil(100);
            u32::try_from(scaled).unwrap_or(MAX_WEIGHT).min(MAX_WEIGHT)
        }
    }
}

/// What the packet program is to run for a service. Sets the service's next deadline.
fn run(service: &VirtualService, status: &mut ServiceStatus, now: Instant) -> dataplane::Service {
    let slow_start = service.health.slow_start;
    let is_growing = |real: &RealStatus| real.ramp_since.is_some();
    let grows = grows(service.scheduler) && status.reals.values().any(is_growing);
    let lightest = service.lightest_weight();
    let persistence = service.persistence.as_ref();
    let keeps = persistence.is_some_and(|one| one.drain == PersistenceDrain::Keep);
    let mut reals = Vec::with_capacity(service.reals.len());
    let mut deadlines = Vec::new();
    for real in &service.reals {
        let Some(evaluated) = status.reals.get_mut(&real.address) else {
            continue;
        };
        let mut weight = evaluated.weight;
        if grows && weight > 0 {
            // rr gives each the same share, whatever its weight.
            let full = match service.scheduler {
                Scheduler::Rr => RING_SCALE,
                _ => weight.saturating_mul(RING_SCALE),
            };
            weight = full;
            if let Some(start) = evaluated.ramp_since {
                let share = now.duration_since(start).as_secs_f64() / slow_start.as_secs_f64();
                // Both are positive, and no larger than what they are shares of.
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share of a u32"
                )]
                let part = |of: u32| ((f64::from(of) * share) as u32).max(1);
                weight = part(full);
                evaluated.weight = part(evaluated.weight);
                evaluated.reason =
                    Some(format!("slow start, {:.0} % of its weight", share * 100.0));
                deadlines.push(next_step(start, slow_start, now));
            }
        }
        let connections = connections(service.health.on_down, evaluated, now, &mut deadlines);
        reals.push(dataplane::Real {
            address: real.address,
            forwarding: real.forwarding.unwrap_or(service.forwarding),
            weight,
            hash_weight: real.hash_weight(
                lightest,
                !real.backup || status.backups_in.contains(&real.address),
            ),
            takes_persistent: keeps && !real.backup && evaluated.state == RealState::Draining,
            upper: real.upper,
            lower: real.lower,
            connections,
        });
    }
    status.deadline = deadlines.into_iter().min();
    dataplane::Service {
        key: service.key,
        scheduler: match service.scheduler {
            Scheduler::Rr if grows => Scheduler::Wrr,
            scheduler => scheduler,
        },
        hash: service.hash.unwrap_or_default(),
        persistence: service.persistence.clone(),
        no_real: service.no_real,
        hairpin: service.hairpin,
        filter: service.filter.clone(),
        unit: if grows { RING_SCALE } else { 1 },
        reals,
    }
}

/// Whether a real server's weight grows under this scheduler after it came back. Others do not use weights, or use them as an
/// order, a limit, or a share of clients.
const fn grows(scheduler: Scheduler) -> bool {
    match scheduler {
        Scheduler::Rr
        | Scheduler::Wrr
        | Scheduler::Wlc
        | Scheduler::Sed
        | Scheduler::Nq
        | Scheduler::Twos => true,
        Scheduler::Lc
        | Scheduler::Sh
        | Scheduler::Dh
        | Scheduler::Mh
        | Scheduler::Fo
        | Scheduler::Ovf => false,
    }
}

fn next_step(start: Instant, slow_start: Duration, now: Instant) -> Instant {
    let step = (slow_start / RAMP_STEPS).max(MIN_RAMP_STEP);
    (now + step).min(start + slow_start)
}

fn connections(
    on_down: OnDown,
    real: &RealStatus,
    now: Instant,
    deadlines: &mut Vec<Instant>,
) -> Connections {
    let is_decided = real.state == RealState::Maintenance || real.healthy == Some(false);
    let Some(since) = real.out_since.filter(|_| is_decided) else {
        return Connections::Keep;
    };
    match on_down {
        OnDown::Keep => Connections::Keep,
        OnDown::Reset => Connections::Reset,
        OnDown::ResetAfter(delay) if now.duration_since(since) >= delay => Connections::Reset,
        OnDown::ResetAfter(delay) => {
            deadlines.push(since + delay);
            Connections::Keep
        }
    }
}
