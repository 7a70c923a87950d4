//! Health checks: probes of real servers, and the rise/fall state machines that turn results into up or down.
//!
//! ```text
//!  daemon ──watch──▶ driver ──when due──▶ probe (IO, one attempt) ──result──▶ checker (pure)
//!    ▲                                                                           │
//!    └────────────────────── CheckUpdate (latest per checker) ◀──────────────────┘
//! ```
//!
//! All of it runs on a thread of its own, so that neither a busy daemon nor a slow file delays a probe.

pub mod checker;
mod driver;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod heartbeat;
mod mailbox;
pub mod probe;
pub mod schedule;
pub mod stall;
pub mod store;
pub mod task;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

pub use self::{driver::Probing, mailbox::Updates, task::Health};
pub use crate::model::health::{AgentRequest, RequestedWeight};
use crate::model::{AdminState, Check, ServiceKey, view};

/// What one checker probes. Services that configure the same check for the same address share a checker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckTarget {
    /// Address and port that are probed.
    pub target: SocketAddr,
    /// The probe, its source address and its timing.
    pub check: Check,
}

/// Result of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered as it should.
    Passed {
        /// The answer, in a few words ("http 200").
        note: String,
        /// What the real server, or a program for it, requests.
        agent_reply: AgentReply,
    },
    /// The target did not answer, or not as it should.
    Failed {
        /// What was answered and what was wanted ("http 503, wanted 200-299").
        reason: String,
    },
    /// Says nothing about the target: this process was stalled during the probe, or this host could not make it.
    Inconclusive {
        /// Why this host could not make the probe ("too many open files"); `None` = this process was stalled.
        obstacle: Option<String>,
    },
}

/// What a probe's answer requests for its real server, besides counting as up or down. `None` = nothing requested.
/// Each passed probe carries all requests that hold now; they replace those of earlier probes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReply {
    /// Weight to use instead of the configured one, absolute or in per cent of it.
    pub weight: Option<RequestedWeight>,
    /// Administrative state: ready, drain or maintenance.
    pub state: Option<AdminState>,
    /// The agent's own words if it reports the server as down. Stays as it was while the agent cannot be reached.
    pub down: Option<String>,
}

impl AgentReply {
    /// The requested weight and state, without the down report.
    #[must_use]
    pub const fn request(&self) -> AgentRequest {
        AgentRequest {
            state: self.state,
            weight: self.weight,
        }
    }
}

/// A point in time on two clocks: one to show to people, one to compute differences that do not change when somebody
/// sets the time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Time of day, to be shown.
    pub time: SystemTime,
    /// Time since the host booted, including time in suspension (`CLOCK_BOOTTIME`).
    pub since_boot: Duration,
}

impl Timestamp {
    /// Reads both clocks.
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

/// The `since` of a state whose beginning nobody observed.
pub const UNKNOWN_TIME: Timestamp = Timestamp {
    time: SystemTime::UNIX_EPOCH,
    since_boot: Duration::ZERO,
};

/// The `reason` of a check before its first result.
pub const NOT_PROBED: &str = "not probed yet";

/// A checker's current state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckState {
    /// Whether the target counts as up.
    pub up: bool,
    /// `false` until the first result (or an earlier daemon's state) has decided `up`.
    pub decided: bool,
    /// Why it is up or down, in a few words ("http 503, wanted 200-299, 3 of 3"; "not probed yet").
    pub reason: String,
    /// What the target's last passed probe requested.
    pub agent_reply: AgentReply,
    /// Beginning of the current state. For an agent check: when the agent's down report last appeared or ended.
    pub since: Timestamp,
}

/// A checker's state as an earlier daemon stored it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredState {
    /// The stored state.
    pub check_state: CheckState,
    /// Beginning of that state on this process's clock; `None` = unknown.
    pub since: Option<Instant>,
    /// Whether it is up and had been down before.
    pub has_returned: bool,
}

/// Whether a service has its quorum of live weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// Whether live weight reaches the quorum.
    pub holds: bool,
    /// Beginning of that state.
    pub since: Instant,
}

/// A service's entry in the state file; its checkers have entries of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistedService {
    /// The service.
    pub key: ServiceKey,
    /// Addresses of its real servers.
    pub reals: Vec<SocketAddr>,
    /// Its quorum; `None` until all its checkers are decided.
    pub quorum: Option<Quorum>,
}

impl CheckState {
    /// The initial state of a changed check whose target was up under the old check.
    #[must_use]
    pub fn up_before(since: Timestamp) -> Self {
        Self {
            up: true,
            decided: true,
            reason: "was up before the check changed".to_owned(),
            agent_reply: AgentReply::default(),
            since,
        }
    }
}

/// A checker's new state, reported to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckUpdate {
    /// Identifies the checker.
    pub target: CheckTarget,
    /// Its new state.
    pub check_state: CheckState,
}

/// A checker that the daemon wants to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckStart {
    /// What it probes.
    pub target: Arc<CheckTarget>,
    /// Its initial state; `None` = as the check's `initial` setting says. Ignored if the checker runs already.
    pub from: Option<CheckState>,
    /// What sentences call it where that is not its address.
    pub name: Option<String>,
    /// It keeps its state, and does not probe until it is wanted otherwise.
    pub paused: bool,
}

/// What outlives a daemon: checks and quorums that an earlier daemon stored since the host booted, and what this one stores.
pub trait CheckStore {
    /// The stored state of the check that a service now wants for this real server. `None` once checkers run: only the
    /// first ones continue from stored states.
    fn restored(
        &self,
        check_target: &CheckTarget,
        service: &ServiceKey,
        real: SocketAddr,
    ) -> Option<RestoredState>;

    /// A service's stored quorum; `None` as for [`Self::restored`].
    fn quorum(&self, service: &ServiceKey) -> Option<Quorum>;

    /// When the earlier daemon wrote last, until when it has reported events; `None` as for [`Self::restored`].
    fn last_written(&self) -> Option<Instant>;

    /// Stores these services, and no others. Returns at once.
    fn persist(&mut self, services: Vec<PersistedService>);
}

/// The running checkers, as the daemon sees them: a thread with probes, and a fake in tests. They store their own states.
pub trait Checkers: CheckStore + Send {
    /// Runs exactly these checkers. Returns at once.
    fn watch(&mut self, wanted: Vec<CheckStart>);

    /// Whether their loop still runs.
    fn alive(&self) -> bool;

    /// A sentence for each check that cannot be made at present.
    fn obstacles(&self) -> Vec<String>;

    /// Sends a view of each checker, in no particular order. Returns at once.
    fn report(&self, reply: oneshot::Sender<Vec<view::Checker>>);
}
