//! Which state and weight each real server has, and each service's quorum and backups. Four sources are combined here and kept
//! apart: the operator's administrative state, the probes' results, the agent's requests, and the configured weight. Pure.
//!
//! ```text
//!  model ──────────────┐
//!  check states ───────┼──▶ Availability ──▶ dataplane::Service (rings)
//!  time ───────────────┘          │
//!                                 ├──▶ states and reasons for `list` and `status`
//!                                 └──▶ events
//! ```

mod evaluate;
mod events;
mod past;
mod restore;
mod successor;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use self::successor::Successor;
use crate::{
    dataplane,
    health::{
        AgentReply, AgentRequest, CheckStart, CheckState, CheckStore, CheckTarget, CheckUpdate,
        NOT_PROBED, PersistedService, Quorum, UNKNOWN_TIME,
    },
    model::{
        Check, Model, RealServer, ServiceKey, VirtualService, check::Initial, diff::Event,
        health::AdminState, view::RealState,
    },
};

/// The state of a real server in its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealStatus {
    /// Its state.
    pub state: RealState,
    /// Why it is in this state; `None` where it is up without any restriction.
    pub reason: Option<String>,
    /// The weight with which it takes new connections now; 0 = none.
    pub weight: u32,
    /// Whether probes and its agent find it up; `None` = not known yet, or it is not probed.
    pub healthy: Option<bool>,
    /// The state and weight that its agent, or an `exec` check, requests.
    pub requested: AgentRequest,
    /// The probes' last result, in words.
    probe_result: String,
    /// When it went out of service (down, or in maintenance).
    out_since: Option<Instant>,
    /// When its slow start began, while that lasts.
    ramp_since: Option<Instant>,
}

impl RealStatus {
    /// Its health as events report it: nothing while it is in maintenance, where it was taken out on purpose.
    fn reported_health(&self) -> Option<bool> {
        self.healthy
            .filter(|_| self.state != RealState::Maintenance)
    }
}

/// The state of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Sum of the weights of its real servers that are up, without backups.
    pub live_weight: u64,
    /// Whether the live weight meets the quorum; `None` = not known yet.
    pub quorum: Option<bool>,
    /// When `quorum` last changed.
    quorum_since: Option<Instant>,
    /// Backups that serve, in the configured order.
    pub backups_in: Vec<SocketAddr>,
    /// Its real servers.
    pub reals: HashMap<SocketAddr, RealStatus>,
    /// At its start: until when it waits for its real servers' first probe results before it evaluates its quorum.
    awaited_until: Option<Instant>,
    /// When the passing of time alone changes something next.
    deadline: Option<Instant>,
}

/// The states of all services and real servers.
#[derive(Debug, Default)]
pub struct Availability {
    services: BTreeMap<ServiceKey, Arc<ServiceStatus>>,
    /// In the order of the model's services, as is `desired`.
    check_index: Vec<CheckIndex>,
    desired: Vec<dataplane::Service>,
    checkers: HashMap<Arc<CheckTarget>, usize>,
    check_targets: Vec<Arc<CheckTarget>>,
    /// In the order of `check_targets`, as is `dependents`.
    check_states: Vec<CheckState>,
    /// For each of `check_states`, the services (by index) that depend on it.
    dependents: Vec<Vec<usize>>,
    /// A quorum has changed since `take_new_quorum` was last called.
    has_new_quorum: bool,
    /// A real server has entered or left maintenance by its agent since `take_new_maintenance` was last called.
    has_new_maintenance: bool,
}

/// What a new daemon tells the notify policy when it takes over from an earlier one.
#[derive(Debug, Default)]
pub struct Takeover {
    /// The conditions that the earlier daemon knew: the event that began each, and when that was.
    pub conditions: Vec<(Event, Instant)>,
    /// What happened between the two daemons.
    pub events: Vec<Event>,
}

/// The checkers of one service's real servers: for each real server one index into `check_states` per check.
#[derive(Debug, Default)]
struct CheckIndex {
    reals: Vec<Vec<usize>>,
}

impl Availability {
    /// The availability when nothing runs yet: each checker begins in the state that `earlier` has stored for it.
    #[must_use]
    pub fn at_start(model: &Model, earlier: &dyn CheckStore, now: Instant) -> Self {
        Self::default().after(&[], model, earlier, now)
    }

    /// The availability under another model; `self` is that under a model with the services `present`. A new checker begins in the
    /// state that `earlier` has stored for it, else in that of its real server, so that a changed check takes no real server out of
    /// service. What did not change is not evaluated again.
    #[must_use]
    pub fn after(
        &self,
        present: &[VirtualService],
        model: &Model,
        earlier: &dyn CheckStore,
        now: Instant,
    ) -> Self {
        Successor::build(self, present, model, earlier, now)
    }

    /// The checkers to run, each with its initial state.
    #[must_use]
    pub fn checkers(&self) -> Vec<CheckStart> {
        let checkers = self.check_targets.iter().zip(&self.check_states);
        checkers
            .map(|(target, check_state)| CheckStart {
                target: Arc::clone(target),
                from: check_state.decided.then(|| check_state.clone()),
                name: None,
                paused: false,
            })
            .collect()
    }

    /// Takes new check states over and returns the events they cause. `model` is the one that [`Self::after`] was given.
    pub fn update(&mut self, model: &Model, updates: Vec<CheckUpdate>, now: Instant) -> Vec<Event> {
        let mut concerned = BTreeSet::new();
        for CheckUpdate {
            target,
            check_state,
        } in updates
        {
            // A checker that was stopped a moment ago may have sent one more update.
            let Some(index) = self.checkers.get(&target).copied() else {
                continue;
            };
            self.check_states[index] = check_state;
            concerned.extend(self.dependents[index].iter().copied());
        }
        self.reevaluate(model, concerned, now)
    }

    /// Does what is due by time alone (slow starts, delayed resets) and returns the events it causes.
    pub fn advance(&mut self, model: &Model, now: Instant) -> Vec<Event> {
        let due = model.services.iter().enumerate().filter(|(_, service)| {
            let status = self.services.get(&service.key);
            status
                .and_then(|status| status.deadline)
                .is_some_and(|deadline| deadline <= now)
        });
        let due = due.map(|(number, _)| number).collect();
        self.reevaluate(model, due, now)
    }

    fn reevaluate(&mut self, model: &Model, numbers: BTreeSet<usize>, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for number in numbers {
            let (Some(service), Some(check_index)) =
                (model.services.get(number), self.check_index.get(number))
            else {
                continue;
            };
            let before = self.services.get(&service.key).map(Arc::as_ref);
            let (status, desired) =
                evaluate::service(service, check_index, &self.check_states, before, now);
            events::add_events(service, before, &status, &mut events);
            self.has_new_quorum |= before.and_then(|before| before.quorum) != status.quorum;
            self.has_new_maintenance |= status.reals.iter().any(|(address, real)| {
                let before = before.and_then(|before| before.reals.get(address));
                let was_out = before.is_some_and(|before| before.state == RealState::Maintenance);
                was_out != (real.state == RealState::Maintenance)
            });
            self.services.insert(service.key, Arc::new(status));
            self.desired[number] = desired;
        }
        events
    }

    /// The health events between `before`, the availability under the previous model, and this one.
    #[must_use]
    pub fn since(&self, before: &Self, model: &Model) -> Vec<Event> {
        let mut events = Vec::new();
        for service in &model.services {
            let Some(status) = self.services.get(&service.key) else {
                continue;
            };
            let before = before.services.get(&service.key);
            if before.is_some_and(|before| Arc::ptr_eq(before, status)) {
                continue;
            }
            events::add_events(service, before.map(Arc::as_ref), status, &mut events);
        }
        events
    }

    /// The conditions and events to report after taking over from an earlier daemon.
    #[must_use]
    pub fn takeover(&self, model: &Model, earlier: &dyn CheckStore, now: Instant) -> Takeover {
        let mut taken = Takeover::default();
        for service in &model.services {
            let Some(status) = self.service(&service.key) else {
                continue;
            };
            let quorum = earlier.quorum(&service.key);
            let before = ServiceStatus {
                quorum: quorum.map(|quorum| quorum.holds),
                quorum_since: quorum.map(|quorum| quorum.since),
                ..status.clone()
            };
            taken
                .conditions
                .extend(events::lasting_conditions(service, &before, now));
            events::add_events(service, Some(&before), status, &mut taken.events);
        }
        taken
    }

    /// The services' quorums, to be stored for the next daemon.
    #[must_use]
    pub fn to_persist(&self, model: &Model) -> Vec<PersistedService> {
        let kept = model.services.iter().map(|service| {
            let status = self.service(&service.key);
            let quorum = status.and_then(|status| {
                Some(Quorum {
                    holds: status.quorum?,
                    since: status.quorum_since?,
                })
            });
            PersistedService {
                key: service.key,
                reals: service.reals.iter().map(|real| real.address).collect(),
                quorum,
            }
        });
        kept.collect()
    }

    /// Whether a quorum has changed since the last call.
    pub const fn take_new_quorum(&mut self) -> bool {
        std::mem::replace(&mut self.has_new_quorum, false)
    }

    /// Whether a real server has entered or left maintenance by its agent since the last call.
    pub const fn take_new_maintenance(&mut self) -> bool {
        std::mem::replace(&mut self.has_new_maintenance, false)
    }

    /// The model for the notify policy: a real server in maintenance by its agent is in maintenance there, as by the operator.
    #[must_use]
    pub fn as_reported(&self, model: &Model) -> Model {
        let mut reported = model.clone();
        for service in &mut reported.services {
            for real in &mut service.reals {
                let status = self.real(&service.key, real.address);
                if status.is_some_and(|status| status.state == RealState::Maintenance) {
                    real.state = AdminState::Maintenance;
                }
            }
        }
        reported
    }

    /// The services that the packet program is to run.
    #[must_use]
    pub fn desired(&self) -> &[dataplane::Service] {
        &self.desired
    }

    /// When [`Self::advance`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.services
            .values()
            .filter_map(|service| service.deadline)
            .min()
    }

    /// A service's state.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceStatus> {
        self.services.get(key).map(Arc::as_ref)
    }

    /// A real server's state.
    #[must_use]
    pub fn real(&self, key: &ServiceKey, address: SocketAddr) -> Option<&RealStatus> {
        self.services.get(key)?.reals.get(&address)
    }
}

/// The checkers that a real server needs: none while it is in maintenance by the operator.
pub fn check_targets(
    service: &VirtualService,
    real: &RealServer,
) -> impl Iterator<Item = CheckTarget> {
    let checks: &[Check] = match real.state {
        AdminState::Ready | AdminState::Drain => &service.checks,
        AdminState::Maintenance => &[],
    };
    let address = real.address;
    checks.iter().map(move |check| CheckTarget {
        target: SocketAddr::new(
            check.target.address.unwrap_or(address.ip()),
            check.target.port.unwrap_or(address.port()),
        ),
        check: check.clone(),
    })
}

fn undecided_state(check: &Check) -> CheckState {
    let up = check.timing.initial == Initial::Up;
    CheckState {
        up,
        decided: up,
        reason: NOT_PROBED.to_owned(),
        agent_reply: AgentReply::default(),
        since: UNKNOWN_TIME,
    }
}

#[cfg(test)]
mod tests;
