//! A program's process group, from its start until its first process has been reaped.

use std::{
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    process::ExitStatus,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    time::timeout,
};

use super::{Leftovers, spawn::SpawnSpec};

/// A process group; its id is that of its first process. Dropping it before that process has been reaped kills the group.
/// Until then the id cannot be reused, so no other group can be hit.
pub struct Group<K: Send + 'static> {
    id: Pid,
    /// The pidfd of the first process, readable once it has ended; `None` = it has been reaped.
    end: Option<AsyncFd<OwnedFd>>,
    /// Dropped once the first process has been reaped, even if this is dropped before.
    kept: Option<K>,
}

impl<K: Send + 'static> Group<K> {
    pub fn start(spec: SpawnSpec<'_>, kept: K) -> io::Result<Self> {
        let id = spec.start()?;
        match watch(id) {
            Ok(end) => Ok(Self {
                id,
                end: Some(end),
                kept: Some(kept),
            }),
            Err(error) => {
                signal(id, Signal::SIGKILL);
                // Killed at its start, it ends at once.
                reap(id, WaitMode::Forever)?;
                Err(error)
            }
        }
    }

    /// Waits for the first process to end, and reaps it.
    pub async fn end(&mut self, left: Leftovers) -> io::Result<ExitStatus> {
        if let Some(end) = &self.end {
            end.readable().await?.retain_ready();
        }
        if left == Leftovers::Kill {
            signal(self.id, Signal::SIGKILL);
        }
        // From here on the id may be reused.
        self.end = None;
        reap(self.id, WaitMode::None)
    }

    /// Sends SIGTERM to the group, and SIGKILL when the first process has ended, or after `grace`.
    pub async fn stop(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        signal(self.id, Signal::SIGTERM);
        if let Ok(ended) = timeout(grace, self.end(Leftovers::Kill)).await {
            return ended;
        }
        signal(self.id, Signal::SIGKILL);
        self.end(Leftovers::Kill).await
    }
}

impl<K: Send + 'static> Drop for Group<K> {
    fn drop(&mut self) {
        let Some(end) = self.end.take() else { return };
        signal(self.id, Signal::SIGKILL);
        let (id, kept) = (self.id, self.kept.take());
        // Without a runtime the daemon is about to end, and init reaps the process.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = end.readable().await;
                let _ = reap(id, WaitMode::None);
                drop(kept);
            });
        }
    }
}

fn signal(group: Pid, signal: Signal) {
    match killpg(group, signal) {
        // The group is empty, or what is left of it runs as another user.
        Ok(()) | Err(Errno::ESRCH | Errno::EPERM) => {}
        Err(error) => tracing::warn!(%error, "cannot stop a program's processes"),
    }
}

/// Opens a pidfd, which is readable once the process has ended.
fn watch(process: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the call takes two numbers and touches no memory.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    let Ok(opened @ 0..) = i32::try_from(opened) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the call has just opened it, and nothing else owns it. It is close-on-exec.
    let opened = unsafe { OwnedFd::from_raw_fd(opened) };
    // SAFETY: the descriptor is open, and its owner, which keeps it open, goes into the `AsyncFd`.
    Ok(unsafe { AsyncFd::register_with_interest(opened, Interest::READABLE) }?)
}

/// Whether to wait for a process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitMode {
    /// Do not wait: it has ended.
    None,
    /// Wait until it ends.
    Forever,
}

/// Reaps a child, which frees its id, and returns how it ended.
pub fn reap(child: Pid, wait: WaitMode) -> io::Result<ExitStatus> {
    let options = match wait {
        WaitMode::None => libc::WNOHANG,
        WaitMode::Forever => 0,
    };
    let mut status = 0;
    loop {
        // SAFETY: the call writes only to `status`.
        let reaped = unsafe { libc::waitpid(child.as_raw(), &mut status, options) };
        match Errno::result(reaped) {
            Ok(0) => return Err(io::Error::other("the program has not ended")),
            Ok(_) => return Ok(ExitStatus::from_raw(status)),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
