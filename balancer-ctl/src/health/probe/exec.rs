//! A program's exit status: 0 is up, 1 down, 2 to 255 up with weight = status - 2. A signal's death is down.
//!
//! The target's address is put behind the program's arguments, as mon does: its monitors run unchanged. The first
//! line that a program prints is the reason that operators read. When it ends, or is out of time, all that it has
//! started ends with it, but for processes that have left its process group on purpose.

use std::{
    fs::File,
    io::{self, PipeWriter, Read as _},
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, Interest, unix::AsyncFd},
    net::unix::pipe,
    process::{Child, Command},
};

use super::{Advice, Failure, Passed, Watched, carried::carried, text};
use crate::{health::AdvisedWeight, model::check::ExecProbe};

/// Where a program finds others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of each output is kept. The rest is read and forgotten, or the program would wait for us.
const KEPT: usize = 4096;

#[derive(Debug)]
pub struct Exec {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

impl Exec {
    pub fn new(watched: &Watched, probe: &ExecProbe) -> Result<Self, String> {
        let (program, arguments) = probe.run.split_first().ok_or("`run` names no program")?;
        let address = watched.target.ip().to_string();
        let timeout = watched.check.timing.timeout;
        Ok(Self {
            program: program.clone(),
            arguments: [arguments, &[address.clone()][..]].concat(),
            environment: vec![
                ("PATH", PATH.into()),
                ("LANG", "C.UTF-8".into()),
                ("BALANCER_REAL_ADDRESS", address),
                ("BALANCER_REAL_PORT", watched.target.port().to_string()),
                ("BALANCER_TIMEOUT", seconds(timeout)),
            ],
        })
    }

    pub async fn probe(&self) -> Result<Passed, Failure> {
        let (mut output, stdout) = Output::new()?;
        let (mut errors, stderr) = Output::new()?;
        let mut group = self.start(stdout, stderr)?;
        // Neither end of output is the program's end, nor the other way round.
        let listening = async { tokio::join!(output.read(), errors.read()) };
        let ended = carried(listening, group.end()).await?;
        judge(ended, output.first_line().or_else(|| errors.first_line()))
    }

    fn start(&self, stdout: PipeWriter, stderr: PipeWriter) -> Result<Group, Failure> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .map_err(|error| match Failure::from(&error) {
                Failure::Theirs(reason) => format!("cannot run {}: {reason}", self.program).into(),
                ours => ours,
            })?;
        Group::new(child)
    }
}

fn seconds(duration: Duration) -> String {
    let text = format!("{:.3}", duration.as_secs_f64());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn judge(ended: ExitStatus, said: Option<String>) -> Result<Passed, Failure> {
    let Some(status) = ended.code() else {
        let signal = Signal::try_from(ended.signal().unwrap_or(0));
        let name = signal.map_or_else(|_| "a signal".to_owned(), |signal| signal.to_string());
        return Err(format!("killed by {name}").into());
    };
    let note = said.unwrap_or_else(|| format!("exit status {status}"));
    match u32::try_from(status).unwrap_or(1) {
        0 => Ok(Passed::new(note)),
        1 => Err(note.into()),
        status => Ok(Passed {
            note,
            advice: Advice {
                weight: Some(AdvisedWeight::Absolute(status - 2)),
                ..Advice::default()
            },
        }),
    }
}

/// A running program with what it has started. Dropped, all of it is killed; tokio fetches the dead.
struct Group {
    child: Child,
    id: Pid,
    /// Readable once the program has ended. Its id is then still taken, as its status has not been fetched.
    end: AsyncFd<OwnedFd>,
    is_gone: bool,
}

impl Group {
    fn new(child: Child) -> Result<Self, Failure> {
        let id = child.id().ok_or("the program has ended before it began")?;
        let id = i32::try_from(id).map_err(|_| "the program has no id")?;
        let id = Pid::from_raw(id);
        match watch(id) {
            Ok(end) => Ok(Self {
                child,
                id,
                end,
                is_gone: false,
            }),
            Err(error) => {
                kill(id);
                Err(error.into())
            }
        }
    }

    /// Waits for the program's end, and kills what it has left behind.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        self.end.readable().await?.retain_ready();
        kill(self.id);
        // From here on the number may become another's.
        self.is_gone = true;
        self.child.wait().await
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_gone {
            kill(self.id);
        }
    }
}

fn kill(group: Pid) {
    // It fails only where all have ended.
    let _ = killpg(group, Signal::SIGKILL);
}

/// A file descriptor that is readable once a process has ended.
fn watch(process: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the call takes two numbers and touches no memory.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    let Ok(opened @ 0..) = i32::try_from(opened) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the call has just made it, and nobody else knows of it. It closes on exec.
    let opened = unsafe { OwnedFd::from_raw_fd(opened) };
    // SAFETY: the descriptor is open, and stays what it is for as long as its owner, which goes in here.
    Ok(unsafe { AsyncFd::register_with_interest(opened, Interest::READABLE) }?)
}

/// The beginning of what a program prints.
struct Output {
    pipe: pipe::Receiver,
    start: Vec<u8>,
}

impl Output {
    /// Makes a pipe; the program gets its other end.
    fn new() -> io::Result<(Self, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        let start = Vec::new();
        Ok((Self { pipe, start }, writer))
    }

    /// Reads to the end, which a program may keep open for long after it has ended.
    async fn read(&mut self) {
        let mut buffer = [0; KEPT];
        while let Ok(length @ 1..) = self.pipe.read(&mut buffer).await {
            keep(&mut self.start, &buffer[..length]);
        }
    }

    /// Reads what was there when the program ended, if that still counts, and returns the first line.
    fn first_line(mut self) -> Option<String> {
        // tokio may not have heard of it yet.
        if let Ok(pipe) = self.pipe.into_nonblocking_fd() {
            let mut pipe = File::from(pipe);
            let mut buffer = [0; KEPT];
            while self.start.len() < KEPT
                && let Ok(length @ 1..) = pipe.read(&mut buffer)
            {
                keep(&mut self.start, &buffer[..length]);
            }
        }
        text::first_line(&self.start)
    }
}

fn keep(start: &mut Vec<u8>, more: &[u8]) {
    let room = KEPT - start.len();
    start.extend_from_slice(&more[..more.len().min(room)]);
}
