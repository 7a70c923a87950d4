//! The thread on which all checkers run, and the daemon's handle of it. Dropping the handle stops the checkers after their
//! states have been written to the state file.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    AgentReply, CheckStart, CheckStore, CheckTarget, Checkers, PersistedService, Quorum,
    RestoredState, Timestamp, UNKNOWN_TIME,
    driver::{Command, Driver, DriverContext, Probing},
    heartbeat::Heartbeat,
    mailbox::{Mailbox, Updates},
    probe::{Prober, SocketPool},
    store::{self, StoredState},
};
use crate::{
    model::{ServiceKey, view},
    os::{clock, open_files, state_file::boot_id},
};

/// Most probes that run at once, whatever the limit of open files: with a timeout of 2 s, enough for 4,000 probes of dead
/// targets per second.
const MAX_PROBES: usize = 8192;
/// Probes that may run at once even if the limit of open files is lower than it should be, or unknown.
const MIN_PROBES: usize = 4;
/// Open files set aside for everything but running probes; includes the sockets in the pool.
const RESERVED_FILES: usize = 512;
/// Open files that one probe may need: its socket, or a program's pipes.
const FILES_PER_PROBE: usize = 4;
/// Freed memory that the C library keeps for later probes, in bytes.
#[cfg(target_env = "gnu")]
const RETAINED_BYTES: libc::c_int = 16 << 20;
/// How long stopping waits for blocking calls of the thread's runtime, such as reading a file.
const BLOCKING_CALL_TIMEOUT: Duration = Duration::from_millis(500);
/// How long stopping waits for the thread, which may have to write the state file to a slow disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Handle of the thread that runs all checkers.
#[derive(Debug)]
pub struct Health {
    /// Unbounded: only the daemon sends, a few times a second at most, and it must not wait. `None` = stopping.
    commands: Option<mpsc::UnboundedSender<Command>>,
    /// Content of the state file; emptied when the first checkers start.
    restored: StoredState,
    /// The start of this handle on both clocks, to convert between them.
    started: (Instant, Timestamp),
    heartbeat: Arc<Heartbeat>,
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
    /// Closed when the thread ends.
    thread_ended: Receiver<()>,
}

impl Health {
    /// Starts the thread. States are stored in `state_file`, if one is given.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started, or the host's boot id cannot be read.
    pub fn start(state_file: Option<PathBuf>) -> io::Result<(Self, Updates)> {
        let pool = Arc::new(SocketPool::default());
        Self::start_with(state_file, move |check_target, agent_reply| {
            Prober::new(check_target, &pool).map(|prober| prober.with_last_reply(agent_reply))
        })
    }

    /// Starts the thread; `make` makes the probe of a target, which last requested so much.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_with<P: Probing>(
        state_file: Option<PathBuf>,
        make: impl FnMut(&CheckTarget, &AgentReply) -> Result<P, String> + Send + 'static,
    ) -> io::Result<(Self, Updates)> {
        let mailbox = Arc::new(Mailbox::default());
        let (commands, receiver) = mpsc::unbounded_channel();
        let (restored, store) = match state_file {
            None => (StoredState::default(), None),
            Some(path) => {
                let boot = boot_id()?;
                let restored = store::read(&path, &boot);
                (restored, Some(store::Writer::start(path, &boot)?))
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let heartbeat = Arc::new(Heartbeat::new(clock::now()));
        let beating = heartbeat.clone();
        let context = DriverContext {
            make_probe: make,
            // Each turn of the loop reads the clock.
            clock: Box::new(move || {
                beating.beat(clock::now());
                Timestamp::now()
            }),
            mailbox: mailbox.clone(),
            store,
            max_probes: max_probes(),
        };
        let (ends, ended) = channel();
        let thread = thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || {
                let _ends: Sender<()> = ends;
                retain_freed_memory();
                runtime.block_on(async { Driver::new(context).run(receiver).await });
                runtime.shutdown_timeout(BLOCKING_CALL_TIMEOUT);
            })?;
        let health = Self {
            commands: Some(commands),
            restored,
            started: (clock::now(), Timestamp::now()),
            heartbeat,
            mailbox: mailbox.clone(),
            thread: Some(thread),
            thread_ended: ended,
        };
        Ok((health, Updates(mailbox)))
    }

    /// Converts a timestamp; one before the beginning of the monotonic clock becomes the start of this handle.
    fn instant(&self, timestamp: &Timestamp) -> Instant {
        let (instant, started) = &self.started;
        let ago = started.since_boot.saturating_sub(timestamp.since_boot);
        instant.checked_sub(ago).unwrap_or(*instant)
    }

    /// Converts an instant, with the time of day as it is set now.
    fn timestamp(&self, instant: Instant) -> Timestamp {
        let now = Timestamp::now();
        let ago = clock::now().saturating_duration_since(instant);
        Timestamp {
            time: now.time.checked_sub(ago).unwrap_or(now.time),
            since_boot: now.since_boot.saturating_sub(ago),
        }
    }

    fn command(&self, command: Command) {
        // If the thread has panicked, the panic was logged, and the checks stay as they are.
        let _ = self
            .commands
            .as_ref()
            .map(|commands| commands.send(command));
    }
}

impl CheckStore for Health {
    fn restored(
        &self,
        check_target: &CheckTarget,
        service: &ServiceKey,
        real: SocketAddr,
    ) -> Option<RestoredState> {
        let (check_state, has_returned) = self.restored.check_state(check_target, service, real)?;
        let since = (check_state.since != UNKNOWN_TIME).then(|| self.instant(&check_state.since));
        Some(RestoredState {
            check_state,
            since,
            has_returned,
        })
    }

    fn quorum(&self, service: &ServiceKey) -> Option<Quorum> {
        let (holds, since) = self.restored.quorum(service)?;
        Some(Quorum {
            holds,
            since: self.instant(&since),
        })
    }

    fn last_written(&self) -> Option<Instant> {
        Some(self.instant(&self.restored.written_at()?))
    }

    fn persist(&mut self, services: Vec<PersistedService>) {
        let services = services.into_iter().map(|kept| {
            let quorum = kept
                .quorum
                .map(|quorum| (quorum.holds, self.timestamp(quorum.since)));
            store::ServiceLine::new(&kept.key, kept.reals, quorum)
        });
        let services = services.collect();
        self.command(Command::Persist(services));
    }
}

impl Checkers for Health {
    fn watch(&mut self, wanted: Vec<CheckStart>) {
        // Stored states are for the first checkers only: those added later were not checked meanwhile.
        let restored = std::mem::take(&mut self.restored);
        let wanted = wanted
            .into_iter()
            .map(|begin| {
                let history = match begin.from {
                    Some(_) => restored.history(&begin.target),
                    None => Vec::new(),
                };
                (begin, history)
            })
            .collect();
        self.command(Command::Watch(wanted));
    }

    fn alive(&self) -> bool {
        let is_there = |thread: &JoinHandle<()>| !thread.is_finished();
        self.thread.as_ref().is_some_and(is_there) && self.heartbeat.is_fresh(clock::now())
    }

    fn obstacles(&self) -> Vec<String> {
        self.mailbox.obstacles()
    }

    fn report(&self, reply: oneshot::Sender<Vec<view::Checker>>) {
        self.command(Command::Report(reply));
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            if self.thread_ended.recv_timeout(STOP_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("the checkers do not stop within 3 s and are not waited for");
                return;
            }
            // A panic has been logged already.
            let _ = thread.join();
        }
    }
}

/// Makes the C library keep memory that probes have freed for later ones, instead of giving it back to the kernel and
/// asking for it again a thousand times a second.
fn retain_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number that the allocator compares with; it may be called at any time.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, RETAINED_BYTES);
    }
}

/// Raises the limit of open files as far as needed and allowed. Returns how many probes may run at once.
fn max_probes() -> usize {
    let wanted = u64::try_from(RESERVED_FILES + MAX_PROBES * FILES_PER_PROBE).unwrap_or(u64::MAX);
    open_files::raise(wanted).map_or(MIN_PROBES, probes_within)
}

/// How many probes may run at once with this limit of open files.
fn probes_within(limit: u64) -> usize {
    let files = usize::try_from(limit).unwrap_or(usize::MAX);
    (files.saturating_sub(RESERVED_FILES) / FILES_PER_PROBE).clamp(MIN_PROBES, MAX_PROBES)
}

#[cfg(test)]
mod tests;
