//! Health: probes of real servers and the machines that judge them.
//!
//! ```text
//!  daemon ──watch──▶ task ──at its time──▶ probe (IO, one attempt) ──Answer──▶ checker (pure)
//!    ▲                                                                            │
//!    └──────────────────────── Update (latest per checker; never in the way) ◀────┘
//! ```
//!
//! All of it runs on a thread of its own, so that neither a busy daemon nor a slow file delays a probe.

pub mod checker;
mod complaint;
mod driver;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod heartbeat;
mod mailbox;
pub mod memory;
pub mod probe;
pub mod schedule;
pub mod stall;
pub mod task;

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use self::{driver::Probing, mailbox::Updates, task::Health};
pub use crate::model::health::{AgentRequest, RequestedWeight};
use crate::model::{AdminState, Check, ServiceKey, view};

/// What one checker watches. Services that ask the same of the same address share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckTarget {
    /// Address and port that are asked.
    pub target: SocketAddr,
    /// What, from where, when.
    pub check: Check,
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It passed.
    Pass {
        /// What was answered, in a few words ("http 200").
        note: String,
        /// What the real server (or a program for it) asks for.
        advice: AgentReply,
    },
    /// It failed.
    Fail {
        /// What was answered and what was wanted ("http 503, wanted 200-299").
        reason: String,
    },
    /// It could not be made: this process or host has run out of something. Says nothing about the target.
    Void {
        /// What is lacking ("too many open files").
        reason: String,
    },
}

/// What a real server asks for by a probe's answer, beside being up. What is `None` was not said. Each answer that
/// passed has all that is asked for now: it takes the place of earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReply {
    /// Weight.
    pub weight: Option<RequestedWeight>,
    /// To be drained, to be let alone, or ready.
    pub state: Option<AdminState>,
    /// Whether its agent calls it down, with the agent's words. An agent that cannot be reached says nothing.
    pub down: Option<String>,
}

impl AgentReply {
    /// What is asked for beside being up or down.
    #[must_use]
    pub const fn request(&self) -> AgentRequest {
        AgentRequest {
            state: self.state,
            weight: self.weight,
        }
    }
}

/// A point in time: for people, and for differences, which setting the clock must not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// The time of day.
    pub time: SystemTime,
    /// Since this host started, time in suspension among it (`CLOCK_BOOTTIME`).
    pub since_boot: Duration,
}

impl Timestamp {
    /// This one. Probes are for this program alone to time, so that it reads the clocks here.
    #[must_use]
    pub fn now() -> Self {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map(Duration::from)
            .unwrap_or_default();
        Self {
            time: SystemTime::now(),
            since_boot,
        }
    }
}

/// Since when something stands that nobody has watched.
pub const UNKNOWN_TIME: Timestamp = Timestamp {
    time: SystemTime::UNIX_EPOCH,
    since_boot: Duration::ZERO,
};

/// The reason of a standing before the first answer.
pub const NOT_PROBED: &str = "not probed yet";

/// How a checker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckState {
    /// Whether the target counts as up.
    pub up: bool,
    /// Whether a probe has decided that; not so before the first one is done.
    pub decided: bool,
    /// Why, in a few words ("http 503, wanted 200-299, 3 of 3"; "not probed yet").
    pub reason: String,
    /// What the target asked for last.
    pub advice: AgentReply,
    /// Since when it is up or down; of an agent, since when it calls its server down, or does not.
    pub since: Timestamp,
}

/// How a checker stood when an earlier daemon wrote it down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredState {
    /// How it stood.
    pub standing: CheckState,
    /// Since when, if that is known.
    pub since: Option<Instant>,
    /// Whether it was down before it came up.
    pub has_returned: bool,
}

/// A service's quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// Whether there is one.
    pub holds: bool,
    /// Since when.
    pub since: Instant,
}

/// What is written down of a service, beside what its checkers find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistedService {
    /// Which.
    pub key: ServiceKey,
    /// Its real servers.
    pub reals: Vec<SocketAddr>,
    /// Its quorum; `None` before it is known.
    pub quorum: Option<Quorum>,
}

impl CheckState {
    /// How a checker begins whose target was up when another question was asked.
    #[must_use]
    pub fn up_before(since: Timestamp) -> Self {
        Self {
            up: true,
            decided: true,
            reason: "was up before the check changed".to_owned(),
            advice: AgentReply::default(),
            since,
        }
    }
}

/// A checker's standing that is new to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckUpdate {
    /// Whose.
    pub watched: CheckTarget,
    /// How it stands.
    pub standing: CheckState,
}

/// A checker to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckStart {
    /// What it watches.
    pub watched: CheckTarget,
    /// How it stands to begin with; `None` = as its check's `initial` says. One that runs already goes on as it stands.
    pub from: Option<CheckState>,
}

/// The checkers as the daemon sees them: one that runs them, and a fake in tests. What an earlier daemon wrote down since
/// this host started is known until the first ones run.
pub trait Checkers: Send {
    /// How a checker stood that a service now wants for this real server.
    fn restored(
        &self,
        watched: &CheckTarget,
        service: &ServiceKey,
        real: SocketAddr,
    ) -> Option<RestoredState>;

    /// A service's quorum.
    fn quorum(&self, service: &ServiceKey) -> Option<Quorum>;

    /// When the earlier daemon wrote last: what was to be told by then was told by it.
    fn last_written(&self) -> Option<Instant>;

    /// Writes this down of the services, and of no others. Returns at once.
    fn persist(&mut self, services: Vec<PersistedService>);

    /// Runs these and no others. Returns at once.
    fn watch(&mut self, wanted: Vec<CheckStart>);

    /// Whether they still run: their loop has turned a moment ago.
    fn alive(&self) -> bool;

    /// Which checks cannot be made at present: a sentence each.
    fn obstacles(&self) -> Vec<String>;

    /// Sends what is known of each, in no order. Returns at once.
    fn report(&self, reply: oneshot::Sender<Vec<view::Checker>>);
}
