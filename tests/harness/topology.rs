//! Real machines in network namespaces: clients, the balancer with its daemon, and real servers with nginx and
//! dnsmasq. Everything is a guard and goes when it is dropped, also when a test fails.
//!
//! ```text
//!  two arms:  client ───────── outside ┤balancer├ inside ──── switch ──── real 1, real 2, ...
//!  one arm:   client, real 1, real 2, ... ──── switch ──── inside ┤balancer├
//! ```

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use xtask::lab::{Namespace, Process, wait_until};

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

    /// Starts a client that makes a new connection for each request, without a pause.
    #[must_use]
    pub fn start_load(&self, to: SocketAddr) -> Load {
        // The thread must outlive this borrow: it enters the namespace by its name.
        let path = self.client.path();
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU32::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = thread::spawn(move || {
            let namespace = fs::File::open(path).expect("the client's namespace");
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("enter the client");
            let mut report = Report::default();
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                match request(to) {
                    Ok(_) => report.answered += 1,
                    Err(error) => report.failures.push(error.to_string()),
                }
                report.slowest = report.slowest.max(start.elapsed());
                counted.store(report.answered, Ordering::Relaxed);
            }
            report
        });
        Load {
            stop,
            done,
            thread: Some(thread),
        }
    }
}

/// The part of an nginx `server` block that names a real server: `real1`, ...
#[must_use]
pub fn page(number: usize) -> String {
    format!("location = / {{ return 200 \"real{number}\\n\"; }}")
}

/// Asks for `/` on a connection of its own and returns the answer's body.
///
/// # Errors
/// There is no whole answer with status 200 within two seconds.
pub fn request(to: SocketAddr) -> io::Result<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other(format!("the answer is cut: {answer:?}")))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("the answer is {head:?}")));
    }
    Ok(body.trim_end().to_owned())
}

/// A running client; see [`Topology::start_load`].
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    thread: Option<JoinHandle<Report>>,
}

/// What a [`Load`] saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests that were answered.
    pub answered: u32,
    /// What went wrong, by request.
    pub failures: Vec<String>,
    /// The longest that one request took.
    pub slowest: Duration,
}

impl Load {
    /// Waits for this many more answers.
    ///
    /// # Panics
    /// They do not come.
    pub fn wait_for(&self, more: u32) {
        let target = self.done.load(Ordering::Relaxed) + more;
        wait_until("the client's requests", Duration::from_secs(20), || {
            Ok(self.done.load(Ordering::Relaxed) >= target)
        })
        .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Ends it.
    ///
    /// # Panics
    /// A request failed, or one took as long as a lost SYN takes to be sent again (1 s).
    pub fn finish(mut self) -> Report {
        let report = self.end().expect("ends once");
        assert!(report.failures.is_empty(), "requests failed: {report:?}");
        assert!(
            report.slowest < Duration::from_millis(900),
            "a packet was lost: {report:?}"
        );
        report
    }

    fn end(&mut self) -> Option<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take()?.join().ok()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Real {
    /// Starts nginx with one `server` block of this content.
    ///
    /// # Panics
    /// It does not start.
    pub fn start_nginx(&mut self, server: &str) {
        let folder = self.folder.path().to_owned();
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
        let to = SocketAddr::new(self.address.parse().expect("an address"), 80);
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

    fn start(&mut self, name: &str, command: &mut Command) {
        self.programs
            .push(Process::spawn(name, command).unwrap_or_else(|e| panic!("{e:#}")));
    }

    fn wait_for_port(&self, to: SocketAddr, log: &Path) {
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

fn build(arms: Arms, reals: u8) -> anyhow::Result<Topology> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed holds nothing back: its guards have cleaned up.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
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
        namespace.plain_frames("eth0")?;
        let real = Real {
            programs: Vec::new(),
            address: format!("192.168.0.{}", number + 1),
            address6: format!("fd00:1::{:x}", number + 1),
            namespace,
            folder: tempfile::tempdir()?,
        };
        real.namespace
            .address("eth0", &format!("{}/24", real.address))?;
        real.namespace
            .address("eth0", &format!("{}/64", real.address6))?;
        real.namespace.gateway("192.168.0.1")?;
        real.namespace.ip("-6 route add default via fd00:1::1")?;
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
    client.address("eth0", "2001:db8:f::10/64")?;
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

/// A daemon with its instance name, its files, and everything that must go with it.
pub struct Daemon {
    process: Option<Process>,
    /// The instance's name.
    pub instance: String,
    /// The configuration file.
    pub config: PathBuf,
    /// The daemon's log.
    pub log: PathBuf,
    balancer: PathBuf,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// Writes the configuration and starts the daemon in the balancer's namespace; returns when it answers.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(topology: &Topology, services: &str) -> Self {
        let interfaces = topology.interfaces();
        Self::start_with(
            topology,
            &format!("[dataplane]\ninterfaces = {interfaces}\n{services}"),
        )
    }

    /// As [`Daemon::start`], with the whole file given.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start_with(topology: &Topology, config: &str) -> Self {
        let mut daemon = Self::prepare(topology, config);
        daemon.restart();
        daemon
    }

    /// Everything but the start.
    ///
    /// # Panics
    /// The files cannot be written.
    #[must_use]
    pub fn prepare(topology: &Topology, config: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let daemon = Self {
            process: None,
            instance: format!("tests-{}-{number}", std::process::id()),
            config: folder.path().join("balancer.toml"),
            log: folder.path().join("log"),
            balancer: topology.balancer.path(),
            folder,
        };
        daemon.write(config);
        daemon
    }

    /// Writes the configuration file.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, config: &str) {
        fs::write(&self.config, config).expect("write the configuration");
    }

    /// The configuration file's content.
    ///
    /// # Panics
    /// It cannot be read.
    #[must_use]
    pub fn read(&self) -> String {
        fs::read_to_string(&self.config).expect("read the configuration")
    }

    /// Starts the daemon (again) and returns when it answers.
    ///
    /// # Panics
    /// It does not answer.
    pub fn restart(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("the log");
        let mut command = self.command("balancerd");
        command.arg("--config").arg(&self.config);
        command
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let process = Process::spawn("balancerd", &mut command).unwrap_or_else(|e| panic!("{e:#}"));
        let process = self.process.insert(process);
        let mut ended = None;
        let mut asked = None;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            ended = process.ended().expect("ask after the daemon");
            if ended.is_some() {
                break;
            }
            let answer = run(
                instance_command("balancer-ctl", &self.balancer, &self.instance)
                    .args(["status", "--json"]),
            );
            if answer.status.success() {
                return;
            }
            asked = Some(String::from_utf8_lossy(&answer.stderr).into_owned());
            thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "the daemon does not answer ({ended:?}, {asked:?}); its log:\n{}",
            self.log()
        );
    }

    /// A program of the product, in the balancer's namespace, with this instance's name.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        instance_command(program, &self.balancer, &self.instance)
    }

    /// Runs `balancer-ctl` with the arguments of a command line and returns what it printed.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn ctl(&self, arguments: &str) -> String {
        let output = run(self
            .command("balancer-ctl")
            .args(arguments.split_whitespace()));
        assert!(
            output.status.success(),
            "balancer-ctl {arguments}: {} {}\nthe daemon's log:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `balancer-ctl --json` and returns what it printed.
    ///
    /// # Panics
    /// It fails, or that is no JSON.
    #[track_caller]
    #[must_use]
    pub fn json(&self, arguments: &str) -> serde_json::Value {
        serde_json::from_str(&self.ctl(&format!("{arguments} --json"))).expect("JSON")
    }

    /// Everything that the daemon has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The running daemon.
    ///
    /// # Panics
    /// It does not run.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the daemon runs")
    }

    /// Stops it as the service manager does, and asserts that it ends well.
    ///
    /// # Panics
    /// It does not end, or not with status 0.
    pub fn stop(&mut self) {
        self.process().signal(Signal::SIGTERM).expect("it runs");
        let status = self
            .process()
            .wait(Duration::from_secs(10))
            .expect("it ends");
        assert!(status.success(), "{status}; its log:\n{}", self.log());
        self.process = None;
    }

    /// Takes the data plane down.
    ///
    /// # Panics
    /// That fails.
    pub fn detach(&self) {
        let output = run(self
            .command("balancerd")
            .arg("--config")
            .arg(&self.config)
            .arg("--detach"));
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Where this instance's pins are.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/balancer").join(&self.instance)
    }

    /// A folder that goes with the daemon.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.process.take());
        for folder in ["/sys/fs/bpf/balancer", "/run/balancer", "/var/lib/balancer"] {
            // Not every instance got as far as to make each.
            let _ = fs::remove_dir_all(Path::new(folder).join(&self.instance));
        }
        if thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

fn instance_command(program: &str, balancer: &Path, instance: &str) -> Command {
    // Not `ip netns exec`: it would mount a new /sys, on which pins do not outlive the daemon.
    let mut command = Command::new("nsenter");
    let mut net = std::ffi::OsString::from("--net=");
    net.push(balancer);
    command
        .arg(net)
        .arg(binary(program))
        .args(["--instance", instance]);
    command
}

/// The path of one of the product's programs, built as it is now.
fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // `cargo xtask test` has built them and says where.
        if let Some(target) = std::env::var_os("BALANCER_TARGET") {
            return Path::new(&target).join("debug");
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--package", "balancer-ctl", "--bins"])
            .status()
            .expect("run cargo");
        assert!(status.success(), "cannot build balancerd and balancer-ctl");
        let test = std::env::current_exe().expect("this test's path");
        test.parent()
            .and_then(Path::parent)
            .expect("target/debug/deps")
            .to_owned()
    });
    folder.join(name)
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
