//! Two namespaces joined by a veth pair: one with the program that makes checks, one with servers at ten thousand addresses.
//!
//! ```text
//!   asker 10.76.0.1 ── eth0 ─── eth0 ── 10.76.0.2  servers: all of 10.77.0.0/16 is local there, one nginx answers
//! ```

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xtask::lab::{Namespace, Process, wait_until};

use super::log::Log;

/// Prefix of the names of the bench's namespaces.
const LABEL: &str = "balancer-bench";
/// Port of the servers.
pub const PORT: u16 = 80;
/// The interface from which checks are made.
pub const INTERFACE: &str = "eth0";
/// How long the servers buffer lines of their log, at most.
pub const LOG_DELAY: Duration = Duration::from_millis(1500);

/// Both namespaces and the servers. They are removed when this is dropped.
pub struct Scene {
    // Fields are dropped in order: programs before the network that they use.
    #[expect(dead_code, reason = "held for its drop")]
    server: Process,
    /// Where the checks come from.
    pub asker: Namespace,
    servers: Namespace,
    folder: tempfile::TempDir,
    /// How many targets there are.
    pub checks: u32,
}

/// The address of a target, from 0 on.
pub fn target(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 77, 0, 1)) + number)
}

/// The target that drops all packets.
pub fn swallower(checks: u32) -> Ipv4Addr {
    target(checks / 2)
}

impl Scene {
    /// Builds it and starts the servers.
    ///
    /// # Errors
    /// The caller is not root, or a tool is missing.
    pub fn build(checks: u32) -> Result<Self> {
        Namespace::sweep(LABEL);
        let asker = Namespace::new(LABEL)?;
        let servers = Namespace::new(LABEL)?;
        let folder = tempfile::tempdir().context("making a temporary folder")?;
        asker.connect(INTERFACE, &servers, "eth0")?;
        asker.address(INTERFACE, "10.76.0.1/24")?;
        servers.address("eth0", "10.76.0.2/24")?;
        servers.gateway("10.76.0.1")?;
        asker.plain_frames(INTERFACE)?;
        servers.plain_frames("eth0")?;
        servers.polling("eth0")?;
        asker.ip("route add 10.77.0.0/16 via 10.76.0.2")?;
        asker.sysctl("net.ipv4.ip_forward", "1")?;
        servers.ip("route add local 10.77.0.0/16 dev lo")?;
        servers.ip(&format!(
            "route add blackhole {}/32 table local",
            swallower(checks)
        ))?;
        let server = start_server(&servers, folder.path())?;
        let scene = Self {
            server,
            asker,
            servers,
            folder,
            checks,
        };
        wait_until("the servers", Duration::from_secs(10), || {
            let answers = |number| {
                let limit = Duration::from_millis(200);
                let address = (target(number), PORT).into();
                scene
                    .asker
                    .run(|| std::net::TcpStream::connect_timeout(&address, limit).is_ok())
            };
            Ok(answers(0)? && answers(checks - 1)?)
        })?;
        let silent = (swallower(checks), PORT).into();
        let limit = Duration::from_millis(500);
        let connected = scene
            .asker
            .run(|| std::net::TcpStream::connect_timeout(&silent, limit))?;
        ensure!(
            connected.is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut),
            "the target that should swallow packets does not"
        );
        Ok(scene)
    }

    /// Writes a file that is removed with the scene, and returns its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Lets a target refuse connections until the returned guard is dropped.
    ///
    /// # Errors
    /// The route cannot be made.
    pub fn refuse(&self, target: Ipv4Addr) -> Result<Refusing<'_>> {
        let route = format!("prohibit {target}/32 table local");
        self.servers.ip(&format!("route add {route}"))?;
        Ok(Refusing {
            servers: &self.servers,
            route,
        })
    }

    /// The present length of the servers' log, in bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn logged(&self) -> Result<u64> {
        let path = self.access_log();
        let metadata = fs::metadata(&path);
        Ok(metadata
            .with_context(|| format!("reading {}", path.display()))?
            .len())
    }

    /// The servers' log from there on.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn log_from(&self, start: u64) -> Result<Log> {
        let path = self.access_log();
        let read = || -> std::io::Result<String> {
            let mut file = fs::File::open(&path)?;
            file.seek(SeekFrom::Start(start))?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = read().with_context(|| format!("reading {}", path.display()))?;
        Log::parse(&text).with_context(|| format!("{} is not as it should be", path.display()))
    }

    fn access_log(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }
}

/// A target that refuses connections.
pub struct Refusing<'a> {
    servers: &'a Namespace,
    route: String,
}

impl Drop for Refusing<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.servers.ip(&format!("route del {}", self.route)) {
            eprintln!("warning: {error:#}");
        }
    }
}

fn start_server(servers: &Namespace, folder: &Path) -> Result<Process> {
    servers.sysctl("net.core.somaxconn", "4096")?;
    servers.sysctl("net.ipv4.tcp_max_syn_backlog", "4096")?;
    let folder = folder.display();
    let text = format!(
        "worker_processes 1;\nworker_rlimit_nofile 16384;\npid {folder}/nginx.pid;\nerror_log {folder}/nginx.log;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n  log_format checks '$msec $server_addr';\n  access_log {folder}/access.log checks buffer=64k flush=1s;\n\
           default_type text/plain;\n\
           server {{ listen {PORT} backlog=4096; location / {{ return 200 \"fine\\n\"; }} }}\n}}\n"
    );
    let file = format!("{folder}/nginx.conf");
    fs::write(&file, text).with_context(|| format!("writing {file}"))?;
    let mut nginx = servers.command("nginx");
    nginx
        .args(["-c", &file, "-g", "daemon off;"])
        .stdout(Stdio::null());
    Process::spawn("nginx", &mut nginx)
}
