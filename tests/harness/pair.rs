//! Balancers that share VIPs, in network namespaces: nodes on two switches, a client on the outside one, real servers on the inside
//! one. The real servers' gateway is a VIP. Everything is a guard and goes when it is dropped, also when a test fails.
//!
//! ```text
//!              ┌───────── outside ┤node 0├ inside ─────────┐
//!  client ── switch                                     switch ── real 1, real 2
//!              └───────── outside ┤node 1├ inside ─────────┘
//! ```

use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use balancer_ctl::{
    netlink::{Netlink, address},
    vrrp::{
        announce::{Announcer, ClaimWatch, Heard},
        packet::Family,
    },
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use xtask::lab::{Namespace, wait_until};

use crate::{
    advertisements::Recorder,
    daemon::Daemon,
    keepalived::Keepalived,
    topology::{CLIENT, CLIENT6, INSIDE, OUTSIDE, Real, page, turn},
};

/// The VIP for clients.
pub const VIP: &str = "203.0.113.80";
/// The VIP for clients, IPv6.
pub const VIP6: &str = "2001:db8:f::80";
/// The VIP that is the real servers' gateway.
pub const GATEWAY: &str = "192.168.0.1";
/// The VIP that is the real servers' gateway, IPv6.
pub const GATEWAY6: &str = "fd00:1::1";
/// How long something that is to happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// The network. Field order is the order of the end: programs before the namespaces that they run in.
pub struct Pair {
    /// The balancers.
    pub nodes: Vec<Node>,
    /// Real servers, from the first, each with nginx on port 80, whose page names it (`real1`, ...).
    pub reals: Vec<Real>,
    /// What the nodes advertise.
    pub recorder: Recorder,
    /// Where clients run.
    pub client: Namespace,
    /// Where both switches are: the ports of node 0 are `outside0` and `inside0`.
    pub switch: Namespace,
    _turn: MutexGuard<'static, ()>,
}

/// A balancer's machine: it runs `balancerd`, or keepalived.
pub struct Node {
    /// The daemon, if it was ever started.
    pub daemon: Option<Daemon>,
    /// Its peer of another make.
    pub keepalived: Option<Keepalived>,
    netlink: Mutex<Netlink>,
    /// Its namespace, with the interfaces `outside` and `inside`.
    pub namespace: Namespace,
    number: usize,
}

impl Pair {
    /// Builds the network with so many nodes, which run nothing yet, and so many real servers.
    #[must_use]
    pub fn new(nodes: usize, reals: u8) -> Self {
        build(nodes, reals).unwrap_or_else(|error| panic!("cannot build the network: {error:#}"))
    }

    /// Starts daemons, the first on the first node and so on, at the same time; returns when all answer.
    ///
    /// # Panics
    /// One does not.
    pub fn start(&mut self, configs: &[&str]) {
        thread::scope(|scope| {
            for (node, config) in self.nodes.iter_mut().zip(configs) {
                scope.spawn(|| node.start(config));
            }
        });
    }

    /// As [`Self::start`], and waits until the first node is Active and all others hear it. `config` is given the priority of each
    /// node, and what is to be added to each virtual router.
    ///
    /// # Panics
    /// It does not come to that.
    #[track_caller]
    pub fn start_first_active(
        &mut self,
        config: impl Fn(u8, &str) -> String,
        priorities: &[u8],
        more: &str,
    ) {
        // Whoever is there first would stay Active otherwise.
        let configs = |more: &str| -> Vec<String> {
            let each = priorities.iter();
            each.map(|priority| config(*priority, more)).collect()
        };
        let beginning = configs("failback = \"immediate\"");
        let beginning: Vec<_> = beginning.iter().map(String::as_str).collect();
        self.start(&beginning);
        for (number, (node, config)) in self.nodes.iter().zip(configs(more)).enumerate() {
            node.wait_for_status("its part", |status| {
                let router = &status["vrrp"][0];
                match number {
                    0 => router["state"] == "active",
                    _ => router["active_node"] == self.nodes[0].address(),
                }
            });
            if more != "failback = \"immediate\"" {
                node.reload(&config);
            }
        }
    }

    /// Waits until exactly these nodes have an address.
    ///
    /// # Panics
    /// It does not come to that.
    #[track_caller]
    pub fn wait_for(&self, vip: &str, nodes: &[usize]) {
        self.wait_for_within(vip, nodes, SOON);
    }

    /// As [`Self::wait_for`], within `limit`; returns how long it took.
    ///
    /// # Panics
    /// It does not come to that.
    #[track_caller]
    pub fn wait_for_within(&self, vip: &str, nodes: &[usize], limit: Duration) -> Duration {
        let start = Instant::now();
        let mut have = self.holders(vip);
        while have != nodes {
            let took = start.elapsed();
            assert!(
                took < limit,
                "{vip} is on {have:?}, not on {nodes:?}, after {took:?}"
            );
            thread::sleep(Duration::from_millis(1));
            have = self.holders(vip);
        }
        start.elapsed()
    }

    /// The nodes that have an address.
    #[must_use]
    pub fn holders(&self, vip: &str) -> Vec<usize> {
        let nodes = self.nodes.iter().filter(|node| node.has(vip));
        nodes.map(|node| node.number).collect()
    }

    /// That exactly these nodes have an address, all the while.
    ///
    /// # Panics
    /// Another has it, or one of these has it not.
    #[track_caller]
    pub fn assert_stays(&self, vip: &str, nodes: &[usize], time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            let holders = self.holders(vip);
            assert_eq!(
                holders,
                nodes,
                "after {:?}; {}",
                start.elapsed(),
                self.logs()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the nodes' daemons have logged.
    fn logs(&self) -> String {
        let daemons = self.nodes.iter().filter_map(|node| node.daemon.as_ref());
        daemons.map(Daemon::log).collect::<Vec<_>>().join("\n")
    }

    /// The nodes that say on the outside link, asked by the client, that they have an address.
    ///
    /// # Panics
    /// The kernel refused.
    #[must_use]
    pub fn claimants(&self, vip: &str) -> Vec<usize> {
        let vip: IpAddr = vip.parse().expect("an address");
        let index = self.client.index("eth0").expect("its interface");
        let mac = self.client.mac("eth0").expect("its address");
        let open = || {
            (
                Announcer::open(index),
                ClaimWatch::open(index, Family::of(vip)),
            )
        };
        let (announcer, watch) = self.client.run(open).expect("enter the client");
        let (announcer, watch) = (announcer.expect("a socket"), watch.expect("a socket"));
        announcer.probe(vip, mac).expect("ask");
        let mut macs = Vec::new();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(200) {
            match watch.read().expect("read") {
                Heard::Claim(claim) if claim.address == vip => macs.push(claim.mac),
                Heard::Claim(_) | Heard::NoClaim => {}
                Heard::Nothing => thread::sleep(Duration::from_millis(1)),
            }
        }
        let said = |node: &&Node| macs.contains(&node.namespace.mac(OUTSIDE).expect("an address"));
        let nodes = self.nodes.iter().filter(said);
        nodes.map(|node| node.number).collect()
    }

    /// From now on nothing that node `from` sends reaches node `to`, on neither side.
    ///
    /// # Panics
    /// nftables refused.
    pub fn cut(&self, from: usize, to: usize) {
        for side in [OUTSIDE, INSIDE] {
            self.cut_ports(&format!("{side}{from}"), &format!("{side}{to}"));
        }
    }

    /// From now on nothing that comes in by one port of a switch leaves by another: `client`, `real1`, `outside0`, ...
    ///
    /// # Panics
    /// nftables refused.
    pub fn cut_ports(&self, from: &str, to: &str) {
        self.drop_at_switch(&format!("iifname {from} oifname {to}"));
    }

    /// From now on two nodes do not hear each other; all others hear both.
    ///
    /// # Panics
    /// nftables refused.
    pub fn split(&self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Ends all cuts.
    ///
    /// # Panics
    /// nftables refused.
    pub fn heal(&self) {
        self.nft("flush chain bridge cuts forward");
    }

    /// A node's machine loses its power: the cable stays up.
    ///
    /// # Panics
    /// It does not run a daemon.
    pub fn die(&mut self, node: usize) {
        for side in [OUTSIDE, INSIDE] {
            self.drop_at_switch(&format!("iifname {side}{node}"));
            self.drop_at_switch(&format!("oifname {side}{node}"));
        }
        self.nodes[node].kill_with_guard();
    }

    /// Takes the cable of a node's interface out, or puts it in.
    ///
    /// # Panics
    /// The kernel refused.
    pub fn plug(&self, node: usize, side: &str, is_in: bool) {
        let state = if is_in { "up" } else { "down" };
        self.switch
            .ip(&format!("link set dev {side}{node} {state}"))
            .expect("a port");
    }

    /// From now on the switch drops what a rule of nftables matches, as `iifname outside0`.
    ///
    /// # Panics
    /// nftables refused.
    pub fn drop_at_switch(&self, what: &str) {
        self.nft(&format!("add rule bridge cuts forward {what} drop"));
    }

    fn nft(&self, arguments: &str) {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        self.switch.output("nft", &arguments).expect("nft");
    }
}

impl Node {
    /// Starts a daemon with this configuration, which gets the node's name and the interfaces; returns when it answers.
    ///
    /// # Panics
    /// It does not.
    pub fn start(&mut self, config: &str) {
        // Its program is on the interfaces.
        self.daemon = None;
        let config = self.config(config);
        let mut daemon = Daemon::prepare_in(&self.namespace, &config);
        daemon.restart();
        self.daemon = Some(daemon);
    }

    /// Gives the running daemon another configuration.
    ///
    /// # Panics
    /// It refuses.
    #[track_caller]
    pub fn reload(&self, config: &str) {
        self.daemon().write(&self.config(config));
        self.daemon().ctl("reload");
    }

    fn config(&self, config: &str) -> String {
        format!(
            "[node]\nname = \"node{}\"\n[dataplane]\ninterfaces = [\"{OUTSIDE}\", \"{INSIDE}\"]\n{config}",
            self.number
        )
    }

    /// Starts keepalived with one `vrrp_instance` of this content.
    pub fn start_keepalived(&mut self, instance: &str) {
        self.keepalived = None;
        self.keepalived = Some(Keepalived::start(&self.namespace, instance));
    }

    /// Its daemon.
    ///
    /// # Panics
    /// There was none yet.
    #[must_use]
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("a daemon")
    }

    /// Its daemon, to start and end it.
    ///
    /// # Panics
    /// There was none yet.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("a daemon")
    }

    /// Its own IPv4 address on the outside: `203.0.113.21` for the first.
    #[must_use]
    pub fn address(&self) -> String {
        format!("203.0.113.{}", 21 + self.number)
    }

    /// Whether one of its interfaces has an address.
    ///
    /// # Panics
    /// The kernel refused.
    #[must_use]
    pub fn has(&self, vip: &str) -> bool {
        let vip: IpAddr = vip.parse().expect("an address");
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = address::list(&mut netlink).expect("its addresses");
        addresses.iter().any(|one| one.address == vip)
    }

    /// The first virtual router of `status`.
    #[track_caller]
    #[must_use]
    pub fn router(&self) -> Value {
        self.daemon().json("status")["vrrp"][0].clone()
    }

    /// Waits until `status` is as wanted; returns it.
    ///
    /// # Panics
    /// It does not come to that.
    #[track_caller]
    pub fn wait_for_status(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut status = Value::Null;
        wait_until(what, SOON, || {
            status = self.daemon().json("status");
            Ok(is_it(&status))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {status:#}"));
        status
    }

    /// Waits until the first virtual router is in this state.
    ///
    /// # Panics
    /// It does not come to that.
    #[track_caller]
    pub fn wait_for_state(&self, state: &str) -> Value {
        self.wait_for_status(state, |status| status["vrrp"][0]["state"] == state)
    }

    /// Waits until a reason in `status` contains this.
    ///
    /// # Panics
    /// It does not come to that.
    #[track_caller]
    pub fn wait_for_reason(&self, reason: &str) {
        self.wait_for_status(reason, |status| {
            status["reasons"].to_string().contains(reason)
        });
    }

    /// The process that guards the daemon's VIPs.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn guard(&mut self) -> Pid {
        let daemon = self.daemon_mut().process().id();
        children(daemon)
            .into_iter()
            .find(|pid| {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                command.starts_with(b"balancer-vip-guard")
            })
            .map(Pid::from_raw)
            .expect("the guard's process")
    }

    /// Kills the daemon alone.
    ///
    /// # Panics
    /// It does not run.
    pub fn kill(&mut self) {
        self.daemon_mut().process().kill().expect("it ran");
    }

    /// Kills the daemon and its guard, neither of which can do anything more.
    ///
    /// # Panics
    /// They do not run.
    pub fn kill_with_guard(&mut self) {
        let guard = self.guard();
        let daemon = self.pid();
        // Neither sees the other's end.
        for pid in [daemon, guard] {
            kill(pid, Signal::SIGSTOP).expect("it runs");
        }
        kill(guard, Signal::SIGKILL).expect("it runs");
        self.kill();
    }

    /// Sends the daemon a signal.
    ///
    /// # Panics
    /// It does not run.
    pub fn signal(&mut self, signal: Signal) {
        let pid = self.pid();
        kill(pid, signal).expect("it runs");
    }

    fn pid(&mut self) -> Pid {
        Pid::from_raw(self.daemon_mut().process().id().cast_signed())
    }
}

/// The processes that a process has started and that run.
fn children(parent: u32) -> Vec<i32> {
    let listed = Command::new("ps")
        .args(["--no-headers", "-o", "pid", "--ppid", &parent.to_string()])
        .output()
        .expect("ps");
    let listed = String::from_utf8_lossy(&listed.stdout);
    let ids = listed.split_whitespace();
    ids.filter_map(|id| id.parse().ok()).collect()
}

fn build(nodes: usize, reals: u8) -> anyhow::Result<Pair> {
    let turn = turn();
    for label in [
        "client", "switch", "node0", "node1", "node2", "real1", "real2",
    ] {
        Namespace::sweep(&format!("vrrp-{label}"));
    }
    let client = Namespace::new("vrrp-client")?;
    let switch = Namespace::new("vrrp-switch")?;
    // Linux takes its time to tell a bridge of a port whose index is that of its other end: no port's is.
    switch.ip("link add name spare type bridge")?;
    let mut ports: HashMap<&str, Vec<String>> = HashMap::new();
    let mut connect = |namespace: &Namespace, name: &str, side: &'static str, port: String| {
        namespace.connect(name, &switch, &port)?;
        switch.polling(&port)?;
        // What a port has merged (GRO) is cut again when it leaves, and must have whole checksums.
        switch.plain_frames(&port)?;
        ports.entry(side).or_default().push(port);
        anyhow::Ok(())
    };
    let mut machines = Vec::new();
    for number in 0..nodes {
        let namespace = Namespace::new(&format!("vrrp-node{number}"))?;
        connect(&namespace, OUTSIDE, OUTSIDE, format!("{OUTSIDE}{number}"))?;
        connect(&namespace, INSIDE, INSIDE, format!("{INSIDE}{number}"))?;
        let own = 21 + number;
        namespace.address(OUTSIDE, &format!("203.0.113.{own}/24"))?;
        namespace.address(OUTSIDE, &format!("2001:db8:f::{own}/64"))?;
        namespace.address(INSIDE, &format!("192.168.0.{own}/24"))?;
        namespace.address(INSIDE, &format!("fd00:1::{own}/64"))?;
        machines.push(Node {
            daemon: None,
            keepalived: None,
            netlink: Mutex::new(namespace.run(Netlink::open)??),
            namespace,
            number,
        });
    }
    connect(&client, "eth0", OUTSIDE, "client".to_owned())?;
    client.plain_frames("eth0")?;
    client.address("eth0", &format!("{CLIENT}/24"))?;
    client.address("eth0", &format!("{CLIENT6}/64"))?;
    let mut servers = Vec::new();
    for number in 1..=reals {
        let namespace = Namespace::new(&format!("vrrp-real{number}"))?;
        connect(&namespace, "eth0", INSIDE, format!("real{number}"))?;
        servers.push(Real::new(namespace, number)?);
    }
    for (side, ports) in &ports {
        let ports: Vec<_> = ports.iter().map(String::as_str).collect();
        switch.switch(side, &ports)?;
    }
    for (number, real) in (1..).zip(&mut servers) {
        let root = real.folder().display().to_string();
        real.start_nginx(&format!(
            "listen 80; listen [::]:80; root {root}; {}",
            page(number)
        ));
    }
    switch.output("nft", &["add", "table", "bridge", "cuts"])?;
    let chain = "add chain bridge cuts forward { type filter hook forward priority 0; }";
    switch.output("nft", &[chain])?;
    let mut numbered = HashMap::new();
    for number in 0..nodes {
        for side in [OUTSIDE, INSIDE] {
            numbered.insert(switch.index(&format!("{side}{number}"))?, number);
        }
    }
    Ok(Pair {
        nodes: machines,
        reals: servers,
        recorder: Recorder::start(&switch, numbered),
        client,
        switch,
        _turn: turn,
    })
}
