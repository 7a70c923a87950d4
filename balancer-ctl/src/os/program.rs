//! Runs one program: without a shell, in a session of its own, without a terminal, in `/`, with a clean environment, with none of the
//! daemon's files, signal settings or limits, with a time limit, and with a limit of the output that is kept. Programs run
//! as root, or as another account of this host, and each is checked right before each start: it does not run if anybody
//! but root and that account can change it.

use std::{
    convert::Infallible,
    fmt,
    fs::{self, File},
    future, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{signal::Signal, stat::fstat},
    unistd::fchown,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::unix::pipe,
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

#[cfg(test)]
pub use self::trusted::tests::open_folder;
pub use self::{
    account::Account,
    command::{trusted, trusted_for_notify},
    output::Output,
    run_as::{OWN_BINARY, run_if_asked},
    trusted::check_origin,
};
use self::{group::Group, output::CapturedOutput, spawn::SpawnSpec};
use crate::os::open_files;

mod account;
mod command;
mod group;
mod output;
mod run_as;
mod spawn;
mod trusted;

/// `PATH` of the programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LANG: &str = "C.UTF-8";
/// Time from SIGTERM to SIGKILL for a program that has reached its time limit.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Absolute path of the program.
    pub path: PathBuf,
    /// Arguments, without the program itself.
    pub arguments: Vec<String>,
    /// The user that it runs as; `None` = root.
    pub user: Option<String>,
    /// How long the check before its start may take, which asks the user database and looks at files.
    pub check_timeout: Duration,
    /// Environment variables, besides `PATH` and `LANG`.
    pub environment: Vec<(String, String)>,
    /// Standard input; if empty, `/dev/null`.
    pub input: Vec<u8>,
    /// Time limit, after which the process group gets SIGTERM and, 1 s later, SIGKILL. `None` = no limit; it runs until the
    /// future is dropped.
    pub timeout: Option<Duration>,
    /// Bytes of its output that are kept.
    pub keep: usize,
    /// Where standard error goes.
    pub errors: StderrMode,
    /// What to do with processes that it leaves behind.
    pub left: Leftovers,
}

/// Where a program's standard error goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StderrMode {
    /// Into the output, so that all lines are in the order in which they were written.
    WithOutput,
    /// Into [`Finished::errors`], of which the same number of bytes is kept.
    Apart,
}

/// What to do with other processes of a program's group when the program itself has ended in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// Leave them running.
    LeaveRunning,
    /// Kill them.
    Kill,
}

/// Result of a program that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub end: ExitReason,
    /// The beginning of its output.
    pub output: Output,
    /// The beginning of its standard error; empty with [`StderrMode::WithOutput`].
    pub errors: Output,
    /// Time from its start to its end.
    pub took: Duration,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// With this exit status.
    Exit(i32),
    /// By this signal, which the daemon did not send.
    Signal(i32),
    /// It ran longer than this limit and was stopped.
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
    /// The check before the start failed.
    #[error("{0}")]
    Refused(String),
    /// It does not exist, or this host cannot run its file format.
    #[error("{0}")]
    Missing(String),
    /// The system could not start it or wait for its end.
    #[error("{}", error_text(.0))]
    System(#[from] io::Error),
}

fn error_text(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE) => open_files::TOO_MANY.to_owned(),
        Some(errno) => errno.desc().to_lowercase(),
        None => error.to_string(),
    }
}

impl Program {
    /// Runs the program to its end or its time limit, if `check` succeeds for the account that it is to run as. `check` runs on
    /// another thread, because a file system or the user database may block it. The value that it returns is dropped only
    /// after the program has ended and has been reaped. Dropping the future kills the process group; processes that have
    /// left the group go on.
    ///
    /// # Errors
    /// There is no such user, `check` failed, or the program could not be started.
    pub async fn run<K: Send + 'static>(
        &self,
        check: impl FnOnce(&Account) -> Result<K, String> + Send + 'static,
    ) -> Result<Finished, ProgramError> {
        let (path, user) = (self.path.clone(), self.user.clone());
        let checked = spawn_blocking(move || {
            let account = Account::find(user.as_deref()).map_err(ProgramError::Refused)?;
            let kept = check(&account).map_err(|reason| match fs::metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    ProgramError::Missing(reason)
                }
                Ok(_) | Err(_) => ProgramError::Refused(reason),
            })?;
            Ok::<_, ProgramError>((account, kept))
        });
        let checked = timeout(self.check_timeout, checked).await.map_err(|_| {
            ProgramError::Refused(format!(
                "it could not be checked within {}: its files, or the user database, do not answer",
                humantime::format_duration(self.check_timeout)
            ))
        })?;
        let (account, kept) = checked.map_err(io::Error::other)??;
        let begun = Instant::now();
        let Started {
            mut group,
            input,
            mut output,
            mut errors,
            start_error,
        } = self
            .start(&account, kept)
            .map_err(|error| self.start_error(error))?;
        let end = {
            // The end of the pipes is not the program's end: processes it left behind may hold them, or it may close them.
            let talk = async {
                let read_errors = async {
                    if let Some(errors) = &mut errors {
                        errors.read().await;
                    }
                };
                tokio::join!(write_input(input, &self.input), output.read(), read_errors);
                future::pending::<Infallible>().await
            };
            tokio::select! {
                end = self.end(&mut group, begun) => end?,
                never = talk => match never {},
            }
        };
        if let Some(file) = start_error
            && let Some(errno) = run_as::read_error(file).await
        {
            return Err(match errno {
                Errno::EACCES => {
                    ProgramError::Refused(format!("user `{account}` may not execute it"))
                }
                errno => self.start_error(errno.into()),
            });
        }
        Ok(Finished {
            end,
            output: output.end(),
            errors: errors.map(CapturedOutput::end).unwrap_or_default(),
            took: begun.elapsed(),
        })
    }

    /// Explains why the program could not be started. For a script without its interpreter the kernel's error is that the
    /// script does not exist.
    fn start_error(&self, error: io::Error) -> ProgramError {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) if self.path.exists() => ProgramError::Missing(
                "the interpreter that its `#!` line names, or its loader, does not exist"
                    .to_owned(),
            ),
            Some(Errno::ENOENT) => ProgramError::Missing(error_text(&error)),
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
        group.stop(STOP_GRACE).await?;
        Ok(ExitReason::Timeout(limit))
    }

    fn start<K: Send + 'static>(&self, account: &Account, kept: K) -> io::Result<Started<K>> {
        let (stdin, input) = if self.input.is_empty() {
            (OwnedFd::from(File::open("/dev/null")?), None)
        } else {
            let (reader, writer) = io::pipe()?;
            let input = pipe::Sender::from_owned_fd(OwnedFd::from(writer))?;
            (OwnedFd::from(reader), Some(input))
        };
        // This process's copies of the program's ends are closed at the end of this function.
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
        let mut spec = SpawnSpec {
            path: &self.path,
            name: &self.path.to_string_lossy(),
            arguments: &self.arguments,
            environment: [("PATH", PATH), ("LANG", LANG)]
                .into_iter()
                .chain(own)
                .collect(),
            files: vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            limit: open_files::started_with(),
        };
        if account.user.is_root() {
            return Ok(Started {
                group: Group::start(spec, kept)?,
                input,
                output,
                errors,
                start_error: None,
            });
        }
        // By `/dev/stdin` and the like they are opened again, as files of whoever they belong to.
        for file in &spec.files {
            let owner = Some(account.user);
            if fstat(file)?.st_mode & libc::S_IFMT == libc::S_IFIFO {
                fchown(file, owner, None)?;
            }
        }
        let (reader, writer) = io::pipe()?;
        let arguments = run_as::arguments(account, spec.name, &self.arguments);
        spec.path = Path::new(OWN_BINARY);
        spec.name = run_as::NAME;
        spec.arguments = &arguments;
        spec.files.push(writer.as_fd());
        Ok(Started {
            group: Group::start(spec, kept)?,
            input,
            output,
            errors,
            start_error: Some(pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?),
        })
    }
}

/// A running program, and the daemon's ends of its pipes.
struct Started<K: Send + 'static> {
    group: Group<K>,
    input: Option<pipe::Sender>,
    output: CapturedOutput,
    errors: Option<CapturedOutput>,
    /// The pipe for the error with which a program that runs as another account could not be executed.
    start_error: Option<pipe::Receiver>,
}

async fn write_input(input: Option<pipe::Sender>, bytes: &[u8]) {
    let Some(mut input) = input else { return };
    // A program need not read its input.
    let _ = input.write_all(bytes).await;
}

#[cfg(test)]
mod tests;
