//! The state file: how the checkers stand and their past, so that a daemon that starts again on the same host goes on
//! where the last one was. A line of JSON for the file, then one for each checker.
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
    Advice, CHANGED, Moment, Standing, UNKNOWN, Watched,
    checker::{Change, Checker},
    schedule::CheckerId,
};
use crate::config::write::{check_as_json, question_as_json};

/// Where the kernel tells one start of the host from another.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Version of the file's form.
const VERSION: u32 = 2;
/// From the beginning of one writing to that of the next.
const WRITE_EVERY: Duration = Duration::from_millis(100);
/// A writing that took long is followed by a pause of so many times its length.
const PAUSE: u32 = 10;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    version: u32,
    boot_id: String,
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
    /// Milliseconds since 1970.
    since: u64,
    history: Vec<Past>,
}

/// A change in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Past {
    /// Milliseconds since 1970.
    time: u64,
    /// Milliseconds since the host started.
    since_boot: u64,
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
        since: milliseconds(standing.since),
        history: checker
            .history()
            .iter()
            .map(|change| Past {
                time: milliseconds(change.at.time),
                since_boot: thousandths(change.at.since_boot),
                up: change.up,
                reason: change.reason.clone(),
            })
            .collect(),
    };
    serde_json::to_string(&line).ok()
}

/// What a file said, by target.
#[derive(Debug, Default)]
pub struct Remembered(HashMap<SocketAddr, Vec<Entry>>);

/// One checker that a file told of.
#[derive(Debug)]
struct Entry {
    check: Value,
    standing: Standing,
    history: Vec<Change>,
}

impl Remembered {
    /// How a checker stood. One whose check has changed since goes on as the one that asked the same at other times; to
    /// another question, a target that was up stays up until it has answered, and any other is not known.
    #[must_use]
    pub fn standing(&self, watched: &Watched) -> Option<Standing> {
        let entries = self.0.get(&watched.target)?;
        if let Some(entry) = Self::alike(entries, watched) {
            return Some(entries[entry].standing.clone());
        }
        let were_up = !entries.is_empty() && entries.iter().all(|entry| entry.standing.up);
        were_up.then(|| Standing {
            up: true,
            decided: true,
            reason: CHANGED.to_owned(),
            advice: Advice::default(),
            since: entries
                .iter()
                .map(|entry| entry.standing.since)
                .max()
                .unwrap_or(UNKNOWN),
        })
    }

    /// Its past, the latest last; empty if there is none.
    #[must_use]
    pub fn take_history(&mut self, watched: &Watched) -> Vec<Change> {
        let Some(entries) = self.0.get_mut(&watched.target) else {
            return Vec::new();
        };
        Self::alike(entries, watched)
            .map(|entry| std::mem::take(&mut entries[entry].history))
            .unwrap_or_default()
    }

    /// The one of the same check, or else of the same question.
    fn alike(entries: &[Entry], watched: &Watched) -> Option<usize> {
        let check = check_as_json(&watched.check);
        let question = question_as_json(check.clone());
        entries
            .iter()
            .position(|entry| entry.check == check)
            .or_else(|| {
                entries
                    .iter()
                    .position(|entry| question_as_json(entry.check.clone()) == question)
            })
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
    if head.boot_id != boot_id || head.version != VERSION {
        return Ok(Remembered::default());
    }
    let mut remembered: HashMap<_, Vec<_>> = HashMap::new();
    let mut unread = 0_usize;
    for line in lines {
        match serde_json::from_str(&line?)
            .map_err(io::Error::from)
            .and_then(entry)
        {
            Ok((target, entry)) => remembered.entry(target).or_default().push(entry),
            Err(_) => unread += 1,
        }
    }
    if unread > 0 {
        tracing::warn!(
            path = %path.display(),
            "what {unread} checks found before cannot be read, they begin anew"
        );
    }
    Ok(Remembered(remembered))
}

fn entry(line: Line) -> io::Result<(SocketAddr, Entry)> {
    let standing = Standing {
        up: line.up,
        decided: true,
        reason: line.reason,
        advice: line.advice,
        since: time(line.since)?,
    };
    let history = line.history.into_iter().map(|past| {
        Ok(Change {
            at: Moment {
                time: time(past.time)?,
                since_boot: Duration::from_millis(past.since_boot),
            },
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

fn milliseconds(time: SystemTime) -> u64 {
    thousandths(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

fn thousandths(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn time(milliseconds: u64) -> io::Result<SystemTime> {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_millis(milliseconds))
        .ok_or_else(|| io::Error::other("a time is beyond all clocks"))
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
        let head = Head {
            version: VERSION,
            boot_id: boot_id.to_owned(),
        };
        let head = serde_json::to_string(&head)?;
        let theirs = shared.clone();
        let thread = thread::Builder::new()
            .name("health-memory".to_owned())
            .spawn(move || keep(&theirs, &path, &head))?;
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

/// The thread: waits for news, writes all lines, rests.
fn keep(shared: &Shared, path: &Path, head: &str) {
    let mut lines = BTreeMap::new();
    let mut failing = false;
    loop {
        let mut pending = shared.lock();
        while pending.news.is_empty() && !pending.stop {
            pending = shared
                .changed
                .wait(pending)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let news = std::mem::take(&mut pending.news);
        let mut stop = pending.stop;
        drop(pending);
        if !news.is_empty() {
            for (id, news) in news {
                match news.and_then(|(watched, checker)| line(&watched, &checker)) {
                    Some(line) => lines.insert(id, line),
                    None => lines.remove(&id),
                };
            }
            let began = Instant::now();
            let written = write(path, head, lines.values());
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
            stop = stop || rest(shared, pause);
        }
        if stop && shared.lock().news.is_empty() {
            return;
        }
    }
}

/// Waits so long, or until it is to stop; says which.
fn rest(shared: &Shared, pause: Duration) -> bool {
    let (pending, _) = shared
        .changed
        .wait_timeout_while(shared.lock(), pause, |pending| !pending.stop)
        .unwrap_or_else(PoisonError::into_inner);
    pending.stop
}

fn write<'a>(path: &Path, head: &str, lines: impl Iterator<Item = &'a String>) -> io::Result<()> {
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
