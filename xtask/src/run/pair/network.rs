//! The network of the pair: that of the LVS tutorials, with two balancers, which share the outside and the inside VIP.

use anyhow::Result;
use xtask::lab::{Namespace, Process};

use super::super::network::{CLIENT, INSIDE, LABEL, PORT, REALS, VIP, serve};
use crate::interrupt;

/// The balancers' names. Each has addresses of its own, which the other does not get: [`HOSTS`].
pub const NODES: [&str; 2] = ["lb1", "lb2"];
/// Last numbers of the balancers' own addresses, in the client's network and in that of the real servers.
const HOSTS: [u8; 2] = [11, 12];

/// The namespaces, and the real servers' programs. Fields are dropped in order.
#[derive(Debug)]
pub struct Network {
    _pages: Vec<Process>,
    /// The client.
    pub client: Namespace,
    /// The balancers: their interfaces are `outside` and `inside`.
    pub nodes: [Namespace; 2],
    _reals: Vec<Namespace>,
    _switch: Namespace,
}

impl Network {
    /// Builds the network, and starts a web server on each real server.
    pub fn new() -> Result<Self> {
        let make = |name: &str| {
            interrupt::check()?;
            Namespace::new(&format!("{LABEL}-{name}"))
        };
        for name in ["client", "switch", "lb1", "lb2", "real1", "real2"] {
            Namespace::sweep(&format!("{LABEL}-{name}"));
        }
        let (client, switch) = (make("client")?, make("switch")?);
        client.connect("eth0", &switch, "client")?;
        client.address("eth0", &format!("{CLIENT}/24"))?;
        client.plain_frames("eth0")?;

        let nodes = [make(NODES[0])?, make(NODES[1])?];
        let (mut outside, mut inside) = (vec!["client".to_owned()], Vec::new());
        for ((node, name), host) in nodes.iter().zip(NODES).zip(HOSTS) {
            for (interface, network, ports) in [
                ("outside", "192.168.1", &mut outside),
                ("inside", "192.168.0", &mut inside),
            ] {
                let port = format!("{name}-{interface}");
                node.connect(interface, &switch, &port)?;
                node.address(interface, &format!("{network}.{host}/24"))?;
                // It is connected to an interface with the packet program.
                switch.polling(&port)?;
                ports.push(port);
            }
        }

        let mut reals = Vec::new();
        for real in REALS {
            let namespace = make(real.name)?;
            namespace.connect("eth0", &switch, real.name)?;
            namespace.address("eth0", &format!("{}/24", real.address))?;
            namespace.gateway(&INSIDE.to_string())?;
            namespace.plain_frames("eth0")?;
            inside.push(real.name.to_owned());
            reals.push(namespace);
        }
        for (bridge, ports) in [("outside", &outside), ("inside", &inside)] {
            let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
            switch.switch(bridge, &ports)?;
        }
        let pages = reals.iter().zip(REALS);
        let pages = pages.map(|(namespace, real)| serve(namespace, &real));
        Ok(Self {
            _pages: pages.collect::<Result<_>>()?,
            client,
            nodes,
            _reals: reals,
            _switch: switch,
        })
    }

    /// Prints a drawing of it.
    pub fn explain(&self) {
        let [first, second] = REALS;
        let [one, other] = HOSTS;
        println!("\n== The network (in namespaces: nothing of it touches this machine's own)\n");
        let client = format!("client {CLIENT} ──");
        let gap = client.chars().count();
        let node = |name: &str, host: u8| format!("[ 192.168.1.{host}  {name}  192.168.0.{host} ]");
        println!("  {client}─┬─ {} ─┬─ {first}", node(NODES[0], one));
        println!("  {:gap$} └─ {} ─┴─ {second}", "", node(NODES[1], other));
        println!(
            "\n  Clients ask {VIP}:{PORT}; the real servers' gateway is {INSIDE}. Both addresses are VIPs: the Active balancer has\n  \
             them, the other has none of them."
        );
    }

    /// The VIPs that a balancer's kernel has.
    pub fn vips(&self, node: usize) -> Result<Vec<String>> {
        let listed = self.nodes[node].output("ip", &["-oneline", "-4", "address", "show"])?;
        Ok(vips_in(&listed))
    }
}

/// The VIPs in what `ip -oneline address` prints.
fn vips_in(listed: &str) -> Vec<String> {
    let words = |line: &str| -> Vec<String> { line.split_whitespace().map(Into::into).collect() };
    let addresses = listed
        .lines()
        .filter_map(|line| words(line).get(3)?.split('/').next().map(str::to_owned));
    let is_vip = |address: &String| [VIP, INSIDE].iter().any(|vip| vip.to_string() == *address);
    addresses.filter(is_vip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vips_are_told_from_a_nodes_own_addresses() {
        let listed = "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever\n\
                      2: outside    inet 192.168.1.11/24 scope global outside\\       valid_lft forever\n\
                      2: outside    inet 192.168.1.35/24 scope global secondary outside\\       valid_lft 9sec\n\
                      3: inside    inet 192.168.0.1/24 scope global secondary inside\\       valid_lft 9sec\n";
        assert_eq!(vips_in(listed), ["192.168.1.35", "192.168.0.1"]);
        assert!(vips_in("3: inside    inet 192.168.0.11/24 scope global inside").is_empty());
        assert!(vips_in("").is_empty());
    }
}
