//! The balancers that are compared, each configured as its documentation recommends, with the same two real servers.
//!
//! Only one runs at a time: netfilter's hooks and an attached XDP program would also slow the others' packets down.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xtask::lab::{Process, wait_until};

use super::scene::{BULK, HTTP, INTERFACES, REALS, Scene, VIP};

/// What is between client and real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The kernel routes to the first real server, without balancing.
    Plain,
    /// The kernel routes, half of the clients to each real server: what the choice of one real server costs
    /// plain routing, or gives it.
    PlainTwo,
    /// This project.
    Balancer,
    /// The reference: the kernel's NAT.
    Nftables,
    /// A proxy.
    Haproxy,
    /// A proxy.
    Nginx,
}

impl Peer {
    /// All of them, in the order in which they are measured.
    pub const ALL: [Self; 6] = [
        Self::Plain,
        Self::PlainTwo,
        Self::Balancer,
        Self::Nftables,
        Self::Haproxy,
        Self::Nginx,
    ];

    /// Its part of a row's name; the project's own rows have none.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "/plain",
            Self::PlainTwo => "/plain-two",
            Self::Balancer => "",
            Self::Nftables => "/nftables",
            Self::Haproxy => "/haproxy",
            Self::Nginx => "/nginx",
        }
    }

    /// The addresses to which clients connect, an equal share of them to each.
    pub const fn addresses(self) -> &'static [Ipv4Addr] {
        match self {
            Self::Plain => &[REALS[0]],
            Self::PlainTwo => &REALS,
            Self::Balancer | Self::Nftables | Self::Haproxy | Self::Nginx => &[VIP],
        }
    }

    /// Starts it and checks that it balances.
    ///
    /// # Errors
    /// It does not start, or requests do not reach the real servers they should.
    pub fn start<'a>(self, scene: &'a Scene, programs: &'a Programs) -> Result<Running<'a>> {
        let running = match self {
            Self::Plain | Self::PlainTwo => Running::Nothing,
            Self::Balancer => Running::balancer(scene, programs)?,
            Self::Nftables => Running::nftables(scene)?,
            Self::Haproxy => Running::haproxy(scene)?,
            Self::Nginx => Running::nginx(scene)?,
        };
        let mut answered = Vec::new();
        for address in self.addresses() {
            answered.extend(scene.answers(*address)?);
        }
        let expected: &[&str] = match self {
            Self::Plain => &["real1"],
            Self::PlainTwo | Self::Balancer | Self::Nftables | Self::Haproxy | Self::Nginx => {
                &["real1", "real2"]
            }
        };
        ensure!(
            answered == expected,
            "{self:?}: answered by {answered:?} instead of {expected:?}"
        );
        Ok(running)
    }
}

/// The project's own programs, as built.
pub struct Programs {
    /// The daemon.
    pub balancerd: PathBuf,
    /// The operator's tool.
    pub balancer_ctl: PathBuf,
}

/// A running peer. It is stopped when this is dropped.
pub enum Running<'a> {
    /// The kernel routes by itself.
    Nothing,
    /// A program of its own; dropped with this.
    Proxy(#[expect(dead_code, reason = "held for its drop")] Process),
    /// Rules in the kernel.
    Rules(&'a Scene),
    /// The daemon and what it has put in the kernel.
    Balancer(BalancerRun<'a>),
}

/// This project's daemon, running.
pub struct BalancerRun<'a> {
    daemon: Process,
    scene: &'a Scene,
    programs: &'a Programs,
    instance: String,
}

impl<'a> Running<'a> {
    fn nftables(scene: &'a Scene) -> Result<Self> {
        let [first, second] = REALS;
        let file = scene.write(
            "rules.nft",
            &format!(
                "table ip balance {{\n  chain in {{\n    type nat hook prerouting priority dstnat;\n\
                 ip daddr {VIP} tcp dport {HTTP} dnat to numgen inc mod 2 map {{ 0 : {first}, 1 : {second} }}\n\
                 ip daddr {VIP} tcp dport {BULK} dnat to {first}\n  }}\n}}\n"
            ),
        )?;
        scene
            .balancer
            .output("nft", &["-f", &file.to_string_lossy()])?;
        Ok(Self::Rules(scene))
    }

    fn haproxy(scene: &Scene) -> Result<Self> {
        let [first, second] = REALS;
        let file = scene.write(
            "haproxy.cfg",
            &format!(
                "global\n  maxconn 4000\n  nbthread 2\n\
                 defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
                 listen web\n  bind {VIP}:{HTTP}\n  balance roundrobin\n  server real1 {first}:{HTTP}\n  server real2 {second}:{HTTP}\n\
                 listen bulk\n  bind {VIP}:{BULK}\n  server real1 {first}:{BULK}\n"
            ),
        )?;
        let mut haproxy = scene.balancer.command("haproxy");
        haproxy.arg("-db").arg("-f").arg(file).stdout(Stdio::null());
        Ok(Self::Proxy(Process::spawn("haproxy", &mut haproxy)?))
    }

    fn nginx(scene: &Scene) -> Result<Self> {
        let [first, second] = REALS;
        let folder = scene.folder().display();
        let file = scene.write(
            "stream.conf",
            &format!(
                "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
                 worker_processes 2;\nworker_rlimit_nofile 16384;\npid {folder}/stream.pid;\nerror_log {folder}/stream.log;\n\
                 events {{ worker_connections 4096; }}\n\
                 stream {{\n  upstream web {{ server {first}:{HTTP}; server {second}:{HTTP}; }}\n\
                 server {{ listen {VIP}:{HTTP} backlog=4096; proxy_pass web; }}\n\
                 server {{ listen {VIP}:{BULK}; proxy_pass {first}:{BULK}; }}\n}}\n"
            ),
        )?;
        let mut nginx = scene.balancer.command("nginx");
        nginx.arg("-c").arg(file).args(["-g", "daemon off;"]);
        Ok(Self::Proxy(Process::spawn("nginx", &mut nginx)?))
    }

    fn balancer(scene: &'a Scene, programs: &'a Programs) -> Result<Self> {
        let [first, second] = REALS;
        let interfaces = INTERFACES.map(|name| format!("{name:?}")).join(", ");
        let file = scene.write(
            "balancer.toml",
            &format!(
                "[dataplane]\ninterfaces = [{interfaces}]\nmode = \"native\"\n\n\
                 [[service]]\nname = \"web\"\naddress = \"{VIP}:{HTTP}\"\nscheduler = \"rr\"\n\n\
                 [[service.real]]\naddress = \"{first}:{HTTP}\"\n\n[[service.real]]\naddress = \"{second}:{HTTP}\"\n\n\
                 [[service]]\nname = \"bulk\"\naddress = \"{VIP}:{BULK}\"\nscheduler = \"rr\"\n\n\
                 [[service.real]]\naddress = \"{first}:{BULK}\"\n"
            ),
        )?;
        // A name of this run's own: another instance of the same name may be in use.
        let instance = scene.balancer.name().to_owned();
        let mut command = scene.balancer.command(&programs.balancerd);
        command
            .arg("--config")
            .arg(file)
            .args(["--instance", &instance, "--log", "warn"]);
        let daemon = Process::spawn("balancerd", &mut command)?;
        let mut run = BalancerRun {
            daemon,
            scene,
            programs,
            instance,
        };
        run.wait_until_ready()?;
        Ok(Self::Balancer(run))
    }
}

impl BalancerRun<'_> {
    fn wait_until_ready(&mut self) -> Result<()> {
        wait_until("balancerd to answer", Duration::from_secs(10), || {
            if let Some(status) = self.daemon.ended()? {
                anyhow::bail!("balancerd ended: {status}");
            }
            let mut status = self.control();
            let answered = status
                .arg("status")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            Ok(answered.context("running balancer-ctl")?.success())
        })
    }

    fn control(&self) -> Command {
        let mut command = self.scene.balancer.command(&self.programs.balancer_ctl);
        command.args(["--instance", &self.instance]);
        command
    }

    /// What the packet program has counted since the daemon started.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn counted(&self) -> Result<Counted> {
        let listed = self.ask("list")?;
        let services = listed["services"]
            .as_array()
            .context("balancer-ctl list shows no services")?;
        let count = |service: &serde_json::Value, name: &str| {
            service["counters"][name].as_u64().unwrap_or(0)
        };
        let translated = services
            .iter()
            .map(|service| count(service, "packets_in") + count(service, "packets_out"))
            .sum();
        let status = self.ask("status")?;
        let discards = status["dataplane"]["discards"]
            .as_object()
            .context("balancer-ctl status shows no discards")?;
        let discards = discards
            .iter()
            .map(|(reason, count)| (reason.clone(), count.as_u64().unwrap_or(0)))
            .collect();
        Ok(Counted {
            translated,
            discards,
        })
    }

    fn ask(&self, command: &str) -> Result<serde_json::Value> {
        let output = self
            .control()
            .args([command, "--json"])
            .output()
            .context("running balancer-ctl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "balancer-ctl {command}: {}",
            said.trim()
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("reading what balancer-ctl {command} prints"))
    }
}

/// What the packet program has counted.
pub struct Counted {
    /// Packets to real servers and to clients.
    pub translated: u64,
    /// Discarded packets by reason.
    discards: BTreeMap<String, u64>,
}

impl Counted {
    /// The packets that were discarded since `before`, as text.
    pub fn discards_since(&self, before: &Self) -> Vec<String> {
        let before = |reason| before.discards.get(reason).copied().unwrap_or(0);
        let counts = self
            .discards
            .iter()
            .map(|(reason, count)| (reason, count - before(reason)));
        counts
            .filter(|(_, count)| *count != 0)
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let ended = match self {
            Self::Nothing | Self::Proxy(_) => Ok(()),
            Self::Rules(scene) => scene
                .balancer
                .output("nft", &["delete", "table", "ip", "balance"])
                .map(drop),
            Self::Balancer(run) => run.end(),
        };
        if let Err(error) = ended {
            eprintln!("warning: {error:#}");
        }
        // Sockets of the last run close down.
        thread::sleep(Duration::from_millis(100));
    }
}

impl BalancerRun<'_> {
    fn end(&mut self) -> Result<()> {
        self.daemon.stop()?;
        let mut detach = self.scene.balancer.command(&self.programs.balancerd);
        let status = detach
            .args(["--detach", "--instance", &self.instance])
            .status()
            .context("running balancerd")?;
        ensure!(status.success(), "balancerd --detach: {status}");
        // What an instance keeps from one start to the next; this one starts no more.
        for folder in ["/run/balancer", "/var/lib/balancer"] {
            match fs::remove_dir_all(Path::new(folder).join(&self.instance)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}
