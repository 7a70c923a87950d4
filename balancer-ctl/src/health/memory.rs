//! The state file: how the checkers stand and their past, so that a daemon that starts again on the same host goes on
//! where the last one was. A line of JSON for the file, then one for each service and each checker.
//!
//! ```text
//!   driver ──line (latest per checker)──▶ writer's thread ──at most ten times a second──▶ file.new ──rename──▶ file
//! ```
//!
//! It counts only until the host starts again (its boot id is in the file), so that it need not outlive the kernel: it is
//! never flushed to the disk on purpose. What cannot be read is said and begun anew.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Advice, CHANGED, Moment, Standing, Watched,
    checker::{Change, Checker},
    schedule::CheckerId,
};
use crate::{
    config::write::{check_as_json, question_as_json},
    model::ServiceKey,
};

/// Where the kernel tells one start of the host from another.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Version of the file's form.
const VERSION: u32 = 3;
/// From the beginning of one writing to that of the next.
const WRITE_EVERY: Duration = Duration::from_millis(100);
/// A writing that took long is followed by a pause of so many times its length.
const PAUSE: u32 = 10;

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
    fn new(moment: &Moment) -> Self {
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

    fn moment(self) -> io::Result<Moment> {
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.time));
        Ok(Moment {
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
        quorum: Option<(bool, Moment)>,
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
    advice: Advice,
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
fn line(watched: &Watched, checker: &Checker) -> Option<String> {
    let standing = checker.standing();
    if !standing.decided {
        return None;
    }
    let line = Line {
        target: watched.target,
        check: check_as_json(&watched.check),
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
    written: Option<Moment>,
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
        let question = question_as_json(entry.check.clone()).to_string();
        self.by_question.entry(question).or_insert(number);
        self.entries.push(entry);
    }

    /// The one of the same check, or else of the same question.
    fn alike(&self, watched: &Watched) -> Option<&Entry> {
        let check = check_as_json(&watched.check);
        let number = self.by_check.get(&check.to_string());
        let number =
            number.or_else(|| self.by_question.get(&question_as_json(check).to_string()))?;
        self.entries.get(*number)
    }
}

/// One checker that a file told of.
#[derive(Debug)]
struct Entry {
    check: Value,
    standing: Standing,
    history: Vec<Change>,
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
        watched: &Watched,
        service: &ServiceKey,
        real: SocketAddr,
    ) -> Option<(Standing, bool)> {
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
        let standing = Standing {
            up: true,
            decided: true,
            reason: CHANGED.to_owned(),
            advice: Advice::default(),
            since: latest.standing.since,
        };
        Some((standing, latest.has_returned()))
    }

    /// Whether a service had quorum, and since when it was so.
    #[must_use]
    pub fn quorum(&self, service: &ServiceKey) -> Option<(bool, Moment)> {
        let quorum = self.services.get(&service.to_string())?.quorum.as_ref()?;
        Some((quorum.holds, quorum.since.moment().ok()?))
    }

    /// When the file was written.
    #[must_use]
    pub const fn written(&self) -> Option<Moment> {
        self.written
    }

    /// Its past, the latest last; empty if there is none.
    #[must_use]
    pub fn history(&self, watched: &Watched) -> Vec<Change> {
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
    let standing = Standing {
        up: line.up,
        decided: true,
        reason: line.reason,
        advice: line.advice,
        since: line.since.moment()?,
    };
    let history = line.history.into_iter().map(|past| {
        Ok(Change {
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

/// Writes the file, on a thread of its own. Dropped, it has written all.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    /// By checker, `None` = gone: never more than there are checkers, and those that went meanwhile.
    news: BTreeMap<CheckerId, Option<(Arc<Watched>, Checker)>>,
    /// All of them, if they are new.
    services: Option<Vec<Service>>,
    stop: bool,
}

impl Shared {
    /// Nothing that panics is done under the lock.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Starts the thread. The file stays as it is until there is something to write.
    ///
    /// # Errors
    /// There cannot be another thread.
    pub fn start(path: PathBuf, boot_id: &str) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let boot_id = boot_id.to_owned();
        let theirs = shared.clone();
        let thread = thread::Builder::new()
            .name("health-memory".to_owned())
            .spawn(move || keep(&theirs, &path, &boot_id))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Takes how a checker stands now. It is put into words elsewhere: that takes longer than a probe should wait.
    pub(super) fn put(&self, id: CheckerId, watched: Arc<Watched>, checker: Checker) {
        self.take(id, Some((watched, checker)));
    }

    /// A checker is gone.
    pub(super) fn remove(&self, id: CheckerId) {
        self.take(id, None);
    }

    /// Takes what is to be written of services.
    pub(super) fn keep(&self, services: Vec<Service>) {
        let old = self.shared.lock().services.replace(services);
        self.shared.changed.notify_one();
        drop(old);
    }

    fn take(&self, id: CheckerId, news: Option<(Arc<Watched>, Checker)>) {
        let old = self.shared.lock().news.insert(id, news);
        self.shared.changed.notify_one();
        // Not under the lock.
        drop(old);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic has been told already.
            let _ = thread.join();
        }
    }
}

/// The thread: waits for news, writes all lines, rests. When it ends, it writes once more, so that it is known until when
/// this daemon ran; one to which nothing was ever told leaves the file alone.
fn keep(shared: &Shared, path: &Path, boot_id: &str) {
    let mut services = Vec::new();
    let mut lines = BTreeMap::new();
    let mut has_begun = false;
    let mut failing = false;
    loop {
        let mut pending = shared.lock();
        while pending.news.is_empty() && pending.services.is_none() && !pending.stop {
            pending = shared
                .changed
                .wait(pending)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let news = std::mem::take(&mut pending.news);
        let new_services = pending.services.take();
        let stop = pending.stop;
        drop(pending);
        has_begun |= !news.is_empty() || new_services.is_some();
        if let Some(new) = new_services {
            let texts = new
                .iter()
                .filter_map(|service| serde_json::to_string(service).ok());
            services = texts.collect();
        }
        for (id, news) in news {
            match news.and_then(|(watched, checker)| line(&watched, &checker)) {
                Some(line) => lines.insert(id, line),
                None => lines.remove(&id),
            };
        }
        if has_begun {
            let began = Instant::now();
            let written = write(path, boot_id, services.iter().chain(lines.values()));
            if let Err(error) = &written
                && !failing
            {
                tracing::warn!(
                    path = %path.display(),
                    "what the checks found cannot be written down, a restart of the daemon will begin anew: {error}"
                );
            }
            failing = written.is_err();
            let pause = WRITE_EVERY.max(began.elapsed() * PAUSE);
            if !stop {
                rest(shared, pause);
            }
        }
        if stop {
            return; // Nothing comes after that.
        }
    }
}

/// Waits so long, or until it is to stop.
fn rest(shared: &Shared, pause: Duration) {
    drop(
        shared
            .changed
            .wait_timeout_while(shared.lock(), pause, |pending| !pending.stop),
    );
}

fn write<'a>(
    path: &Path,
    boot_id: &str,
    lines: impl Iterator<Item = &'a String>,
) -> io::Result<()> {
    let head = serde_json::to_string(&Head {
        version: VERSION,
        boot_id: boot_id.to_owned(),
        written: At::new(&Moment::now()),
    })?;
    if let Some(directory) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)?;
    }
    // There is one daemon of a name, so that nobody else writes this one.
    let mut new = OsString::from(path);
    new.push(".new");
    // Header fields of a check may be secrets.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    let mut file = BufWriter::new(file);
    writeln!(file, "{head}")?;
    for line in lines {
        writeln!(file, "{line}")?;
    }
    file.into_inner().map_err(io::IntoInnerError::into_error)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests;
