//! Which checkers run: those that the daemon wants, each with its state while it is wanted.

use std::{collections::HashSet, sync::Arc};

use super::{COALESCE_DIVISOR, COALESCE_WINDOW, Driver, Probing, RunningProbe, now};
use crate::{
    health::{
        AgentReply, CheckStart, CheckTarget,
        checker::{Checker, HistoryEntry},
        schedule::{CheckerId, Pace},
        stall,
    },
    os::log_rate_limit::LogRateLimit,
};

/// A checker with its probe.
pub(super) struct Slot<P> {
    pub target: Arc<CheckTarget>,
    pub checker: Checker,
    /// Made when the first probe is due.
    pub prober: Option<Arc<P>>,
    /// The certificate files that the prober has read may have changed.
    pub is_stale: bool,
    pub running: Option<RunningProbe>,
    /// Failures in a row that were disregarded because this process was stalled.
    pub disregarded: u32,
    /// Limits warnings that this check cannot be made.
    pub obstacle_log: LogRateLimit,
    pub has_obstacle: bool,
    /// What sentences call it where that is not its address.
    pub name: Option<String>,
    /// It is not scheduled.
    pub is_paused: bool,
}

impl<P> Slot<P> {
    /// The check as the log and `status` name it: "check http of 192.0.2.1:80", "check exec of virtual router outside".
    pub(super) fn check_name(&self) -> String {
        let CheckTarget { target, check } = &*self.target;
        let probe = check.probe.name();
        match &self.name {
            Some(name) => format!("check {probe} of {name}"),
            None => format!("check {probe} of {target}"),
        }
    }
}

impl<P, M> Driver<P, M>
where
    P: Probing,
    M: FnMut(&CheckTarget, &AgentReply) -> Result<P, String>,
{
    /// Stops the checkers of other targets, and starts those that do not run yet.
    pub(super) fn set_targets(&mut self, wanted: Vec<(CheckStart, Vec<HistoryEntry>)>) {
        let kept: HashSet<&CheckTarget> = wanted.iter().map(|(start, _)| &*start.target).collect();
        let gone: Vec<CheckerId> = self
            .ids
            .iter()
            .filter(|(check_target, _)| !kept.contains(&***check_target))
            .map(|(_, id)| *id)
            .collect();
        for id in gone {
            self.stop_checker(id);
        }
        for (start, history) in wanted {
            let Some(id) = self.ids.get(&*start.target).copied() else {
                self.start_checker(start, history);
                continue;
            };
            self.pause(id, start.paused);
            let tls = start.target.check.probe.tls();
            if tls.is_some_and(|tls| tls.ca.is_some() || tls.certificate.is_some())
                && let Some(slot) = self.slots.get_mut(&id)
            {
                // Its files are read again at its next probe, so that many of them do not delay other probes now.
                slot.is_stale = true;
            }
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.name = start.name;
            }
        }
        let timings = || self.slots.values().map(|slot| &slot.target.check.timing);
        let timeout = timings().map(|timing| timing.timeout).min();
        self.max_rest = timeout.map_or(stall::MAX_REST, stall::max_rest_for);
        let interval = timings()
            .map(|timing| timing.fast_interval.unwrap_or(timing.interval))
            .min();
        self.coalesce_window = interval.map_or(COALESCE_WINDOW, |interval| {
            COALESCE_WINDOW.min(interval / COALESCE_DIVISOR)
        });
    }

    fn start_checker(&mut self, start: CheckStart, history: Vec<HistoryEntry>) {
        let CheckStart {
            target: check_target,
            from,
            name,
            paused,
        } = start;
        let id = CheckerId(self.next_id);
        self.next_id += 1;
        let pace = pace(&check_target);
        let checker = Checker::new(
            &check_target.check,
            from.clone(),
            history,
            &(self.context.clock)(),
        );
        let check_state = checker.check_state();
        self.ids.insert(check_target.clone(), id);
        self.slots.insert(
            id,
            Slot {
                target: check_target,
                checker,
                prober: None,
                is_stale: false,
                running: None,
                disregarded: 0,
                obstacle_log: LogRateLimit::default(),
                has_obstacle: false,
                name,
                is_paused: paused,
            },
        );
        if !paused {
            self.schedule.add(id, pace, now());
        }
        if from.as_ref() == Some(&check_state) {
            // The daemon knows it; the state file does not.
            self.store_check(id);
        } else if check_state.decided {
            self.publish(id);
        }
    }

    /// Has a checker keep its state without probing, or probe again, at once.
    fn pause(&mut self, id: CheckerId, paused: bool) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        match (std::mem::replace(&mut slot.is_paused, paused), paused) {
            (false, true) => {
                if let Some(running) = slot.running.take() {
                    running.task.abort();
                    self.probe_owners.remove(&running.task.id());
                }
                // What kept it from probing may be over when it probes again.
                if std::mem::take(&mut slot.has_obstacle) {
                    self.context.mailbox.set_obstacle(id, None);
                }
                self.schedule.remove(id, now());
            }
            (true, false) => self.schedule.add(id, pace(&slot.target), now()),
            (true, true) | (false, false) => {}
        }
    }

    fn stop_checker(&mut self, id: CheckerId) {
        let Some(slot) = self.slots.remove(&id) else {
            return;
        };
        self.ids.remove(&slot.target);
        self.schedule.remove(id, now());
        self.context.mailbox.remove(id);
        if let Some(store) = &self.context.store {
            store.remove(id);
        }
        if let Some(running) = slot.running {
            running.task.abort();
        }
    }
}

fn pace(target: &CheckTarget) -> Pace {
    let timing = &target.check.timing;
    Pace {
        interval: timing.interval,
        fast: timing.fast_interval,
    }
}
