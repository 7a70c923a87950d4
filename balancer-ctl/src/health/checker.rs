//! The rise/fall machine of one checker, and what it remembers of itself. Pure: results and `now` go in, what is new
//! comes out.
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
//! Results count in a row: one passed probe ends a row of failures, one failed probe a row of passes. A void result (this
//! process was stalled, so that it judged itself) counts for nothing. An agent's failures count for nothing either: only
//! its words do.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{AgentReply, CheckState, NOT_PROBED, Timestamp, UNKNOWN_TIME};
use crate::{
    model::{
        check::keys,
        check::{Check, Initial},
        view,
    },
    os::clock,
};

/// Changes that are kept.
pub const HISTORY: usize = 100;

/// What a probe's end means to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// It passed.
    Passed {
        /// What was answered.
        note: String,
        /// What was asked for.
        advice: AgentReply,
    },
    /// It failed.
    Failed {
        /// What was answered and wanted.
        reason: String,
    },
    /// It says nothing about its target.
    Void,
    /// This host could not even ask, which says nothing about the target either.
    Lacking {
        /// What is in the way.
        reason: String,
    },
}

/// A probe that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedProbe {
    /// When it began.
    pub began: Timestamp,
    /// How long it took.
    pub latency: Duration,
    /// What came of it.
    pub input: Input,
}

/// What is new after a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckerOutput {
    /// Nothing that the daemon must know.
    Nothing,
    /// The target asks for something else.
    RequestChanged,
    /// It came up or went down, or it is decided now.
    StateChanged,
}

/// Where the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineState {
    /// No probe has ended yet.
    Undecided,
    /// Up.
    Up {
        /// Failed probes in a row; less than `fall`.
        failures: u32,
    },
    /// Down.
    Down {
        /// Passed probes in a row; less than `rise`.
        passes: u32,
    },
}

/// How many results in a row decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Passed ones, to come up.
    pub rise: u32,
    /// Failed ones, to go down; `None` = none ever do.
    pub fall: Option<u32>,
}

impl Thresholds {
    /// Those of a check.
    #[must_use]
    pub fn of(check: &Check) -> Self {
        Self {
            rise: check.timing.rise,
            fall: (!check.probe.is_agent()).then_some(check.timing.fall),
        }
    }
}

/// Which way a result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Passed,
    Failed,
    Void,
}

/// How often the last result was seen in a row, and how often it is to be seen, if that turned the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transition {
    No,
    First,
    InARow(u32),
}

/// The machine.
fn next(state: MachineState, way: Way, rules: Thresholds) -> (MachineState, Transition) {
    const UP: MachineState = MachineState::Up { failures: 0 };
    const DOWN: MachineState = MachineState::Down { passes: 0 };
    match (state, way) {
        (state, Way::Void) => (state, Transition::No),
        (MachineState::Undecided, Way::Passed) => (UP, Transition::First),
        (MachineState::Undecided, Way::Failed) => match rules.fall {
            Some(_) => (DOWN, Transition::First),
            None => (MachineState::Undecided, Transition::No),
        },
        (MachineState::Up { .. }, Way::Passed) => (UP, Transition::No),
        (MachineState::Up { failures }, Way::Failed) => {
            let failures = failures.saturating_add(1);
            match rules.fall {
                None => (UP, Transition::No),
                Some(fall) if failures < fall => (MachineState::Up { failures }, Transition::No),
                Some(_) => (DOWN, Transition::InARow(failures)),
            }
        }
        (MachineState::Down { .. }, Way::Failed) => (DOWN, Transition::No),
        (MachineState::Down { passes }, Way::Passed) => {
            let passes = passes.saturating_add(1);
            if passes < rules.rise {
                (MachineState::Down { passes }, Transition::No)
            } else {
                (UP, Transition::InARow(passes))
            }
        }
    }
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// Whether it came up.
    pub up: bool,
    /// Why.
    pub reason: String,
}

/// The last probe that was not void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastResult {
    /// When it began.
    pub began: Timestamp,
    /// How long it took.
    pub latency: Duration,
    /// Whether it passed.
    pub passed: bool,
    /// What was found.
    pub message: String,
    /// How many in a row had the same result.
    pub in_a_row: u32,
}

/// A checker: its state, and what it remembers.
#[derive(Clone, Debug)]
pub struct Checker {
    rules: Thresholds,
    state: MachineState,
    reason: String,
    advice: AgentReply,
    since: Timestamp,
    last: Option<LastResult>,
    /// Why the target cannot be asked at present.
    obstacle: Option<String>,
    /// The latest last. Shared with those who are reading it; a change makes a copy then.
    history: Arc<VecDeque<HistoryEntry>>,
}

impl Checker {
    /// Begins as it stood, or as its check says, with what is known of its past, the latest last.
    #[must_use]
    pub fn begin(
        check: &Check,
        from: Option<CheckState>,
        history: Vec<HistoryEntry>,
        now: &Timestamp,
    ) -> Self {
        let state = match (&from, check.timing.initial) {
            _ if check.probe.is_agent() => MachineState::Up { failures: 0 },
            (Some(standing), _) if standing.decided && standing.up => {
                MachineState::Up { failures: 0 }
            }
            (Some(standing), _) if standing.decided => MachineState::Down { passes: 0 },
            (_, Initial::Up) => MachineState::Up { failures: 0 },
            (_, Initial::Down) => MachineState::Undecided,
        };
        let mut checker = Self {
            rules: Thresholds::of(check),
            state,
            reason: NOT_PROBED.to_owned(),
            advice: AgentReply::default(),
            since: *now,
            last: None,
            obstacle: None,
            history: Arc::new(history.into()),
        };
        if let Some(from) = from {
            checker.advice = from.advice;
            if from.decided && from.up == checker.is_up() {
                checker.reason = from.reason;
                if from.since != UNKNOWN_TIME {
                    checker.since = from.since;
                }
                if checker.reason != NOT_PROBED {
                    checker.append_beginning();
                }
            }
        }
        checker
    }

    /// Takes a probe's end.
    pub fn finish(&mut self, done: FinishedProbe, now: &Timestamp) -> CheckerOutput {
        let FinishedProbe {
            began,
            latency,
            input,
        } = done;
        let (way, message, said) = match input {
            Input::Passed { note, advice } => (Way::Passed, note, Some(advice)),
            Input::Failed { reason } => (Way::Failed, reason, None),
            Input::Void => (Way::Void, String::new(), None),
            Input::Lacking { reason } => {
                self.obstacle = Some(reason);
                (Way::Void, String::new(), None)
            }
        };
        let (state, turn) = next(self.state, way, self.rules);
        self.state = state;
        let mut output = CheckerOutput::Nothing;
        if let Some(said) = said {
            let is_new = said != self.advice;
            let turns = said.down.is_some() != self.advice.down.is_some();
            self.advice = said;
            // All that an agent's failures and passes do not say.
            if self.rules.fall.is_none() && (turns || self.reason == NOT_PROBED) {
                self.reason.clone_from(&message);
                self.since = *now;
                self.append();
            }
            if is_new {
                output = CheckerOutput::RequestChanged;
            }
        }
        let why = match turn {
            Transition::No => None,
            Transition::First => Some(format!("{message}, first probe")),
            Transition::InARow(row) => Some(format!("{message}, {row} of {row}")),
        };
        if let Some(reason) = why {
            self.reason = reason;
            self.since = *now;
            self.append();
            output = CheckerOutput::StateChanged;
        }
        if way != Way::Void {
            let passed = way == Way::Passed;
            self.obstacle = None;
            let before = self.last.take().filter(|last| last.passed == passed);
            self.last = Some(LastResult {
                began,
                latency,
                passed,
                message,
                in_a_row: before.map_or(0, |last| last.in_a_row).saturating_add(1),
            });
        }
        output
    }

    /// Whether results disagree with the state.
    #[must_use]
    pub const fn is_changing(&self) -> bool {
        match self.state {
            MachineState::Undecided => false,
            MachineState::Up { failures } => failures > 0,
            MachineState::Down { passes } => passes > 0,
        }
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> CheckState {
        CheckState {
            up: self.is_up(),
            decided: self.state != MachineState::Undecided,
            reason: self.reason.clone(),
            advice: self.advice.clone(),
            since: self.since,
        }
    }

    /// Why its target cannot be asked at present, if so.
    #[must_use]
    pub fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }

    /// What its target asked for last.
    #[must_use]
    pub const fn advice(&self) -> &AgentReply {
        &self.advice
    }

    /// Its changes, the latest last.
    #[must_use]
    pub fn history(&self) -> &VecDeque<HistoryEntry> {
        &self.history
    }

    /// What is shown of it. Who uses it is not its business.
    #[must_use]
    pub fn view(&self, watched: &super::CheckTarget) -> view::Checker {
        let state = match self.state {
            MachineState::Undecided => "unknown",
            _ if self.rules.fall.is_none() && self.reason == NOT_PROBED => "unknown",
            _ if self.counts_as_up() => "up",
            _ => "down",
        };
        view::Checker {
            target: watched.target,
            kind: watched.check.probe.name().to_owned(),
            check: keys::json(&watched.check),
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
        matches!(self.state, MachineState::Up { .. })
    }

    /// Whether it is up, and its agent does not call it down.
    const fn counts_as_up(&self) -> bool {
        self.is_up() && self.advice.down.is_none()
    }

    /// Writes down what it begins with, unless its past ends with that.
    fn append_beginning(&mut self) {
        if self.history.back().map(|change| change.up) != Some(self.counts_as_up()) {
            self.append();
        }
    }

    fn append(&mut self) {
        let change = HistoryEntry {
            at: self.since,
            up: self.counts_as_up(),
            reason: self.reason.clone(),
        };
        let history = Arc::make_mut(&mut self.history);
        if history.len() >= HISTORY {
            history.pop_front();
        }
        history.push_back(change);
    }
}

#[cfg(test)]
mod tests;
