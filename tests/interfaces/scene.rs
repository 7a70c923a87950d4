//! A client, a balancer and two real servers, with a path of any kind between client and balancer.
//!
//! ```text
//!  client eth0 ── (a cable, a VLAN, a bond, ...) ──┤balancer├ inside ── switch ─┬─ real 1
//!                                                                                └─ real 2
//!  ... or the balancer is the switch itself:       ┤balancer br0├ port1 ── real 1, port2 ── real 2
//! ```

use std::{process::Output, time::Duration};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{CLIENT, CLIENT6, VIP, VIP6, run, socket},
};
use serde_json::{Value, json};
use xtask::lab::{Namespace, wait_until};

use crate::web::{BULK, Server, get};

/// Field order is the order of the end.
pub struct Scene {
    _servers: Vec<Server>,
    pub client: Namespace,
    pub balancer: Namespace,
    pub switch: Namespace,
    pub reals: Vec<Namespace>,
}

/// What lies towards the real servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inside {
    /// `inside`, a cable to a switch.
    Cable,
    /// `br0`, a bridge of the balancer's own.
    Bridge,
}

impl Scene {
    /// The real servers, which serve, and nothing towards the client.
    pub fn new(inside: Inside) -> Self {
        for label in ["if-client", "if-balancer", "if-switch", "if-real"] {
            Namespace::sweep(label);
        }
        let namespace = |label| Namespace::new(label).unwrap();
        let mut scene = Self {
            _servers: Vec::new(),
            client: namespace("if-client"),
            balancer: namespace("if-balancer"),
            switch: namespace("if-switch"),
            reals: vec![namespace("if-real"), namespace("if-real")],
        };
        // Before 6.17 an interface forwards IPv6 only when all do; the daemon tells that as a reason.
        scene
            .balancer
            .sysctl("net.ipv6.conf.all.forwarding", "1")
            .unwrap();
        let ports = ["port1", "port2"];
        let hub = match inside {
            Inside::Cable => &scene.switch,
            Inside::Bridge => &scene.balancer,
        };
        for (number, (real, port)) in (2..).zip(scene.reals.iter().zip(ports)) {
            cable(hub, port, real, "eth0");
            real.plain_frames("eth0").unwrap();
            real.address("eth0", &format!("192.168.0.{number}/24"))
                .unwrap();
            real.address("eth0", &format!("fd00:1::{number}/64"))
                .unwrap();
            real.gateway("192.168.0.1").unwrap();
            real.ip("-6 route add default via fd00:1::1").unwrap();
        }
        let inside = match inside {
            Inside::Cable => {
                cable(&scene.balancer, "inside", &scene.switch, "uplink");
                // What the switch's ports have merged is cut again here, and must leave with whole checksums.
                scene.switch.plain_frames("uplink").unwrap();
                scene
                    .switch
                    .switch("switch", &["uplink", "port1", "port2"])
                    .unwrap();
                "inside"
            }
            Inside::Bridge => {
                scene.balancer.switch("br0", &ports).unwrap();
                "br0"
            }
        };
        scene.balancer.address(inside, "192.168.0.1/24").unwrap();
        scene.balancer.address(inside, "fd00:1::1/64").unwrap();
        scene._servers = scene
            .reals
            .iter()
            .zip(["real1", "real2"])
            .map(|(real, name)| Server::start(real, name))
            .collect();
        scene
    }

    /// As [`Scene::new`], with a cable from `ext` to the client.
    pub fn with_cable(inside: Inside) -> Self {
        let scene = Self::new(inside);
        scene.cable_to_client("ext");
        scene.addresses("ext", "eth0");
        scene
    }

    /// Lays the cable to the client's `eth0`.
    pub fn cable_to_client(&self, name: &str) {
        cable(&self.balancer, name, &self.client, "eth0");
        self.client.plain_frames("eth0").unwrap();
    }

    /// Gives both ends their addresses, and the balancer's the VIPs.
    pub fn addresses(&self, outside: &str, client: &str) {
        for address in ["203.0.113.2/24", "2001:db8:f::2/64"] {
            self.balancer.address(outside, address).unwrap();
        }
        self.balancer
            .address(outside, &format!("{VIP}/32"))
            .unwrap();
        self.balancer
            .address(outside, &format!("{VIP6}/128"))
            .unwrap();
        self.client
            .address(client, &format!("{CLIENT}/24"))
            .unwrap();
        self.client
            .address(client, &format!("{CLIENT6}/64"))
            .unwrap();
        self.client.gateway("203.0.113.2").unwrap();
        self.client
            .ip("-6 route add default via 2001:db8:f::2")
            .unwrap();
    }

    /// Starts the daemon on these interfaces.
    pub fn daemon(&self, interfaces: &[&str]) -> Daemon {
        let mut daemon = self.prepare(&config(interfaces, ""));
        daemon.restart();
        daemon
    }

    /// Everything but the daemon's start.
    pub fn prepare(&self, config: &str) -> Daemon {
        Daemon::prepare_in(&self.balancer, config)
    }

    /// What a daemon says that gives up on these interfaces.
    #[track_caller]
    pub fn refused(&self, interfaces: &[&str], more: &str) -> String {
        let daemon = self.prepare(&config(interfaces, more));
        let mut command = daemon.command("balancerd");
        command.arg("--config").arg(&daemon.config);
        // One that does not give up must not hold the test.
        let mut limited = std::process::Command::new("timeout");
        limited
            .arg("20")
            .arg(command.get_program())
            .args(command.get_args());
        let Output { status, stderr, .. } = run(&mut limited);
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(status.code(), Some(1), "{said}");
        let links = self.balancer.output("ip", &["-details", "link"]).unwrap();
        assert!(!links.contains("prog/xdp"), "nothing is left: {links}");
        let last = said.lines().last().unwrap_or_default();
        let last = last.strip_prefix("error: ").unwrap_or(last);
        last.replace(daemon.config.to_str().expect("a path"), "FILE")
    }

    /// Asserts that ten requests through the VIP are answered by both real servers in turn, IPv4 and IPv6.
    #[track_caller]
    pub fn serves(&self, daemon: &Daemon) {
        self.serves_at(daemon, &[VIP, VIP6]);
    }

    /// As [`Scene::serves`], at these VIPs only.
    #[track_caller]
    pub fn serves_at(&self, daemon: &Daemon, vips: &[&str]) {
        for vip in vips {
            let to = socket(vip, 80);
            let answers = self.client.run(|| {
                // The first may have to wait for links to come up and addresses to be resolved.
                let first = wait_until("the first answer", Duration::from_secs(60), || {
                    Ok(get(to, "/").is_ok())
                });
                first.map_err(|error| error.to_string())?;
                let answers = (0..10).map(|_| get(to, "/").map_err(|error| error.to_string()));
                answers.collect::<Result<Vec<_>, _>>()
            });
            let answers = answers
                .unwrap()
                .unwrap_or_else(|error| panic!("{vip}: {error}\n{}", daemon.ctl("status")));
            let first = answers[0].clone();
            let second = if first == b"real1\n" {
                b"real2\n"
            } else {
                b"real1\n"
            };
            let turns: Vec<_> = [first, second.to_vec()]
                .into_iter()
                .cycle()
                .take(10)
                .collect();
            assert_eq!(answers, turns, "{vip}\n{}", daemon.ctl("status"));
        }
    }

    /// Asserts that a bulk download through the VIP arrives, IPv4 and IPv6, and that nothing was too big on the way.
    #[track_caller]
    pub fn downloads(&self, daemon: &Daemon) {
        for vip in [VIP, VIP6] {
            let got = self.client.run(|| get(socket(vip, 80), "/bulk")).unwrap();
            let got =
                got.unwrap_or_else(|error| panic!("{vip}: {error}\n{}", daemon.ctl("status")));
            assert!(
                got.len() == BULK && got.iter().all(|byte| *byte == b'x'),
                "{vip}: {}",
                got.len()
            );
        }
        let status = daemon.json("status");
        assert_eq!(status["dataplane"]["discards"]["too-big"], 0, "{status:#}");
        assert_eq!(status["dataplane"]["redirect_failures"], 0, "{status:#}");
    }

    /// What `ethtool` says of a switch (`generic-receive-offload`).
    pub fn switch_of(&self, interface: &str, switch: &str) -> String {
        let shown = self.balancer.output("ethtool", &["-k", interface]).unwrap();
        let line = shown
            .lines()
            .find_map(|line| line.trim().strip_prefix(switch));
        let line = line.unwrap_or_else(|| panic!("{interface} has no {switch}:\n{shown}"));
        line.trim_start_matches(':').trim().to_owned()
    }
}

/// Ends the daemon and takes the data plane down.
pub fn take_down(mut daemon: Daemon) {
    daemon.stop();
    daemon.detach();
}

/// A cable whose ends poll, so that both take redirected frames.
pub fn cable(from: &Namespace, name: &str, to: &Namespace, far: &str) {
    from.connect(name, to, far).unwrap();
    from.polling(name).unwrap();
    to.polling(far).unwrap();
}

/// The configuration file: the service on both VIPs over these interfaces.
pub fn config(interfaces: &[&str], more: &str) -> String {
    let mut text = format!("[dataplane]\ninterfaces = {interfaces:?}\n{more}\n");
    for (vip, reals) in [
        (VIP.to_owned(), ["192.168.0.2", "192.168.0.3"]),
        (format!("[{VIP6}]"), ["fd00:1::2", "fd00:1::3"]),
    ] {
        text.push_str(&format!(
            "[[service]]\naddress = \"{vip}:80\"\nscheduler = \"rr\"\n"
        ));
        for real in reals {
            text.push_str(&format!("[[service.real]]\naddress = \"{real}\"\n"));
        }
    }
    text
}

/// The interfaces and their modes in `status`, and its reasons.
#[track_caller]
pub fn status(daemon: &Daemon) -> (Vec<(String, String)>, Vec<String>) {
    let status = daemon.json("status");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let interfaces = status["dataplane"]["interfaces"]
        .as_array()
        .expect("a list");
    let interfaces = interfaces
        .iter()
        .map(|one| (text(&one["name"]), text(&one["mode"])));
    let reasons = status["reasons"].as_array().expect("a list");
    (interfaces.collect(), reasons.iter().map(text).collect())
}

/// What `status` shows of interfaces that are all in one mode.
pub fn all(mode: &str, interfaces: &[&str]) -> Vec<(String, String)> {
    let one = |name: &&str| ((*name).to_owned(), mode.to_owned());
    interfaces.iter().map(one).collect()
}

/// The sentence for generic mode.
pub fn generic_because(obstacle: &str) -> String {
    format!(
        "{obstacle}; so all interfaces run the packet program in generic mode, which costs more CPU time per packet"
    )
}

/// Waits until `status` is so.
#[track_caller]
pub fn until(daemon: &Daemon, interfaces: &[(String, String)], reasons: &[String]) {
    let mut last = None;
    let reached = wait_until("the status", Duration::from_secs(30), || {
        let now = status(daemon);
        let is_so = (now.0.as_slice(), now.1.as_slice()) == (interfaces, reasons);
        last = Some(now);
        Ok(is_so)
    });
    assert!(
        reached.is_ok(),
        "{:#}\nis not\n{:#}",
        json!(last),
        json!((interfaces, reasons))
    );
}

/// Whether this kernel cannot make an interface of a kind (`bond`); says that the test is skipped.
pub fn lacks(scene: &Scene, kind: &str) -> bool {
    let made = scene.switch.ip(&format!("link add name try0 type {kind}"));
    match made {
        Ok(()) => {
            scene.switch.ip("link delete dev try0").unwrap();
            false
        }
        Err(error)
            if error.to_string().contains("Unknown device type")
                || error.to_string().contains("not supported") =>
        {
            privileged::skip(&format!("this kernel has no interfaces of the kind {kind}"));
            true
        }
        // It needs more to be made (`link`, `id`), so the kernel knows it.
        Err(_) => false,
    }
}
