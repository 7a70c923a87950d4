//! Connects namespaces by veth pairs and bridges, and configures interfaces.

use anyhow::{Context as _, Result};

use super::Namespace;

/// Length of an Ethernet address in text.
const MAC_TEXT: usize = 17;

impl Namespace {
    /// Connects interface `name` here to interface `peer_name` in `peer` by a veth pair; both are up.
    ///
    /// # Errors
    /// One of the names is taken or too long.
    pub fn connect(&self, name: &str, peer: &Self, peer_name: &str) -> Result<()> {
        self.ip(&format!(
            "link add name {name} type veth peer name {peer_name} netns {}",
            peer.name()
        ))?;
        self.ip(&format!("link set dev {name} up"))?;
        peer.ip(&format!("link set dev {peer_name} up"))
    }

    /// Makes a bridge of interfaces of this namespace.
    ///
    /// # Errors
    /// One of them is not here.
    pub fn switch(&self, name: &str, ports: &[&str]) -> Result<()> {
        // Multicast snooping is off: it would send queries, and there is no multicast router.
        self.ip(&format!(
            "link add name {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
        ))?;
        for port in ports {
            self.ip(&format!("link set dev {port} master {name}"))?;
        }
        self.ip(&format!("link set dev {name} up"))
    }

    /// Gives an interface an address with its prefix (`192.168.0.2/24`, `fd00::2/64`), usable at once.
    ///
    /// # Errors
    /// There is no such interface, or the address is malformed.
    pub fn address(&self, interface: &str, address: &str) -> Result<()> {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.ip(&format!("address add {address} dev {interface} {nodad}"))
    }

    /// Adds a default route.
    ///
    /// # Errors
    /// The gateway cannot be reached from here.
    pub fn gateway(&self, gateway: &str) -> Result<()> {
        self.ip(&format!("route add default via {gateway}"))
    }

    /// Turns offloads of an interface off, so that its frames, which will pass an XDP program, have checksums and at most the MTU's
    /// length.
    ///
    /// # Errors
    /// There is no such interface, or `ethtool` is not installed.
    pub fn plain_frames(&self, interface: &str) -> Result<()> {
        self.output(
            "ethtool",
            &["-K", interface, "tx", "off", "tso", "off", "gso", "off"],
        )
        .map(drop)
    }

    /// Turns NAPI polling of a veth on, so that it receives frames that an XDP program at the other end sends.
    ///
    /// # Errors
    /// There is no such interface, or `ethtool` is not installed.
    pub fn polling(&self, interface: &str) -> Result<()> {
        self.output("ethtool", &["-K", interface, "gro", "on"])
            .map(drop)
    }

    /// Returns an interface's index.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn index(&self, interface: &str) -> Result<u32> {
        let listed = self.output("ip", &["-oneline", "link", "show", "dev", interface])?;
        listed
            .split_once(':')
            .and_then(|(index, _)| index.trim().parse().ok())
            .with_context(|| format!("cannot read the index of {interface} in `{listed}`"))
    }

    /// Returns an interface's Ethernet address.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let listed = self.output("ip", &["-oneline", "link", "show", "dev", interface])?;
        parse_mac(&listed)
            .with_context(|| format!("cannot read the address of {interface} in `{listed}`"))
    }
}

/// Reads the Ethernet address in a line of `ip -oneline link`.
fn parse_mac(line: &str) -> Option<[u8; 6]> {
    let text = line.split_once("link/ether ")?.1.get(..MAC_TEXT)?;
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ethernet_address_is_read_from_what_ip_prints() {
        let line = "2: eth0@if3: <BROADCAST,UP> mtu 1500 qdisc noqueue state UP \\    link/ether \
                    1a:2b:00:4d:5e:ff brd ff:ff:ff:ff:ff:ff link-netns x";
        assert_eq!(parse_mac(line), Some([0x1a, 0x2b, 0, 0x4d, 0x5e, 0xff]));
        assert_eq!(
            parse_mac("1: lo: <LOOPBACK> link/loopback 00:00:00:00:00:00"),
            None
        );
        assert_eq!(parse_mac("link/ether 1a:2b"), None);
    }
}
