//! Runs one program: no shell, its own process group, a clean environment, none of our files, signals or limits, a time
//! limit, and no more of its output than fits. Programs run as root: each is judged right before each start.

use std::{
    convert::Infallible,
    fmt,
    fs::{self, File},
    future, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    path::PathBuf,
    process::ExitStatus,
    time::Duration,
};

use nix::{errno::Errno, sys::signal::Signal};
use tokio::{
    io::AsyncWriteExt as _,
    net::unix::pipe,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use self::{birth::SpawnSpec, group::Group, output::CapturedOutput};
pub use self::{
    command::{trusted, trusted_with_news},
    output::Output,
};
use crate::os::open_files;

mod birth;
mod command;
mod group;
mod output;
mod trusted;

/// Where programs that a program runs by name are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LANG: &str = "C.UTF-8";
/// How long a program that was told to stop has before it is killed.
const GRACE: Duration = Duration::from_secs(1);

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its absolute path.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, to which `PATH` and `LANG` are added.
    pub environment: Vec<(String, String)>,
    /// What it can read; with nothing, `/dev/null`.
    pub input: Vec<u8>,
    /// How long it may take; then its process group is told to stop, and killed a second later. `None` = until it is
    /// dropped.
    pub timeout: Option<Duration>,
    /// How many bytes of its output are kept.
    pub keep: usize,
    /// Where standard error goes.
    pub errors: StderrMode,
    /// What becomes of the processes that it leaves behind.
    pub left: Leftovers,
}

/// Where a program's standard error goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StderrMode {
    /// To its output, so that lines stand in the order in which they were written.
    WithOutput,
    /// Apart from it, and as much is kept of it.
    Apart,
}

/// What becomes of processes of a program's group when the program itself has ended in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// They go on.
    LeaveRunning,
    /// They are killed.
    Kill,
}

/// A program that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How.
    pub end: ExitReason,
    /// The beginning of its output.
    pub output: Output,
    /// The beginning of its standard error, where that is apart.
    pub errors: Output,
    /// How long it took.
    pub took: Duration,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// By itself, with this status.
    Exit(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// It took longer than this and was stopped.
    Timeout(Duration),
}

impl From<ExitStatus> for ExitReason {
    fn from(status: ExitStatus) -> Self {
        status
            .code()
            .map_or_else(|| Self::Signal(status.signal().unwrap_or(0)), Self::Exit)
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exit(status) => write!(f, "exit status {status}"),
            Self::Signal(number) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            Self::Timeout(limit) => {
                write!(
                    f,
                    "not done after {} and killed",
                    humantime::format_duration(limit)
                )
            }
        }
    }
}

/// Why a program did not run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It must not.
    #[error("{0}")]
    Refused(String),
    /// There is none, or none that this host can run.
    #[error("{0}")]
    Missing(String),
    /// It cannot, or nothing is known of its end.
    #[error("{}", words(.0))]
    System(#[from] io::Error),
}

fn words(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => open_files::TOO_MANY.to_owned(),
        Some(errno) => errno.desc().to_lowercase(),
        None => error.to_string(),
    }
}

impl Program {
    /// Runs it to its end, or to its time limit, if `judge` finds nothing wrong with it right now; that is asked on
    /// another thread, as a file system may hold it up. Dropped before that, it kills the whole process group. Processes
    /// that have left the group go on. What `judge` returns is kept until it and the program have ended.
    ///
    /// # Errors
    /// It must not be run, or could not be started.
    pub async fn run<K: Send + 'static>(
        &self,
        judge: impl FnOnce() -> Result<K, String> + Send + 'static,
    ) -> Result<Finished, ProgramError> {
        let path = self.path.clone();
        let judged = spawn_blocking(move || {
            judge().map_err(|reason| match fs::metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    ProgramError::Missing(reason)
                }
                Ok(_) | Err(_) => ProgramError::Refused(reason),
            })
        });
        let kept = judged.await.map_err(io::Error::other)??;
        let begun = Instant::now();
        let Started {
            mut group,
            input,
            mut output,
            mut errors,
        } = self.start(kept).map_err(|error| self.why(error))?;
        let end = {
            // Neither end of what is said is the program's end, nor the other way round.
            let talk = async {
                let read_errors = async {
                    if let Some(errors) = &mut errors {
                        errors.read().await;
                    }
                };
                tokio::join!(feed(input, &self.input), output.read(), read_errors);
                future::pending::<Infallible>().await
            };
            tokio::select! {
                end = self.end(&mut group, begun) => end?,
                never = talk => match never {},
            }
        };
        Ok(Finished {
            end,
            output: output.end(),
            errors: errors.map(CapturedOutput::end).unwrap_or_default(),
            took: begun.elapsed(),
        })
    }

    /// The kernel says of a script whose interpreter is gone that the script is.
    fn why(&self, error: io::Error) -> ProgramError {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) if self.path.exists() => ProgramError::Missing(
                "what it is run by, the interpreter behind `#!` or the loader, does not exist"
                    .to_owned(),
            ),
            Some(Errno::ENOENT) => ProgramError::Missing(words(&error)),
            Some(Errno::ENOEXEC) => ProgramError::Missing(
                "it is neither a program for this host nor a script that begins with `#!`"
                    .to_owned(),
            ),
            _ => error.into(),
        }
    }

    async fn end<K: Send + 'static>(
        &self,
        group: &mut Group<K>,
        begun: Instant,
    ) -> io::Result<ExitReason> {
        let Some(limit) = self.timeout else {
            return Ok(group.end(self.left).await?.into());
        };
        if let Ok(status) = timeout_at(begun + limit, group.end(self.left)).await {
            return Ok(status?.into());
        }
        group.stop(GRACE).await?;
        Ok(ExitReason::Timeout(limit))
    }

    fn start<K: Send + 'static>(&self, kept: K) -> io::Result<Started<K>> {
        let (stdin, input) = if self.input.is_empty() {
            (OwnedFd::from(File::open("/dev/null")?), None)
        } else {
            let (reader, writer) = io::pipe()?;
            let input = pipe::Sender::from_owned_fd(OwnedFd::from(writer))?;
            (OwnedFd::from(reader), Some(input))
        };
        // Dropped at the end with its other ends of the pipes, so that the last process that holds one is the program's.
        let (output, stdout) = CapturedOutput::new(self.keep)?;
        let (errors, stderr) = match self.errors {
            StderrMode::WithOutput => (None, stdout.try_clone()?),
            StderrMode::Apart => {
                let (errors, stderr) = CapturedOutput::new(self.keep)?;
                (Some(errors), stderr)
            }
        };
        let own = self.environment.iter();
        let own = own.map(|(name, value)| (name.as_str(), value.as_str()));
        let birth = SpawnSpec {
            path: &self.path,
            arguments: &self.arguments,
            environment: [("PATH", PATH), ("LANG", LANG)]
                .into_iter()
                .chain(own)
                .collect(),
            files: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            limit: open_files::started_with(),
        };
        let group = Group::start(birth, kept)?;
        Ok(Started {
            group,
            input,
            output,
            errors,
        })
    }
}

/// A program that runs, and our ends of its pipes.
struct Started<K: Send + 'static> {
    group: Group<K>,
    input: Option<pipe::Sender>,
    output: CapturedOutput,
    errors: Option<CapturedOutput>,
}

async fn feed(input: Option<pipe::Sender>, bytes: &[u8]) {
    let Some(mut input) = input else { return };
    // A program need not read what it is given.
    let _ = input.write_all(bytes).await;
}

#[cfg(test)]
mod tests;
