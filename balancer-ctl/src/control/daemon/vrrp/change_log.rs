//! Which changes of virtual routers are logged: a link that comes and goes several times a second would fill the log. Pure.

use std::{collections::BTreeMap, time::Instant};

use crate::{model::diff::Event, os::log_rate_limit::LogRateLimit};

/// Changes of one group that are logged within the 60 s of a [`LogRateLimit`].
const MAX_CHANGES: u32 = 10;

/// What was logged of each group, by name.
#[derive(Debug, Default)]
pub(super) struct ChangeLog(BTreeMap<String, GroupLog>);

#[derive(Debug, Default)]
struct GroupLog {
    limit: LogRateLimit,
    /// The last change that was left out, as a sentence.
    last: String,
}

impl ChangeLog {
    /// Whether this change of a group is logged at `now`.
    pub fn allows(&mut self, group: &str, event: &Event, now: Instant) -> bool {
        let log = self.0.entry(group.to_owned()).or_default();
        let is_allowed = log.limit.allows(MAX_CHANGES, now);
        if !is_allowed {
            log.last = format!("{}, {}", event.kind.sentence(), event.message);
        }
        is_allowed
    }

    /// A sentence for each group of which changes were left out until lately; to be called before [`Self::allows`] and each second.
    pub fn left_out(&mut self, now: Instant) -> Vec<String> {
        let left_out = |(group, log): (&String, &mut GroupLog)| {
            let count = log.limit.left_out(now)?;
            let changes = if count == 1 { "change" } else { "changes" };
            Some(format!(
                "{count} more {changes} of {group} within a minute, left out of the log; the last: {}",
                log.last
            ))
        };
        self.0.iter_mut().filter_map(left_out).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{model::event::EventKind, os::clock};

    #[test]
    fn a_link_that_flaps_makes_some_lines_and_one_that_counts_the_rest() {
        let start = clock::now();
        let mut log = ChangeLog::default();
        let mut lines = Vec::new();
        // It comes and goes ten times a second for 30 s.
        for time in (0..30_000).step_by(50) {
            let now = start + Duration::from_millis(time);
            let (kind, what) = if time % 100 == 0 {
                (EventKind::Fault, "interface eth0 has no link")
            } else {
                (EventKind::Backup, "this node starts")
            };
            let event = Event::of_node(kind, &format!("pair: {what}"));
            assert_eq!(log.left_out(now), [""; 0]);
            if log.allows("pair", &event, now) {
                lines.push(time);
            }
        }
        assert_eq!(lines.len(), 10);
        assert_eq!(log.left_out(start + Duration::from_secs(59)), [""; 0]);
        assert_eq!(
            log.left_out(start + Duration::from_secs(60)),
            [
                "590 more changes of pair within a minute, left out of the log; the last: Backup for the VIPs, pair: this node starts"
            ]
        );
        let later = start + Duration::from_secs(61);
        assert_eq!(log.left_out(later), [""; 0]);
        // Another group's are counted on their own, and so are those of the next minute.
        let event = Event::of_node(EventKind::Active, "pair: no other node is Active");
        assert!(log.allows("pair", &event, later) && log.allows("other", &event, later));
    }
}
