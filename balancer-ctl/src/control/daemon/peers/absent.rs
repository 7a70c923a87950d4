//! Which other nodes are away: those that went, and those that were not reached since this node knows of them. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::peer::PeerView;

/// Time in which a node must be reached from when this node knows of it, before it counts as down.
const REACH_TIMEOUT: Duration = Duration::from_secs(10);

/// The nodes that are away.
#[derive(Debug, Default)]
pub(super) struct AbsentNodes {
    /// By name: since when, and whether that was reported.
    absent: BTreeMap<String, (Instant, bool)>,
    /// The names of all other nodes.
    known: Vec<String>,
}

impl AbsentNodes {
    /// A node went, which is reported.
    pub fn went(&mut self, name: &str, now: Instant) {
        self.absent.insert(name.to_owned(), (now, true));
    }

    /// A node came.
    pub fn came(&mut self, name: &str) {
        self.absent.remove(name);
    }

    /// Looks at the other nodes as they are; returns the names of those to report as down, each with the reason.
    pub fn follow(&mut self, peers: &[PeerView], now: Instant) -> Vec<(String, String)> {
        let is_away = |peer: &&PeerView| !peer.is_connected();
        let away: BTreeMap<_, _> = peers
            .iter()
            .filter(is_away)
            .filter_map(|peer| Some((peer.name.as_ref()?, peer.trouble.as_deref())))
            .collect();
        let is_known = |name: &String| peers.iter().any(|peer| peer.name.as_ref() == Some(name));
        // One that went may look as if it were there for a moment.
        self.absent.retain(|name, (_, is_reported)| {
            away.contains_key(name) || *is_reported && is_known(name)
        });
        let mut down = Vec::new();
        for (name, trouble) in away {
            let (since, is_reported) = self.absent.entry(name.clone()).or_insert((now, false));
            if !*is_reported && now.saturating_duration_since(*since) >= REACH_TIMEOUT {
                *is_reported = true;
                let trouble = trouble.map(|trouble| format!(": {trouble}"));
                let reason = format!(
                    "it was not reached within {} s{}",
                    REACH_TIMEOUT.as_secs(),
                    trouble.unwrap_or_default()
                );
                down.push((name.clone(), reason));
            }
        }
        down
    }

    /// The names of all other nodes, if they are others than before.
    pub fn new_names(&mut self, peers: &[PeerView]) -> Option<Vec<String>> {
        let names: Vec<_> = peers.iter().filter_map(|peer| peer.name.clone()).collect();
        if names == self.known {
            return None;
        }
        self.known.clone_from(&names);
        Some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        os::clock,
        peer::{PeerCounters, SessionState},
    };

    fn peer(name: &str, is_up: bool) -> PeerView {
        PeerView {
            name: Some(name.to_owned()),
            address: "192.0.2.2:4446".parse().unwrap(),
            is_member: true,
            state: if is_up {
                SessionState::Up
            } else {
                SessionState::Lost
            },
            version: None,
            last_heard: None,
            report: None,
            trouble: (!is_up).then(|| "connection refused".to_owned()),
            counters: PeerCounters::default(),
        }
    }

    #[test]
    fn a_node_that_is_not_reached_for_some_seconds_is_reported_once() {
        let mut nodes = AbsentNodes::default();
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let away = [peer("lb2", false)];
        assert_eq!(nodes.follow(&away, start), []);
        assert_eq!(nodes.follow(&away, at(9)), []);
        let reason = "it was not reached within 10 s: connection refused".to_owned();
        assert_eq!(nodes.follow(&away, at(10)), [("lb2".to_owned(), reason)]);
        assert_eq!(nodes.follow(&away, at(60)), []);
        // It comes, and is soon away again, for less than the time.
        nodes.came("lb2");
        assert_eq!(nodes.follow(&[peer("lb2", true)], at(61)), []);
        assert_eq!(nodes.follow(&away, at(62)), []);
        assert_eq!(nodes.follow(&away, at(71)), []);
        // One that went was reported then.
        nodes.went("lb2", at(71));
        assert_eq!(nodes.follow(&away, at(100)), []);
        // One that was taken out is known no more.
        assert_eq!(nodes.new_names(&away), Some(vec!["lb2".to_owned()]));
        assert_eq!(nodes.new_names(&away), None);
        assert_eq!(nodes.follow(&[], at(101)), []);
        assert_eq!(nodes.new_names(&[]), Some(Vec::new()));
    }
}
