//! When to dial a node, which of two connections to it to keep, and when it counts as lost. Pure: time and chance are arguments.
//!
//! ```text
//!                        dialled or accepted              3 s of silence, or closed
//!   connecting ⇄ handshaking ────────────────▶ up ──────────────────────────────────▶ lost ⇄ handshaking ─▶ up
//! ```

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Time from one report to the next.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Silence after which a node counts as lost.
pub const DEAD_AFTER: Duration = Duration::from_secs(3);
/// Time within which a connection must be established, and then within which the handshake and both hellos must be made.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a node is dialled again, at first and at most.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// See [`FIRST_BACKOFF`].
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// Identifies a connection.
pub type ConnectionId = u64;

/// How far a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionState {
    /// It was not reached since this node knows it.
    Connecting,
    /// It is dialled.
    Handshaking,
    /// It speaks.
    Up,
    /// It was reached, and is not any more.
    Lost,
}

/// What shall be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dial the node.
    Dial,
    /// Send it a report.
    Report,
    /// End this connection: the node says nothing on it.
    Lose(ConnectionId),
}

/// What becomes of a new connection whose node is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the session's now, in place of another one, which has to end.
    Keep {
        /// The other one.
        replaced: Option<ConnectionId>,
    },
    /// It has to end: both nodes dialled, and the other connection is kept.
    Surplus,
    /// It has to end: another node of this name speaks.
    NameTaken,
}

/// A connection on which a hello came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewConnection {
    /// The connection.
    pub id: ConnectionId,
    /// Whether this node dialled.
    pub was_dialled: bool,
    /// The other node's instance, from its hello.
    pub instance: u64,
    /// Whether this node's name comes before the other's.
    pub is_smaller: bool,
}

/// The connection in use.
#[derive(Clone, Copy, Debug)]
struct Up {
    connection: NewConnection,
    since: Instant,
    heard: Instant,
    report_at: Instant,
}

/// A node, as it is reached.
#[derive(Clone, Debug)]
pub struct Session {
    up: Option<Up>,
    was_up: bool,
    is_dialling: bool,
    dial_at: Instant,
    backoff: Duration,
}

impl Session {
    /// A node that shall be dialled at once.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            up: None,
            was_up: false,
            is_dialling: false,
            dial_at: now,
            backoff: FIRST_BACKOFF,
        }
    }

    /// How far the node is reached.
    #[must_use]
    pub const fn state(&self) -> SessionState {
        match (self.up.is_some(), self.is_dialling, self.was_up) {
            (true, _, _) => SessionState::Up,
            (false, true, _) => SessionState::Handshaking,
            (false, false, false) => SessionState::Connecting,
            (false, false, true) => SessionState::Lost,
        }
    }

    /// The connection in use.
    #[must_use]
    pub fn connection(&self) -> Option<ConnectionId> {
        Some(self.up?.connection.id)
    }

    /// When something was last heard on the connection in use.
    #[must_use]
    pub fn heard_at(&self) -> Option<Instant> {
        Some(self.up?.heard)
    }

    /// When [`Self::tick`] has something to do next; `None` = not before something else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.up {
            Some(up) => Some(up.report_at.min(up.heard + DEAD_AFTER)),
            None => (!self.is_dialling).then_some(self.dial_at),
        }
    }

    /// What is due now. `jitter` in 0..=1000 lengthens the pause before the next dialling by up to a half.
    pub fn tick(&mut self, now: Instant, jitter: u16) -> Option<Action> {
        let Some(up) = &mut self.up else {
            if self.is_dialling || now < self.dial_at {
                return None;
            }
            self.is_dialling = true;
            return Some(Action::Dial);
        };
        if now >= up.heard + DEAD_AFTER {
            let id = up.connection.id;
            self.closed(now, id, jitter);
            return Some(Action::Lose(id));
        }
        if now < up.report_at {
            return None;
        }
        up.report_at = now + REPORT_INTERVAL;
        Some(Action::Report)
    }

    /// Dialling failed.
    pub fn dial_failed(&mut self, now: Instant, jitter: u16) {
        self.is_dialling = false;
        self.pause(now, jitter);
    }

    /// A connection to the node is there, and it said hello.
    pub fn established(&mut self, now: Instant, new: NewConnection) -> Verdict {
        if new.was_dialled {
            self.is_dialling = false;
        }
        let replaced = match &self.up {
            None => None,
            Some(up) => match up.verdict(now, new) {
                Verdict::Keep { .. } => Some(up.connection.id),
                verdict => return verdict,
            },
        };
        self.up = Some(Up {
            connection: new,
            since: now,
            heard: now,
            report_at: now,
        });
        self.was_up = true;
        self.backoff = FIRST_BACKOFF;
        Verdict::Keep { replaced }
    }

    /// Something was heard on a connection. Returns whether it is the one in use.
    pub fn heard(&mut self, now: Instant, id: ConnectionId) -> bool {
        match &mut self.up {
            Some(up) if up.connection.id == id => {
                up.heard = now;
                true
            }
            _ => false,
        }
    }

    /// This process has not run for a while: what the node said meanwhile may still come.
    pub fn excuse(&mut self, now: Instant) {
        if let Some(up) = &mut self.up {
            let patience = DEAD_AFTER - REPORT_INTERVAL;
            up.heard = up.heard.max(now.checked_sub(patience).unwrap_or(up.heard));
        }
    }

    /// A connection ended. Returns whether it was the one in use.
    pub fn closed(&mut self, now: Instant, id: ConnectionId, jitter: u16) -> bool {
        if self.connection() != Some(id) {
            return false;
        }
        self.up = None;
        self.pause(now, jitter);
        true
    }

    /// Sends the next report as soon as possible.
    pub const fn report_soon(&mut self, now: Instant) {
        if let Some(up) = &mut self.up {
            up.report_at = now;
        }
    }

    fn pause(&mut self, now: Instant, jitter: u16) {
        let more = self.backoff / 2 * u32::from(jitter.min(1000)) / 1000;
        self.dial_at = now + self.backoff + more;
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
    }
}

impl Up {
    /// Whether a newer connection takes the place of this one.
    fn verdict(&self, now: Instant, new: NewConnection) -> Verdict {
        let keep = Verdict::Keep { replaced: None };
        let old = self.connection;
        if old.instance != new.instance {
            // A daemon that was started again: its old connection ended with it, or says nothing any more.
            let is_silent = now.saturating_duration_since(self.heard) >= 2 * REPORT_INTERVAL;
            return if is_silent { keep } else { Verdict::NameTaken };
        }
        // Nobody dials while it has a connection, so the other node has given the old one up.
        let is_simultaneous = now.saturating_duration_since(self.since) < DEAD_AFTER;
        if old.was_dialled == new.was_dialled || !is_simultaneous {
            return keep;
        }
        // Of two connections that were dialled at the same time, both nodes keep the one that the smaller name dialled.
        if new.was_dialled == new.is_smaller {
            keep
        } else {
            Verdict::Surplus
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::os::clock;

    const MS: Duration = Duration::from_millis(1);

    const fn new(id: ConnectionId, was_dialled: bool, is_smaller: bool) -> NewConnection {
        NewConnection {
            id,
            was_dialled,
            instance: 1,
            is_smaller,
        }
    }

    const KEPT: Verdict = Verdict::Keep { replaced: None };

    #[test]
    fn a_node_that_cannot_be_reached_is_dialled_more_and_more_rarely() {
        let zero = clock::now();
        let mut session = Session::new(zero);
        let mut now = zero;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(session.tick(now, 0), Some(Action::Dial));
            assert_eq!(session.state(), SessionState::Handshaking);
            assert_eq!(
                (session.tick(now, 0), session.next_deadline()),
                (None, None)
            );
            session.dial_failed(now, 0);
            assert_eq!(session.state(), SessionState::Connecting);
            let next = session.next_deadline().unwrap();
            assert_eq!(session.tick(next - MS, 0), None);
            pauses.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        session.tick(now, 0);
        session.dial_failed(now, 1000);
        assert_eq!(session.next_deadline(), Some(now + 7500 * MS));
    }

    #[test]
    fn a_node_that_is_up_hears_a_report_each_second_and_is_lost_after_three_of_silence() {
        let zero = clock::now();
        let mut session = Session::new(zero);
        session.tick(zero, 0);
        assert_eq!(session.established(zero, new(1, true, true)), KEPT);
        let mut reports = Vec::new();
        loop {
            let now = session.next_deadline().unwrap();
            match session.tick(now, 0) {
                Some(Action::Report) => reports.push((now - zero).as_millis()),
                Some(Action::Lose(1)) => {
                    assert_eq!(now - zero, 3000 * MS);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(reports, [0, 1000, 2000]);
        assert_eq!(session.state(), SessionState::Lost);
        assert_eq!(session.next_deadline(), Some(zero + 3200 * MS));
    }

    #[test]
    fn what_is_heard_keeps_a_node_up() {
        let zero = clock::now();
        let mut session = Session::new(zero);
        session.established(zero, new(1, false, true));
        for second in 1..100 {
            let now = zero + 1000 * second * MS;
            assert!(session.heard(now, 1));
            assert!(!session.heard(now, 2));
            assert_eq!(session.tick(now, 0), Some(Action::Report));
        }
        assert!(!session.closed(zero, 2, 0));
        assert_eq!(session.state(), SessionState::Up);
        assert!(session.closed(zero, 1, 0));
        assert_eq!(session.state(), SessionState::Lost);
    }

    #[test]
    fn a_node_is_not_lost_because_this_process_did_not_run() {
        let zero = clock::now();
        let mut session = Session::new(zero);
        session.established(zero, new(1, false, true));
        let later = zero + 60_000 * MS;
        session.excuse(later);
        assert_eq!(session.tick(later, 0), Some(Action::Report));
        let end = later + REPORT_INTERVAL;
        assert_eq!(session.tick(end, 0), Some(Action::Lose(1)));
        // What was heard later than that counts as before.
        session.established(end, new(2, false, true));
        session.excuse(end + MS);
        assert_eq!(session.heard_at(), Some(end));
    }

    #[test]
    fn of_two_connections_dialled_at_once_both_nodes_keep_the_smaller_name_s() {
        let zero = clock::now();
        // Each node sees the two in either order; connection 1 is dialled by the smaller name, 2 by the other.
        for is_smaller in [true, false] {
            let connection = |id| new(id, (id == 1) == is_smaller, is_smaller);
            for order in [[1, 2], [2, 1]] {
                let mut session = Session::new(zero);
                let mut ended = Vec::new();
                for id in order {
                    match session.established(zero, connection(id)) {
                        Verdict::Keep { replaced } => ended.extend(replaced),
                        Verdict::Surplus => ended.push(id),
                        Verdict::NameTaken => panic!(),
                    }
                }
                assert_eq!((session.connection(), ended), (Some(1), vec![2]));
            }
        }
    }

    #[test]
    fn a_node_that_dials_again_has_given_the_old_connection_up() {
        let zero = clock::now();
        let replaced = Verdict::Keep { replaced: Some(1) };
        let mut session = Session::new(zero);
        session.established(zero, new(1, false, true));
        assert_eq!(session.established(zero, new(2, false, true)), replaced);
        let mut session = Session::new(zero);
        session.established(zero, new(1, true, true));
        let later = zero + DEAD_AFTER;
        session.heard(later, 1);
        assert_eq!(session.established(later, new(2, false, true)), replaced);
    }

    #[test]
    fn a_second_node_of_a_name_is_refused_while_the_first_speaks() {
        let zero = clock::now();
        let mut session = Session::new(zero);
        session.established(zero, new(1, false, true));
        let other = NewConnection {
            instance: 2,
            ..new(2, false, true)
        };
        let at = |ms: u32| zero + ms * MS;
        assert_eq!(session.established(at(1999), other), Verdict::NameTaken);
        assert_eq!(session.connection(), Some(1));
        assert_eq!(
            session.established(at(2000), other),
            Verdict::Keep { replaced: Some(1) }
        );
    }

    proptest! {
        /// Whatever happens in whatever order: there is always a next deadline or a dialling that somebody answers for, and a node is
        /// up only if it was heard less than three seconds before the last tick.
        #[test]
        fn no_session_is_forgotten(events in prop::collection::vec((0..6_u8, 0..4_u64, 0..2000_u32, 0..1001_u16), 0..200)) {
            let mut now = clock::now();
            let mut session = Session::new(now);
            for (event, id, ms, jitter) in events {
                now += ms * MS;
                match event {
                    0 => { session.established(now, NewConnection { instance: id % 2, ..new(id, id == 1, id < 2) }); }
                    1 => { session.heard(now, id); }
                    2 => { session.closed(now, id, jitter); }
                    3 if session.is_dialling => session.dial_failed(now, jitter),
                    _ => { session.tick(now, jitter); }
                }
                prop_assert!(session.next_deadline().is_some() || session.is_dialling);
                if event >= 4 && let Some(heard) = session.heard_at() {
                    prop_assert!(now - heard < DEAD_AFTER);
                }
                prop_assert!(session.backoff <= LONGEST_BACKOFF);
            }
        }
    }
}
