//! Runs one program: no shell, its own process group, a clean environment, a time limit, and no more of its output
//! than fits.

use std::{
    fmt,
    future::Future,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    pin::{Pin, pin},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use futures_util::future::{Fuse, FusedFuture as _, FutureExt as _};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep, timeout, timeout_at},
};

pub use self::trusted::trusted;

mod trusted;

/// Where programs that a program runs by name are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LANG: &str = "C.UTF-8";
/// How long a program that was told to stop has before it is killed.
const GRACE: Duration = Duration::from_secs(1);
/// How often it is asked whether it has stopped.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// How long the last of the output is waited for once the program has ended: a process that it left behind may hold
/// the pipe for ever.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Output that is kept by default.
pub const KEPT_OUTPUT: usize = 16 * 1024;

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
    /// How long it may take; then its process group is told to stop, and killed a second later.
    pub timeout: Duration,
    /// How many bytes of its output are kept, standard output and standard error together in their order.
    pub keep: usize,
}

/// A program that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How.
    pub end: End,
    /// The beginning of its output.
    pub output: Vec<u8>,
    /// Whether there was more output than is kept.
    pub is_cut: bool,
    /// How long it took.
    pub took: Duration,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exit(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// It took longer than this and was stopped.
    Timeout(Duration),
}

impl End {
    fn of(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        status
            .code()
            .map_or_else(|| Self::Signal(status.signal().unwrap_or(0)), Self::Exit)
    }
}

impl fmt::Display for End {
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

impl Program {
    /// Runs it to its end, or to its time limit. Dropped before that, it kills the whole process group. Processes that
    /// the program leaves behind in a group of their own, or when it ends in time, go on.
    ///
    /// # Errors
    /// It could not be started.
    pub async fn run(&self) -> io::Result<Finished> {
        let begun = Instant::now();
        let (mut group, output) = self.start()?;
        let mut heard = Heard::new(self.keep);
        let end = {
            let mut talk = Talk {
                feed: pin!(feed(group.child.stdin.take(), &self.input).fuse()),
                hear: pin!(heard.read(output).fuse()),
            };
            let limit = begun + self.timeout;
            let end = match talk.beside(timeout_at(limit, group.child.wait())).await {
                Ok(status) => End::of(status?),
                Err(_) => {
                    talk.beside(group.stop()).await?;
                    End::Timeout(self.timeout)
                }
            };
            talk.last_words().await;
            end
        };
        Ok(Finished {
            end,
            output: heard.kept,
            is_cut: heard.is_cut,
            took: begun.elapsed(),
        })
    }

    fn start(&self) -> io::Result<(Group, pipe::Receiver)> {
        close_on_exec();
        // One pipe for both, so that lines stand in the order in which they were written.
        let (output, writer) = io::pipe()?;
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
        let input = if self.input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        };
        // Dropped at the end with its ends of the pipe, so that the last process that holds one is the program's.
        let child = Command::new(&self.path)
            .args(&self.arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LANG", LANG)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .process_group(0)
            .stdin(input)
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()?;
        Ok((Group { child }, output))
    }
}

/// A program's process group, which has its first process's id. Killed on drop while that process is there: its id,
/// and with it the group's, can be no other's before it has been waited for.
struct Group {
    child: Child,
}

impl Group {
    /// Tells all processes to stop; kills those that are left when the first has ended, or after a while.
    async fn stop(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGTERM);
        let limit = Instant::now() + GRACE;
        while Instant::now() < limit && !self.has_ended() {
            sleep(ASK_EVERY).await;
        }
        self.signal(Signal::SIGKILL);
        self.child.wait().await?;
        Ok(())
    }

    /// Whether the first process has ended; it still has its id.
    fn has_ended(&self) -> bool {
        let Some(id) = self.id() else { return true };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(id), flags), Ok(WaitStatus::StillAlive))
    }

    fn signal(&self, signal: Signal) {
        let Some(id) = self.id() else { return };
        match killpg(id, signal) {
            // All of it is gone, or what is left has other rights than ours and is not ours to stop.
            Ok(()) | Err(Errno::ESRCH | Errno::EPERM) => {}
            Err(error) => tracing::warn!(%error, "cannot stop a program's processes"),
        }
    }

    fn id(&self) -> Option<Pid> {
        self.child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// What goes on while the program runs: it is fed and heard.
struct Talk<'a, F: Future<Output = ()>, H: Future<Output = ()>> {
    feed: Pin<&'a mut Fuse<F>>,
    hear: Pin<&'a mut Fuse<H>>,
}

impl<F: Future<Output = ()>, H: Future<Output = ()>> Talk<'_, F, H> {
    /// Goes on until something else is done.
    async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        loop {
            tokio::select! {
                biased;
                value = &mut other => return value,
                () = &mut self.feed, if !self.feed.is_terminated() => {}
                () = &mut self.hear, if !self.hear.is_terminated() => {}
            }
        }
    }

    /// Hears what was said until the end, if no process that was left behind goes on talking.
    async fn last_words(&mut self) {
        if !self.hear.is_terminated() {
            // Late words are lost.
            let _ = timeout(LAST_WORDS, &mut self.hear).await;
        }
    }
}

async fn feed(input: Option<ChildStdin>, bytes: &[u8]) {
    let Some(mut input) = input else { return };
    // A program need not read what it is given.
    let _ = input.write_all(bytes).await;
}

/// Output as far as it is kept; the rest is read and thrown away, so that the program does not wait for us.
struct Heard {
    keep: usize,
    kept: Vec<u8>,
    is_cut: bool,
}

impl Heard {
    const fn new(keep: usize) -> Self {
        Self {
            keep,
            kept: Vec::new(),
            is_cut: false,
        }
    }

    async fn read(&mut self, mut output: pipe::Receiver) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = output.read(&mut buffer).await {
            let room = self.keep.saturating_sub(self.kept.len());
            self.kept.extend_from_slice(&buffer[..read.min(room)]);
            self.is_cut |= read > room;
        }
    }
}

/// Keeps all our files from the programs we run. What we open ourselves is so marked from the start; what was handed to
/// us by whoever started the daemon may not be.
fn close_on_exec() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the call takes three integers and touches no memory; a mark on a file of ours changes nothing for us.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    // Older kernels (before 5.11) cannot; then our own files are marked all the same.
    let _ = result;
}

#[cfg(test)]
mod tests;
