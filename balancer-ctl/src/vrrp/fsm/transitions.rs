//! What a group does in each state, and how it goes from one to another.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    Afterwards, BURST, Cause, INSTABILITY, LEAVING, MAX_FAILURES, Machine, Output, STABLE, State,
    member::skew,
};
use crate::{
    model::{limits::OWNER, vrrp::Failback},
    vrrp::packet::Interval,
};

impl Machine {
    /// Leaves [`State::Initialize`], if nothing keeps it there (RFC 9568, section 6.4.1).
    pub(super) fn begin(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        let kept = match (&self.fault, self.in_maintenance, self.is_stopped) {
            (_, _, true) => Some(Cause::Stopped),
            (_, true, _) => Some(Cause::Maintenance),
            (Some(fault), ..) => Some(Cause::Fault(fault.clone())),
            (None, ..) => None,
        };
        match kept {
            Some(cause) if cause == self.cause => {}
            Some(cause) => self.enter(State::Initialize, cause, now, outputs),
            None => {
                self.able_since = now;
                self.yielded = false;
                let listens = |until: Instant| now < until;
                let mut members = self.members.iter();
                if self.priority == OWNER {
                    self.become_active(Cause::Owner, now, outputs);
                } else if members.any(|member| member.listens_until.is_some_and(listens)) {
                    self.become_backup(Cause::Listening, now, outputs);
                } else {
                    self.become_backup(Cause::Started, now, outputs);
                }
            }
        }
    }

    pub(super) fn become_active(&mut self, cause: Cause, now: Instant, outputs: &mut Vec<Output>) {
        self.yielded = false;
        self.succeeds_until = None;
        for member in &mut self.members {
            member.rival = None;
        }
        // What peers wait for first: an advertisement keeps those that are about to take over from doing so.
        self.advertise_all(now, outputs);
        outputs.push(Output::Acquire);
        outputs.push(Output::Announce);
        self.announced = 1;
        self.announce_at = BURST.get(1).map(|after| now + *after);
        self.enter(State::Active, cause, now, outputs);
    }

    /// Becomes Backup, and waits as long as that takes for each member.
    pub(super) fn become_backup(&mut self, cause: Cause, now: Instant, outputs: &mut Vec<Output>) {
        let priority = self.priority;
        for member in &mut self.members {
            member.active_interval = member.settings.interval;
            member.active = None;
            member.wait_from(now, priority);
        }
        self.enter(State::Backup, cause, now, outputs);
    }

    pub(super) fn enter(
        &mut self,
        state: State,
        cause: Cause,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        self.leaves = None;
        if !matches!(state, State::Active | State::Leaving) {
            self.announce_at = None;
        }
        if self.state != state {
            self.since = now;
        }
        self.state = state;
        self.cause = cause.clone();
        outputs.push(Output::Entered(state, cause));
    }

    pub(super) fn fail(&mut self, now: Instant) {
        self.failures.push_back(now);
        while self.failures.len() > MAX_FAILURES {
            self.failures.pop_front();
        }
    }

    /// Gives the addresses up at once.
    pub(super) fn release(&mut self, cause: Cause, now: Instant, outputs: &mut Vec<Output>) {
        outputs.push(Output::Release);
        self.say_farewell(outputs);
        self.enter(State::Initialize, cause, now, outputs);
    }

    fn say_farewell(&self, outputs: &mut Vec<Output>) {
        let members = 0..self.members.len();
        outputs.extend(members.map(|member| Output::Advertise {
            member,
            priority: LEAVING,
        }));
    }

    /// Backup: looks who is silent.
    pub(super) fn wait(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let mut probes = false;
        for member in &mut self.members {
            probes |= member.is_overdue(now);
            if is_due(member.down_at) {
                member.down_at = None;
                member.active = None;
            }
        }
        if probes {
            outputs.push(Output::Probe);
        }
        if self.members.iter().all(|member| member.down_at.is_none()) {
            self.become_active(Cause::Silence, now, outputs);
        }
    }

    /// RFC 9568, section 6.4.2.
    pub(super) fn hear_as_backup(
        &mut self,
        number: usize,
        (source, priority): (IpAddr, u8),
        interval: Interval,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        let (own, relieve_after) = (self.priority, self.relieve_after);
        let lost = self.configured_priority.saturating_sub(own);
        let takes_over = self.takes_over(now);
        let succeeds = self.succeeds_until.is_some_and(|until| now < until);
        // It is heard in time, and counts as ever.
        self.yields_until = None;
        let member = &mut self.members[number];
        member.link_forwards(now, own);
        if priority == LEAVING {
            let wait = match succeeds {
                true => Duration::ZERO,
                false => skew(member.active_interval, own),
            };
            member.down_at = Some(now + wait);
            member.probe_at = None;
            if succeeds {
                self.wait(now, outputs);
            }
            return;
        }
        let relieves = member.notice((source, priority), (own, lost), now, relieve_after);
        if priority < own && relieves {
            member.probe_at = None;
            let soon = now + skew(member.active_interval, own);
            member.down_at = member.down_at.map(|at| at.min(soon));
            return;
        }
        if priority < own && takes_over {
            member.probe_at = None;
            return;
        }
        let is_new = member.active_interval != interval;
        member.active_interval = interval;
        member.wait_from(now, own);
        if is_new && interval != member.settings.interval {
            outputs.push(Output::Adopted {
                member: number,
                interval,
            });
        }
    }

    /// Whether a node of lower priority does not stay Active.
    fn takes_over(&self, now: Instant) -> bool {
        let able_for = now.saturating_duration_since(self.able_since);
        !self.yielded
            && match self.failback {
                Failback::Never => false,
                Failback::Immediate => true,
                Failback::After(delay) => able_for >= delay,
                Failback::WhenStable => able_for >= self.stability(now),
            }
    }

    /// Whether the addresses of this member's nodes decide between equal priorities, now that it hears another Active node: they decide for
    /// the whole group, and in another family the other node may have the greater one. So the first member decides of those that hear the
    /// other node; whether members before this one do is known when they have been silent for as long as counts.
    fn decides(&mut self, number: usize, now: Instant) -> bool {
        let (before, rest) = self.members.split_at_mut(number);
        let Some(member) = rest.first_mut() else {
            return false;
        };
        member.hear_rival(now);
        let since = member.rival.map_or(now, |rival| rival.since);
        before
            .iter()
            .all(|member| !member.hears_rival(now) && member.would_hear(since, now))
    }

    /// Whether this node, which is Active, yields to one of lower priority: it became Active because it heard nobody through a link that
    /// had just come up, the other one was Active before, and failback would not have let this node take over. Once: where the other one
    /// has stepped back already, this node takes over again.
    fn yields(&mut self, now: Instant) -> bool {
        let is_recent = self.yields_until.take().is_some_and(|until| now < until);
        is_recent && self.priority != OWNER && !self.takes_over(now)
    }

    /// How long this node has to be able to be Active before it counts as stable.
    fn stability(&self, now: Instant) -> Duration {
        let is_recent = |at: &&Instant| now.saturating_duration_since(**at) < INSTABILITY;
        let recent = self.failures.iter().filter(is_recent);
        recent.fold(STABLE, |wait, _| 2 * wait)
    }

    /// RFC 9568, section 6.4.3.
    pub(super) fn hear_as_active(
        &mut self,
        number: usize,
        (source, priority): (IpAddr, u8),
        interval: Interval,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        let own = self.priority;
        let is_equal = priority == own;
        let is_greater =
            is_equal && self.decides(number, now) && source > self.members[number].settings.source;
        if priority > own || is_greater {
            outputs.push(Output::Release);
            self.become_backup(Cause::Other { source, priority }, now, outputs);
            self.hear_as_backup(number, (source, priority), interval, now, outputs);
            return;
        }
        if priority != LEAVING && self.yields(now) {
            // In case it is about to yield, too: this makes it advertise, or take over again.
            outputs.push(Output::Release);
            self.say_farewell(outputs);
            self.become_backup(Cause::Other { source, priority }, now, outputs);
            self.hear_as_backup(number, (source, priority), interval, now, outputs);
            return;
        }
        let member = &mut self.members[number];
        // At once, but not to each of a flood.
        let pause = member.settings.interval.duration() / 2;
        let is_recent = |at: Instant| now.saturating_duration_since(at) < pause;
        if member.answered_at.is_some_and(is_recent) {
            return;
        }
        member.answered_at = Some(now);
        member.advertise_at = now + member.settings.interval.duration();
        outputs.push(Output::Advertise {
            member: number,
            priority: own,
        });
        if priority != LEAVING {
            // Neighbours may have learnt the other node's address.
            outputs.push(Output::Announce);
        }
    }

    pub(super) fn hear_as_leaving(
        &mut self,
        number: usize,
        (source, priority): (IpAddr, u8),
        interval: Interval,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        if priority == LEAVING {
            return;
        }
        let afterwards = self.leaves.map(|(_, afterwards)| afterwards);
        outputs.push(Output::Release);
        match afterwards {
            Some(Afterwards::Stop) => self.enter(State::Initialize, Cause::Stopped, now, outputs),
            Some(Afterwards::Maintenance) => {
                self.enter(State::Initialize, Cause::Maintenance, now, outputs);
            }
            Some(Afterwards::Return) | None => {
                self.yielded = true;
                self.become_backup(Cause::Relieved(source), now, outputs);
                self.hear_as_backup(number, (source, priority), interval, now, outputs);
            }
        }
    }

    pub(super) fn leave(
        &mut self,
        afterwards: Afterwards,
        now: Instant,
        outputs: &mut Vec<Output>,
    ) {
        self.enter(State::Leaving, Cause::Leaving, now, outputs);
        let intervals = self.members.iter().map(|member| member.settings.interval);
        let longest = intervals.map(Interval::duration).max().unwrap_or_default();
        // Others take over within a skew time, which is shorter than an interval; the first of these may get lost.
        let wait = match afterwards {
            Afterwards::Stop => longest + longest / 16,
            Afterwards::Return | Afterwards::Maintenance => 3 * longest,
        };
        self.leaves = Some((now + wait, afterwards));
        self.advertise_all(now, outputs);
    }

    pub(super) fn leave_by(&mut self, afterwards: Afterwards) {
        if let Some((_, present)) = &mut self.leaves {
            *present = afterwards;
        }
    }

    pub(super) fn go_on_leaving(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        let Some((until, afterwards)) = self.leaves else {
            return;
        };
        if now < until {
            self.advertise_and_announce(now, outputs);
            return;
        }
        match afterwards {
            Afterwards::Return => {
                self.enter(State::Active, Cause::Alone, now, outputs);
                self.advertise_all(now, outputs);
                outputs.push(Output::Announce);
                outputs.push(Output::NobodyTookOver);
            }
            Afterwards::Maintenance => {
                outputs.push(Output::NobodyTookOver);
                outputs.push(Output::Release);
                self.enter(State::Initialize, Cause::Maintenance, now, outputs);
            }
            Afterwards::Stop => {
                outputs.push(Output::Release);
                self.enter(State::Initialize, Cause::Stopped, now, outputs);
            }
        }
    }

    /// Sends the advertisements and makes the announcement that are due.
    pub(super) fn advertise_and_announce(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        let priority = self.stated_priority();
        for (number, member) in self.members.iter_mut().enumerate() {
            if member.advertise_at > now {
                continue;
            }
            outputs.push(Output::Advertise {
                member: number,
                priority,
            });
            let interval = member.settings.interval.duration();
            let next = member.advertise_at + interval;
            member.advertise_at = if next > now { next } else { now + interval };
        }
        if self.announce_at.is_some_and(|at| at <= now) {
            outputs.push(Output::Announce);
            let next = BURST
                .get(self.announced + 1)
                .map(|after| *after - BURST[self.announced]);
            self.announced += 1;
            let again = Some(self.announce_interval).filter(|interval| !interval.is_zero());
            self.announce_at = next.or(again).map(|after| now + after);
        }
    }

    /// The priority that it states as Active: 0 while it leaves.
    pub fn stated_priority(&self) -> u8 {
        match self.leaves {
            Some(_) => LEAVING,
            None => self.priority,
        }
    }

    pub(super) fn advertise_all(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        let priority = self.stated_priority();
        for (number, member) in self.members.iter_mut().enumerate() {
            member.advertise_at = now + member.settings.interval.duration();
            outputs.push(Output::Advertise {
                member: number,
                priority,
            });
        }
    }

    /// An Active node that did not run for as long as the fastest Backup node waits may have been replaced: it becomes Backup, and
    /// takes over again unless it hears another Active node within an interval. Who owns the addresses sets them again, since its guard
    /// has removed them.
    pub(super) fn step_back_after_a_stall(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        if !matches!(self.state, State::Active | State::Leaving) {
            return;
        }
        let late = self.members.iter().filter_map(|member| {
            let interval = member.settings.interval.duration();
            let last = member.advertise_at.checked_sub(interval)?;
            let silent = now.saturating_duration_since(last);
            (silent >= 3 * interval).then_some(silent)
        });
        let Some(silent) = late.max() else {
            return;
        };
        if self.priority == OWNER {
            self.advertise_all(now, outputs);
            outputs.push(Output::Acquire);
            outputs.push(Output::Announce);
            return;
        }
        self.fail(now);
        self.able_since = now;
        outputs.push(Output::Release);
        if self.is_stopped {
            self.enter(State::Initialize, Cause::Stopped, now, outputs);
            return;
        }
        if self.in_maintenance {
            self.enter(State::Initialize, Cause::Maintenance, now, outputs);
            return;
        }
        self.become_backup(Cause::Stalled(silent), now, outputs);
        let priority = self.priority;
        for member in &mut self.members {
            let interval = member.settings.interval;
            member.down_at = Some(now + interval.duration() + skew(interval, priority));
            member.probe_at = None;
        }
    }
}
