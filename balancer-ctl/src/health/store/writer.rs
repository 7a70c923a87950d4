//! Writes the state file, on a thread of its own.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{HeaderLine, ServiceLine, StoredTime, VERSION, checker_line};
use crate::{
    health::{CheckTarget, Timestamp, checker::Checker, schedule::CheckerId},
    os::state_file::StateFile,
};

/// Least time between the starts of two writes.
pub(super) const WRITE_INTERVAL: Duration = Duration::from_millis(100);
/// A write that took long is followed by a pause of this many times its duration.
const PAUSE_FACTOR: u32 = 10;

/// Handle of the writer's thread. Dropping it waits until everything is written.
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
    /// Checkers whose state changed, `None` = stopped. One entry per checker bounds its size.
    checkers: BTreeMap<CheckerId, Option<(Arc<CheckTarget>, Checker)>>,
    /// All services, if they changed.
    services: Option<Vec<ServiceLine>>,
    stop: bool,
}

impl Shared {
    /// A poisoned lock is safe to use: no code panics while it holds it.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Starts the thread. The file stays as it is until there is something to write.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(path: PathBuf, boot_id: &str) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let boot_id = boot_id.to_owned();
        let owned = shared.clone();
        let thread = thread::Builder::new()
            .name("health-store".to_owned())
            .spawn(move || run(&owned, &path, &boot_id))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Stores a checker's state. The thread formats it, which takes longer than a probe should be delayed.
    pub(in crate::health) fn put(
        &self,
        id: CheckerId,
        check_target: Arc<CheckTarget>,
        checker: Checker,
    ) {
        self.queue(id, Some((check_target, checker)));
    }

    /// Removes a checker that was stopped.
    pub(in crate::health) fn remove(&self, id: CheckerId) {
        self.queue(id, None);
    }

    /// Replaces the services in the file.
    pub(in crate::health) fn set_services(&self, services: Vec<ServiceLine>) {
        let old = self.shared.lock().services.replace(services);
        self.shared.changed.notify_one();
        drop(old);
    }

    fn queue(&self, id: CheckerId, checker: Option<(Arc<CheckTarget>, Checker)>) {
        let old = self.shared.lock().checkers.insert(id, checker);
        self.shared.changed.notify_one();
        // Freed after the lock is released.
        drop(old);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic has been logged already.
            let _ = thread.join();
        }
    }
}

/// The thread: waits for changes, writes all lines, pauses. At its end it writes once more, so that the file says until
/// when this daemon ran. If it was never given anything, it leaves the file as it is.
fn run(shared: &Shared, path: &Path, boot_id: &str) {
    let mut services = Vec::new();
    let mut lines = BTreeMap::new();
    let mut has_content = false;
    let mut failing = false;
    loop {
        let mut pending = shared.lock();
        while pending.checkers.is_empty() && pending.services.is_none() && !pending.stop {
            pending = shared
                .changed
                .wait(pending)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let changed = std::mem::take(&mut pending.checkers);
        let new_services = pending.services.take();
        let stop = pending.stop;
        drop(pending);
        has_content |= !changed.is_empty() || new_services.is_some();
        if let Some(new) = new_services {
            let texts = new
                .iter()
                .filter_map(|service| serde_json::to_string(service).ok());
            services = texts.collect();
        }
        for (id, checker) in changed {
            match checker.and_then(|(check_target, checker)| checker_line(&check_target, &checker))
            {
                Some(line) => lines.insert(id, line),
                None => lines.remove(&id),
            };
        }
        if has_content {
            let began = Instant::now();
            let written = write(path, boot_id, services.iter().chain(lines.values()));
            if let Err(error) = &written
                && !failing
            {
                tracing::warn!(
                    path = %path.display(),
                    "the states of the checks cannot be written, so a restarted daemon will start without them: {error}"
                );
            }
            failing = written.is_err();
            let pause = WRITE_INTERVAL.max(began.elapsed() * PAUSE_FACTOR);
            if !stop {
                wait(shared, pause);
            }
        }
        if stop {
            return;
        }
    }
}

/// Waits for `pause`, or until the thread is told to stop.
fn wait(shared: &Shared, pause: Duration) {
    drop(
        shared
            .changed
            .wait_timeout_while(shared.lock(), pause, |pending| !pending.stop),
    );
}

fn write<'a>(
    path: &Path,
    boot_id: &str,
    mut lines: impl Iterator<Item = &'a String>,
) -> io::Result<()> {
    let head = serde_json::to_string(&HeaderLine {
        version: VERSION,
        boot_id: boot_id.to_owned(),
        written: StoredTime::new(&Timestamp::now()),
    })?;
    StateFile::at(path).replace(|file| {
        writeln!(file, "{head}")?;
        lines.try_for_each(|line| writeln!(file, "{line}"))
    })
}
