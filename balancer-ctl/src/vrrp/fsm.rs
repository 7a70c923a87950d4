//! The state machine of virtual routers that are Active together (RFC 9568, section 6.4). Pure: the caller tells the time, sends
//! what is to be sent, and sets and removes the addresses.
//!
//! ```text
//!                      nothing is wrong
//!   +------------+ ───────────────────────────▶ +--------+
//!   | Initialize |                              | Backup |◀─────────┐
//!   +------------+ ◀─────────────────────────── +--------+          │
//!     ▲        │        a fault, maintenance      │    ▲            │ another node speaks
//!     │ fault  │ owner                  silence   │    │ a better   │
//!     │        ▼                                  ▼    │ node       │
//!     │      +-----------------------------------------+      +-----┴---+
//!     └──────|                 Active                  |─────▶| Leaving |──▶ Initialize
//!            +-----------------------------------------+      +---------+
//!                      ▲          give up on purpose, stop         │
//!                      └───────────────────────────────────────────┘ nobody takes over
//! ```
//!
//! A group has one state, and each of its virtual routers has timers of its own. Beyond the RFC: the group becomes Active when
//! *none* of its virtual routers hears another Active node; who gives up keeps its addresses until another node speaks; a node
//! that did not run for as long as others wait steps back; and a drop of the Active node's priority below that of a Backup node
//! counts as its wish to be relieved, also where failback is off. A node whose interface has come up listens for longer before it
//! becomes Active, and yields to an Active node of lower priority that it hears soon afterwards, unless failback lets it take over.

mod member;
mod signals;
mod transitions;

use std::{
    collections::VecDeque,
    net::IpAddr,
    time::{Duration, Instant},
};

use self::member::{Member, skew};
pub use self::signals::{Cause, Input, Output, State};
use super::packet::Interval;
use crate::model::{limits::OWNER, vrrp::Failback};

/// When a node that became Active announces its addresses, from then on.
const BURST: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(20),
];
/// How long failures count against a node's stability.
pub const INSTABILITY: Duration = Duration::from_secs(3600);
/// How long a node without failures waits before it takes over by `when-stable`; each failure doubles it.
const STABLE: Duration = Duration::from_secs(60);
/// How many failures are remembered.
const MAX_FAILURES: usize = 6;
/// How long after its interface has come up a node that became Active may find out that another one was Active before: the longest that
/// a switch's port blocks with usual settings of the spanning tree protocol, twice 30 s.
const RETURN: Duration = Duration::from_secs(60);
/// How long a node that was asked to succeed waits for the Active one to give up.
const SUCCESSION: Duration = Duration::from_secs(5);
/// The priority by which an Active node gives up (RFC 9568, section 5.2.4).
pub const LEAVING: u8 = 0;

/// What is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The virtual routers, in the same order on all nodes: where nodes have the same priority, the first decides over which they hear each
    /// other. Not empty.
    pub members: Vec<MemberSettings>,
    /// The configured priority: what is tracked lowers it.
    pub priority: u8,
    /// When a node of higher priority takes over from an Active one.
    pub failback: Failback,
    /// How long the Active node's priority must have been lower than before, and lower than this node's, to be relieved.
    pub relieve_after: Duration,
    /// Interval at which an Active node announces its addresses again; zero = not.
    pub announce_interval: Duration,
}

/// What is configured of one virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberSettings {
    /// Its advertisement interval as Active.
    pub interval: Interval,
    /// The address that its advertisements come from.
    pub source: IpAddr,
    /// How long an Active node may not be heard after its interface has come up, because the switch's port still blocks.
    pub link_up_delay: Duration,
}

/// What happens when nobody has taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    Return,
    Maintenance,
    Stop,
}

/// The state machine of a group.
#[derive(Debug)]
pub struct Machine {
    members: Vec<Member>,
    configured_priority: u8,
    failback: Failback,
    relieve_after: Duration,
    announce_interval: Duration,
    state: State,
    cause: Cause,
    since: Instant,
    priority: u8,
    fault: Option<String>,
    in_maintenance: bool,
    is_stopped: bool,
    /// Since when it could have been Active.
    able_since: Instant,
    /// When it failed, the latest last.
    failures: VecDeque<Instant>,
    /// It gave up on purpose, so that it does not take over again from a node that is Active.
    yielded: bool,
    /// Until when it yields to an Active node of lower priority, which had the addresses while this node's interface was down.
    yields_until: Option<Instant>,
    /// Until when it takes over without delay when the Active node gives up.
    succeeds_until: Option<Instant>,
    /// Leaving: until when, and what follows.
    leaves: Option<(Instant, Afterwards)>,
    /// Active: the next announcement, and its number.
    announce_at: Option<Instant>,
    announced: usize,
}

impl Machine {
    /// A machine in [`State::Initialize`], which the first [`Input::Tracked`] may leave. `failures` are the times of this node's
    /// failures before, the latest last.
    #[must_use]
    pub fn new(settings: &Settings, failures: VecDeque<Instant>, now: Instant) -> Self {
        Self {
            members: settings
                .members
                .iter()
                .map(|one| Member::new(*one, now))
                .collect(),
            configured_priority: settings.priority,
            failback: settings.failback,
            relieve_after: settings.relieve_after,
            announce_interval: settings.announce_interval,
            state: State::Initialize,
            cause: Cause::Started,
            since: now,
            priority: 1,
            fault: None,
            in_maintenance: false,
            is_stopped: false,
            able_since: now,
            failures,
            yielded: false,
            yields_until: None,
            succeeds_until: None,
            leaves: None,
            announce_at: None,
            announced: 0,
        }
    }

    /// The state, why, and since when.
    #[must_use]
    pub const fn state(&self) -> (State, &Cause, Instant) {
        (self.state, &self.cause, self.since)
    }

    /// The priority that it states as Active.
    #[must_use]
    pub const fn priority(&self) -> u8 {
        self.priority
    }

    /// The Active node that a Backup node hears: its address and priority.
    #[must_use]
    pub fn active_node(&self) -> Option<(IpAddr, u8)> {
        let mut nodes = self.members.iter().filter_map(|member| member.active);
        nodes.next().map(|node| (node.source, node.priority))
    }

    /// The virtual routers of a Backup node that hear no Active node while others of the group do.
    pub fn silent_members(&self) -> impl Iterator<Item = usize> {
        let mut all = self.members.iter();
        let is_heard = self.state == State::Backup && all.any(|member| member.active.is_some());
        let members = self.members.iter().enumerate();
        members
            .filter(move |(_, member)| is_heard && member.down_at.is_none())
            .map(|(index, _)| index)
    }

    /// Whether a Backup node has not heard an Active one for two intervals: who has the addresses now does not advertise.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.state == State::Backup && self.members.iter().all(|member| member.is_late)
    }

    /// The times of its failures within the last hour, the latest last.
    #[must_use]
    pub const fn failures(&self) -> &VecDeque<Instant> {
        &self.failures
    }

    /// Advertisements of this member come from this address from now on.
    pub fn set_source(&mut self, member: usize, source: IpAddr) {
        self.members[member].settings.source = source;
    }

    /// Takes other settings of the same members.
    pub fn set(&mut self, settings: &Settings, now: Instant) {
        self.configured_priority = settings.priority;
        self.failback = settings.failback;
        self.relieve_after = settings.relieve_after;
        self.announce_interval = settings.announce_interval;
        for (member, settings) in self.members.iter_mut().zip(&settings.members) {
            if member.settings.interval != settings.interval {
                member.active_interval = settings.interval;
                // Sooner, where the new one is shorter.
                let soonest = now + settings.interval.duration();
                member.advertise_at = member.advertise_at.min(soonest);
            }
            member.settings = *settings;
        }
    }

    /// Takes another time that the Active node's priority must have been lower, to be relieved.
    pub const fn set_relieve_after(&mut self, relieve_after: Duration) {
        self.relieve_after = relieve_after;
    }

    /// When [`Input::Timeout`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let members = self.members.iter();
        match self.state {
            State::Initialize => None,
            State::Backup => members
                .flat_map(|member| [member.down_at, member.probe_at])
                .flatten()
                .min(),
            State::Active | State::Leaving => members
                .map(|member| member.advertise_at)
                .chain(self.announce_at)
                .chain(self.leaves.map(|(until, _)| until))
                .min(),
        }
    }

    /// Whether it has the addresses.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self.state, State::Active | State::Leaving)
    }

    /// When the fastest of others takes over, if they do not hear from this node: how long its right to the addresses lasts from now on.
    #[must_use]
    pub fn lease(&self) -> Duration {
        let waits = self.members.iter().map(|member| {
            let interval = member.settings.interval;
            3 * interval.duration() + skew(interval, OWNER - 1)
        });
        waits.min().unwrap_or_default()
    }

    /// Takes what happened at `now`; returns what is to be done, in this order.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.step_back_after_a_stall(now, &mut outputs);
        if let Input::LinkUp { member } = input {
            let delay = self.members[member].settings.link_up_delay;
            self.yields_until = Some(now + RETURN.max(delay + RETURN / 2));
            self.members[member].link_up(now);
        }
        match (self.state, input) {
            (State::Initialize, Input::Tracked { fault, priority }) => {
                self.track(fault, priority);
                self.begin(now, &mut outputs);
            }
            (State::Initialize, Input::Maintenance(on)) => {
                self.in_maintenance = on;
                self.begin(now, &mut outputs);
            }
            (State::Initialize, Input::Stop) => self.is_stopped = true,
            (
                State::Initialize,
                Input::Timeout
                | Input::Advertisement { .. }
                | Input::LinkUp { .. }
                | Input::GiveUp
                | Input::Succeed
                | Input::Announce,
            )
            | (State::Backup, Input::GiveUp | Input::Announce)
            | (State::Active | State::Leaving, Input::LinkUp { .. } | Input::Succeed) => {}
            (_, Input::LinkForwards { member }) => {
                let priority = self.priority;
                self.members[member].link_forwards(now, priority);
            }

            (State::Backup, Input::Timeout) => self.wait(now, &mut outputs),
            (
                State::Backup,
                Input::Advertisement {
                    member,
                    source,
                    priority,
                    interval,
                },
            ) => self.hear_as_backup(member, (source, priority), interval, now, &mut outputs),
            (State::Backup, Input::LinkUp { member }) => {
                let priority = self.priority;
                self.members[member].wait_from(now, priority);
            }
            (State::Backup, Input::Tracked { fault, priority }) => {
                self.track(fault, priority);
                if let Some(fault) = self.fault.clone() {
                    self.fail(now);
                    self.enter(State::Initialize, Cause::Fault(fault), now, &mut outputs);
                } else if priority == OWNER {
                    self.become_active(Cause::Owner, now, &mut outputs);
                }
            }
            (State::Backup, Input::Succeed) => self.succeeds_until = Some(now + SUCCESSION),
            (State::Backup, Input::Maintenance(on)) => {
                self.in_maintenance = on;
                if on {
                    self.enter(State::Initialize, Cause::Maintenance, now, &mut outputs);
                } else {
                    self.yielded = false;
                }
            }
            (State::Backup, Input::Stop) => {
                self.is_stopped = true;
                self.enter(State::Initialize, Cause::Stopped, now, &mut outputs);
            }

            (State::Active, Input::Timeout) => self.advertise_and_announce(now, &mut outputs),
            (
                State::Active,
                Input::Advertisement {
                    member,
                    source,
                    priority,
                    interval,
                },
            ) => self.hear_as_active(member, (source, priority), interval, now, &mut outputs),
            (State::Active | State::Leaving, Input::Tracked { fault, priority }) => {
                let before = self.priority;
                self.track(fault, priority);
                if let Some(fault) = self.fault.clone() {
                    self.fail(now);
                    self.release(Cause::Fault(fault), now, &mut outputs);
                } else if self.state == State::Active && before != priority {
                    self.advertise_all(now, &mut outputs);
                }
            }
            (State::Active, Input::GiveUp) => {
                self.leave(Afterwards::Return, now, &mut outputs);
            }
            (State::Active, Input::Maintenance(true)) => {
                self.in_maintenance = true;
                self.leave(Afterwards::Maintenance, now, &mut outputs);
            }
            (State::Active, Input::Stop) => {
                self.is_stopped = true;
                self.leave(Afterwards::Stop, now, &mut outputs);
            }
            (State::Active, Input::Maintenance(false)) => self.in_maintenance = false,
            (State::Active | State::Leaving, Input::Announce) => outputs.push(Output::Announce),

            (State::Leaving, Input::Timeout) => self.go_on_leaving(now, &mut outputs),
            (
                State::Leaving,
                Input::Advertisement {
                    member,
                    source,
                    priority,
                    interval,
                },
            ) => self.hear_as_leaving(member, (source, priority), interval, now, &mut outputs),
            (State::Leaving, Input::GiveUp) => {}
            (State::Leaving, Input::Maintenance(on)) => {
                self.in_maintenance = on;
                let afterwards = match on {
                    true => Afterwards::Maintenance,
                    false => Afterwards::Return,
                };
                self.leave_by(afterwards);
            }
            (State::Leaving, Input::Stop) => {
                self.is_stopped = true;
                self.leave_by(Afterwards::Stop);
            }
        }
        outputs
    }

    fn track(&mut self, fault: Option<String>, priority: u8) {
        self.fault = fault;
        self.priority = priority;
    }
}

#[cfg(test)]
mod tests;
