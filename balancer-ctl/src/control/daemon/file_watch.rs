//! Watches the configuration file: whether it is still the one that was loaded, and otherwise whether it would load. A thread of its own
//! looks, one at a time, since a file system may block it; nothing else waits for that, and a request for the status only for a moment.

use std::{
    future,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Daemon, Reply};
use crate::{
    config::{
        file::{ConfigFile, FileError},
        on_disk::{OnDisk, Stamp},
    },
    model::{condition::Condition, view},
    os::{clock, heap},
};

/// How often the file is looked at, beside each request for the status.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a request for the status waits for what a look finds.
const PATIENCE: Duration = Duration::from_millis(500);
/// A look that lasts as long is a cause of [`Condition::FileOutOfSync`].
const SLOW: Duration = Duration::from_secs(5);
/// How often a file that differs is loaded again for a trial: what is wrong may be a file that it names.
const TRIAL_INTERVAL: Duration = Duration::from_secs(30);

/// What a thread found.
pub(super) enum Found {
    /// By comparing the file with the loaded one.
    Compared(OnDisk),
    /// By loading the file for a trial, as a reload would.
    Tried(Result<ConfigFile, FileError>),
    /// That others than root may have written the file, and how: what it names is then not looked at without an operator.
    Distrusted(String),
}

/// A look that is in progress.
struct Look {
    found: oneshot::Receiver<Found>,
    began: Instant,
    /// What the file is compared with.
    file: ConfigFile,
    /// The stamp of the file that is loaded for a trial.
    stamp: Option<Stamp>,
    /// It lasts as long as [`SLOW`], which was noted.
    is_slow: bool,
}

/// What is known of the file as long as it keeps its stamp.
struct Known {
    stamp: Stamp,
    /// What it was compared with.
    file: ConfigFile,
    /// In what it is not in sync with that; `None` = it is.
    cause: Option<String>,
    since: Instant,
}

/// The looks at the file, and who waits for them.
pub(super) struct FileWatch {
    look: Option<Look>,
    waiting: Vec<Reply<view::Status>>,
    next_look: Instant,
    known: Option<Known>,
}

impl FileWatch {
    /// Begins with the file that was loaded just now.
    pub fn new() -> Self {
        Self {
            look: None,
            waiting: Vec::new(),
            next_look: clock::now() + INTERVAL,
            known: None,
        }
    }

    /// Replies with the status as soon as the file was looked at; without that if it takes long.
    pub fn reply_with_status(&mut self, daemon: &mut Daemon, reply: Reply<view::Status>) {
        self.waiting.push(reply);
        match &self.look {
            None => self.compare(daemon),
            Some(look) if clock::now() >= look.began + PATIENCE => self.reply_to_all(daemon),
            Some(_) => {}
        }
    }

    /// When [`Self::advance`] has something to do; `None` = not before the look in progress has ended.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.look {
            None => Some(self.next_look),
            Some(look) if !self.waiting.is_empty() => Some(look.began + PATIENCE),
            Some(look) => (!look.is_slow).then_some(look.began + SLOW),
        }
    }

    /// Does what is due.
    pub fn advance(&mut self, daemon: &mut Daemon) {
        let now = clock::now();
        let Some(look) = &mut self.look else {
            if now >= self.next_look {
                self.compare(daemon);
            }
            return;
        };
        let lasted = now.duration_since(look.began);
        if lasted >= SLOW && !look.is_slow {
            look.is_slow = true;
            let path = look.file.path().display();
            let cause = format!("{path}, or a file or user that it names, does not answer");
            daemon.note(Condition::FileOutOfSync, Some(cause));
        }
        if lasted >= PATIENCE {
            self.reply_to_all(daemon);
        }
    }

    /// Waits until the look in progress has ended; for ever if there is none. Returns `None` if its thread panicked.
    pub async fn next(&mut self) -> Option<Found> {
        match &mut self.look {
            None => future::pending().await,
            Some(look) => (&mut look.found).await.ok(),
        }
    }

    /// Ends the look in progress.
    pub fn finish(&mut self, daemon: &mut Daemon, found: Option<Found>) {
        let Some(look) = self.look.take() else {
            return;
        };
        let present = daemon.file.as_ref();
        if !present.is_some_and(|file| file.is_copy(&look.file)) {
            // It was loaded or written meanwhile: who waits wants to know of that one.
            if !self.waiting.is_empty() {
                self.compare(daemon);
            }
            return;
        }
        let path = look.file.path();
        let (stamp, cause) = match found {
            // A reload is in progress, and the end of it says more.
            _ if daemon.reload_began.is_some() => return self.reply_to_all(daemon),
            None => return self.reply_to_all(daemon),
            Some(Found::Compared(OnDisk::Different(stamp))) => {
                return self.load(daemon, Look { stamp, ..look });
            }
            Some(Found::Compared(OnDisk::Untouched)) => {
                let cause = self.known.as_ref().and_then(|known| known.cause.clone());
                daemon.note(Condition::FileOutOfSync, cause);
                return self.reply_to_all(daemon);
            }
            Some(Found::Compared(OnDisk::Same(stamp))) => (stamp, None),
            Some(Found::Compared(OnDisk::Unreadable(error))) => {
                (None, Some(cannot_be_read(path, &error)))
            }
            Some(Found::Tried(Ok(file))) => (look.stamp, Some(daemon.difference(&file))),
            Some(Found::Tried(Err(error))) => (look.stamp, Some(error_in(path, error))),
            Some(Found::Distrusted(reason)) => {
                let path = path.display();
                let cause = format!(
                    "{path} has changed since it was loaded, and others than root may have done that: {reason}"
                );
                (look.stamp, Some(cause))
            }
        };
        daemon.note(Condition::FileOutOfSync, cause.clone());
        self.known = stamp.map(|stamp| Known {
            stamp,
            file: look.file,
            cause,
            since: clock::now(),
        });
        self.reply_to_all(daemon);
    }

    /// Begins to compare the file with the loaded one.
    fn compare(&mut self, daemon: &mut Daemon) {
        let now = clock::now();
        self.next_look = now + INTERVAL;
        let file = daemon.file.clone();
        let Some(file) = file.filter(|_| daemon.reload_began.is_none()) else {
            return self.reply_to_all(daemon);
        };
        let known = self.known.as_ref().filter(|known| {
            let is_recent = now.duration_since(known.since) < TRIAL_INTERVAL;
            known.file.is_copy(&file) && (known.cause.is_none() || is_recent)
        });
        let seen = known.map(|known| known.stamp);
        let compared = file.clone();
        let compare = move || Found::Compared(compared.on_disk(seen));
        self.start(daemon, (now, file, None), compare);
    }

    /// Begins to load the file for a trial, in the same look in which it was compared.
    fn load(&mut self, daemon: &mut Daemon, look: Look) {
        let Look {
            began, file, stamp, ..
        } = look;
        match daemon.file_check(file.source()) {
            Ok(check) => self.start(daemon, (began, file, stamp), || {
                if let Some(reason) = check.distrust() {
                    return Found::Distrusted(reason);
                }
                let result = check.load();
                heap::trim();
                Found::Tried(result)
            }),
            Err(error) => {
                tracing::warn!(%error, "cannot tell whether the configuration file would load");
                self.reply_to_all(daemon);
            }
        }
    }

    fn start(
        &mut self,
        daemon: &mut Daemon,
        (began, file, stamp): (Instant, ConfigFile, Option<Stamp>),
        find: impl FnOnce() -> Found + Send + 'static,
    ) {
        let (sender, found) = oneshot::channel();
        // Not a task of the runtime, which would wait for it when the daemon ends.
        let started = thread::Builder::new()
            .name("file-watch".to_owned())
            .spawn(move || drop(sender.send(find())));
        match started {
            Ok(_) => {
                self.look = Some(Look {
                    found,
                    began,
                    file,
                    stamp,
                    is_slow: false,
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot start the thread that looks at the configuration file");
                self.reply_to_all(daemon);
            }
        }
    }

    fn reply_to_all(&mut self, daemon: &mut Daemon) {
        for reply in self.waiting.drain(..) {
            drop(reply.send(daemon.status()));
        }
    }
}

/// Why a file that differs from the loaded one does not load.
fn error_in(path: &Path, error: FileError) -> String {
    match error {
        FileError::Unreadable { path, error } => cannot_be_read(&path, &error),
        FileError::Invalid { errors, .. } => {
            let path = path.display();
            let more = match errors.len() {
                0 | 1 => String::new(),
                2 => "; and 1 more error".to_owned(),
                count => format!("; and {} more errors", count - 1),
            };
            let first = errors.first().map(ToString::to_string);
            let first = first.unwrap_or_default();
            format!("the configuration file has changed and no longer loads: {path}:{first}{more}")
        }
    }
}

fn cannot_be_read(path: &Path, error: &std::io::Error) -> String {
    let path = path.display();
    format!("{path} cannot be read any more ({error}): put it back")
}

impl Daemon {
    /// Takes a file that was loaded or written just now.
    pub(super) fn take_file(&mut self, file: ConfigFile) {
        self.file = Some(file);
        self.refused_file = None;
        self.note(Condition::FileOutOfSync, None);
    }

    /// In what a file that loads is not in sync with the loaded one.
    fn difference(&self, found: &ConfigFile) -> String {
        let path = found.path().display();
        match &self.refused_file {
            Some((refused, sentence)) if refused.text() == found.text() => {
                format!(
                    "{path} has changed since it was loaded, and its reload was refused: {sentence}"
                )
            }
            _ => format!("{path} has changed since it was loaded: `balancer-ctl reload` loads it"),
        }
    }
}
