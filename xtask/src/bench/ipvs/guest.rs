//! The measurement as it runs inside the guest: one machine, in it namespaces for the client, the balancer and two
//! real servers, joined by veth pairs or by QEMU's hubs.
//!
//! ```text
//!  client ─(outside)─ balancer ─┬─(inside1)─ real1
//!    └───────(direct)───────────│───────────────┘     the run without a balancer
//!                               └─(inside2)─ real2
//! ```

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use xtask::lab::{Namespace, Process, wait_until};

use super::{
    RUNS, Way,
    traffic::{Client, Load, serve},
};

/// The links between the namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Link {
    /// virtio-net cards, two on each of QEMU's hubs
    Virtio,
    /// veth pairs
    Veth,
}

impl Link {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Virtio, Self::Veth];

    /// Its name in rows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Veth => "veth",
        }
    }
}

/// Measures inside a guest, whose network it configures.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What joins the namespaces
    link: Link,
}

/// The VIP, and the balancer's address towards the client.
const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 35);
/// The client.
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 100);
/// The client on the link without a balancer.
const CLIENT_DIRECT: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 100);
/// The first real server on that link.
const REAL_DIRECT: Ipv4Addr = Ipv4Addr::new(192, 168, 9, 2);
/// The balancer's addresses towards the real servers.
const INSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 2, 1), Ipv4Addr::new(192, 168, 3, 1)];
/// The real servers.
const REALS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 2, 2), Ipv4Addr::new(192, 168, 3, 2)];

/// MAC address of an end of a link: the same in the guest and on QEMU's command line.
pub fn mac(cable: usize, end: usize) -> String {
    format!("02:00:00:00:{cable:02x}:{end:02x}")
}

/// Number of links.
pub const CABLES: usize = 4;

/// Measures every way and load and prints a line for each run.
pub fn run(options: &Options) -> Result<ExitCode> {
    ensure!(
        Path::new("/programs").is_file(),
        "this is for a virtual machine of `cargo xtask bench ipvs`, and this is none"
    );
    let scene = Scene::new(options.link)?;
    for way in Way::ALL {
        let daemon = scene.prepare(way)?;
        let mut client = match way {
            Way::Direct => scene.client(CLIENT_DIRECT, REAL_DIRECT),
            Way::Routing => scene.client(CLIENT, REALS[0]),
            Way::Ipvs | Way::Balancer => scene.client(CLIENT, VIP),
        };
        for load in Load::ALL {
            // The first run after boot needed up to 80 % more: the kernel's caches are cold.
            for warm_up in [true, true].into_iter().chain([false; RUNS]) {
                let instructions = client
                    .run(load)
                    .with_context(|| format!("{} through {}", load.name(), way.name()))?;
                if !warm_up {
                    let (link, load, way) = (options.link.name(), load.name(), way.name());
                    println!("figure {link} {load} {way} {instructions:.0}");
                }
            }
        }
        if let Some(daemon) = &daemon {
            daemon.signal(Signal::SIGCONT)?;
        }
        scene.check(way)?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Scene {
    client: Namespace,
    balancer: Namespace,
    reals: [Namespace; 2],
    link: Link,
}

impl Scene {
    fn new(link: Link) -> Result<Self> {
        let make = |name: &str| Namespace::new(name);
        let (client, balancer) = (make("client")?, make("balancer")?);
        let reals = [make("real1")?, make("real2")?];
        let ends = [
            [(&client, "eth0", CLIENT), (&balancer, "outside", VIP)],
            [
                (&balancer, "inside1", INSIDE[0]),
                (&reals[0], "eth0", REALS[0]),
            ],
            [
                (&balancer, "inside2", INSIDE[1]),
                (&reals[1], "eth0", REALS[1]),
            ],
            [
                (&client, "direct", CLIENT_DIRECT),
                (&reals[0], "direct", REAL_DIRECT),
            ],
        ];
        for (cable, ends) in ends.iter().enumerate() {
            match link {
                Link::Veth => ends[0].0.connect(ends[0].1, ends[1].0, ends[1].1)?,
                Link::Virtio => {
                    for (end, (namespace, name, _)) in ends.iter().enumerate() {
                        take_card(namespace, name, &mac(cable, end))?;
                    }
                }
            }
            for (namespace, name, address) in ends {
                namespace.address(name, &format!("{address}/24"))?;
                if link == Link::Veth {
                    namespace.plain_frames(name)?;
                }
            }
            // Neighbours are permanent, so that none is resolved during a measurement.
            for [(here, name, _), (there, other, address)] in
                [[ends[0], ends[1]], [ends[1], ends[0]]]
            {
                let mac = there.mac(other)?;
                let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                here.ip(&format!(
                    "neigh replace {address} lladdr {mac} dev {name} nud permanent"
                ))?;
            }
        }
        client.gateway(&VIP.to_string())?;
        // A connection in TIME_WAIT would delay the next way's connections.
        client.sysctl("net.ipv4.tcp_max_tw_buckets", "0")?;
        for (real, gateway) in reals.iter().zip(INSIDE) {
            real.gateway(&gateway.to_string())?;
            real.sysctl("net.ipv4.tcp_max_tw_buckets", "0")?;
            serve(real)?;
        }
        balancer.sysctl("net.ipv4.ip_forward", "1")?;
        Ok(Self {
            client,
            balancer,
            reals,
            link,
        })
    }

    fn client(&self, address: Ipv4Addr, server: Ipv4Addr) -> Client<'_> {
        Client::new(&self.client, address, SocketAddrV4::new(server, 80))
    }

    /// Configures the balancer's machine for a way; the returned process must run as long as the way is used.
    fn prepare(&self, way: Way) -> Result<Option<Process>> {
        match way {
            Way::Direct | Way::Routing => Ok(None),
            Way::Ipvs => {
                let service = format!("{VIP}:80");
                self.ipvsadm(&["-A", "-t", &service, "-s", "rr"])?;
                for real in REALS {
                    self.ipvsadm(&["-a", "-t", &service, "-r", &format!("{real}:80"), "-m"])?;
                }
                Ok(None)
            }
            Way::Balancer => {
                self.ipvsadm(&["-C"])?;
                if self.link == Link::Veth {
                    // veth delivers frames from XDP only to ends that poll. The other ways do not need that, and it costs.
                    for end in [&self.client].into_iter().chain(&self.reals) {
                        end.polling("eth0")?;
                    }
                }
                let daemon = self.start_balancer()?;
                // The daemon's work depends on time, and the guest's clock jumps to the next timer whenever the guest waits for a
                // frame: its instructions would not be in proportion to connections. Packets are forwarded without the daemon.
                daemon.signal(Signal::SIGSTOP)?;
                Ok(Some(daemon))
            }
        }
    }

    fn ipvsadm(&self, arguments: &[&str]) -> Result<String> {
        self.balancer.output("ipvsadm", arguments)
    }

    fn start_balancer(&self) -> Result<Process> {
        let real =
            |address: Ipv4Addr| format!("  [[service.real]]\n  address = \"{address}:80\"\n");
        let config = format!(
            "[dataplane]\ninterfaces = [\"outside\", \"inside1\", \"inside2\"]\nmode = \"native\"\n\n[[service]]\n\
             name = \"web\"\naddress = \"{VIP}:80\"\nscheduler = \"rr\"\n{}{}",
            real(REALS[0]),
            real(REALS[1])
        );
        fs::write("/balancer.toml", config).context("cannot write the configuration")?;
        let log = fs::File::create("/balancer.log").context("cannot make the log")?;
        let mut command = self.balancer.command("/programs.d/balancerd");
        command
            .args(["--config", "/balancer.toml"])
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut process = Process::spawn("balancerd", &mut command)?;
        let answers = wait_until("balancerd to answer", Duration::from_secs(100), || {
            ensure!(process.ended()?.is_none(), "balancerd ended");
            let asked = Command::new("/programs.d/balancer-ctl")
                .arg("status")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            Ok(asked.is_ok_and(|status| status.success()))
        });
        answers.with_context(|| fs::read_to_string("/balancer.log").unwrap_or_default())?;
        Ok(process)
    }

    /// Checks that the measured packets went the named way, and prints the balancer's counters.
    fn check(&self, way: Way) -> Result<()> {
        let least = super::connections();
        match way {
            Way::Direct | Way::Routing => Ok(()),
            Way::Ipvs => {
                // The kernel adds its CPUs' counters up every two seconds.
                let mut listed = String::new();
                let counted = wait_until("IPVS's counters", Duration::from_secs(10), || {
                    listed = self.ipvsadm(&["-Ln", "--stats", "--exact"])?;
                    Ok(ipvs_connections(&listed).is_some_and(|counted| counted >= least))
                });
                counted.with_context(|| {
                    format!(
                        "the measurement is void: of {least} connections IPVS saw fewer:\n{listed}"
                    )
                })
            }
            Way::Balancer => {
                let output = Command::new("/programs.d/balancer-ctl")
                    .args(["list", "--json"])
                    .output()
                    .context("cannot run balancer-ctl")?;
                let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
                let counters: Vec<_> = listed["services"][0]["reals"]
                    .as_array()
                    .context("balancer-ctl lists no real server")?
                    .iter()
                    .map(|real| real["counters"]["connections"].as_u64().unwrap_or(0))
                    .collect();
                let counted: u64 = counters.iter().sum();
                ensure!(
                    counted >= least,
                    "the measurement is void: the balancer saw {counters:?} connections of {least}"
                );
                Ok(())
            }
        }
    }
}

/// Moves the network card with this address into a namespace, and calls it `name` there.
fn take_card(namespace: &Namespace, name: &str, mac: &str) -> Result<()> {
    let card = fs::read_dir("/sys/class/net")
        .context("cannot list the network cards")?
        .flatten()
        .find(|card| {
            let address = fs::read_to_string(card.path().join("address"));
            address.is_ok_and(|address| address.trim_end() == mac)
        })
        .with_context(|| format!("there is no network card {mac}"))?;
    let card = card.file_name();
    let moved = Command::new("ip")
        .args(["link", "set", "dev"])
        .arg(&card)
        .args(["netns", namespace.name(), "name", name])
        .status()
        .context("cannot run ip")?;
    ensure!(
        moved.success(),
        "cannot move the network card {}",
        card.display()
    );
    namespace.ip(&format!("link set dev {name} up"))
}

/// Reads how many connections `ipvsadm -Ln --stats --exact` has counted for the service.
fn ipvs_connections(listed: &str) -> Option<u64> {
    let line = listed.lines().find(|line| line.starts_with("TCP "))?;
    line.split_whitespace().nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_are_read_from_what_ipvsadm_prints() {
        let listed = "IP Virtual Server version 1.2.1 (size=4096)\n\
            Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n  -> RemoteAddress:Port\n\
            TCP  192.168.1.35:80                  2209    24277    15000  1500000  1500000\n  \
            -> 192.168.2.2:80                    1104    12138     7500   750000   750000\n";
        assert_eq!(ipvs_connections(listed), Some(2209));
        assert_eq!(ipvs_connections(""), None);
    }
}
