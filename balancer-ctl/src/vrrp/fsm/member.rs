//! One virtual router of a group: its timers, and what it knows of the Active node.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::MemberSettings;
use crate::vrrp::packet::Interval;

/// While the switch's port may block, the least time from one question for the addresses to the next.
const LISTENING_PROBE: Duration = Duration::from_secs(1);

/// What a member knows.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) settings: MemberSettings,
    /// The Active node's interval, as far as known.
    pub(super) active_interval: Interval,
    /// Backup: when the Active node counts as silent; `None` = it does.
    pub(super) down_at: Option<Instant>,
    /// Backup: when the Active node is late by an interval, so that it is worth asking for it.
    pub(super) probe_at: Option<Instant>,
    /// Backup: the Active node was late, and was not heard since.
    pub(super) is_late: bool,
    /// Its interface has come up: until when the switch's port may block, so that silence says nothing.
    pub(super) listens_until: Option<Instant>,
    /// Active, leaving: when the next advertisement is due.
    pub(super) advertise_at: Instant,
    /// Active: when it last answered a lower priority.
    pub(super) answered_at: Option<Instant>,
    /// Active: another Active node of the same priority is heard.
    pub(super) rival: Option<Rival>,
    /// Backup: who is Active.
    pub(super) active: Option<ActiveNode>,
}

/// Another Active node of the same priority, as an Active node hears it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rival {
    /// Since when, without a silence.
    pub(super) since: Instant,
    /// When last.
    last: Instant,
}

/// The Active node as a Backup node sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ActiveNode {
    pub(super) source: IpAddr,
    pub(super) priority: u8,
    /// The highest priority that it has stated.
    pub(super) best: u8,
    /// Since when its priority is below `best` and below this node's.
    pub(super) lower_since: Option<Instant>,
}

impl Member {
    pub(super) const fn new(settings: MemberSettings, now: Instant) -> Self {
        Self {
            settings,
            active_interval: settings.interval,
            down_at: None,
            probe_at: None,
            is_late: false,
            listens_until: None,
            advertise_at: now,
            answered_at: None,
            rival: None,
            active: None,
        }
    }

    /// Sets the `Active_Down_Timer` (RFC 9568, section 6.2); it is longer while the switch's port may block.
    pub(super) fn wait_from(&mut self, now: Instant, priority: u8) {
        let interval = self.active_interval;
        self.down_at = Some(now + self.active_down(priority)).max(self.listens_until);
        self.probe_at = Some(now + 2 * interval.duration());
        self.is_late = false;
    }

    /// The `Active_Down_Interval` (RFC 9568, section 6.1).
    fn active_down(&self, priority: u8) -> Duration {
        let interval = self.active_interval;
        3 * interval.duration() + skew(interval, priority)
    }

    /// How long another Active node may be silent before it counts as not heard.
    fn silence(&self) -> Duration {
        3 * self.settings.interval.duration()
    }

    /// Notes that an Active node of the same priority was heard.
    pub(super) fn hear_rival(&mut self, now: Instant) {
        let since = match self.rival {
            Some(rival) if self.hears_rival(now) => rival.since,
            Some(_) | None => now,
        };
        self.rival = Some(Rival { since, last: now });
    }

    /// Whether an Active node of the same priority is heard.
    pub(super) fn hears_rival(&self, now: Instant) -> bool {
        let silent = |rival: Rival| now.saturating_duration_since(rival.last);
        self.rival
            .is_some_and(|rival| silent(rival) < self.silence())
    }

    /// Whether an Active node of the same priority that another member hears since `since` would have been heard here, too, if it could be.
    pub(super) fn would_hear(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= self.silence()
    }

    /// Its interface has come up.
    pub(super) fn link_up(&mut self, now: Instant) {
        self.listens_until = Some(now + self.settings.link_up_delay);
    }

    /// Something was received: from now on silence says that no node is Active.
    pub(super) fn link_forwards(&mut self, now: Instant, priority: u8) {
        if self.listens_until.take().is_some() {
            let soonest = now + self.active_down(priority);
            self.down_at = self.down_at.map(|at| at.min(soonest));
        }
    }

    /// Notes that an advertisement is late, if one is; returns whether to ask who has the addresses. While the switch's port may block, to
    /// ask often has each node hear that it does not any more.
    pub(super) fn is_overdue(&mut self, now: Instant) -> bool {
        if self.probe_at.is_none_or(|at| at > now) {
            return false;
        }
        let listens = self.listens_until.is_some_and(|until| now < until);
        self.is_late |= !listens;
        let again = now + self.active_interval.duration().max(LISTENING_PROBE);
        self.probe_at = listens.then_some(again);
        true
    }

    /// Notes what the Active node says; returns whether it is to be relieved by this node, whose priority is `own`, and `lost` less
    /// than configured: not if this node has lost as much.
    pub(super) fn notice(
        &mut self,
        (source, priority): (IpAddr, u8),
        (own, lost): (u8, u8),
        now: Instant,
        after: Duration,
    ) -> bool {
        let known = self.active.filter(|node| node.source == source);
        let best = known.map_or(priority, |node| node.best.max(priority));
        let lower_since = known.and_then(|node| node.lower_since);
        let is_lower = best - priority > lost && priority < own;
        let lower_since = is_lower.then(|| lower_since.unwrap_or(now));
        self.active = Some(ActiveNode {
            source,
            priority,
            best,
            lower_since,
        });
        lower_since.is_some_and(|since| now.saturating_duration_since(since) >= after)
    }
}

/// The `Skew_Time`: the higher a node's priority, the sooner it takes over (RFC 9568, section 6.1).
pub(super) fn skew(interval: Interval, priority: u8) -> Duration {
    interval.duration() * (256 - u32::from(priority)) / 256
}
