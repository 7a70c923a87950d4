//! Loads the configuration file again. The file, and the certificates, keys and programs that it names, are read by a thread of their
//! own, since a file system may block it; changes and further reloads wait meanwhile, all else goes on.

use std::{collections::VecDeque, future, thread};

use tokio::sync::oneshot;

use super::{
    Daemon, Message, Reply, dataplane_error,
    peers::{FoundKey, KeySearch},
    vrrp::Unusable,
    with_location,
};
use crate::{
    config::{
        file::{ConfigFile, ConfigSource, FileError},
        validate::own,
    },
    model::{Model, diff::Event, error::ApiError, view::EventKind},
    netlink::local::LocalAddresses,
    os::{clock, heap, systemd},
};

/// The detail of the event when loading the file undid changes that were not in it.
const RUNTIME_CHANGES_UNDONE: &str = "changes made with --runtime were undone";

/// A configuration file to load, and what it is compared with.
pub(super) struct FileCheck {
    source: ConfigSource,
    running: Model,
    local: LocalAddresses,
    unusable: Unusable,
}

/// A configuration file to load, and the search for the key to speak to other nodes.
pub(super) struct Reload {
    file: FileCheck,
    key: KeySearch,
}

/// A configuration file that was loaded, and the key to speak to other nodes as it was then.
pub(super) struct LoadedFile {
    file: ConfigFile,
    key: FoundKey,
}

impl FileCheck {
    /// As [`ConfigSource::distrust`].
    pub fn distrust(&self) -> Option<String> {
        self.source.distrust()
    }

    /// Loads the file. It, and the files that it names, may block.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong.
    pub fn load(self) -> Result<ConfigFile, FileError> {
        let Self {
            source,
            running,
            local,
            unusable,
        } = self;
        source.load(|wanted| {
            let mut problems = own::problems(wanted, &running, &local);
            problems.extend(unusable(wanted, Some(&running)));
            problems
        })
    }
}

impl Reload {
    /// Loads the file.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong.
    pub fn load(self) -> Loaded {
        let Self { file, key } = self;
        let file = file
            .load()
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let key = key.read(&file.model().peers);
        Ok(LoadedFile { file, key })
    }
}

impl Daemon {
    /// Begins a reload.
    ///
    /// # Errors
    /// There is no file, or the kernel refused a query.
    pub(super) fn start_reload(&mut self) -> Result<Reload, ApiError> {
        systemd::reloading();
        self.reload_began = Some(clock::now());
        let Some(file) = &self.file else {
            return Err(ApiError::invalid(
                "there is no configuration file to load: start balancerd with --config FILE",
            ));
        };
        let source = file.source();
        Ok(Reload {
            file: self.file_check(source)?,
            key: self.key_search(),
        })
    }

    /// What loads a configuration file for this daemon as it runs now.
    ///
    /// # Errors
    /// The kernel refused a query.
    pub(super) fn file_check(&mut self, source: ConfigSource) -> Result<FileCheck, ApiError> {
        Ok(FileCheck {
            source,
            running: self.model.clone(),
            local: self.dataplane.local_addresses().map_err(dataplane_error)?,
            unusable: self.vrrp.unusable(),
        })
    }

    /// Applies a configuration file that was loaded again; returns notes about what it says. If it cannot be applied, the present
    /// configuration stays in force.
    ///
    /// # Errors
    /// It was not loaded, or the data plane refused it.
    pub(super) fn finish_reload(&mut self, loaded: Loaded) -> Result<Vec<String>, ApiError> {
        let result = loaded.and_then(|loaded| self.apply(loaded));
        systemd::ready();
        self.reload_began = None;
        let (kind, message) = match &result {
            Ok(undone) => (EventKind::Reloaded, (*undone).to_owned()),
            Err(refusal) => (EventKind::ReloadFailed, refusal.to_string()),
        };
        self.publish(Event::of_node(kind, &message));
        if result.is_ok()
            && let Some(warning) = self.file.as_ref().and_then(ConfigFile::distrust_warning)
        {
            tracing::warn!("{warning}");
        }
        heap::trim();
        result?;
        let note = self.overwritten();
        if let Some(sentence) = &note {
            tracing::warn!("{sentence}");
        }
        Ok(note.into_iter().collect())
    }

    /// Applies a configuration file. Returns [`RUNTIME_CHANGES_UNDONE`] if it undid such changes, else an empty text.
    fn apply(&mut self, loaded: LoadedFile) -> Result<&'static str, ApiError> {
        let LoadedFile { file, key } = loaded;
        let wanted = file.model().clone();
        let availability = self.availability_after(&wanted);
        let configured = self.dataplane.configure(&wanted.dataplane);
        if let Err(error) =
            configured.and_then(|()| self.dataplane.reconcile(availability.desired()))
        {
            self.is_misconfigured = true;
            let sentence = with_location(Some(&file), &error.0);
            self.refused_file = Some((file, sentence.clone()));
            return Err(self.roll_back(ApiError::failed(sentence)));
        }
        self.is_misconfigured = false;
        let is_undone = self.has_runtime_changes() && !self.runs(&wanted);
        self.take_file(file);
        self.take_key(key);
        self.commit(wanted, availability);
        self.configure_peers();
        Ok(if is_undone {
            RUNTIME_CHANGES_UNDONE
        } else {
            ""
        })
    }
}

type Loaded = Result<LoadedFile, ApiError>;

/// Changes that may wait for a reload.
const MAX_WAITING: usize = 64;

/// The reload that is in progress, and what waits for its end.
#[derive(Default)]
pub(super) struct Reloads {
    running: Option<(oneshot::Receiver<Loaded>, Reply<Vec<String>>)>,
    /// In the order in which they came.
    waiting: VecDeque<Message>,
    /// Whether a signal asked for another reload.
    is_wanted_again: bool,
}

impl Reloads {
    /// Handles a message, or keeps it until the reload in progress has ended.
    pub fn take(&mut self, daemon: &mut Daemon, message: Message) {
        match message {
            Message::Change(_, _, reply) | Message::Replace(_, reply)
                if self.running.is_some() && self.waiting.len() >= MAX_WAITING =>
            {
                drop(reply.send(Err(ApiError::failed(
                    "the configuration file is being loaded, and too many changes wait for that: try again",
                ))));
            }
            // A signal waits for no reply: one reload after the one in progress is enough for all.
            Message::Reload(reply) if self.running.is_some() && reply.is_closed() => {
                self.is_wanted_again = true;
            }
            Message::Change(..) | Message::Replace(..) | Message::Reload(_)
                if self.running.is_some() =>
            {
                self.waiting.push_back(message);
            }
            Message::Reload(reply) => self.start(daemon, reply),
            message => daemon.answer(message),
        }
    }

    fn start(&mut self, daemon: &mut Daemon, reply: Reply<Vec<String>>) {
        let (sender, loaded) = oneshot::channel();
        let started = daemon.start_reload().and_then(|reload| {
            // Not a task of the runtime, which would wait for it when the daemon ends.
            thread::Builder::new()
                .name("reload".to_owned())
                .spawn(move || drop(sender.send(reload.load())))
                .map_err(|error| ApiError::failed(format!("cannot start a thread: {error}")))
        });
        match started {
            Ok(_) => self.running = Some((loaded, reply)),
            Err(refusal) => drop(reply.send(daemon.finish_reload(Err(refusal)))),
        }
    }

    /// Whether a reload is in progress.
    #[cfg(test)]
    pub const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Waits until the file of the reload in progress is loaded; for ever if there is none.
    pub async fn next(&mut self) -> Loaded {
        let Some((loaded, _)) = &mut self.running else {
            return future::pending().await;
        };
        loaded
            .await
            .unwrap_or_else(|_| Err(ApiError::failed("the thread that loads the file panicked")))
    }

    /// Ends the reload in progress, and handles what has waited for it.
    pub fn finish(&mut self, daemon: &mut Daemon, loaded: Loaded) {
        if let Some((_, reply)) = self.running.take() {
            drop(reply.send(daemon.finish_reload(loaded)));
        }
        while self.running.is_none()
            && let Some(message) = self.waiting.pop_front()
        {
            // Who has given up waiting does not expect the change any more.
            let is_given_up = matches!(
                &message,
                Message::Change(_, _, reply) | Message::Replace(_, reply) if reply.is_closed()
            );
            if !is_given_up {
                self.take(daemon, message);
            }
        }
        if self.running.is_none() && std::mem::take(&mut self.is_wanted_again) {
            self.start(daemon, oneshot::channel().0);
        }
    }
}
