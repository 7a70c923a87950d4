//! What each real server and each service may do now. Four truths meet here and stay apart: what the operator decided,
//! what probes found, what the real server's agent asks for, and the configured weight. Pure.
//!
//! ```text
//!  model ──────────────┐
//!  standings (health) ─┼──▶ Availability ──▶ dataplane::Service (rings)
//!  time ───────────────┘          │
//!                                 ├──▶ states and reasons for `list` and `status`
//!                                 └──▶ events
//! ```

mod events;
mod judge;
mod recall;

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Instant,
};

use self::recall::RestoredSince;
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

/// How a real server stands in its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealStatus {
    /// Its state.
    pub state: RealState,
    /// What decides that, unless it is plainly up.
    pub reason: Option<String>,
    /// The weight by which it takes new connections now.
    pub weight: u32,
    /// What probes and its agent say; `None` = not yet, or nobody asks.
    pub healthy: Option<bool>,
    /// What its agent, or a program for it, asks for.
    pub asked: AgentRequest,
    /// What probes found last, in words.
    found: String,
    /// Since when it is out of service: down, or in maintenance.
    out_since: Option<Instant>,
    /// When its weight began to grow.
    ramp: Option<Instant>,
}

impl RealStatus {
    /// Its health as it is told: whatever is found in maintenance is no news, it was taken out on purpose.
    fn told(&self) -> Option<bool> {
        self.healthy
            .filter(|_| self.state != RealState::Maintenance)
    }
}

/// How a service stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Sum of the weights of its real servers that are up, backups not among them.
    pub live_weight: u64,
    /// Whether that is enough; `None` before it was known.
    pub quorum: Option<bool>,
    /// Since when.
    quorum_since: Option<Instant>,
    /// Backups that serve.
    pub backups_in: Vec<SocketAddr>,
    /// Its real servers.
    pub reals: HashMap<SocketAddr, RealStatus>,
    /// Until when the first answers of its real servers are awaited, at its start.
    awaited_until: Option<Instant>,
    /// When time alone changes something.
    deadline: Option<Instant>,
}

/// All services' and real servers' standing.
#[derive(Debug, Default)]
pub struct Availability {
    services: BTreeMap<ServiceKey, ServiceStatus>,
    /// In the order of the model's services, as is `desired`.
    wired: Vec<CheckIndex>,
    desired: Vec<dataplane::Service>,
    checkers: HashMap<CheckTarget, usize>,
    standings: Vec<CheckState>,
    /// The services that each standing decides about.
    dependents: Vec<Vec<usize>>,
    /// A quorum has come to be known, or is another, since this was last asked.
    has_new_quorum: bool,
    /// A real server has gone into maintenance by its agent, or come back, since this was last asked.
    has_new_maintenance: bool,
}

/// What stands when a daemon takes over from an earlier one.
#[derive(Debug, Default)]
pub struct Takeover {
    /// The troubles that the earlier one knew, each with the time since when it stands, as events that begin them.
    pub conditions: Vec<(Event, Instant)>,
    /// What happened since.
    pub events: Vec<Event>,
}

/// The checkers of one service's real servers: for each real server one per check, as indices of `standings`.
#[derive(Debug, Default)]
struct CheckIndex {
    reals: Vec<Vec<usize>>,
}

impl Availability {
    /// What stands after the model changed. `self` is what stood before; checkers that are new begin as
    /// `earlier` remembers them, or as the real server stood, so that no change of a check takes a real server out of service.
    #[must_use]
    pub fn after(&self, model: &Model, earlier: &dyn CheckStore, now: Instant) -> Self {
        let mut next = Self::default();
        // Of each standing, since when it stands, where it was remembered.
        let mut since = Vec::new();
        // Made for the first checker that neither ran nor is remembered.
        let past = LazyCell::new(|| PastStates::of_all(self));
        for (number, service) in model.services.iter().enumerate() {
            let mut wired = CheckIndex::default();
            for real in &service.reals {
                let mut indices = Vec::with_capacity(service.checks.len());
                for watched in watched(service, real) {
                    let index = *next.checkers.entry(watched).or_insert_with_key(|watched| {
                        let mut known = RestoredSince::default();
                        let standing = self
                            .standing(watched)
                            .cloned()
                            .or_else(|| {
                                let recalled =
                                    earlier.restored(watched, &service.key, real.address)?;
                                known = RestoredSince {
                                    since: recalled.since,
                                    has_returned: recalled.has_returned,
                                };
                                Some(recalled.standing)
                            })
                            .or_else(|| past.of(service, real, &watched.check))
                            .unwrap_or_else(|| undecided(&watched.check));
                        since.push(known);
                        next.standings.push(standing);
                        next.dependents.push(Vec::new());
                        next.standings.len() - 1
                    });
                    if next.dependents[index].last() != Some(&number) {
                        next.dependents[index].push(number);
                    }
                    indices.push(index);
                }
                wired.reals.push(indices);
            }
            next.wired.push(wired);
            let wired = &next.wired[number];
            let recalled;
            let before = match self.services.get(&service.key) {
                None => {
                    let quorum = earlier.quorum(&service.key);
                    recalled = recall::service(service, wired, &next.standings, &since, quorum);
                    &recalled
                }
                Some(before) => before,
            };
            let (status, desired) =
                judge::service(service, wired, &next.standings, Some(before), now);
            next.services.insert(service.key, status);
            next.desired.push(desired);
        }
        next
    }

    fn standing(&self, watched: &CheckTarget) -> Option<&CheckState> {
        self.checkers
            .get(watched)
            .map(|index| &self.standings[*index])
    }

    /// The checkers to run, with what each begins with.
    #[must_use]
    pub fn checkers(&self) -> Vec<CheckStart> {
        self.checkers
            .iter()
            .map(|(watched, index)| {
                let standing = &self.standings[*index];
                CheckStart {
                    watched: watched.clone(),
                    from: standing.decided.then(|| standing.clone()),
                }
            })
            .collect()
    }

    /// Takes what checkers found. `model` is the one that [`Self::after`] was given.
    pub fn update(&mut self, model: &Model, updates: Vec<CheckUpdate>, now: Instant) -> Vec<Event> {
        let mut concerned = BTreeSet::new();
        for CheckUpdate { watched, standing } in updates {
            // A checker that was stopped a moment ago may still have had news.
            let Some(index) = self.checkers.get(&watched).copied() else {
                continue;
            };
            self.standings[index] = standing;
            concerned.extend(self.dependents[index].iter().copied());
        }
        self.judge_again(model, concerned, now)
    }

    /// Does what time alone brings: weights that grow, resets that were put off.
    pub fn advance(&mut self, model: &Model, now: Instant) -> Vec<Event> {
        let due = model.services.iter().enumerate().filter(|(_, service)| {
            let status = self.services.get(&service.key);
            status
                .and_then(|status| status.deadline)
                .is_some_and(|deadline| deadline <= now)
        });
        let due = due.map(|(number, _)| number).collect();
        self.judge_again(model, due, now)
    }

    fn judge_again(&mut self, model: &Model, numbers: BTreeSet<usize>, now: Instant) -> Vec<Event> {
        let mut happened = Vec::new();
        for number in numbers {
            let (Some(service), Some(wired)) = (model.services.get(number), self.wired.get(number))
            else {
                continue;
            };
            let before = self.services.get(&service.key);
            let (status, desired) = judge::service(service, wired, &self.standings, before, now);
            events::tell(service, before, &status, &mut happened);
            self.has_new_quorum |= before.and_then(|before| before.quorum) != status.quorum;
            self.has_new_maintenance |= status.reals.iter().any(|(address, real)| {
                let before = before.and_then(|before| before.reals.get(address));
                let was_out = before.is_some_and(|before| before.state == RealState::Maintenance);
                was_out != (real.state == RealState::Maintenance)
            });
            self.services.insert(service.key, status);
            self.desired[number] = desired;
        }
        happened
    }

    /// What happened to health on the way from `before`, which stood with another model.
    #[must_use]
    pub fn since(&self, before: &Self, model: &Model) -> Vec<Event> {
        let mut happened = Vec::new();
        for service in &model.services {
            if let Some(status) = self.services.get(&service.key) {
                events::tell(
                    service,
                    before.services.get(&service.key),
                    status,
                    &mut happened,
                );
            }
        }
        happened
    }

    /// What stands in a daemon that took over from an earlier one.
    #[must_use]
    pub fn take_up(&self, model: &Model, earlier: &dyn CheckStore, now: Instant) -> Takeover {
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
                .extend(events::troubles(service, &before, now));
            events::tell(service, Some(&before), status, &mut taken.events);
        }
        taken
    }

    /// What is to be written down of the services.
    #[must_use]
    pub fn kept(&self, model: &Model) -> Vec<PersistedService> {
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

    /// Whether a quorum came to be known, or became another, since this was last asked.
    pub const fn take_new_quorum(&mut self) -> bool {
        std::mem::replace(&mut self.has_new_quorum, false)
    }

    /// Whether a real server went into maintenance by its agent, or came back, since this was last asked.
    pub const fn take_new_maintenance(&mut self) -> bool {
        std::mem::replace(&mut self.has_new_maintenance, false)
    }

    /// The model as those who tell programs are to see it: who is in maintenance by its agent is so as by the operator.
    #[must_use]
    pub fn as_told(&self, model: &Model) -> Model {
        let mut told = model.clone();
        for service in &mut told.services {
            for real in &mut service.reals {
                let status = self.real(&service.key, real.address);
                if status.is_some_and(|status| status.state == RealState::Maintenance) {
                    real.state = AdminState::Maintenance;
                }
            }
        }
        told
    }

    /// What the packet program is to run.
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

    /// How a service stands. Its live weight and quorum are what decides whether this node may carry its VIP.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceStatus> {
        self.services.get(key)
    }

    /// How a real server stands.
    #[must_use]
    pub fn real(&self, key: &ServiceKey, address: SocketAddr) -> Option<&RealStatus> {
        self.services.get(key)?.reals.get(&address)
    }
}

/// What stood before, as new checkers look for it.
struct PastStates<'a> {
    availability: &'a Availability,
    /// What each standing is of.
    watched: Vec<Option<&'a CheckTarget>>,
    /// Each real server's standings.
    of_reals: HashMap<(ServiceKey, SocketAddr), &'a [usize]>,
}

impl<'a> PastStates<'a> {
    fn of_all(availability: &'a Availability) -> Self {
        let mut watched = vec![None; availability.standings.len()];
        for (one, index) in &availability.checkers {
            watched[*index] = Some(one);
        }
        let services = availability.desired.iter().zip(&availability.wired);
        let of_reals = services.flat_map(|(service, wired)| {
            let addresses = service.reals.iter().map(|real| (service.key, real.address));
            addresses.zip(wired.reals.iter().map(Vec::as_slice))
        });
        Self {
            availability,
            watched,
            of_reals: of_reals.collect(),
        }
    }

    /// How a new checker begins for a real server that is in service already. One that asks the same at other times goes
    /// on as it stood. Another question leaves a real server that is up there until it is answered, and one that is
    /// down may come back with the first pass.
    fn of(&self, service: &VirtualService, real: &RealServer, check: &Check) -> Option<CheckState> {
        let old = *self.of_reals.get(&(service.key, real.address))?;
        let standings = &self.availability.standings;
        let asks_the_same = |index: &&usize| {
            self.watched[**index].is_some_and(|watched| {
                let old = &watched.check;
                (&old.probe, &old.target, &old.source)
                    == (&check.probe, &check.target, &check.source)
            })
        };
        // What an agent asked for stands until it says something else, wherever it is asked.
        let is_agent_too = |index: &&usize| {
            let both =
                |watched: &CheckTarget| watched.check.probe.is_agent() && check.probe.is_agent();
            self.watched[**index].is_some_and(both)
        };
        let goes_on = old.iter().find(asks_the_same);
        if let Some(index) = goes_on.or_else(|| old.iter().find(is_agent_too)) {
            return Some(standings[*index].clone());
        }
        let status = self.availability.real(&service.key, real.address)?;
        let since = old.iter().map(|index| standings[*index].since);
        let latest = since.max_by_key(|since| since.since_boot);
        (status.healthy == Some(true))
            .then(|| CheckState::up_before(latest.unwrap_or(UNKNOWN_TIME)))
    }
}

/// What is to be watched for a real server: nothing while it is in maintenance.
pub fn watched(service: &VirtualService, real: &RealServer) -> impl Iterator<Item = CheckTarget> {
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

fn undecided(check: &Check) -> CheckState {
    let up = check.timing.initial == Initial::Up;
    CheckState {
        up,
        decided: up,
        reason: NOT_PROBED.to_owned(),
        advice: AgentReply::default(),
        since: UNKNOWN_TIME,
    }
}

#[cfg(test)]
mod tests;
