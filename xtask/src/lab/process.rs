//! Programs that run in the background.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use super::wait_until;

/// Time from SIGTERM to SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A program in the background, with the processes that it starts. It is stopped when this is dropped.
///
/// It gets a process group of its own: Ctrl-C at the terminal reaches the caller alone, who then stops things in
/// the right order.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    stopped: bool,
}

impl Process {
    /// Starts a command, which says where its output goes. `name` is used in messages.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name: name.into(),
            child,
            ended: None,
            stopped: false,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child process, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// The system call failed.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .with_context(|| format!("cannot ask after {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.ended.is_some() {
            bail!("cannot send {signal} to {}: it has ended", self.name);
        }
        kill(self.pid()?, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// It did not within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait_until(&what, limit, || Ok(self.ended()?.is_some()))?;
        self.ended.with_context(|| what)
    }

    /// Sends it SIGTERM, and kills it and the processes that it started if it does not end.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if self.ended()?.is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        let ended = self.wait(STOP_TIMEOUT);
        if !self.stopped {
            // Kills the processes that it has started, if there are any. Only once: the id may later belong to another
            // process group.
            let _ = killpg(self.pid()?, Signal::SIGKILL);
            self.stopped = true;
        }
        match ended {
            Ok(status) => Ok(status),
            Err(_) => self.wait(STOP_TIMEOUT),
        }
    }

    /// Kills it at once, as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// It has ended already.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        self.wait(STOP_TIMEOUT)
    }

    fn pid(&self) -> Result<Pid> {
        let id = i32::try_from(self.child.id()).context("the process id is out of range")?;
        Ok(Pid::from_raw(id))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("warning: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        Process::spawn(
            "a shell",
            Command::new("sh")
                .args(["-c", script])
                .stdout(Stdio::piped()),
        )
        .unwrap()
    }

    #[test]
    fn a_program_that_ends_by_itself_is_noticed() {
        let mut process = shell("exit 3");
        assert_eq!(process.wait(STOP_TIMEOUT).unwrap().code(), Some(3));
        assert_eq!(
            process.ended().unwrap().and_then(|status| status.code()),
            Some(3)
        );
        assert_eq!(process.stop().unwrap().code(), Some(3));
    }

    #[test]
    fn stopping_takes_along_what_the_program_started() {
        use std::io::Read as _;
        let mut process = shell("sleep 1000 & echo started; wait");
        let mut line = [0; 8];
        process
            .child()
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        process.stop().unwrap();
        // The sleeper held the pipe's other end; it is at its end only when the sleeper is gone.
        let mut rest = String::new();
        process
            .child()
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut rest)
            .unwrap();
        assert_eq!(rest, "");
    }

    #[test]
    fn killing_needs_no_consent() {
        use std::os::unix::process::ExitStatusExt as _;
        let mut process = shell("trap '' TERM; echo; while :; do sleep 0.01; done");
        assert_eq!(process.kill().unwrap().signal(), Some(9));
        assert!(process.signal(Signal::SIGTERM).is_err());
    }
}
