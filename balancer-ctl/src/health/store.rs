//! The state file: states and histories of the checkers and quorums of the services, from which a daemon that starts
//! again on the same host continues. One line of JSON for the file, then one for each service and each checker.
//!
//! ```text
//!   driver ──state (latest per checker)──▶ writer's thread ──at most ten times a second──▶ file.new ──rename──▶ file
//! ```
//!
//! The file is valid until the host boots again (it contains the boot id), so it need not survive the kernel and is never
//! synced to disk. Lines that cannot be read are logged and left out; their checkers start without a state.

mod writer;

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AgentReply, CheckState, CheckTarget, Timestamp,
    checker::{Checker, HistoryEntry},
};
use crate::model::{ServiceKey, check::keys};

pub use self::writer::Writer;

/// Version of the file's format.
const VERSION: u32 = 3;

/// The first line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct HeaderLine {
    version: u32,
    boot_id: String,
    written: StoredTime,
}

/// A [`Timestamp`] in the file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct StoredTime {
    /// Milliseconds since 1970.
    time: u64,
    /// Milliseconds since the host booted.
    since_boot: u64,
}

impl StoredTime {
    fn new(timestamp: &Timestamp) -> Self {
        Self {
            time: to_milliseconds(
                timestamp
                    .time
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default(),
            ),
            since_boot: to_milliseconds(timestamp.since_boot),
        }
    }

    fn to_timestamp(self) -> io::Result<Timestamp> {
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.time));
        Ok(Timestamp {
            time: time.ok_or_else(|| io::Error::other("a time is out of range"))?,
            since_boot: Duration::from_millis(self.since_boot),
        })
    }
}

/// The line of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ServiceLine {
    service: String,
    reals: Vec<SocketAddr>,
    quorum: Option<StoredQuorum>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredQuorum {
    holds: bool,
    since: StoredTime,
}

impl ServiceLine {
    pub(super) fn new(
        key: &ServiceKey,
        reals: Vec<SocketAddr>,
        quorum: Option<(bool, Timestamp)>,
    ) -> Self {
        Self {
            service: key.to_string(),
            reals,
            quorum: quorum.map(|(holds, since)| StoredQuorum {
                holds,
                since: StoredTime::new(&since),
            }),
        }
    }
}

/// The line of a checker.
#[derive(Debug, Serialize, Deserialize)]
struct CheckerLine {
    target: SocketAddr,
    /// In the configuration file's own keys, so that a later version of this program recognizes it.
    check: Value,
    up: bool,
    reason: String,
    #[serde(rename = "advice")]
    agent_reply: AgentReply,
    since: StoredTime,
    history: Vec<ChangeLine>,
}

/// A history entry in a checker's line.
#[derive(Debug, Serialize, Deserialize)]
struct ChangeLine {
    #[serde(flatten)]
    at: StoredTime,
    up: bool,
    reason: String,
}

/// The line of a checker; `None` before it is decided.
fn checker_line(check_target: &CheckTarget, checker: &Checker) -> Option<String> {
    let state = checker.check_state();
    if !state.decided {
        return None;
    }
    let line = CheckerLine {
        target: check_target.target,
        check: keys::json(&check_target.check),
        up: state.up,
        reason: state.reason,
        agent_reply: state.agent_reply,
        since: StoredTime::new(&state.since),
        history: checker
            .history()
            .iter()
            .map(|change| ChangeLine {
                at: StoredTime::new(&change.at),
                up: change.up,
                reason: change.reason.clone(),
            })
            .collect(),
    };
    serde_json::to_string(&line).ok()
}

/// Any line after the first.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyLine {
    Checker(CheckerLine),
    Service(ServiceLine),
}

/// Content of a state file.
#[derive(Debug, Default)]
pub struct StoredState {
    checkers: HashMap<SocketAddr, StoredTarget>,
    /// By the text of their key.
    services: HashMap<String, ServiceLine>,
    written_at: Option<Timestamp>,
}

/// All stored checkers of one address.
#[derive(Debug, Default)]
struct StoredTarget {
    checkers: Vec<StoredChecker>,
    /// Indices by the JSON of the check, with and without its timing.
    by_check: HashMap<String, usize>,
    by_probe: HashMap<String, usize>,
}

impl StoredTarget {
    fn add(&mut self, entry: StoredChecker) {
        let number = self.checkers.len();
        self.by_check.insert(entry.check.to_string(), number);
        let probe = keys::without_timing(entry.check.clone()).to_string();
        self.by_probe.entry(probe).or_insert(number);
        self.checkers.push(entry);
    }

    /// The checker of the same check, or else one of which only the timing differs.
    fn find(&self, check_target: &CheckTarget) -> Option<&StoredChecker> {
        let check = keys::json(&check_target.check);
        let number = self.by_check.get(&check.to_string());
        let number =
            number.or_else(|| self.by_probe.get(&keys::without_timing(check).to_string()))?;
        self.checkers.get(*number)
    }
}

/// A stored checker.
#[derive(Debug)]
struct StoredChecker {
    check: Value,
    state: CheckState,
    history: Vec<HistoryEntry>,
}

impl StoredChecker {
    /// Whether it is up and had been down before.
    fn has_returned(&self) -> bool {
        self.state.up && self.history.len() > 1
    }
}

impl StoredState {
    /// The stored state of the checker that a service now wants for this real server, and whether it is up and had been down
    /// before. If only the check's timing has changed, that is the old checker's state. If its probe has changed and the
    /// service had this real server, a target that was up under all its checks stays up until the first result; otherwise
    /// its state is unknown.
    #[must_use]
    pub fn check_state(
        &self,
        check_target: &CheckTarget,
        service: &ServiceKey,
        real: SocketAddr,
    ) -> Option<(CheckState, bool)> {
        let target = self.checkers.get(&check_target.target)?;
        if let Some(entry) = target.find(check_target) {
            return Some((entry.state.clone(), entry.has_returned()));
        }
        let was_there = self
            .services
            .get(&service.to_string())
            .is_some_and(|service| service.reals.contains(&real));
        if !was_there || !target.checkers.iter().all(|entry| entry.state.up) {
            return None;
        }
        let latest = target
            .checkers
            .iter()
            .max_by_key(|entry| entry.state.since.since_boot)?;
        let state = CheckState::up_before(latest.state.since);
        Some((state, latest.has_returned()))
    }

    /// Whether a service had its quorum, and since when that was so.
    #[must_use]
    pub fn quorum(&self, service: &ServiceKey) -> Option<(bool, Timestamp)> {
        let quorum = self.services.get(&service.to_string())?.quorum.as_ref()?;
        Some((quorum.holds, quorum.since.to_timestamp().ok()?))
    }

    /// When the file was written.
    #[must_use]
    pub const fn written_at(&self) -> Option<Timestamp> {
        self.written_at
    }

    /// A checker's stored history, oldest first; empty if there is none.
    #[must_use]
    pub fn history(&self, check_target: &CheckTarget) -> Vec<HistoryEntry> {
        let entry = self
            .checkers
            .get(&check_target.target)
            .and_then(|target| target.find(check_target));
        entry.map_or_else(Vec::new, |entry| entry.history.clone())
    }
}

/// Reads what an earlier daemon wrote since the host booted. A file that cannot be read is logged and counts as empty.
#[must_use]
pub fn read(path: &Path, boot_id: &str) -> StoredState {
    match try_read(path, boot_id) {
        Ok(stored) => stored,
        Err(error) => {
            tracing::warn!(
                path = %path.display(),
                "the stored states of the checks cannot be read, so the checks start without them: {error}"
            );
            StoredState::default()
        }
    }
}

fn try_read(path: &Path, boot_id: &str) -> io::Result<StoredState> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(StoredState::default()),
        file => file?,
    };
    let mut lines = BufReader::new(file).lines();
    let head = lines
        .next()
        .unwrap_or_else(|| Err(io::Error::other("the file is empty")))?;
    let head: HeaderLine = serde_json::from_str(&head)?;
    if head.boot_id != boot_id {
        return Ok(StoredState::default());
    }
    if head.version != VERSION {
        return Err(io::Error::other("it has the format of another version"));
    }
    let mut stored = StoredState {
        written_at: Some(head.written.to_timestamp()?),
        ..StoredState::default()
    };
    let mut unread = 0_usize;
    for line in lines {
        match serde_json::from_str(&line?) {
            Ok(AnyLine::Checker(line)) => match parse_checker(line) {
                Ok((target, entry)) => stored.checkers.entry(target).or_default().add(entry),
                Err(_) => unread += 1,
            },
            Ok(AnyLine::Service(line)) => {
                stored.services.insert(line.service.clone(), line);
            }
            Err(_) => unread += 1,
        }
    }
    if unread > 0 {
        tracing::warn!(
            path = %path.display(),
            "the stored states of {unread} checks cannot be read, so these checks start without them"
        );
    }
    Ok(stored)
}

fn parse_checker(line: CheckerLine) -> io::Result<(SocketAddr, StoredChecker)> {
    let state = CheckState {
        up: line.up,
        decided: true,
        reason: line.reason,
        agent_reply: line.agent_reply,
        since: line.since.to_timestamp()?,
    };
    let history = line.history.into_iter().map(|past| {
        Ok(HistoryEntry {
            at: past.at.to_timestamp()?,
            up: past.up,
            reason: past.reason,
        })
    });
    let entry = StoredChecker {
        check: line.check,
        state,
        history: history.collect::<io::Result<_>>()?,
    };
    Ok((line.target, entry))
}

fn to_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
