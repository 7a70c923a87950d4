//! Network namespaces.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::process::CommandExt as _,
    },
    panic,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::wait_until;

/// The folder in which `ip netns` keeps namespaces.
const FOLDER: &str = "/run/netns";

/// A named network namespace. When it is dropped, programs inside are killed and it is removed.
///
/// Programs enter it by `setns` alone. `ip netns exec` would also mount a new `/sys`, which hides the bpf file
/// system: pins made under it die with the program that made them.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

impl Namespace {
    /// Makes a namespace with the loopback interface up. Its name starts with `label`, then comes this process's
    /// id and a number, so that several runs can exist at the same time.
    ///
    /// # Errors
    /// The caller is not root, or `ip` is not installed.
    pub fn new(label: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{label}-{}-{}",
            process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        call(Command::new("ip").args(["netns", "add", &name]))?;
        let path = Path::new(FOLDER).join(&name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                delete(&name);
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        let namespace = Self {
            name,
            file: Arc::new(file),
        };
        namespace.ip("link set lo up")?;
        // Without duplicate address detection, which delays the use of an IPv6 address by one or two seconds.
        namespace.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        Ok(namespace)
    }

    /// Removes namespaces of `label` that a killed run left behind: those whose name holds the id of a process
    /// that is gone.
    pub fn sweep(label: &str) {
        let Ok(entries) = fs::read_dir(FOLDER) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if owner(label, name)
                .is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists())
            {
                kill_inside(name);
                delete(name);
            }
        }
    }

    /// Its name, as `ip netns list` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file by which programs enter it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Runs `work` inside, on a thread of its own, and returns what it returned. Sockets opened there stay in the
    /// namespace wherever they are used afterwards.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let joined = thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter(self.file.as_fd())
                        .with_context(|| format!("cannot enter {}", self.name))?;
                    Ok(work())
                })
                .join()
        });
        match joined {
            Ok(result) => result,
            Err(panicked) => panic::resume_unwind(panicked),
        }
    }

    /// Returns a command that will run inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.file);
        let enter = move || enter(file.as_fd());
        // SAFETY: between fork and exec only async-signal-safe calls are allowed: this is a bare system call, and
        // its error is a number.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `ip` inside, with the arguments of a command line.
    ///
    /// # Errors
    /// It failed; the error contains what it printed.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        call(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(arguments.split_whitespace()),
        )
        .map(drop)
    }

    /// Runs a program inside and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error contains what it printed.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        call(self.command(program).args(arguments))
    }

    /// Sets a kernel variable of the network (`net.ipv4.ip_forward`).
    ///
    /// # Errors
    /// There is no such variable, or the value is refused.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("cannot set {name} to {value} in {}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        kill_inside(&self.name);
        delete(&self.name);
    }
}

/// Runs a command to its end and returns what it printed.
pub(super) fn call(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", written(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({}): {}",
            written(command),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn written(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .collect();
    words.join(OsStr::new(" ")).to_string_lossy().into_owned()
}

/// Takes the calling thread into the namespace. Runs between fork and exec too: no allocation here.
fn enter(file: BorrowedFd<'_>) -> io::Result<()> {
    Ok(setns(file, CloneFlags::CLONE_NEWNET)?)
}

/// Returns the process id in the name of one of `label`'s namespaces.
fn owner(label: &str, name: &str) -> Option<u32> {
    let (id, number) = name
        .strip_prefix(label)?
        .strip_prefix('-')?
        .split_once('-')?;
    number.parse::<u32>().ok()?;
    id.parse().ok()
}

/// Kills the processes inside: with one of them, the namespace would exist on without a name.
fn kill_inside(name: &str) {
    let inside = || -> Vec<i32> {
        let listed = call(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
        let own = process::id().try_into().unwrap_or(0);
        listed
            .split_whitespace()
            .filter_map(|id| id.parse().ok())
            .filter(|id| *id != own)
            .collect()
    };
    let gone = wait_until(
        "the namespace's processes to end",
        Duration::from_secs(2),
        || {
            let processes = inside();
            for id in &processes {
                // A failure means that it has ended meanwhile.
                let _ = kill(Pid::from_raw(*id), Signal::SIGKILL);
            }
            Ok(processes.is_empty())
        },
    );
    if let Err(error) = gone {
        eprintln!("warning: {name}: {error}");
    }
}

fn delete(name: &str) {
    if let Err(error) = call(Command::new("ip").args(["netns", "delete", name])) {
        eprintln!("warning: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_read_from_the_name_of_our_own_namespaces_only() {
        assert_eq!(owner("balancer-lab", "balancer-lab-123-0"), Some(123));
        assert_eq!(owner("balancer-lab", "balancer-lab-123"), None);
        assert_eq!(owner("balancer-lab", "balancer-lab-x-0"), None);
        assert_eq!(owner("balancer-lab", "balancer-labs-1-0"), None);
        assert_eq!(owner("balancer-lab", "other"), None);
    }
}
