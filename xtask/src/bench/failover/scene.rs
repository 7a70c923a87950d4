//! The lab: two nodes and a client at a switch. The switch's ports can be taken down, and the nodes be kept from hearing each other.
//!
//! ```text
//!   node 0  10.75.0.1 ──┐
//!   node 1  10.75.0.2 ──┼── switch    the tap: all that the nodes send, with the kernel's times
//!   client  10.75.0.3 ──┘             the client probes the VIP, 10.75.0.100, every millisecond
//! ```

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use xtask::lab::{Namespace, wait_until};

use super::{
    record::Record,
    watch::{Places, Watch},
};

/// The VIP.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 75, 0, 100);
/// The nodes' interface.
pub const INTERFACE: &str = "eth0";
/// The switch's ports to the nodes.
const PORTS: [&str; 2] = ["node0", "node1"];
/// Prefix of the names of the lab's namespaces.
const LABEL: &str = "balancer-failover";

/// The lab. It is removed when this is dropped.
pub struct Scene {
    // Fields are dropped in order: what watches before what is watched.
    watch: Watch,
    /// What is seen.
    pub record: Arc<Record>,
    /// The nodes.
    pub nodes: [Namespace; 2],
    _client: Namespace,
    switch: Namespace,
    /// For the ports' flags.
    control: OwnedFd,
    folder: tempfile::TempDir,
}

impl Scene {
    /// Builds the lab, and begins to watch it.
    ///
    /// # Errors
    /// The caller is not root, or a tool is missing.
    pub fn build() -> Result<Self> {
        Namespace::sweep(LABEL);
        let make = || Namespace::new(LABEL);
        let (switch, client, nodes) = (make()?, make()?, [make()?, make()?]);
        for (number, (node, port)) in nodes.iter().zip(PORTS).enumerate() {
            node.connect(INTERFACE, &switch, port)?;
            node.address(INTERFACE, &format!("10.75.0.{}/24", number + 1))?;
            switch.plain_frames(port)?;
            switch.polling(port)?;
        }
        client.connect("eth0", &switch, "client")?;
        client.address("eth0", "10.75.0.3/24")?;
        client.plain_frames("eth0")?;
        switch.switch("bridge", &[PORTS[0], PORTS[1], "client"])?;
        let open = || {
            let (family, kind) = (AddressFamily::Inet, SockType::Datagram);
            socket(family, kind, SockFlag::SOCK_CLOEXEC, None)
        };
        let control = switch.run(open)?.context("opening a socket")?;
        let record = Arc::new(Record::default());
        let places = Places {
            switch: &switch,
            ports: PORTS,
            nodes: [&nodes[0], &nodes[1]],
            client: &client,
            vip: VIP,
        };
        Ok(Self {
            watch: Watch::start(&places, &record)?,
            record,
            nodes,
            _client: client,
            switch,
            control,
            folder: tempfile::tempdir().context("making a temporary folder")?,
        })
    }

    /// Fails if the lab is watched no longer.
    ///
    /// # Errors
    /// See there.
    pub fn check(&self) -> Result<()> {
        crate::interrupt::check()?;
        self.watch.check()
    }

    /// Takes a node's port at the switch down, at once; the node loses its link.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn take_down(&self, node: usize) -> Result<()> {
        let mut request = port_request(PORTS[node]);
        let control = self.control.as_raw_fd();
        // SAFETY: the kernel reads the name and writes the flags of this struct.
        let asked = unsafe { libc::ioctl(control, libc::SIOCGIFFLAGS, &raw mut request) };
        ensure!(
            asked == 0,
            "cannot read a port's flags: {}",
            io::Error::last_os_error()
        );
        // SAFETY: the kernel has just written the flags, of which all bits are valid; it reads both.
        let set = unsafe {
            let flags = i32::from(request.ifr_ifru.ifru_flags) & !libc::IFF_UP;
            request.ifr_ifru.ifru_flags = flags as libc::c_short;
            libc::ioctl(control, libc::SIOCSIFFLAGS, &raw mut request)
        };
        ensure!(
            set == 0,
            "cannot take a port down: {}",
            io::Error::last_os_error()
        );
        Ok(())
    }

    /// Keeps the nodes from hearing each other, while the client hears both; or no longer.
    ///
    /// # Errors
    /// `bridge` failed.
    pub fn split(&self, on: bool) -> Result<()> {
        let isolated = if on { "on" } else { "off" };
        // Two isolated ports are separate, one is not.
        let ports = if on { &PORTS[..] } else { &PORTS[..1] };
        for port in ports {
            self.switch.output(
                "bridge",
                &["link", "set", "dev", port, "isolated", isolated],
            )?;
        }
        Ok(())
    }

    /// Makes the network whole, and takes the VIP from nodes whose programs have ended.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn mend(&self) -> Result<()> {
        for (node, port) in self.nodes.iter().zip(PORTS) {
            self.switch.ip(&format!("link set dev {port} up"))?;
            self.switch
                .output("bridge", &["link", "set", "dev", port, "isolated", "off"])?;
            // It has it only if the program left it behind.
            let _ = node.ip(&format!("address del {VIP}/24 dev {INTERFACE}"));
        }
        wait_until("the nodes' links", Duration::from_secs(5), || {
            let is_up = |node: &Namespace| {
                let listed = node.output("ip", &["-oneline", "link", "show", "dev", INTERFACE]);
                listed.map(|listed| listed.contains("LOWER_UP"))
            };
            Ok(is_up(&self.nodes[0])? && is_up(&self.nodes[1])?)
        })
    }

    /// Writes a file that is removed with the scene, and returns its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Path of a file that is removed with the scene.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A request about the flags of a port.
fn port_request(port: &str) -> libc::ifreq {
    // SAFETY: zeros are valid in all fields.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(port.bytes()) {
        *to = from as libc::c_char;
    }
    request
}
