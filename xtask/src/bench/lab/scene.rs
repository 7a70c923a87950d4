//! The lab: a client, a balancer and two real servers, each in a network namespace, with a cable between the balancer
//! and each of the others.
//!
//! ```text
//!                 192.0.2.0/24                 ┌─ inside1 ── 10.0.1.2  real server 1
//!   client .10 ── eth0 ─── outside .1, VIP .80 ┤
//!                                              └─ inside2 ── 10.0.2.2  real server 2
//! ```
//!
//! No offload makes a frame larger than a wire could carry or leaves its checksum out: veth would otherwise hand
//! 64 KB at once from end to end, which no network does, and XDP could not. The ends that face the balancer poll (GRO on): frames that XDP sends into a
//! veth arrive only there. The balancer's own interfaces are as the kernel makes them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use xtask::lab::{Namespace, Process, wait_until};

/// The VIP, to which clients connect.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
/// The real servers.
pub const REALS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 1, 2), Ipv4Addr::new(10, 0, 2, 2)];
/// The balancer's interfaces: towards the client and towards each real server.
pub const INTERFACES: [&str; 3] = ["outside", "inside1", "inside2"];
/// Port on which the real servers answer HTTP; [`BULK`] is that of iperf3 on the first of them.
pub const HTTP: u16 = 80;
/// See [`HTTP`].
pub const BULK: u16 = 5201;

/// Prefix of the names of the lab's namespaces.
const LABEL: &str = "balancer-bench";
/// How long a program may take to answer after its start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The lab. It is removed when this is dropped.
pub struct Scene {
    // Fields are dropped in order: programs before the network that they use.
    servers: Vec<Process>,
    /// The client.
    pub client: Namespace,
    /// The balancer.
    pub balancer: Namespace,
    reals: [Namespace; 2],
    folder: tempfile::TempDir,
}

impl Scene {
    /// Builds the lab and starts the real servers.
    ///
    /// # Errors
    /// The caller is not root, or a tool is missing.
    pub fn build() -> Result<Self> {
        Namespace::sweep(LABEL);
        let mut scene = Self {
            servers: Vec::new(),
            client: Namespace::new(LABEL)?,
            balancer: Namespace::new(LABEL)?,
            reals: [Namespace::new(LABEL)?, Namespace::new(LABEL)?],
            folder: tempfile::tempdir().context("making a temporary folder")?,
        };
        scene.lay_cables()?;
        scene.tune()?;
        for number in 0..scene.reals.len() {
            scene.start_real(number)?;
        }
        Ok(scene)
    }

    fn lay_cables(&self) -> Result<()> {
        let [outside, inside @ ..] = INTERFACES;
        self.balancer.connect(outside, &self.client, "eth0")?;
        self.balancer.address(outside, "192.0.2.1/24")?;
        self.balancer.address(outside, &format!("{VIP}/32"))?;
        self.client.address("eth0", "192.0.2.10/24")?;
        self.client.gateway("192.0.2.1")?;
        for ((interface, real), address) in inside.into_iter().zip(&self.reals).zip(REALS) {
            let [a, b, c, _] = address.octets();
            let gateway = Ipv4Addr::new(a, b, c, 1);
            self.balancer.connect(interface, real, "eth0")?;
            self.balancer.address(interface, &format!("{gateway}/24"))?;
            real.address("eth0", &format!("{address}/24"))?;
            real.gateway(&gateway.to_string())?;
        }
        for interface in INTERFACES {
            self.balancer.plain_frames(interface)?;
        }
        for end in self.ends() {
            end.plain_frames("eth0")?;
            end.polling("eth0")?;
        }
        Ok(())
    }

    fn ends(&self) -> impl Iterator<Item = &Namespace> {
        std::iter::once(&self.client).chain(&self.reals)
    }

    /// Connections come and go by the hundred thousand. Without TIME_WAIT a port can be used again at once; with it, a
    /// real server that is reached under two addresses of the client's packets (routed, translated) refuses SYNs.
    fn tune(&self) -> Result<()> {
        self.balancer.sysctl("net.ipv4.ip_forward", "1")?;
        for namespace in self.ends().chain([&self.balancer]) {
            namespace.sysctl("net.ipv4.tcp_max_tw_buckets", "0")?;
            namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
            namespace.sysctl("net.core.somaxconn", "4096")?;
            namespace.sysctl("net.ipv4.tcp_max_syn_backlog", "4096")?;
        }
        Ok(())
    }

    fn start_real(&mut self, number: usize) -> Result<()> {
        let real = &self.reals[number];
        let name = format!("real{}", number + 1);
        let file = self.write(
            &format!("{name}.conf"),
            &format!(
                "worker_processes {workers};\nworker_rlimit_nofile 16384;\npid {folder}/{name}.pid;\nerror_log {folder}/{name}.log;\n\
                 events {{ worker_connections 4096; }}\n\
                 http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  default_type text/plain;\n\
                   server {{ listen {HTTP} reuseport backlog=4096; location / {{ return 200 \"{name}\\n\"; }} }}\n}}\n",
                folder = self.folder().display(),
                workers = thread::available_parallelism().map_or(1, usize::from),
            ),
        )?;
        let mut nginx = real.command("nginx");
        nginx.arg("-c").arg(file).args(["-g", "daemon off;"]);
        self.servers
            .push(Process::spawn(&format!("{name}'s nginx"), &mut nginx)?);
        if number == 0 {
            let mut iperf3 = real.command("iperf3");
            iperf3
                .args(["--server", "--port", &BULK.to_string()])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            self.servers
                .push(Process::spawn("iperf3's server", &mut iperf3)?);
        }
        Ok(())
    }

    /// Writes a file that is removed with the lab, and returns its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<std::path::PathBuf> {
        let path = self.folder().join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// The folder for files of the lab.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until the client is answered at `address`, and returns which real servers answered eight requests.
    ///
    /// # Errors
    /// There was no answer in time.
    pub fn answers(&self, address: Ipv4Addr) -> Result<Vec<String>> {
        let ask = || self.client.run(|| ask((address, HTTP).into()));
        wait_until(&format!("an answer from {address}"), START_TIMEOUT, || {
            Ok(ask()?.is_ok())
        })?;
        let mut names = (0..8).map(|_| ask()?).collect::<Result<Vec<_>>>()?;
        names.sort();
        names.dedup();
        Ok(names)
    }
}

/// Requests a page and returns its text, which is the real server's name.
fn ask(address: SocketAddr) -> Result<String> {
    let limit = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, page) = answer
        .split_once("\r\n\r\n")
        .context("the answer is not HTTP")?;
    Ok(page.trim().to_owned())
}
