//! The state file's writer.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{At, Head, Service, VERSION, line};
use crate::health::{CheckTarget, Timestamp, checker::Checker, schedule::CheckerId};

/// From the beginning of one writing to that of the next.
pub(super) const WRITE_EVERY: Duration = Duration::from_millis(100);
/// A writing that took long is followed by a pause of so many times its length.
const PAUSE: u32 = 10;

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
    news: BTreeMap<CheckerId, Option<(Arc<CheckTarget>, Checker)>>,
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
    pub(in crate::health) fn put(
        &self,
        id: CheckerId,
        watched: Arc<CheckTarget>,
        checker: Checker,
    ) {
        self.take(id, Some((watched, checker)));
    }

    /// A checker is gone.
    pub(in crate::health) fn remove(&self, id: CheckerId) {
        self.take(id, None);
    }

    /// Takes what is to be written of services.
    pub(in crate::health) fn keep(&self, services: Vec<Service>) {
        let old = self.shared.lock().services.replace(services);
        self.shared.changed.notify_one();
        drop(old);
    }

    fn take(&self, id: CheckerId, news: Option<(Arc<CheckTarget>, Checker)>) {
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
        written: At::new(&Timestamp::now()),
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
