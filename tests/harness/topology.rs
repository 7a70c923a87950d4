//! Real machines in network namespaces: clients, the balancer with its daemon, and real servers with nginx and
//! dnsmasq. Everything is a guard and goes when it is dropped, also when a test fails.
//!
//! ```text
//!  two arms:  client ───────── outside ┤balancer├ inside ──── switch ──── real 1, real 2, ...
//!  one arm:   client, real 1, real 2, ... ──── switch ──── inside ┤balancer├
//! ```

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use xtask::lab::{Namespace, Process, wait_until};

use crate::servers::Folder;

/// The balancer's interface towards clients, where it has two.
pub const OUTSIDE: &str = "outside";
/// The balancer's interface towards the real servers.
pub const INSIDE: &str = "inside";
/// The VIP.
pub const VIP: &str = "192.0.2.80";
/// The VIP, IPv6.
pub const VIP6: &str = "2001:db8:80::80";
/// The client.
pub const CLIENT: &str = "203.0.113.10";
/// The client, IPv6.
pub const CLIENT6: &str = "2001:db8:f::10";

/// How many arms the balancer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    /// One interface for clients and real servers.
    One,
    /// One interface for each.
    Two,
}

/// The network. Field order is the order of the end: programs before the namespaces that they run in.
pub struct Topology {
    /// Real servers, from the first.
    pub reals: Vec<Real>,
    /// Where clients run.
    pub client: Namespace,
    /// Where the balancer runs.
    pub balancer: Namespace,
    _switch: Namespace,
    _pass: Option<OwnedFd>,
    arms: Arms,
    /// These tests measure times and fill this machine: one at a time.
    _turn: MutexGuard<'static, ()>,
}

/// A real server's machine.
pub struct Real {
    programs: Vec<Process>,
    /// What its programs need of this machine, for as long as they may run.
    pub(crate) borrowed: Vec<Folder>,
    /// Its namespace.
    pub namespace: Namespace,
    /// `192.168.0.2` for the first.
    pub address: String,
    /// `fd00:1::2` for the first.
    pub address6: String,
    folder: tempfile::TempDir,
}

impl Topology {
    /// Builds the network with this many real servers, which run nothing yet.
    #[must_use]
    pub fn new(arms: Arms, reals: u8) -> Self {
        build(arms, reals).unwrap_or_else(|error| panic!("cannot build the network: {error:#}"))
    }

    /// As [`Topology::new`], with nginx on port 80 of every real server: the page names it (`real1`, ...).
    #[must_use]
    pub fn with_web(arms: Arms, reals: u8) -> Self {
        let mut topology = Self::new(arms, reals);
        for (index, real) in topology.reals.iter_mut().enumerate() {
            real.start_nginx(&format!("listen 80; listen [::]:80; {}", page(index + 1)));
        }
        topology
    }

    /// The balancer's interfaces as the configuration file lists them.
    #[must_use]
    pub const fn interfaces(&self) -> &'static str {
        match self.arms {
            Arms::One => "[\"inside\"]",
            Arms::Two => "[\"outside\", \"inside\"]",
        }
    }

    /// Runs `curl` on the client: `count` requests one after the other, each on a connection of its own. Returns the
    /// answers in order.
    ///
    /// # Panics
    /// One of them fails.
    #[must_use]
    pub fn curl(&self, url: &str, count: usize) -> Vec<String> {
        let mut curl = self.client.command("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--fail-early",
            "--max-time",
            "5",
        ])
        .args(["--header", "Connection: close", "--globoff"]);
        for _ in 0..count {
            curl.arg(url);
        }
        let output = run(&mut curl);
        assert!(
            output.status.success(),
            "curl {url}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Connects from the client.
    ///
    /// # Errors
    /// As `connect(2)`, or after `limit`.
    pub fn connect(&self, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        self.client
            .run(|| TcpStream::connect_timeout(&to, limit))
            .expect("enter the client")
    }
}

/// The part of an nginx `server` block that names a real server: `real1`, ...
#[must_use]
pub fn page(number: usize) -> String {
    format!("location = / {{ return 200 \"real{number}\\n\"; }}")
}

impl Real {
    /// The machine of this number, from 1, whose interface `eth0` is connected; its gateway is the balancer.
    pub(crate) fn new(namespace: Namespace, number: u8) -> anyhow::Result<Self> {
        let real = Self {
            programs: Vec::new(),
            borrowed: Vec::new(),
            address: format!("192.168.0.{}", number + 1),
            address6: format!("fd00:1::{:x}", number + 1),
            namespace,
            folder: tempfile::tempdir()?,
        };
        let (host, address, address6) = (&real.namespace, &real.address, &real.address6);
        host.plain_frames("eth0")?;
        host.address("eth0", &format!("{address}/24"))?;
        host.address("eth0", &format!("{address6}/64"))?;
        host.gateway("192.168.0.1")?;
        host.ip("-6 route add default via fd00:1::1")?;
        Ok(real)
    }

    /// Ends all its programs; the machine goes on.
    pub fn stop_programs(&mut self) {
        self.programs.clear();
    }

    /// Ends the program that was started last.
    pub fn stop_last_program(&mut self) {
        self.programs.pop();
    }

    /// Starts nginx with one `server` block of this content.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_nginx(&mut self, server: &str) {
        self.start_nginx_on(80, server);
    }

    /// As [`Real::start_nginx`], for a `server` block that listens on this port.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_nginx_on(&mut self, port: u16, server: &str) {
        let folder = self.folder.path().join(port.to_string());
        fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("nginx.conf");
        let path = folder.display();
        fs::write(
            &config,
            format!(
                "daemon off; master_process off; pid {path}/nginx.pid; error_log {path}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_timeout 600; keepalive_requests 1000000;
  client_body_temp_path {path}; proxy_temp_path {path}; fastcgi_temp_path {path};
  uwsgi_temp_path {path}; scgi_temp_path {path};
  server {{ {server} }}
}}
"
            ),
        )
        .expect("write nginx.conf");
        let mut command = self.namespace.command("nginx");
        command
            .arg("-e")
            .arg(folder.join("error.log"))
            .arg("-c")
            .arg(&config);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.start("nginx", &mut command);
        let to = SocketAddr::new(self.address.parse().expect("an address"), port);
        self.wait_for_port(to, &folder.join("error.log"));
    }

    /// Starts dnsmasq on port 53: it answers TXT queries for `whoami.test` with `name`.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_dns(&mut self, name: &str) {
        let mut command = self.namespace.command("dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
            ])
            .args(["--user=root", "--pid-file="])
            .arg(format!("--txt-record=whoami.test,{name}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.start("dnsmasq", &mut command);
        let to = SocketAddr::new(self.address.parse().expect("an address"), 53);
        self.wait_for_port(to, Path::new("/dev/null"));
    }

    /// Where its programs keep their files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn start(&mut self, name: &str, command: &mut Command) {
        self.programs
            .push(Process::spawn(name, command).unwrap_or_else(|e| panic!("{e:#}")));
    }

    pub(crate) fn wait_for_port(&self, to: SocketAddr, log: &Path) {
        let up = || Ok(TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok());
        let waited = self
            .namespace
            .run(|| wait_until("its port", Duration::from_secs(10), up));
        if let Err(error) = waited.expect("enter the real server") {
            let log = fs::read_to_string(log).unwrap_or_default();
            panic!(
                "{} does not listen on {to}: {error:#}\n{log}",
                self.namespace.name()
            );
        }
    }
}

/// Waits for the turn of the next network of real machines.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed holds nothing back: its guards have cleaned up.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn build(arms: Arms, reals: u8) -> anyhow::Result<Topology> {
    let turn = turn();
    for label in ["client", "balancer", "switch", "real1", "real2"] {
        Namespace::sweep(&format!("tests-{label}"));
    }
    let client = Namespace::new("tests-client")?;
    let balancer = Namespace::new("tests-balancer")?;
    let switch = Namespace::new("tests-switch")?;
    let mut ports = Vec::new();
    let mut connect =
        |namespace: &Namespace, interface: &str, port: String| -> anyhow::Result<()> {
            namespace.connect(interface, &switch, &port)?;
            switch.polling(&port)?;
            ports.push(port);
            Ok(())
        };
    connect(&balancer, INSIDE, "to-balancer".into())?;
    // What the switch's ports have merged (GRO) is cut again here, and must leave with whole checksums.
    switch.plain_frames("to-balancer")?;
    if arms == Arms::One {
        connect(&client, "eth0", "to-client".into())?;
    }
    let mut machines = Vec::new();
    for number in 1..=reals {
        let namespace = Namespace::new(&format!("tests-real{number}"))?;
        connect(&namespace, "eth0", format!("to-real{number}"))?;
        let real = Real::new(namespace, number)?;
        machines.push(real);
    }
    let ports: Vec<_> = ports.iter().map(String::as_str).collect();
    switch.switch("switch", &ports)?;
    let mut pass = None;
    let outside = match arms {
        Arms::One => {
            let index = switch.index("to-balancer")?;
            pass = Some(switch.run(|| crate::pass::attach(index))??);
            INSIDE
        }
        Arms::Two => {
            balancer.connect(OUTSIDE, &client, "eth0")?;
            client.polling("eth0")?;
            OUTSIDE
        }
    };
    client.plain_frames("eth0")?;
    balancer.address(INSIDE, "192.168.0.1/24")?;
    balancer.address(INSIDE, "fd00:1::1/64")?;
    balancer.address(outside, "203.0.113.2/24")?;
    balancer.address(outside, "2001:db8:f::2/64")?;
    balancer.address(outside, &format!("{VIP}/32"))?;
    balancer.address(outside, &format!("{VIP6}/128"))?;
    client.address("eth0", &format!("{CLIENT}/24"))?;
    client.address("eth0", &format!("{CLIENT6}/64"))?;
    client.gateway("203.0.113.2")?;
    client.ip("-6 route add default via 2001:db8:f::2")?;
    Ok(Topology {
        reals: machines,
        client,
        balancer,
        _switch: switch,
        _pass: pass,
        arms,
        _turn: turn,
    })
}

/// Runs a command to its end.
///
/// # Panics
/// It cannot be started.
pub fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("run {command:?}: {error}"))
}

/// An address with its port.
///
/// # Panics
/// It is none.
#[must_use]
pub fn socket(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().expect("an address"), port)
}
