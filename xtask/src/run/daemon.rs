//! balancerd in the lab, and balancer-ctl beside it.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use xtask::lab::{Namespace, Process, wait_until};

use crate::interrupt;

/// Folders in which each instance of the daemon has a folder for files that outlive it.
const FOLDERS: [&str; 3] = ["/sys/fs/bpf/balancer", "/run/balancer", "/var/lib/balancer"];

/// Prefix of the names of the lab's instances.
const LABEL: &str = "lab-";

/// Prefix of the names of the lab's temporary folders.
const FOLDER: &str = "balancer-lab-";

/// balancerd on one node. Fields are dropped in order: first the program, then its pins, then its files.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    instance: Instance,
    folder: TempDir,
    program: PathBuf,
    ctl: Ctl,
}

impl Daemon {
    /// Writes its configuration for the node of this name. Where there are several, all are prepared before one starts.
    pub fn prepare(node: &str, config: &str, programs: &Path) -> Result<Self> {
        interrupt::check()?;
        let folder = TempDir::with_prefix(format!("{FOLDER}{}-", process::id()))
            .context("cannot make a folder for the lab")?;
        let ctl = Ctl {
            node: node.to_owned(),
            program: programs.join("balancer-ctl"),
            socket: folder.path().join("control.sock"),
        };
        let daemon = Self {
            process: None,
            instance: Instance::new(node),
            folder,
            program: programs.join("balancerd"),
            ctl,
        };
        let file = daemon.config();
        fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(daemon)
    }

    /// Prints how it is started, and its configuration without comments.
    pub fn explain(&self) -> Result<()> {
        println!("  {}$ balancerd --config balancer.toml", self.ctl.node);
        let config = fs::read_to_string(self.config()).context("cannot read the configuration")?;
        for line in config.lines().filter(|line| !line.starts_with('#')) {
            println!("{}", format!("      {line}").trim_end());
        }
        Ok(())
    }

    /// Starts it in its node's namespace and waits until it answers.
    pub fn start(&mut self, namespace: &Namespace) -> Result<()> {
        interrupt::check()?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .context("cannot make the log")?;
        let mut command = namespace.command(&self.program);
        command
            .arg("--config")
            .arg(self.config())
            .args(["--instance", &self.instance.name])
            .env("BALANCER_SOCKET", &self.ctl.socket);
        command
            .stderr(log.try_clone().context("cannot share the log")?)
            .stdout(log);
        let mut process = Process::spawn("balancerd", &mut command)?;
        let ready = wait_until("balancerd to answer", Duration::from_secs(20), || {
            interrupt::check()?;
            ensure!(process.ended()?.is_none(), "balancerd ended");
            Ok(self.ctl.socket.exists() && self.ctl.answers())
        });
        self.process = Some(process);
        ready.with_context(|| format!("balancerd did not start:\n{}", self.log()))
    }

    /// Its process id, if it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Kills it, as `kill -9` does. What it has put in the kernel stays there.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("balancerd does not run")?;
        process.kill().map(drop)
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("balancer.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The balancer-ctl for this daemon.
    pub fn ctl(&self) -> &Ctl {
        &self.ctl
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

/// balancer-ctl for the lab's daemon.
#[derive(Debug)]
pub struct Ctl {
    /// The node's name, as a prompt shows it.
    node: String,
    program: PathBuf,
    socket: PathBuf,
}

impl Ctl {
    /// The daemon's control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs a command line and returns what it prints.
    pub fn call(&self, arguments: &str) -> Result<String> {
        interrupt::check()?;
        let output = self
            .command(arguments)
            .output()
            .context("cannot run balancer-ctl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`balancer-ctl {arguments}` failed ({}): {}",
            output.status,
            said.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command line, and prints it and its output.
    pub fn show(&self, arguments: &str) -> Result<()> {
        println!("  {}$ balancer-ctl {arguments}", self.node);
        for line in self.call(arguments)?.lines() {
            println!("      {line}");
        }
        Ok(())
    }

    fn answers(&self) -> bool {
        self.command("status")
            .output()
            .is_ok_and(|output| output.status.success())
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(
                arguments
                    .split_whitespace()
                    .map(|argument| argument.trim_matches('\'')),
            )
            .env("BALANCER_SOCKET", &self.socket);
        command
    }
}

/// An instance's name. When it is dropped, the instance's pins, lock and state are removed.
#[derive(Debug)]
struct Instance {
    name: String,
    /// Folders that did not exist before; they are removed too if they are empty.
    new: Vec<PathBuf>,
}

impl Instance {
    fn new(node: &str) -> Self {
        sweep();
        let new = FOLDERS
            .iter()
            .map(PathBuf::from)
            .filter(|folder| !folder.exists())
            .collect();
        Self {
            name: format!("{LABEL}{}-{node}", process::id()),
            new,
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for folder in FOLDERS {
            remove(&Path::new(folder).join(&self.name));
        }
        for folder in &self.new {
            // A failure means that it is not empty: somebody else uses it.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Removes what killed runs left behind. A packet program is removed by the kernel once its pins are gone.
fn sweep() {
    let temporary = env::temp_dir();
    let folders = FOLDERS.map(|folder| (Path::new(folder), LABEL)).into_iter();
    for (folder, label) in folders.chain([(temporary.as_path(), FOLDER)]) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| owner(label, name));
            if owner.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
                remove(&entry.path());
            }
        }
    }
}

/// Returns the process id after `label` in the name of an instance or folder of the lab.
fn owner<'name>(label: &str, name: &'name str) -> Option<&'name str> {
    let id = name.strip_prefix(label)?.split('-').next()?;
    (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())).then_some(id)
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if folder.exists() => {
            eprintln!("warning: cannot remove {}: {error}", folder.display())
        }
        Err(_) | Ok(()) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_ours_has_an_owner() {
        assert_eq!(owner(LABEL, "lab-123-lb1"), Some("123"));
        assert_eq!(owner(FOLDER, "balancer-lab-77-a6jK1X"), Some("77"));
        for other in ["lab-", "lab-x", "v1", "blue", "lab-../1", "1"] {
            assert_eq!(owner(LABEL, other), None, "{other}");
        }
    }
}
