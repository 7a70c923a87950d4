//! A virtual machine without KVM: QEMU translates the guest's instructions, needs no privilege, and runs the same
//! everywhere.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use xtask::ebpf::program;

use super::package::Kernel;

/// The program.
const QEMU: &str = "qemu-system-x86_64";

/// How many of the kernel's last messages an error contains.
const SHOWN_MESSAGES: usize = 25;

/// QEMU, installed or unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emulator {
    program: PathBuf,
    /// The folder that it was unpacked to, if it is not installed.
    unpacked: Option<PathBuf>,
}

impl Emulator {
    /// Finds the installed QEMU, else one that was unpacked below `folder`.
    pub fn find(folder: &Path) -> Option<Self> {
        if let Some(program) = program(QEMU) {
            return Some(Self {
                program,
                unpacked: None,
            });
        }
        let program = folder.join("usr/bin").join(QEMU);
        program.is_file().then(|| Self {
            program,
            unpacked: Some(folder.into()),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(folder) = &self.unpacked {
            let libraries = folder.join("usr/lib/x86_64-linux-gnu");
            command
                .env(
                    "LD_LIBRARY_PATH",
                    format!(
                        "{}:{}",
                        libraries.display(),
                        folder.join("lib/x86_64-linux-gnu").display()
                    ),
                )
                .env("QEMU_MODULE_DIR", libraries.join("qemu"));
            for firmware in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(folder.join(firmware));
            }
        }
        command
    }
}

/// The virtual machine's hardware.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Number of CPUs.
    pub cpus: u32,
    /// Whether the guest's clock counts its instructions, one a nanosecond; then there is one CPU.
    pub counts_instructions: bool,
    /// QEMU's arguments for additional devices.
    pub devices: Vec<String>,
}

/// Boots a kernel and gives each line that the guest writes to its second serial port to `line`, until the guest
/// switches itself off.
///
/// # Errors
/// QEMU cannot be run, or the guest was not done within `limit`. That the guest has ended says nothing about what
/// happened in it: only its lines do.
pub fn run(
    emulator: &Emulator,
    kernel: &Kernel,
    initramfs: &Path,
    hardware: &Hardware,
    limit: Duration,
    mut line: impl FnMut(&str),
) -> Result<()> {
    let console = initramfs.with_extension("console");
    // The file of an earlier run would be taken for this run's.
    let _ = fs::remove_file(&console);
    let mut command = emulator.command();
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-no-reboot", "-cpu", "max", "-m", "2G"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 oops=panic"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-chardev", "stdio,id=lines,signal=off"])
        .args(["-serial", "chardev:lines"]);
    if hardware.counts_instructions {
        command
            .args(["-smp", "1", "-accel", "tcg,thread=single"])
            .args(["-icount", "shift=0,sleep=off"]);
    } else {
        command
            .args(["-smp", &hardware.cpus.to_string()])
            .args(["-accel", "tcg,thread=multi"]);
    }
    command
        .args(&hardware.devices)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // If this program is killed, the kernel kills QEMU: nobody else would stop it.
    let follow = || Ok(set_pdeathsig(Signal::SIGKILL)?);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: this is a bare system call, and its error
    // is a number.
    unsafe { command.pre_exec(follow) };
    let mut child = command.spawn().context("cannot run QEMU")?;
    let output = child.stdout.take().context("QEMU has no output")?;
    let running = stop_after(limit, child.id());
    for text in BufReader::new(output).split(b'\n') {
        let text = text.context("cannot read what the guest writes")?;
        line(String::from_utf8_lossy(&text).trim_end_matches('\r'));
    }
    let status = child.wait().context("cannot wait for QEMU")?;
    let was_stopped = running.send(()).is_err();
    ensure!(
        !was_stopped,
        "the guest was not done after {limit:?} and was switched off; its kernel's last messages:\n{}",
        last_messages(&console)
    );
    ensure!(status.success(), "QEMU failed: {status}");
    Ok(())
}

/// The last messages that the guest's kernel wrote to its console.
pub fn last_messages(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_MESSAGES)..].join("\n")
}

/// Kills a process after `limit`, unless the returned sender is used or dropped before.
fn stop_after(limit: Duration, id: u32) -> Sender<()> {
    let (running, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout)
            && let Ok(id) = i32::try_from(id)
        {
            // A failure means that it has just ended by itself.
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
    });
    running
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_messages_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console");
        assert_eq!(last_messages(&console), "");
        let lines: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        fs::write(&console, lines.join("\r\n")).unwrap();
        let shown = last_messages(&console);
        assert_eq!(shown.lines().count(), SHOWN_MESSAGES);
        assert!(shown.ends_with("99"));
    }
}
