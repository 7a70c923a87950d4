//! Drives the checkers: starts probes when they are due, gives their results to the checkers, reports changes to the
//! daemon. One loop on one thread, and a task for each running probe.
//!
//! ```text
//!   Command (watch, report) ──▶ ┌────────┐ ──spawn──▶ probe task (at most `max_probes`, each with its timeout)
//!   schedule: who is due ─────▶ │ driver │ ◀──end─────────┘
//!   stall: did we run at all? ─▶└────────┘ ──▶ mailbox (latest per checker) ──▶ daemon
//!                                    └───────▶ store   (latest per checker) ──▶ state file
//! ```
//!
//! The loop blocks on nothing but the arrival of one of these. Commands are few and small, and are handled before results.

mod targets;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, Id as TaskId, JoinError, JoinSet},
    time::Instant,
};

use self::targets::Slot;
use super::{
    AgentReply, CheckStart, CheckTarget, CheckUpdate, Outcome, Timestamp,
    checker::{Checker, CheckerOutput, FinishedProbe, HistoryEntry},
    mailbox::Mailbox,
    schedule::{CheckerId, NextProbe, Schedule},
    stall::{self, Stall},
    store,
};
use crate::{
    model::{duration, view},
    os::log_rate_limit::LogRateLimit,
};

/// Probes that are due within this time of each other start together, so that this thread and the targets wake up once.
const COALESCE_WINDOW: Duration = Duration::from_millis(40);
/// No probe is delayed to start with others by more than this fraction (1/20) of the shortest interval.
const COALESCE_DIVISOR: u32 = 20;
/// Checks that cannot be made and are named in the log per [`LogRateLimit`] interval; `status` and `health` list all.
const MAX_NAMED_CHECKS: u32 = 20;

/// A probe of one target.
pub trait Probing: Send + Sync + 'static {
    /// Makes one attempt and returns its result. Cancel safe: the driver drops the future at the check's timeout.
    fn probe(&self) -> impl Future<Output = Outcome> + Send;

    /// Why this host may not have sent a probe that was not done within its timeout.
    fn obstacle(&self) -> Option<String> {
        None
    }
}

/// A request of the daemon to the driver.
#[derive(Debug)]
pub(super) enum Command {
    /// Run exactly these checkers; each comes with its stored history, oldest first.
    Watch(Vec<(CheckStart, Vec<HistoryEntry>)>),
    /// Write these services, and no others, to the state file.
    Persist(Vec<store::ServiceLine>),
    /// Send a view of every checker.
    Report(oneshot::Sender<Vec<view::Checker>>),
}

/// What the driver is given at its start.
pub(super) struct DriverContext<M> {
    /// Makes the probe of a target; gets what the target last requested. Its error is a sentence that says why it cannot.
    pub make_probe: M,
    /// Reads the time.
    pub clock: Box<dyn Fn() -> Timestamp + Send>,
    /// Where updates go.
    pub mailbox: Arc<Mailbox>,
    /// Writes states to the state file; `None` = there is no file.
    pub store: Option<store::Writer>,
    /// Most probes that run at once.
    pub max_probes: usize,
}

/// The loop's state.
pub(super) struct Driver<P, M> {
    context: DriverContext<M>,
    schedule: Schedule,
    stall: Stall,
    slots: HashMap<CheckerId, Slot<P>>,
    ids: HashMap<Arc<CheckTarget>, CheckerId>,
    next_id: u64,
    probes: JoinSet<ProbeEnd>,
    probe_owners: HashMap<TaskId, CheckerId>,
    /// The longest sleep while probes run.
    max_rest: Duration,
    /// Least time between two moments at which probes start.
    coalesce_window: Duration,
    /// No probe starts before this.
    next_start_at: std::time::Instant,
    /// Limits the warning that [`DriverContext::max_probes`] run already.
    full_log: LogRateLimit,
    /// Limits warnings of checks that cannot be made, over all checkers.
    obstacle_log: LogRateLimit,
}

/// A running probe.
struct RunningProbe {
    began: Timestamp,
    /// [`Stall::lost`] at its start.
    lost_before: Duration,
    task: AbortHandle,
}

/// The end of a probe task.
struct ProbeEnd {
    latency: Duration,
    /// `None` = it was not done within its timeout.
    outcome: Option<Outcome>,
}

impl<P, M> Driver<P, M>
where
    P: Probing,
    M: FnMut(&CheckTarget, &AgentReply) -> Result<P, String>,
{
    /// A driver without checkers.
    pub(super) fn new(context: DriverContext<M>) -> Self {
        Self {
            context,
            schedule: Schedule::new(now()),
            stall: Stall::default(),
            slots: HashMap::new(),
            ids: HashMap::new(),
            next_id: 0,
            probes: JoinSet::new(),
            probe_owners: HashMap::new(),
            max_rest: stall::MAX_REST,
            coalesce_window: COALESCE_WINDOW,
            next_start_at: now(),
            full_log: LogRateLimit::default(),
            obstacle_log: LogRateLimit::default(),
        }
    }

    /// Runs until the sender of commands is dropped.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let until = self.start_due_probes();
            let (command, ended) = tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => (Some(command), None),
                    None => break,
                },
                Some(ended) = self.probes.join_next_with_id() => (None, Some(ended)),
                () = tokio::time::sleep_until(until.into()) => (None, None),
            };
            // Before results are recorded: lost time may invalidate them.
            let lost = self.stall.wake(now(), (self.context.clock)().since_boot);
            log_stall(lost);
            if let Some(command) = command {
                self.handle_command(command);
            }
            if let Some(ended) = ended {
                self.handle_probe_end(ended);
            }
            while let Some(ended) = self.probes.try_join_next_with_id() {
                self.handle_probe_end(ended);
            }
        }
    }

    /// Starts the probes that are due. Returns when to call it again at the latest.
    fn start_due_probes(&mut self) -> std::time::Instant {
        let now = now();
        let room = self.context.max_probes.saturating_sub(self.probes.len());
        if now >= self.next_start_at {
            let due = self.schedule.start(now, room);
            if !due.is_empty() {
                self.next_start_at = now + self.coalesce_window;
            }
            for id in due {
                self.start(id);
            }
        }
        let full = self.probes.len() >= self.context.max_probes;
        let due = self
            .schedule
            .next_deadline()
            .map(|due| due.max(self.next_start_at));
        if full && due.is_some_and(|due| due <= now) && self.full_log.allows(1, now) {
            tracing::warn!(
                "{} checks run at once, which is the limit, and others wait: raise LimitNOFILE= or the checks' intervals",
                self.context.max_probes
            );
        }
        let rest = now
            + if self.probes.is_empty() {
                stall::MAX_IDLE_REST
            } else {
                self.max_rest
            };
        let until = due.filter(|_| !full).map_or(rest, |due| due.min(rest));
        let lost = self
            .stall
            .rest(self::now(), (self.context.clock)().since_boot, until);
        log_stall(lost);
        until
    }

    fn start(&mut self, id: CheckerId) {
        let began = (self.context.clock)();
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let old = slot.prober.take();
        let prober = match old {
            Some(prober) if !slot.is_stale => prober,
            old => match (
                (self.context.make_probe)(&slot.target, slot.checker.agent_reply()),
                old,
            ) {
                (Ok(prober), _) => {
                    slot.is_stale = false;
                    Arc::new(prober)
                }
                (Err(reason), Some(old)) => {
                    if slot.obstacle_log.allows(1, now())
                        && self.obstacle_log.allows(MAX_NAMED_CHECKS, now())
                    {
                        tracing::warn!(
                            "{} continues with the certificates that it read before: {reason}",
                            slot.check_name()
                        );
                    }
                    old
                }
                // A certificate file that cannot be read says nothing about the target.
                (Err(reason), None) => {
                    let done = FinishedProbe {
                        began,
                        latency: Duration::ZERO,
                        outcome: Outcome::Inconclusive {
                            obstacle: Some(reason),
                        },
                    };
                    return self.record(id, done, None);
                }
            },
        };
        let timeout = slot.target.check.timing.timeout;
        let probe = prober.clone();
        slot.prober = Some(prober);
        let task = self.probes.spawn(async move {
            let began = Instant::now();
            let outcome = tokio::time::timeout(timeout, probe.probe()).await.ok();
            ProbeEnd {
                latency: began.elapsed(),
                outcome,
            }
        });
        self.probe_owners.insert(task.id(), id);
        slot.running = Some(RunningProbe {
            began,
            lost_before: self.stall.lost(),
            task,
        });
    }

    /// Turns the end of a probe task into a result, and records it.
    fn handle_probe_end(&mut self, ended: Result<(TaskId, ProbeEnd), JoinError>) {
        let task = match &ended {
            Ok((task, _)) => *task,
            Err(error) => error.id(),
        };
        // The task of a checker that was stopped has no owner.
        let Some(id) = self.probe_owners.remove(&task) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let Some(running) = slot.running.take() else {
            return;
        };
        let timeout = slot.target.check.timing.timeout;
        let stalled = stall::invalidates(
            self.stall.lost().saturating_sub(running.lost_before),
            timeout,
        );
        if !stalled {
            slot.disregarded = 0;
        }
        let mut again = None;
        let (latency, outcome) = match ended {
            Ok((_, ProbeEnd { latency, outcome })) => {
                let outcome = match outcome {
                    Some(passed @ Outcome::Passed { .. }) => {
                        slot.disregarded = 0;
                        passed
                    }
                    Some(inconclusive @ Outcome::Inconclusive { .. }) => inconclusive,
                    _ if stalled && slot.disregarded < stall::MAX_DISREGARDED => {
                        slot.disregarded += 1;
                        again = Some(NextProbe::Soon);
                        Outcome::Inconclusive { obstacle: None }
                    }
                    Some(failed @ Outcome::Failed { .. }) => failed,
                    None => match slot.prober.as_ref().and_then(|prober| prober.obstacle()) {
                        Some(reason) => Outcome::Inconclusive {
                            obstacle: Some(reason),
                        },
                        None => Outcome::Failed {
                            reason: format!("no answer within {}", duration::exact(timeout)),
                        },
                    },
                };
                (latency, outcome)
            }
            Err(error) => {
                tracing::error!(target = %slot.target.target, "a probe panicked: {error}");
                let reason = "the probe panicked, see the log".to_owned();
                (Duration::ZERO, Outcome::Failed { reason })
            }
        };
        let done = FinishedProbe {
            began: running.began,
            latency,
            outcome,
        };
        self.record(id, done, again);
    }

    /// Gives a result to the checker, publishes what it changed, and schedules the next probe: as `again` says, or else as
    /// the checker's state requires.
    fn record(&mut self, id: CheckerId, done: FinishedProbe, again: Option<NextProbe>) {
        let finished = (self.context.clock)();
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let output = slot.checker.record(done, &finished);
        let again = again.unwrap_or(match slot.checker.is_changing() {
            true => NextProbe::Fast,
            false => NextProbe::Regular,
        });
        self.report_obstacle(id);
        match output {
            CheckerOutput::Nothing => {}
            CheckerOutput::RequestChanged | CheckerOutput::StateChanged => self.publish(id),
        }
        self.schedule.finish(id, again, now());
    }

    /// Logs and reports that a check cannot be made, or reports that it can again.
    fn report_obstacle(&mut self, id: CheckerId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let sentence = slot.checker.obstacle().map(|reason| {
            let check = slot.check_name();
            format!("{check} cannot be made and counts for nothing: {reason}")
        });
        if let Some(sentence) = &sentence
            && slot.obstacle_log.allows(1, now())
            && self.obstacle_log.allows(MAX_NAMED_CHECKS, now())
        {
            tracing::warn!("{sentence}");
        }
        if sentence.is_some() || slot.has_obstacle {
            slot.has_obstacle = sentence.is_some();
            self.context.mailbox.set_obstacle(id, sentence);
        }
    }

    /// Reports a checker's state to the daemon and stores it.
    fn publish(&self, id: CheckerId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        self.context.mailbox.put(
            id,
            CheckUpdate {
                target: CheckTarget::clone(&slot.target),
                check_state: slot.checker.check_state(),
            },
        );
        self.store_check(id);
    }

    fn store_check(&self, id: CheckerId) {
        if let (Some(store), Some(slot)) = (&self.context.store, self.slots.get(&id)) {
            store.put(id, slot.target.clone(), slot.checker.clone());
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Watch(wanted) => self.set_targets(wanted),
            Command::Persist(services) => {
                if let Some(store) = &self.context.store {
                    store.set_services(services);
                }
            }
            Command::Report(reply) => self.report(reply),
        }
    }

    /// Copies the checkers and formats them on another thread, which takes longer than a probe should be delayed.
    fn report(&self, reply: oneshot::Sender<Vec<view::Checker>>) {
        let mut copies: Vec<(Arc<CheckTarget>, Checker)> = self
            .slots
            .values()
            .map(|slot| (slot.target.clone(), slot.checker.clone()))
            .collect();
        tokio::task::spawn_blocking(move || {
            copies.sort_by(|(one, _), (other, _)| one.cmp(other));
            let views = copies
                .iter()
                .map(|(check_target, checker)| checker.view(check_target))
                .collect();
            // The receiver may have been dropped.
            let _ = reply.send(views);
        });
    }
}

fn log_stall(lost: Option<Duration>) {
    if let Some(lost) = lost {
        tracing::warn!(
            "checks were stalled for {}: probes that failed meanwhile do not count and are repeated",
            duration::rounded(lost)
        );
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
