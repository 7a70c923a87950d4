//! The rise/fall state machine of one checker, with its last result and history. Pure: results and `now` go in, what
//! changed comes out.
//!
//! ```text
//!                    first result passed
//!   undecided ───────────────────────────────────▶ up, failures = 0 ◀─┐
//!       │                                            │   passed       │ passed, `rise` in a row
//!       │ first result failed                        │                │
//!       │                     failed, `fall` in a row│                │
//!       └──────────────────▶ down, passes = 0 ◀──────┘                │
//!                              │ ▲ failed                             │
//!                              └─┴────────────────────────────────────┘
//! ```
//!
//! Results count in a row: one passed probe ends a row of failures, one failed probe a row of passes. Inconclusive
//! results (this process was stalled, or this host could not send the probe) change no state. Failures of an agent
//! check change no state either: an agent's server is down only if the agent says so.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{AgentReply, CheckState, NOT_PROBED, Outcome, Timestamp, UNKNOWN_TIME};
use crate::{
    model::{
        check::keys,
        check::{Check, Initial},
        view,
    },
    os::clock,
};

/// Changes of state that a checker's history keeps; older ones are dropped.
pub const MAX_HISTORY: usize = 100;

/// A finished probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedProbe {
    /// When the probe started.
    pub began: Timestamp,
    /// Time from its start to its end.
    pub latency: Duration,
    /// Its result.
    pub outcome: Outcome,
}

/// What a result changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckerOutput {
    /// Nothing that the daemon needs to know.
    Nothing,
    /// The target requests another weight or state.
    RequestChanged,
    /// The check came up, went down, or was decided for the first time.
    StateChanged,
}

/// State of the rise/fall machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineState {
    /// No conclusive result yet.
    Undecided,
    /// The target counts as up.
    Up {
        /// Failed probes in a row; less than `fall`.
        failures: u32,
    },
    /// The target counts as down.
    Down {
        /// Passed probes in a row; less than `rise`.
        passes: u32,
    },
}

/// Results in a row that change the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Passed probes in a row that bring a target up.
    pub rise: u32,
    /// Failed probes in a row that take a target down; `None` = failures never do (agent checks).
    pub fall: Option<u32>,
}

impl Thresholds {
    /// The thresholds that a check configures.
    #[must_use]
    pub fn of(check: &Check) -> Self {
        Self {
            rise: check.timing.rise,
            fall: (!check.probe.is_agent()).then_some(check.timing.fall),
        }
    }
}

/// Whether a result changed the state, and how many equal results in a row it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transition {
    No,
    First,
    InARow(u32),
}

/// The transition function.
fn next(
    state: MachineState,
    outcome: &Outcome,
    thresholds: Thresholds,
) -> (MachineState, Transition) {
    const UP: MachineState = MachineState::Up { failures: 0 };
    const DOWN: MachineState = MachineState::Down { passes: 0 };
    match (state, outcome) {
        (state, Outcome::Inconclusive { .. }) => (state, Transition::No),
        (MachineState::Undecided, Outcome::Passed { .. }) => (UP, Transition::First),
        (MachineState::Undecided, Outcome::Failed { .. }) => match thresholds.fall {
            Some(_) => (DOWN, Transition::First),
            None => (MachineState::Undecided, Transition::No),
        },
        (MachineState::Up { .. }, Outcome::Passed { .. }) => (UP, Transition::No),
        (MachineState::Up { failures }, Outcome::Failed { .. }) => {
            let failures = failures.saturating_add(1);
            match thresholds.fall {
                None => (UP, Transition::No),
                Some(fall) if failures < fall => (MachineState::Up { failures }, Transition::No),
                Some(_) => (DOWN, Transition::InARow(failures)),
            }
        }
        (MachineState::Down { .. }, Outcome::Failed { .. }) => (DOWN, Transition::No),
        (MachineState::Down { passes }, Outcome::Passed { .. }) => {
            let passes = passes.saturating_add(1);
            if passes < thresholds.rise {
                (MachineState::Down { passes }, Transition::No)
            } else {
                (UP, Transition::InARow(passes))
            }
        }
    }
}

/// A change of state in the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When it happened.
    pub at: Timestamp,
    /// `true` = came up, `false` = went down.
    pub up: bool,
    /// Why, in a few words.
    pub reason: String,
}

/// The last conclusive result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastResult {
    /// When the probe started.
    pub began: Timestamp,
    /// Time from its start to its end.
    pub latency: Duration,
    /// Whether it passed.
    pub passed: bool,
    /// The target's answer, or what was wrong with it.
    pub message: String,
    /// Equal results in a row, this one included.
    pub in_a_row: u32,
}

/// A checker's state, last result and history.
#[derive(Clone, Debug)]
pub struct Checker {
    thresholds: Thresholds,
    machine: MachineState,
    reason: String,
    agent_reply: AgentReply,
    since: Timestamp,
    last: Option<LastResult>,
    /// Why this host cannot probe the target at present.
    obstacle: Option<String>,
    /// Oldest first. Reports share it; a change while one holds it copies it.
    history: Arc<VecDeque<HistoryEntry>>,
}

impl Checker {
    /// Starts in the state `from`, or else as the check's `initial` setting says. `history` is oldest first.
    #[must_use]
    pub fn new(
        check: &Check,
        from: Option<CheckState>,
        history: Vec<HistoryEntry>,
        now: &Timestamp,
    ) -> Self {
        let state = match (&from, check.timing.initial) {
            _ if check.probe.is_agent() => MachineState::Up { failures: 0 },
            (Some(check_state), _) if check_state.decided && check_state.up => {
                MachineState::Up { failures: 0 }
            }
            (Some(check_state), _) if check_state.decided => MachineState::Down { passes: 0 },
            (_, Initial::Up) => MachineState::Up { failures: 0 },
            (_, Initial::Down) => MachineState::Undecided,
        };
        let mut checker = Self {
            thresholds: Thresholds::of(check),
            machine: state,
            reason: NOT_PROBED.to_owned(),
            agent_reply: AgentReply::default(),
            since: *now,
            last: None,
            obstacle: None,
            history: Arc::new(history.into()),
        };
        if let Some(from) = from {
            checker.agent_reply = from.agent_reply;
            if from.decided && from.up == checker.is_up() {
                checker.reason = from.reason;
                if from.since != UNKNOWN_TIME {
                    checker.since = from.since;
                }
                if checker.reason != NOT_PROBED {
                    checker.append_initial_state();
                }
            }
        }
        checker
    }

    /// Takes a probe's result.
    pub fn record(&mut self, done: FinishedProbe, now: &Timestamp) -> CheckerOutput {
        let FinishedProbe {
            began,
            latency,
            outcome,
        } = done;
        let (state, transition) = next(self.machine, &outcome, self.thresholds);
        self.machine = state;
        let (passed, message, reply) = match outcome {
            Outcome::Passed { note, agent_reply } => (true, note, Some(agent_reply)),
            Outcome::Failed { reason } => (false, reason, None),
            Outcome::Inconclusive { obstacle } => {
                if obstacle.is_some() {
                    self.obstacle = obstacle;
                }
                return CheckerOutput::Nothing;
            }
        };
        self.obstacle = None;
        let mut output = CheckerOutput::Nothing;
        if let Some(reply) = reply {
            let is_new = reply != self.agent_reply;
            let down_changed = reply.down.is_some() != self.agent_reply.down.is_some();
            self.agent_reply = reply;
            // An agent check changes state by the agent's word alone, not by passes and failures.
            if self.thresholds.fall.is_none() && (down_changed || self.reason == NOT_PROBED) {
                self.reason.clone_from(&message);
                self.since = *now;
                self.append_history();
            }
            if is_new {
                output = CheckerOutput::RequestChanged;
            }
        }
        let why = match transition {
            Transition::No => None,
            Transition::First => Some(format!("{message}, first probe")),
            Transition::InARow(row) => Some(format!("{message}, {row} of {row}")),
        };
        if let Some(reason) = why {
            self.reason = reason;
            self.since = *now;
            self.append_history();
            output = CheckerOutput::StateChanged;
        }
        let before = self.last.take().filter(|last| last.passed == passed);
        self.last = Some(LastResult {
            began,
            latency,
            passed,
            message,
            in_a_row: before.map_or(0, |last| last.in_a_row).saturating_add(1),
        });
        output
    }

    /// Whether the last results disagree with the state, so that it may change soon.
    #[must_use]
    pub const fn is_changing(&self) -> bool {
        match self.machine {
            MachineState::Undecided => false,
            MachineState::Up { failures } => failures > 0,
            MachineState::Down { passes } => passes > 0,
        }
    }

    /// The state as the daemon sees it.
    #[must_use]
    pub fn check_state(&self) -> CheckState {
        CheckState {
            up: self.is_up(),
            decided: self.machine != MachineState::Undecided,
            reason: self.reason.clone(),
            agent_reply: self.agent_reply.clone(),
            since: self.since,
        }
    }

    /// Why this host cannot probe the target at present; `None` = it can.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    /// What the target's last passed probe requested.
    #[must_use]
    pub const fn agent_reply(&self) -> &AgentReply {
        &self.agent_reply
    }

    /// Changes of state, oldest first.
    #[must_use]
    pub fn history(&self) -> &VecDeque<HistoryEntry> {
        &self.history
    }

    /// The checker as the API shows it; the caller fills in `used_by`.
    #[must_use]
    pub fn view(&self, check_target: &super::CheckTarget) -> view::Checker {
        let state = match self.machine {
            MachineState::Undecided => "unknown",
            _ if self.thresholds.fall.is_none() && self.reason == NOT_PROBED => "unknown",
            _ if self.counts_as_up() => "up",
            _ => "down",
        };
        view::Checker {
            target: check_target.target,
            kind: check_target.check.probe.name().to_owned(),
            check: keys::json(&check_target.check),
            used_by: Vec::new(),
            state: state.to_owned(),
            since: clock::utc(self.since.time),
            reason: self.reason.clone(),
            last: self.last.as_ref().map(|last| view::LastProbe {
                time: clock::utc(last.began.time),
                passed: last.passed,
                message: last.message.clone(),
                latency_us: u64::try_from(last.latency.as_micros()).unwrap_or(u64::MAX),
                in_a_row: last.in_a_row,
            }),
            obstacle: self.obstacle.clone(),
            history: self.view_history(),
        }
    }

    fn view_history(&self) -> Vec<view::HealthChange> {
        let mut ended: Option<Timestamp> = None;
        let mut shown = Vec::with_capacity(self.history.len());
        for change in self.history.iter().rev() {
            let lasted = ended.map(|end| end.since_boot.saturating_sub(change.at.since_boot));
            shown.push(view::HealthChange {
                time: clock::utc(change.at.time),
                state: if change.up { "up" } else { "down" }.to_owned(),
                reason: change.reason.clone(),
                lasted_ms: lasted
                    .map(|lasted| u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX)),
            });
            ended = Some(change.at);
        }
        shown
    }

    const fn is_up(&self) -> bool {
        matches!(self.machine, MachineState::Up { .. })
    }

    /// Whether it is up and no agent reports it as down.
    const fn counts_as_up(&self) -> bool {
        self.is_up() && self.agent_reply.down.is_none()
    }

    /// Adds the initial state to the history unless the history ends with the same state.
    fn append_initial_state(&mut self) {
        if self.history.back().map(|change| change.up) != Some(self.counts_as_up()) {
            self.append_history();
        }
    }

    fn append_history(&mut self) {
        let change = HistoryEntry {
            at: self.since,
            up: self.counts_as_up(),
            reason: self.reason.clone(),
        };
        let history = Arc::make_mut(&mut self.history);
        if history.len() >= MAX_HISTORY {
            history.pop_front();
        }
        history.push_back(change);
    }
}

#[cfg(test)]
mod tests;
