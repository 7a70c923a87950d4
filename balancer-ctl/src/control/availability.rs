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
mod restore;

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Instant,
};

use self::restore::RestoredSince;
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
    services: BTreeMap<ServiceKey, ServiceStatus>,
    /// In the order of the model's services, as is `desired`.
    check_index: Vec<CheckIndex>,
    desired: Vec<dataplane::Service>,
    checkers: HashMap<CheckTarget, usize>,
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
    /// The availability under another model; `self` is that under the present one. A new checker begins in the state that `earlier`
    /// has stored for it, else in that of its real server, so that a changed check takes no real server out of service.
    #[must_use]
    pub fn after(&self, model: &Model, earlier: &dyn CheckStore, now: Instant) -> Self {
        let mut next = Self::default();
        // For each check state, when it began, if the state file says so.
        let mut since = Vec::new();
        // Made for the first checker that neither ran nor has a stored state.
        let past = LazyCell::new(|| PastStates::of_all(self));
        for (number, service) in model.services.iter().enumerate() {
            let mut check_index = CheckIndex::default();
            for real in &service.reals {
                let mut indices = Vec::with_capacity(service.checks.len());
                for target in check_targets(service, real) {
                    let index = *next.checkers.entry(target).or_insert_with_key(|target| {
                        let mut known = RestoredSince::default();
                        let check_state = self
                            .check_state(target)
                            .cloned()
                            .or_else(|| {
                                let restored =
                                    earlier.restored(target, &service.key, real.address)?;
                                known = RestoredSince {
                                    since: restored.since,
                                    has_returned: restored.has_returned,
                                };
                                Some(restored.check_state)
                            })
                            .or_else(|| past.of(service, real, &target.check))
                            .unwrap_or_else(|| undecided_state(&target.check));
                        since.push(known);
                        next.check_states.push(check_state);
                        next.dependents.push(Vec::new());
                        next.check_states.len() - 1
                    });
                    if next.dependents[index].last() != Some(&number) {
                        next.dependents[index].push(number);
                    }
                    indices.push(index);
                }
                check_index.reals.push(indices);
            }
            next.check_index.push(check_index);
            let check_index = &next.check_index[number];
            let restored;
            let before = match self.services.get(&service.key) {
                None => {
                    let quorum = earlier.quorum(&service.key);
                    restored =
                        restore::service(service, check_index, &next.check_states, &since, quorum);
                    &restored
                }
                Some(before) => before,
            };
            let (status, desired) =
                evaluate::service(service, check_index, &next.check_states, Some(before), now);
            next.services.insert(service.key, status);
            next.desired.push(desired);
        }
        next
    }

    fn check_state(&self, target: &CheckTarget) -> Option<&CheckState> {
        self.checkers
            .get(target)
            .map(|index| &self.check_states[*index])
    }

    /// The checkers to run, each with its initial state.
    #[must_use]
    pub fn checkers(&self) -> Vec<CheckStart> {
        self.checkers
            .iter()
            .map(|(target, index)| {
                let check_state = &self.check_states[*index];
                CheckStart {
                    target: target.clone(),
                    from: check_state.decided.then(|| check_state.clone()),
                }
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
            let before = self.services.get(&service.key);
            let (status, desired) =
                evaluate::service(service, check_index, &self.check_states, before, now);
            events::add_events(service, before, &status, &mut events);
            self.has_new_quorum |= before.and_then(|before| before.quorum) != status.quorum;
            self.has_new_maintenance |= status.reals.iter().any(|(address, real)| {
                let before = before.and_then(|before| before.reals.get(address));
                let was_out = before.is_some_and(|before| before.state == RealState::Maintenance);
                was_out != (real.state == RealState::Maintenance)
            });
            self.services.insert(service.key, status);
            self.desired[number] = desired;
        }
        events
    }

    /// The health events between `before`, the availability under the previous model, and this one.
    #[must_use]
    pub fn since(&self, before: &Self, model: &Model) -> Vec<Event> {
        let mut events = Vec::new();
        for service in &model.services {
            if let Some(status) = self.services.get(&service.key) {
                events::add_events(
                    service,
                    before.services.get(&service.key),
                    status,
                    &mut events,
                );
            }
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
        self.services.get(key)
    }

    /// A real server's state.
    #[must_use]
    pub fn real(&self, key: &ServiceKey, address: SocketAddr) -> Option<&RealStatus> {
        self.services.get(key)?.reals.get(&address)
    }
}

/// The previous check states, indexed for new checkers.
struct PastStates<'a> {
    availability: &'a Availability,
    /// The check target of each of the previous `check_states`.
    targets: Vec<Option<&'a CheckTarget>>,
    /// Each real server's previous check states.
    of_reals: HashMap<(ServiceKey, SocketAddr), &'a [usize]>,
}

impl<'a> PastStates<'a> {
    fn of_all(availability: &'a Availability) -> Self {
        let mut targets = vec![None; availability.check_states.len()];
        for (target, index) in &availability.checkers {
            targets[*index] = Some(target);
        }
        let services = availability.desired.iter().zip(&availability.check_index);
        let of_reals = services.flat_map(|(service, check_index)| {
            let addresses = service.reals.iter().map(|real| (service.key, real.address));
            addresses.zip(check_index.reals.iter().map(Vec::as_slice))
        });
        Self {
            availability,
            targets,
            of_reals: of_reals.collect(),
        }
    }

    /// The initial state of a new checker for a real server that is in service already. If only the timing changed, the state is kept.
    /// With another probe, a real server that is up stays up until the first result, and one that is down comes up with the first
    /// pass.
    fn of(&self, service: &VirtualService, real: &RealServer, check: &Check) -> Option<CheckState> {
        let old = *self.of_reals.get(&(service.key, real.address))?;
        let check_states = &self.availability.check_states;
        let probes_the_same = |index: &&usize| {
            self.targets[**index].is_some_and(|target| {
                let old = &target.check;
                (&old.probe, &old.target, &old.source)
                    == (&check.probe, &check.target, &check.source)
            })
        };
        // What an agent requested holds until it says otherwise, also if its address changes.
        let is_agent_too = |index: &&usize| {
            let both =
                |target: &CheckTarget| target.check.probe.is_agent() && check.probe.is_agent();
            self.targets[**index].is_some_and(both)
        };
        let same_probe = old.iter().find(probes_the_same);
        if let Some(index) = same_probe.or_else(|| old.iter().find(is_agent_too)) {
            return Some(check_states[*index].clone());
        }
        let status = self.availability.real(&service.key, real.address)?;
        let since = old.iter().map(|index| check_states[*index].since);
        let latest = since.max_by_key(|since| since.since_boot);
        (status.healthy == Some(true))
            .then(|| CheckState::up_before(latest.unwrap_or(UNKNOWN_TIME)))
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
