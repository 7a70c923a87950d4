//! The lab's network: the one of the LVS tutorials, in namespaces.

use std::{
    collections::HashMap,
    env, fmt,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Stdio,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use xtask::lab::{Namespace, Process, wait_until};

use crate::interrupt;

/// The balancer's outside address, which is the virtual service's too.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 35);
/// The balancer's inside address, the real servers' gateway.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
/// The client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 100);
/// The real servers.
pub const REALS: [Node; 2] = [
    Node {
        name: "real1",
        address: Ipv4Addr::new(192, 168, 0, 2),
    },
    Node {
        name: "real2",
        address: Ipv4Addr::new(192, 168, 0, 3),
    },
];
/// Port of the virtual service and of the real servers.
pub const PORT: u16 = 80;
/// Prefix of the names of the lab's namespaces.
pub const LABEL: &str = "balancer-lab";

/// A real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// Its name.
    pub name: &'static str,
    /// Its address.
    pub address: Ipv4Addr,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.address)
    }
}

impl Node {
    /// The node whose page this is.
    pub fn by_page(page: &str) -> Option<Self> {
        REALS
            .into_iter()
            .find(|node| page.trim_end() == node.page())
    }

    /// Its page.
    pub fn page(&self) -> String {
        format!("This is {}, {}.", self.name, self.address)
    }
}

/// The namespaces, and the real servers' programs. Fields are dropped in order.
#[derive(Debug)]
pub struct Network {
    /// The running programs of the real servers.
    pages: Mutex<HashMap<Node, Process>>,
    /// The client.
    pub client: Namespace,
    /// The balancer: its interfaces are `outside` and `inside`.
    pub balancer: Namespace,
    _switch: Namespace,
    reals: HashMap<Node, Namespace>,
}

impl Network {
    /// Builds the network, and starts a web server on each real server.
    pub fn new() -> Result<Self> {
        let make = |name: &str| {
            interrupt::check()?;
            Namespace::new(&format!("{LABEL}-{name}"))
        };
        for name in ["client", "balancer", "switch", "real1", "real2"] {
            Namespace::sweep(&format!("{LABEL}-{name}"));
        }
        let (client, balancer, switch) = (make("client")?, make("balancer")?, make("switch")?);

        client.connect("eth0", &balancer, "outside")?;
        balancer.connect("inside", &switch, "balancer")?;
        balancer.address("outside", &format!("{VIP}/24"))?;
        balancer.address("inside", &format!("{INSIDE}/24"))?;
        client.address("eth0", &format!("{CLIENT}/24"))?;
        client.gateway(&VIP.to_string())?;
        client.plain_frames("eth0")?;
        // Both are connected to an interface with the packet program.
        client.polling("eth0")?;
        switch.polling("balancer")?;

        let (mut reals, mut pages) = (HashMap::new(), HashMap::new());
        for node in REALS {
            let real = make(node.name)?;
            real.connect("eth0", &switch, node.name)?;
            real.address("eth0", &format!("{}/24", node.address))?;
            real.gateway(&INSIDE.to_string())?;
            real.plain_frames("eth0")?;
            pages.insert(node, serve(&real, &node)?);
            reals.insert(node, real);
        }
        switch.switch("bridge", &["balancer", REALS[0].name, REALS[1].name])?;
        Ok(Self {
            pages: Mutex::new(pages),
            client,
            balancer,
            _switch: switch,
            reals,
        })
    }

    /// Prints a drawing of it.
    pub fn explain(&self) {
        let [first, second] = REALS;
        println!("\n== The network (in namespaces: nothing of it touches this machine's own)\n");
        let (left, middle) = (
            format!("client {CLIENT} ───"),
            format!("[ {VIP}  balancer  {INSIDE} ]"),
        );
        println!("  {left} {middle} ─┬─ {first}");
        let gap = left.chars().count() + middle.chars().count() + 2;
        println!("  {:gap$} └─ {second}", "");
        println!("\n  Clients ask {VIP}:{PORT}; the real servers' gateway is {INSIDE}.");
    }

    /// Sends a request to the virtual service as the client, and returns which real server answered.
    pub fn ask(&self) -> Result<Node> {
        interrupt::check()?;
        let url = format!("http://{VIP}/");
        let page = self.client.output(
            "curl",
            &["--silent", "--show-error", "--max-time", "3", &url],
        )?;
        Node::by_page(&page)
            .with_context(|| format!("`curl {url}` got a page that is no real server's: {page:?}"))
    }

    /// Stops a real server's web server, but not its host.
    pub fn stop(&self, node: Node) -> Result<()> {
        if let Some(mut page) = self.pages().remove(&node) {
            page.stop()?;
        }
        Ok(())
    }

    /// Starts it again.
    pub fn start(&self, node: Node) -> Result<()> {
        let real = self.reals.get(&node).context("no such real server")?;
        let page = serve(real, &node)?;
        self.pages().insert(node, page);
        Ok(())
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<Node, Process>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The real servers.
    pub fn reals(&self) -> [Node; 2] {
        REALS
    }
}

/// Starts a real server's web server and waits until it answers.
pub fn serve(real: &Namespace, node: &Node) -> Result<Process> {
    let listen = SocketAddr::from((node.address, PORT));
    let own = env::current_exe().context("cannot find this program")?;
    let mut command = real.command(own);
    command
        .args(["page", "--listen", &listen.to_string(), &node.page()])
        .stdout(Stdio::null());
    let mut process = Process::spawn(node.name, &mut command)?;
    wait_until(
        &format!("{}'s web server", node.name),
        Duration::from_secs(5),
        || {
            interrupt::check()?;
            anyhow::ensure!(
                process.ended()?.is_none(),
                "{}'s web server ended",
                node.name
            );
            Ok(real.run(|| TcpStream::connect(listen))?.is_ok())
        },
    )?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_known_by_its_own_page_only() {
        for node in REALS {
            assert_eq!(Node::by_page(&format!("{}\n", node.page())), Some(node));
        }
        assert_eq!(Node::by_page("This is real3, 192.168.0.4."), None);
        assert_eq!(Node::by_page(""), None);
    }
}
