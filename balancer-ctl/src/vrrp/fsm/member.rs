//! One virtual router of a group: its timers, and what it knows of the Active node.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::MemberSettings;
use crate::vrrp::packet::Interval;

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
    /// Active, leaving: when the next advertisement is due.
    pub(super) advertise_at: Instant,
    /// Active: when it last answered a lower priority.
    pub(super) answered_at: Option<Instant>,
    /// Backup: who is Active.
    pub(super) active: Option<ActiveNode>,
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
            advertise_at: now,
            answered_at: None,
            active: None,
        }
    }

    /// Sets the `Active_Down_Timer` (RFC 9568, section 6.2).
    pub(super) fn wait_from(&mut self, now: Instant, priority: u8) {
        let interval = self.active_interval;
        let wait = 3 * interval.duration() + skew(interval, priority);
        self.down_at = Some(now + wait);
        self.probe_at = Some(now + 2 * interval.duration());
        self.is_late = false;
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
