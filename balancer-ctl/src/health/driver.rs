//! Drives the checkers: starts their probes when they are due, judges what comes back, tells the daemon what is new. One
//! loop on one thread, and a task for each probe that runs.
//!
//! ```text
//!   Command (watch, report) ──▶ ┌────────┐ ──spawn──▶ probe task (at most `room` of them, each with its timeout)
//!   schedule: who is due ─────▶ │ driver │ ◀──end─────────┘
//!   stall: did we run at all? ─▶└────────┘ ──▶ mailbox (latest per checker) ──▶ daemon
//!                                    └───────▶ memory (latest per checker) ──▶ state file
//! ```
//!
//! Nothing here waits for anything but the next of these. Commands are few and small, and are taken before results.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, Id as TaskId, JoinError, JoinSet},
    time::Instant,
};

use super::{
    AgentReply, Answer, CheckStart, CheckTarget, CheckUpdate, Timestamp,
    checker::{Checker, CheckerOutput, FinishedProbe, HistoryEntry, Input},
    complaint::LogRateLimit,
    mailbox::Mailbox,
    memory,
    schedule::{Again, CheckerId, Pace, Schedule},
    stall::{self, Stall},
};
use crate::model::{duration, view};

/// Probes that are due within such a time start together, so that they wake this thread, and their targets, but once.
const COALESCE_WINDOW: Duration = Duration::from_millis(40);
/// No probe waits for others longer than such a part of the shortest interval.
const PATIENCE: u32 = 20;
/// Checks that are named in that time when they cannot be made; `status` and `health` tell of all.
const NAMED: u32 = 20;

/// What asks a target, once for each call.
pub trait Probing: Send + Sync + 'static {
    /// Asks, and waits for the answer. It may be dropped at any time.
    fn probe(&self) -> impl Future<Output = Answer> + Send;
}

/// What the driver is told.
#[derive(Debug)]
pub(super) enum Command {
    /// To run these, each with its past, and no others.
    Watch(Vec<(CheckStart, Vec<HistoryEntry>)>),
    /// To write this down of the services.
    Keep(Vec<memory::Service>),
    /// To tell all there is.
    Report(oneshot::Sender<Vec<view::Checker>>),
}

/// What the driver works with.
pub(super) struct DriverContext<M> {
    /// Makes what asks a target that asked for so much before; a sentence says why it cannot.
    pub make: M,
    /// The time.
    pub clock: Box<dyn Fn() -> Timestamp + Send>,
    /// Where updates go.
    pub mailbox: Arc<Mailbox>,
    /// Where standings are written down.
    pub memory: Option<memory::Writer>,
    /// Most probes at once.
    pub room: usize,
}

/// The loop's state.
pub(super) struct Driver<P, M> {
    around: DriverContext<M>,
    schedule: Schedule,
    stall: Stall,
    slots: HashMap<CheckerId, Slot<P>>,
    ids: HashMap<Arc<CheckTarget>, CheckerId>,
    next_id: u64,
    probes: JoinSet<End>,
    probed: HashMap<TaskId, CheckerId>,
    /// The longest rest while probes run.
    rest: Duration,
    /// From the start of some probes to that of the next.
    together: Duration,
    /// Before that no other probes are started.
    next_start: std::time::Instant,
    /// No room for another probe.
    full: LogRateLimit,
    /// The host or this process lacks something; of all checkers.
    lacking: LogRateLimit,
}

struct Slot<P> {
    watched: Arc<CheckTarget>,
    checker: Checker,
    /// Made for the first probe.
    prober: Option<Arc<P>>,
    /// The files that the prober was made of may have changed.
    is_stale: bool,
    flight: Option<InFlight>,
    /// Failures in a row that a stall of ours spoiled.
    spoiled: u32,
    /// The host or this process lacks something.
    lacking: LogRateLimit,
    is_obstructed: bool,
}

/// A probe that runs.
struct InFlight {
    began: Timestamp,
    /// Time that had been lost when it began.
    lost: Duration,
    task: AbortHandle,
}

/// How a probe ended.
struct End {
    latency: Duration,
    /// `None` = not within its timeout.
    answer: Option<Answer>,
}

impl<P, M> Driver<P, M>
where
    P: Probing,
    M: FnMut(&CheckTarget, &AgentReply) -> Result<P, String>,
{
    /// One without checkers.
    pub(super) fn new(around: DriverContext<M>) -> Self {
        Self {
            around,
            schedule: Schedule::new(now()),
            stall: Stall::default(),
            slots: HashMap::new(),
            ids: HashMap::new(),
            next_id: 0,
            probes: JoinSet::new(),
            probed: HashMap::new(),
            rest: stall::LONGEST_REST,
            together: COALESCE_WINDOW,
            next_start: now(),
            full: LogRateLimit::default(),
            lacking: LogRateLimit::default(),
        }
    }

    /// Runs until nobody can command any more.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let until = self.turn();
            let (command, ended) = tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => (Some(command), None),
                    None => break,
                },
                Some(ended) = self.probes.join_next_with_id() => (None, Some(ended)),
                () = tokio::time::sleep_until(until.into()) => (None, None),
            };
            // Before results are judged: was it we who did not run?
            let lost = self.stall.wake(now(), (self.around.clock)().since_boot);
            tell_stall(lost);
            if let Some(command) = command {
                self.obey(command);
            }
            if let Some(ended) = ended {
                self.take(ended);
            }
            while let Some(ended) = self.probes.try_join_next_with_id() {
                self.take(ended);
            }
        }
    }

    /// Starts those that are due. Returns when to come back at the latest.
    fn turn(&mut self) -> std::time::Instant {
        let now = now();
        let room = self.around.room.saturating_sub(self.probes.len());
        if now >= self.next_start {
            let due = self.schedule.start(now, room);
            if !due.is_empty() {
                self.next_start = now + self.together;
            }
            for id in due {
                self.start(id);
            }
        }
        let full = self.probes.len() >= self.around.room;
        let due = self
            .schedule
            .next_deadline()
            .map(|due| due.max(self.next_start));
        if full && due.is_some_and(|due| due <= now) && self.full.allows(1) {
            tracing::warn!(
                "{} checks run at once, the most there may be: others wait for them, raise LimitNOFILE= or the \
                 checks' intervals",
                self.around.room
            );
        }
        let rest = now
            + if self.probes.is_empty() {
                stall::LONGEST_IDLE
            } else {
                self.rest
            };
        let until = due.filter(|_| !full).map_or(rest, |due| due.min(rest));
        let lost = self
            .stall
            .rest(self::now(), (self.around.clock)().since_boot, until);
        tell_stall(lost);
        until
    }

    fn start(&mut self, id: CheckerId) {
        let began = (self.around.clock)();
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let kept = slot.prober.take();
        let prober = match kept {
            Some(prober) if !slot.is_stale => prober,
            kept => match (
                (self.around.make)(&slot.watched, slot.checker.advice()),
                kept,
            ) {
                (Ok(prober), _) => {
                    slot.is_stale = false;
                    Arc::new(prober)
                }
                (Err(reason), Some(kept)) => {
                    if slot.lacking.allows(1) && self.lacking.allows(NAMED) {
                        tracing::warn!(
                            "{} goes on with its files as they were: {reason}",
                            called(&slot.watched)
                        );
                    }
                    kept
                }
                // A file of ours that cannot be read says nothing about the target.
                (Err(reason), None) => {
                    let done = FinishedProbe {
                        began,
                        latency: Duration::ZERO,
                        input: Input::Lacking { reason },
                    };
                    return self.judge(id, done, None);
                }
            },
        };
        let timeout = slot.watched.check.timing.timeout;
        let asking = prober.clone();
        slot.prober = Some(prober);
        let task = self.probes.spawn(async move {
            let began = Instant::now();
            let answer = tokio::time::timeout(timeout, asking.probe()).await.ok();
            End {
                latency: began.elapsed(),
                answer,
            }
        });
        self.probed.insert(task.id(), id);
        slot.flight = Some(InFlight {
            began,
            lost: self.stall.lost(),
            task,
        });
    }

    /// Takes a probe's end.
    fn take(&mut self, ended: Result<(TaskId, End), JoinError>) {
        let task = match &ended {
            Ok((task, _)) => *task,
            Err(error) => error.id(),
        };
        // One that was dropped with its checker is nobody's.
        let Some(id) = self.probed.remove(&task) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let Some(flight) = slot.flight.take() else {
            return;
        };
        let timeout = slot.watched.check.timing.timeout;
        let spoiled = stall::spoils(self.stall.lost().saturating_sub(flight.lost), timeout);
        if !spoiled {
            slot.spoiled = 0;
        }
        let mut again = None;
        let (latency, input) = match ended {
            Ok((_, End { latency, answer })) => {
                let input = match answer {
                    Some(Answer::Pass { note, advice }) => {
                        slot.spoiled = 0;
                        Input::Passed { note, advice }
                    }
                    Some(Answer::Void { reason }) => Input::Lacking { reason },
                    _ if spoiled && slot.spoiled < stall::MOST_SPOILED => {
                        slot.spoiled += 1;
                        again = Some(Again::Soon);
                        Input::Void
                    }
                    Some(Answer::Fail { reason }) => Input::Failed { reason },
                    None => Input::Failed {
                        reason: format!("no answer within {}", written(timeout)),
                    },
                };
                (latency, input)
            }
            Err(error) => {
                tracing::error!(target = %slot.watched.target, "a probe broke: {error}");
                let reason = "the probe itself broke, see the log".to_owned();
                (Duration::ZERO, Input::Failed { reason })
            }
        };
        let done = FinishedProbe {
            began: flight.began,
            latency,
            input,
        };
        self.judge(id, done, again);
    }

    /// Tells the checker, and asks again when it says, or else `again`.
    fn judge(&mut self, id: CheckerId, done: FinishedProbe, again: Option<Again>) {
        let moment = (self.around.clock)();
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let output = slot.checker.finish(done, &moment);
        let again = again.unwrap_or(match slot.checker.is_changing() {
            true => Again::Fast,
            false => Again::Regular,
        });
        self.tell_obstacle(id);
        match output {
            CheckerOutput::Nothing => {}
            CheckerOutput::RequestChanged | CheckerOutput::StateChanged => self.tell(id),
        }
        self.schedule.finish(id, again, now());
    }

    /// Tells whether the check cannot be made, or can again.
    fn tell_obstacle(&mut self, id: CheckerId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let sentence = slot.checker.obstacle().map(|reason| {
            let check = called(&slot.watched);
            format!("{check} cannot be made and counts for nothing: {reason}")
        });
        if let Some(sentence) = &sentence
            && slot.lacking.allows(1)
            && self.lacking.allows(NAMED)
        {
            tracing::warn!("{sentence}");
        }
        if sentence.is_some() || slot.is_obstructed {
            slot.is_obstructed = sentence.is_some();
            self.around.mailbox.obstruct(id, sentence);
        }
    }

    /// Tells the daemon, then the memory.
    fn tell(&self, id: CheckerId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        self.around.mailbox.put(
            id,
            CheckUpdate {
                watched: CheckTarget::clone(&slot.watched),
                standing: slot.checker.standing(),
            },
        );
        self.remember(id);
    }

    fn remember(&self, id: CheckerId) {
        if let (Some(memory), Some(slot)) = (&self.around.memory, self.slots.get(&id)) {
            memory.put(id, slot.watched.clone(), slot.checker.clone());
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Watch(wanted) => self.watch(wanted),
            Command::Keep(services) => {
                if let Some(memory) = &self.around.memory {
                    memory.keep(services);
                }
            }
            Command::Report(reply) => self.report(reply),
        }
    }

    fn watch(&mut self, wanted: Vec<(CheckStart, Vec<HistoryEntry>)>) {
        let kept: HashSet<&CheckTarget> = wanted.iter().map(|(begin, _)| &begin.watched).collect();
        let gone: Vec<CheckerId> = self
            .ids
            .iter()
            .filter(|(watched, _)| !kept.contains(&***watched))
            .map(|(_, id)| *id)
            .collect();
        for id in gone {
            self.drop(id);
        }
        for (begin, past) in wanted {
            let Some(id) = self.ids.get(&begin.watched) else {
                self.begin(begin, past);
                continue;
            };
            let tls = begin.watched.check.probe.tls();
            if tls.is_some_and(|tls| tls.ca.is_some() || tls.certificate.is_some())
                && let Some(slot) = self.slots.get_mut(id)
            {
                // Read again at the next probe, so that many of them do not hold the others up.
                slot.is_stale = true;
            }
        }
        let timings = || self.slots.values().map(|slot| &slot.watched.check.timing);
        let timeout = timings().map(|timing| timing.timeout).min();
        self.rest = timeout.map_or(stall::LONGEST_REST, stall::rest_for);
        let interval = timings()
            .map(|timing| timing.fast_interval.unwrap_or(timing.interval))
            .min();
        self.together = interval.map_or(COALESCE_WINDOW, |interval| {
            COALESCE_WINDOW.min(interval / PATIENCE)
        });
    }

    fn begin(&mut self, begin: CheckStart, past: Vec<HistoryEntry>) {
        let CheckStart { watched, from } = begin;
        let id = CheckerId(self.next_id);
        self.next_id += 1;
        let timing = &watched.check.timing;
        let pace = Pace {
            interval: timing.interval,
            fast: timing.fast_interval,
        };
        let checker = Checker::begin(&watched.check, from.clone(), past, &(self.around.clock)());
        let standing = checker.standing();
        let watched = Arc::new(watched);
        self.ids.insert(watched.clone(), id);
        self.slots.insert(
            id,
            Slot {
                watched,
                checker,
                prober: None,
                is_stale: false,
                flight: None,
                spoiled: 0,
                lacking: LogRateLimit::default(),
                is_obstructed: false,
            },
        );
        self.schedule.add(id, pace, now());
        if from.as_ref() == Some(&standing) {
            // The daemon said so itself; the file is to say so too.
            self.remember(id);
        } else if standing.decided {
            self.tell(id);
        }
    }

    fn drop(&mut self, id: CheckerId) {
        let Some(slot) = self.slots.remove(&id) else {
            return;
        };
        self.ids.remove(&slot.watched);
        self.schedule.remove(id, now());
        self.around.mailbox.remove(id);
        if let Some(memory) = &self.around.memory {
            memory.remove(id);
        }
        if let Some(flight) = slot.flight {
            flight.task.abort();
        }
    }

    /// Copies what there is, and lets another thread put it into words: that takes longer than a probe should wait.
    fn report(&self, reply: oneshot::Sender<Vec<view::Checker>>) {
        let mut copies: Vec<(Arc<CheckTarget>, Checker)> = self
            .slots
            .values()
            .map(|slot| (slot.watched.clone(), slot.checker.clone()))
            .collect();
        tokio::task::spawn_blocking(move || {
            copies.sort_by(|(one, _), (other, _)| one.cmp(other));
            let views = copies
                .iter()
                .map(|(watched, checker)| checker.view(watched))
                .collect();
            // Whoever asked may have gone.
            let _ = reply.send(views);
        });
    }
}

/// A check as operators know it.
fn called(watched: &CheckTarget) -> String {
    format!("check {} of {}", watched.check.probe.name(), watched.target)
}

fn tell_stall(lost: Option<Duration>) {
    if let Some(lost) = lost {
        tracing::warn!(
            "checks were stalled for {}: what failed meanwhile is not counted, and asked again",
            duration::rounded(lost)
        );
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// A duration as in the configuration file: `2s`, `1m30s`; thousandths of seconds are enough.
fn written(duration: Duration) -> String {
    let duration = Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    humantime::format_duration(duration)
        .to_string()
        .replace(' ', "")
}

#[cfg(test)]
mod tests;
