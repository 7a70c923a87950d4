//! The programs that make the checks.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xtask::lab::Process;

use super::{
    FALL, INTERVAL,
    scene::{INTERFACE, PORT, Scene, target},
};
use crate::cargo;

/// Real servers of one service.
const GROUP: u32 = 100;

/// A program that makes the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This project.
    Balancer,
    /// The reference.
    Haproxy,
}

impl Peer {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 2] = [Self::Balancer, Self::Haproxy];

    /// Its part of a row's name; the project's own rows have none.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Balancer => "",
            Self::Haproxy => "/haproxy",
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(self, scene: &Scene) -> Result<Running<'_>> {
        let process = match self {
            Self::Balancer => balancer(scene)?,
            Self::Haproxy => haproxy(scene)?,
        };
        let mut running = Running {
            peer: self,
            process,
            scene,
        };
        thread::sleep(Duration::from_millis(500));
        let ended = running.process.ended()?;
        ensure!(ended.is_none(), "it ended at once: {ended:?}");
        Ok(running)
    }
}

/// A running program. When it is dropped, it is stopped, and its files are removed.
pub struct Running<'a> {
    peer: Peer,
    process: Process,
    scene: &'a Scene,
}

impl Running<'_> {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    fn end(&mut self) -> Result<()> {
        self.process.stop()?;
        if self.peer == Peer::Haproxy {
            return Ok(());
        }
        let instance = self.scene.asker.name();
        let mut detach = self.scene.asker.command(balancerd_program());
        let status = detach
            .args(["--detach", "--instance", instance])
            .status()
            .context("running balancerd")?;
        ensure!(status.success(), "balancerd --detach: {status}");
        // The next round must begin without stored states.
        for folder in ["/run/balancer", "/var/lib/balancer"] {
            let folder = Path::new(folder).join(instance);
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => {
                    removed.with_context(|| format!("removing {}", folder.display()))?;
                }
            }
        }
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

fn balancerd_program() -> PathBuf {
    cargo::target().join("release/balancerd")
}

/// The service that a target is a real server of.
pub fn service_of(number: u32) -> String {
    format!("192.0.2.80:{}", 1000 + number / GROUP)
}

/// The targets' numbers, service by service.
fn groups(scene: &Scene) -> impl Iterator<Item = (u32, std::ops::Range<u32>)> {
    let checks = scene.checks;
    (0..checks.div_ceil(GROUP))
        .map(move |group| (group, group * GROUP..((group + 1) * GROUP).min(checks)))
}

fn balancer(scene: &Scene) -> Result<Process> {
    let mut text = format!("[dataplane]\ninterfaces = [{INTERFACE:?}]\nmode = \"native\"\n");
    for (group, targets) in groups(scene) {
        write!(
            text,
            "\n[[service]]\naddress = \"{}\"\nscheduler = \"rr\"\n\n[service.check]\ntype = \"http\"\n\
             interval = \"{}s\"\ntimeout = \"2s\"\nrise = 2\nfall = {FALL}\n",
            service_of(group * GROUP),
            INTERVAL.as_secs()
        )?;
        for number in targets {
            write!(
                text,
                "\n[[service.real]]\naddress = \"{}:{PORT}\"\n",
                target(number)
            )?;
        }
    }
    let file = scene.write("balancer.toml", &text)?;
    // A name of this run's own: another instance of the same name may be in use.
    let mut command = scene.asker.command(balancerd_program());
    command
        .arg("--config")
        .arg(file)
        .args(["--instance", scene.asker.name(), "--log", "error"]);
    Process::spawn("balancerd", &mut command)
}

fn haproxy(scene: &Scene) -> Result<Process> {
    let mut text = String::from(
        // Without a listener it does not start, and it reckons open files for twice as many connections as it may have.
        "global\n  maxconn 4000\n  nbthread 1\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout check 2s\n  timeout client 60s\n  timeout server 60s\n\
         option httpchk GET /\n\
         frontend nobody\n  bind 127.0.0.1:8404\n  default_backend service0\n",
    );
    for (group, targets) in groups(scene) {
        writeln!(text, "backend service{group}")?;
        for number in targets {
            writeln!(
                text,
                "  server real{number} {}:{PORT} check inter {}s rise 2 fall {FALL}",
                target(number),
                INTERVAL.as_secs()
            )?;
        }
    }
    let file = scene.write("haproxy.cfg", &text)?;
    let mut command = scene.asker.command("haproxy");
    command
        .args(["-db", "-q", "-f"])
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Process::spawn("haproxy", &mut command)
}
