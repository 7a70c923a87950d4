//! The packet program's own log lines, read from its ring buffer by a thread.

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::Context;
use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The packet program's log level. Without one the log calls cost nothing: the verifier removes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PacketLog {
    /// Internal errors.
    Error = 1,
    /// Suspicious packets.
    Warn = 2,
    /// State changes.
    Info = 3,
    /// Every decision on a packet.
    Debug = 4,
    /// Everything.
    Trace = 5,
}

/// The thread that reads the lines and passes them to the `log` crate's logger.
#[derive(Debug)]
pub struct LogReader {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LogReader {
    /// Starts the thread; `None` when the object was built without log lines.
    ///
    /// # Errors
    /// The ring buffer or the thread could not be created.
    pub fn start(ebpf: &mut Ebpf) -> anyhow::Result<Option<Self>> {
        let mut logger = match EbpfLogger::init(ebpf) {
            Ok(logger) => logger,
            Err(aya_log::Error::MapNotFound) => return Ok(None),
            Err(error) => return Err(error).context("cannot read the packet program's log"),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                // A timeout, so that a stop is noticed.
                let mut fds = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
                match poll(&mut fds, PollTimeout::from(200_u16)) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => logger.flush(),
                    Err(error) => {
                        tracing::warn!(%error, "the packet program's log cannot be read any more");
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("packet-log".into())
            .spawn(run)
            .context("cannot start the packet log's thread")?;
        Ok(Some(Self {
            stop,
            thread: Some(thread),
        }))
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed; nothing depends on it.
            let _ = thread.join();
        }
    }
}
