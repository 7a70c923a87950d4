//! The programs that are compared: this project and keepalived, each with a virtual router of one VIP.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use xtask::lab::{Process, wait_until};

use super::scene::{INTERFACE, Scene, VIP};
use crate::cargo;

/// Priorities of the nodes. The second waits 156/256 of an interval longer than three.
const PRIORITIES: [u8; 2] = [200, 100];
/// How long a program may take until it runs.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A program that shares a VIP with another on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This project.
    Balancer,
    /// The reference.
    Keepalived,
}

impl Peer {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 2] = [Self::Balancer, Self::Keepalived];

    /// Starts it on a node.
    ///
    /// # Errors
    /// It does not start.
    pub fn start<'a>(
        self,
        scene: &'a Scene,
        node: usize,
        interval: Duration,
        niceness: Option<i32>,
    ) -> Result<Running<'a>> {
        let log = scene.file(&format!("node{node}.log"));
        let to = File::create(&log).context("making a log")?;
        let mut command = match self {
            Self::Balancer => balancer(scene, node, interval)?,
            Self::Keepalived => keepalived(scene, node, interval)?,
        };
        command.stderr(to.try_clone()?).stdout(to);
        if let Some(niceness) = niceness {
            let set = move || {
                // SAFETY: a system call that takes three numbers; 0 is the calling process.
                match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) } {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            };
            // SAFETY: between fork and exec only async-signal-safe calls are allowed: this is a bare system call.
            unsafe { command.pre_exec(set) };
        }
        Ok(Running {
            peer: self,
            process: Some(Process::spawn("a node's program", &mut command)?),
            scene,
            node,
            log,
        })
    }
}

fn balancer(scene: &Scene, node: usize, interval: Duration) -> Result<Command> {
    let file = scene.write(
        &format!("node{node}.toml"),
        &format!(
            "[node]\nname = \"node{node}\"\n\n[dataplane]\ninterfaces = [\"{INTERFACE}\"]\nmode = \"native\"\n\n[[vrrp]]\n\
             name = \"vip\"\ninterface = \"{INTERFACE}\"\nrouter-id = 51\npriority = {}\nadvertisement-interval = \"{}ms\"\n\
             addresses = [\"{VIP}/24\"]\n",
            PRIORITIES[node],
            interval.as_millis()
        ),
    )?;
    let namespace = &scene.nodes[node];
    let mut command = namespace.command(release("balancerd"));
    command
        .arg("--config")
        .arg(file)
        .args(["--instance", namespace.name()]);
    Ok(command)
}

fn keepalived(scene: &Scene, node: usize, interval: Duration) -> Result<Command> {
    let file = scene.write(
        &format!("node{node}.conf"),
        &format!(
            "global_defs {{\n  router_id node{node}\n  vrrp_version 3\n  vrrp_garp_master_delay 0\n  script_user root\n}}\n\
             vrrp_instance vip {{\n  state BACKUP\n  interface {INTERFACE}\n  virtual_router_id 51\n  priority {}\n\
             advert_int {}\n  virtual_ipaddress {{\n    {VIP}/24 dev {INTERFACE}\n  }}\n}}\n",
            PRIORITIES[node],
            interval.as_secs_f64()
        ),
    )?;
    let mut command = scene.nodes[node].command("keepalived");
    command.args(["-P", "-n", "-l", "-D", "-f"]).arg(file);
    for (option, name) in [("-p", "parent"), ("-r", "child")] {
        command
            .arg(option)
            .arg(scene.file(&format!("node{node}-{name}.pid")));
    }
    Ok(command)
}

fn release(program: &str) -> PathBuf {
    cargo::target().join("release").join(program)
}

/// A program on a node. When it is dropped, it is stopped, and what it left is removed.
pub struct Running<'a> {
    peer: Peer,
    process: Option<Process>,
    scene: &'a Scene,
    node: usize,
    log: PathBuf,
}

impl Running<'_> {
    /// Waits until it is Backup and hears an Active node.
    ///
    /// # Errors
    /// It does not become so.
    pub fn wait_for_backup(&mut self) -> Result<()> {
        let waited = wait_until("the second node to be Backup", START_TIMEOUT, || {
            self.scene.check()?;
            let process = self.process.as_mut().context("it does not run")?;
            ensure!(process.ended()?.is_none(), "it ended");
            self.is_backup()
        });
        waited.with_context(|| format!("{:?} says:\n{}", self.peer, self.said()))
    }

    fn is_backup(&self) -> Result<bool> {
        match self.peer {
            Peer::Keepalived => Ok(self.said().contains("Entering BACKUP STATE")),
            Peer::Balancer => {
                let output = self.control(&["status", "--json"]).output()?;
                if !output.status.success() {
                    return Ok(false);
                }
                let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
                Ok(status["vrrp"][0]["active_node"].is_string())
            }
        }
    }

    /// What it has logged.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Gives the VIP up on purpose: this project by command, keepalived by being stopped, since it has no such command.
    ///
    /// # Errors
    /// It did not.
    pub fn give_up(&mut self) -> Result<()> {
        match self.peer {
            Peer::Keepalived => self.process()?.signal(Signal::SIGTERM),
            Peer::Balancer => {
                let output = self.control(&["failover"]).output()?;
                ensure!(
                    output.status.success(),
                    "balancer-ctl failover: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
                Ok(())
            }
        }
    }

    /// Kills all its processes, the children first, so that none of them can see another end and act.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_all(&mut self) -> Result<()> {
        let process = self.process()?;
        for child in children(process.id())? {
            // A failure means that it has just ended.
            let _ = kill(child, Signal::SIGKILL);
        }
        process.signal(Signal::SIGKILL)
    }

    /// Kills the daemon; of this project it alone, of keepalived all processes: it would start its child again.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_daemon(&mut self) -> Result<()> {
        match self.peer {
            Peer::Balancer => self.process()?.signal(Signal::SIGKILL),
            Peer::Keepalived => self.kill_all(),
        }
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("it does not run")
    }

    fn control(&self, arguments: &[&str]) -> Command {
        let namespace = &self.scene.nodes[self.node];
        let mut command = namespace.command(release("balancer-ctl"));
        command
            .args(["--instance", namespace.name()])
            .args(arguments);
        command
    }

    fn end(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop()?;
        }
        if self.peer == Peer::Keepalived {
            return Ok(());
        }
        let namespace = &self.scene.nodes[self.node];
        let mut detach = namespace.command(release("balancerd"));
        let output = detach
            .args(["--detach", "--instance", namespace.name()])
            .output()
            .context("running balancerd")?;
        // The pins are there still if it was stopped while it started.
        for folder in ["/sys/fs/bpf/balancer", "/run/balancer", "/var/lib/balancer"] {
            match fs::remove_dir_all(Path::new(folder).join(namespace.name())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
        }
        ensure!(
            output.status.success() || crate::interrupt::happened(),
            "balancerd --detach: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("warning: {error:#}");
        }
    }
}

/// The processes whose parent is `parent`.
fn children(parent: u32) -> Result<Vec<Pid>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let id = entry.file_name().to_str().and_then(|id| id.parse().ok());
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(id) = id.filter(|_| parent_in(&stat) == Some(parent)) {
            children.push(Pid::from_raw(id));
        }
    }
    Ok(children)
}

/// The parent in `/proc/ID/stat`: the second word behind the name, which is in brackets and may hold any of them.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_behind_the_name() {
        assert_eq!(parent_in("42 (a) b) S 7 42 42 0 -1 4194304"), Some(7));
        assert_eq!(parent_in(""), None);
        assert_eq!(parent_in("42 (x) S"), None);
    }

    #[test]
    fn a_child_is_found() {
        let command = &mut Command::new("sleep");
        let sleeper = Process::spawn("a sleeper", command.arg("100")).unwrap();
        let id = i32::try_from(sleeper.id()).unwrap();
        let found = children(std::process::id()).unwrap();
        assert!(found.contains(&Pid::from_raw(id)));
    }
}
