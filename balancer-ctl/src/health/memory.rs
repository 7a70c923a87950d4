//! The state file: how the checkers stand and their past, so that a daemon that starts again on the same host goes on
//! where the last one was. A line of JSON for the file, then one for each service and each checker.
//!
//! ```text
//!   driver ──line (latest per checker)──▶ writer's thread ──at most ten times a second──▶ file.new ──rename──▶ file
//! ```
//!
//! It counts only until the host starts again (its boot id is in the file), so that it need not outlive the kernel: it is
//! never flushed to the disk on purpose. What cannot be read is said and begun anew.

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

/// Version of the file's form.
const VERSION: u32 = 3;
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    version: u32,
    boot_id: String,
    /// When the file was written.
    written: At,
}

/// A moment in the file.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct At {
    /// Milliseconds since 1970.
    time: u64,
    /// Milliseconds since the host started.
    since_boot: u64,
}

impl At {
    fn new(moment: &Timestamp) -> Self {
        Self {
            time: thousandths(
                moment
                    .time
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default(),
            ),
            since_boot: thousandths(moment.since_boot),
        }
    }

    fn moment(self) -> io::Result<Timestamp> {
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.time));
        Ok(Timestamp {
            time: time.ok_or_else(|| io::Error::other("a time is beyond all clocks"))?,
            since_boot: Duration::from_millis(self.since_boot),
        })
    }
}

/// A service in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Service {
    service: String,
    reals: Vec<SocketAddr>,
    quorum: Option<WrittenQuorum>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct WrittenQuorum {
    holds: bool,
    since: At,
}

impl Service {
    pub(super) fn new(
        key: &ServiceKey,
        reals: Vec<SocketAddr>,
        quorum: Option<(bool, Timestamp)>,
    ) -> Self {
        Self {
            service: key.to_string(),
            reals,
            quorum: quorum.map(|(holds, since)| WrittenQuorum {
                holds,
                since: At::new(&since),
            }),
        }
    }
}

/// One checker in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    target: SocketAddr,
    /// As the configuration file has it, so that a later version of this program knows it again.
    check: Value,
    up: bool,
    reason: String,
    advice: AgentReply,
    since: At,
    history: Vec<Past>,
}

/// A change in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Past {
    #[serde(flatten)]
    at: At,
    up: bool,
    reason: String,
}

/// The line of a checker; none before it is decided.
fn line(watched: &CheckTarget, checker: &Checker) -> Option<String> {
    let standing = checker.standing();
    if !standing.decided {
        return None;
    }
    let line = Line {
        target: watched.target,
        check: keys::json(&watched.check),
        up: standing.up,
        reason: standing.reason,
        advice: standing.advice,
        since: At::new(&standing.since),
        history: checker
            .history()
            .iter()
            .map(|change| Past {
                at: At::new(&change.at),
                up: change.up,
                reason: change.reason.clone(),
            })
            .collect(),
    };
    serde_json::to_string(&line).ok()
}

/// A line after the first.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyLine {
    Checker(Line),
    Service(Service),
}

/// What a file said.
#[derive(Debug, Default)]
pub struct Remembered {
    checkers: HashMap<SocketAddr, Target>,
    /// By key.
    services: HashMap<String, Service>,
    written: Option<Timestamp>,
}

/// All checkers of one target that a file told of.
#[derive(Debug, Default)]
struct Target {
    entries: Vec<Entry>,
    /// Which entry has a check, which one asks a question; both as JSON.
    by_check: HashMap<String, usize>,
    by_question: HashMap<String, usize>,
}

impl Target {
    fn add(&mut self, entry: Entry) {
        let number = self.entries.len();
        self.by_check.insert(entry.check.to_string(), number);
        let question = keys::question(entry.check.clone()).to_string();
        self.by_question.entry(question).or_insert(number);
        self.entries.push(entry);
    }

    /// The one of the same check, or else of the same question.
    fn alike(&self, watched: &CheckTarget) -> Option<&Entry> {
        let check = keys::json(&watched.check);
        let number = self.by_check.get(&check.to_string());
        let number = number.or_else(|| self.by_question.get(&keys::question(check).to_string()))?;
        self.entries.get(*number)
    }
}

/// One checker that a file told of.
#[derive(Debug)]
struct Entry {
    check: Value,
    standing: CheckState,
    history: Vec<HistoryEntry>,
}

impl Entry {
    /// Whether it was down before it came up.
    fn has_returned(&self) -> bool {
        self.standing.up && self.history.len() > 1
    }
}

impl Remembered {
    /// How a checker stood that a service now wants for this real server, and whether it was down before it came up. One
    /// whose check has changed since goes on as the one that asked the same at other times; to another question, a target
    /// that was up stays up until it has answered if the service had that real server, and any other is not known.
    #[must_use]
    pub fn standing(
        &self,
        watched: &CheckTarget,
        service: &ServiceKey,
        real: SocketAddr,
    ) -> Option<(CheckState, bool)> {
        let target = self.checkers.get(&watched.target)?;
        if let Some(entry) = target.alike(watched) {
            return Some((entry.standing.clone(), entry.has_returned()));
        }
        let was_there = self
            .services
            .get(&service.to_string())
            .is_some_and(|service| service.reals.contains(&real));
        if !was_there || !target.entries.iter().all(|entry| entry.standing.up) {
            return None;
        }
        let latest = target
            .entries
            .iter()
            .max_by_key(|entry| entry.standing.since.since_boot)?;
        let standing = CheckState::up_before(latest.standing.since);
        Some((standing, latest.has_returned()))
    }

    /// Whether a service had quorum, and since when it was so.
    #[must_use]
    pub fn quorum(&self, service: &ServiceKey) -> Option<(bool, Timestamp)> {
        let quorum = self.services.get(&service.to_string())?.quorum.as_ref()?;
        Some((quorum.holds, quorum.since.moment().ok()?))
    }

    /// When the file was written.
    #[must_use]
    pub const fn written(&self) -> Option<Timestamp> {
        self.written
    }

    /// Its past, the latest last; empty if there is none.
    #[must_use]
    pub fn history(&self, watched: &CheckTarget) -> Vec<HistoryEntry> {
        let entry = self
            .checkers
            .get(&watched.target)
            .and_then(|target| target.alike(watched));
        entry.map_or_else(Vec::new, |entry| entry.history.clone())
    }
}

/// Reads what an earlier daemon wrote since this start of the host. What cannot be read is as if it were not there.
#[must_use]
pub fn read(path: &Path, boot_id: &str) -> Remembered {
    match try_read(path, boot_id) {
        Ok(remembered) => remembered,
        Err(error) => {
            tracing::warn!(
                path = %path.display(),
                "what the checks found before cannot be read, they begin anew: {error}"
            );
            Remembered::default()
        }
    }
}

fn try_read(path: &Path, boot_id: &str) -> io::Result<Remembered> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Remembered::default()),
        file => file?,
    };
    let mut lines = BufReader::new(file).lines();
    let head = lines
        .next()
        .unwrap_or_else(|| Err(io::Error::other("the file is empty")))?;
    let head: Head = serde_json::from_str(&head)?;
    if head.boot_id != boot_id {
        return Ok(Remembered::default());
    }
    if head.version != VERSION {
        return Err(io::Error::other("it is of another version"));
    }
    let mut remembered = Remembered {
        written: Some(head.written.moment()?),
        ..Remembered::default()
    };
    let mut unread = 0_usize;
    for line in lines {
        match serde_json::from_str(&line?) {
            Ok(AnyLine::Checker(line)) => match entry(line) {
                Ok((target, entry)) => remembered.checkers.entry(target).or_default().add(entry),
                Err(_) => unread += 1,
            },
            Ok(AnyLine::Service(line)) => {
                remembered.services.insert(line.service.clone(), line);
            }
            Err(_) => unread += 1,
        }
    }
    if unread > 0 {
        tracing::warn!(
            path = %path.display(),
            "what {unread} checks found before cannot be read, they begin anew"
        );
    }
    Ok(remembered)
}

fn entry(line: Line) -> io::Result<(SocketAddr, Entry)> {
    let standing = CheckState {
        up: line.up,
        decided: true,
        reason: line.reason,
        advice: line.advice,
        since: line.since.moment()?,
    };
    let history = line.history.into_iter().map(|past| {
        Ok(HistoryEntry {
            at: past.at.moment()?,
            up: past.up,
            reason: past.reason,
        })
    });
    let entry = Entry {
        check: line.check,
        standing,
        history: history.collect::<io::Result<_>>()?,
    };
    Ok((line.target, entry))
}

fn thousandths(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
