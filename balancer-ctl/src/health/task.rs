//! The thread on which all checkers run, and the daemon's hold on it. Dropped, it stops them, and their memory is on disk.

use std::{
    fs, io,
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
    AgentReply, CheckStart, CheckTarget, Checkers, PersistedService, Quorum, RestoredState,
    Timestamp, UNKNOWN_TIME,
    driver::{Command, Driver, DriverContext, Probing},
    heartbeat::Heartbeat,
    mailbox::{Mailbox, Updates},
    memory::{self, Remembered},
    probe::{Prober, SocketPool},
};
use crate::{
    model::{ServiceKey, view},
    os::{clock, open_files},
};

/// Most probes at once, whatever the limit of open files: with a timeout of 2 s, four thousand dead targets a second.
const MOST: usize = 8192;
/// Open files that are not of probes that run; sockets that are kept for others are among them.
const OTHERS: usize = 512;
/// Open files that a probe may need: its socket, or a program's pipes.
const FILES: usize = 4;
/// Freed memory that is kept for other probes, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 16 << 20;
/// How long a stop waits for a call that blocks, such as a look into a file.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a stop waits for the thread, which may have to write its memory to a slow disk.
const FAREWELL: Duration = Duration::from_secs(3);

/// All checkers.
#[derive(Debug)]
pub struct Health {
    /// Without bound: the daemon alone fills it, a few times a second at most, and must not wait.
    commands: Option<mpsc::UnboundedSender<Command>>,
    /// What the state file said; until the first checkers run.
    remembered: Remembered,
    /// One moment on both clocks.
    began: (Instant, Timestamp),
    heartbeat: Arc<Heartbeat>,
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
    /// Its other end closes with the thread.
    ended: Receiver<()>,
}

impl Health {
    /// Starts the thread. Standings are kept in the file, if there is to be one.
    ///
    /// # Errors
    /// There cannot be another thread.
    pub fn start(state_file: Option<PathBuf>) -> io::Result<(Self, Updates)> {
        let spares = Arc::new(SocketPool::default());
        Self::start_with(state_file, move |watched, advice| {
            Prober::new(watched, &spares).map(|prober| prober.remembering(advice))
        })
    }

    /// Starts the thread, with probes as `make` makes them.
    ///
    /// # Errors
    /// There cannot be another thread.
    pub fn start_with<P: Probing>(
        state_file: Option<PathBuf>,
        make: impl FnMut(&CheckTarget, &AgentReply) -> Result<P, String> + Send + 'static,
    ) -> io::Result<(Self, Updates)> {
        let mailbox = Arc::new(Mailbox::default());
        let (commands, receiver) = mpsc::unbounded_channel();
        let (remembered, memory) = match state_file {
            None => (Remembered::default(), None),
            Some(path) => {
                let boot = fs::read_to_string(crate::os::paths::BOOT_ID)?;
                let remembered = memory::read(&path, boot.trim());
                (remembered, Some(memory::Writer::start(path, boot.trim())?))
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let heartbeat = Arc::new(Heartbeat::new(clock::now()));
        let theirs = heartbeat.clone();
        let around = DriverContext {
            make,
            // Each turn of the loop reads it.
            clock: Box::new(move || {
                theirs.beat(clock::now());
                Timestamp::now()
            }),
            mailbox: mailbox.clone(),
            memory,
            room: room(),
        };
        let (ends, ended) = channel();
        let thread = thread::Builder::new()
            .name("health".to_owned())
            .spawn(move || {
                let _ends: Sender<()> = ends;
                keep_freed_memory();
                runtime.block_on(async { Driver::new(around).run(receiver).await });
                runtime.shutdown_timeout(PATIENCE);
            })?;
        let health = Self {
            commands: Some(commands),
            remembered,
            began: (clock::now(), Timestamp::now()),
            heartbeat,
            mailbox: mailbox.clone(),
            thread: Some(thread),
            ended,
        };
        Ok((health, Updates(mailbox)))
    }

    /// When that was, which may be before this program's clock begins.
    fn instant(&self, moment: &Timestamp) -> Instant {
        let (instant, began) = &self.began;
        let ago = began.since_boot.saturating_sub(moment.since_boot);
        instant.checked_sub(ago).unwrap_or(*instant)
    }

    /// The moment of an instant.
    fn moment(&self, instant: Instant) -> Timestamp {
        let now = Timestamp::now();
        let ago = clock::now().saturating_duration_since(instant);
        Timestamp {
            time: now.time.checked_sub(ago).unwrap_or(now.time),
            since_boot: now.since_boot.saturating_sub(ago),
        }
    }

    fn command(&self, command: Command) {
        // If the thread has died, it has said why, and what it knew stays as it was.
        let _ = self
            .commands
            .as_ref()
            .map(|commands| commands.send(command));
    }
}

impl Checkers for Health {
    fn restored(
        &self,
        watched: &CheckTarget,
        service: &ServiceKey,
        real: SocketAddr,
    ) -> Option<RestoredState> {
        let (standing, has_returned) = self.remembered.standing(watched, service, real)?;
        let since = (standing.since != UNKNOWN_TIME).then(|| self.instant(&standing.since));
        Some(RestoredState {
            standing,
            since,
            has_returned,
        })
    }

    fn quorum(&self, service: &ServiceKey) -> Option<Quorum> {
        let (holds, since) = self.remembered.quorum(service)?;
        Some(Quorum {
            holds,
            since: self.instant(&since),
        })
    }

    fn last_written(&self) -> Option<Instant> {
        Some(self.instant(&self.remembered.written()?))
    }

    fn persist(&mut self, services: Vec<PersistedService>) {
        let services = services.into_iter().map(|kept| {
            let quorum = kept
                .quorum
                .map(|quorum| (quorum.holds, self.moment(quorum.since)));
            memory::Service::new(&kept.key, kept.reals, quorum)
        });
        let services = services.collect();
        self.command(Command::Keep(services));
    }

    fn watch(&mut self, wanted: Vec<CheckStart>) {
        // Only those who run from the start go on from where they stood: whoever comes later was not watched meanwhile.
        let remembered = std::mem::take(&mut self.remembered);
        let wanted = wanted
            .into_iter()
            .map(|begin| {
                let past = match begin.from {
                    Some(_) => remembered.history(&begin.watched),
                    None => Vec::new(),
                };
                (begin, past)
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
            if self.ended.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("the checkers stand still, they are not waited for");
                return;
            }
            // A panic has been told already.
            let _ = thread.join();
        }
    }
}

/// Has the C library keep what probes have freed for those to come, instead of giving it back to the kernel and asking
/// for it again a thousand times a second.
fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number that the allocator compares with; it may be called at any time.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Raises the limit of open files as far as it goes. Returns how many probes have room.
fn room() -> usize {
    let wanted = u64::try_from(OTHERS + MOST * FILES).unwrap_or(u64::MAX);
    let Some(limit) = open_files::raise(wanted) else {
        return FILES;
    };
    let files = usize::try_from(limit).unwrap_or(usize::MAX);
    (files.saturating_sub(OTHERS) / FILES).clamp(FILES, MOST)
}

#[cfg(test)]
mod tests;
