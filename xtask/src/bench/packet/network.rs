//! The network the packet bench stands in: a namespace of its own with two veth pairs, next hops known beforehand.
//!
//! The namespace has no name: it ends with the process, whatever ends that.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};

/// The client of flow 0 of a set, as the front program makes it.
pub const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Ports per client address of a set.
pub const PORTS: u32 = 1 << 10;
/// Number of flows that SYNs come from: none is repeated in a run.
pub const NEW_FLOWS: u32 = 1 << 27;

/// The interface the program under test works on, and the one at the far end.
pub const NEAR: &str = "near";
/// See [`NEAR`].
pub const FAR: &str = "far";
/// A second interface of the balancer, behind which one real server is, and its far end.
pub const INSIDE: &str = "inside";
/// See [`INSIDE`].
pub const INSIDE_FAR: &str = "inside-far";

/// MAC address of [`NEAR`].
pub const BALANCER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC address of the gateway behind which the clients are.
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// MAC address of the real server.
pub const REAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// MAC address of [`INSIDE`].
pub const INSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// MAC address of the real server that is reached by [`INSIDE`].
pub const INSIDE_REAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 4];

/// Real server of IPv4.
pub const REAL_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Real server that is reached by [`INSIDE`].
pub const INSIDE_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// VIP of IPv4.
pub const VIP_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
/// An address of IPv4 that is no VIP.
pub const NO_VIP_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 101);
/// A client's address of IPv4, outside the range that sets of flows use.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The balancer's own address, which the real server sees with full NAT.
pub const SNAT_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Real server of IPv6.
pub const REAL_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// VIP of IPv6.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);
/// A client's address of IPv6.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

const SETUP: &[&str] = &[
    "link set lo up",
    "link add near address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:fe",
    "link add inside address 02:00:00:00:00:03 type veth peer name inside-far address 02:00:00:00:00:04",
    "addr add 10.0.0.1/24 dev near",
    "addr add fd00::1/64 dev near nodad",
    "addr add 10.1.0.1/24 dev inside",
    "link set near up",
    "link set far up",
    "link set inside up",
    "link set inside-far up",
    "neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev near",
    "neigh add 10.0.0.254 lladdr 02:00:00:00:00:fe nud permanent dev near",
    "neigh add 10.1.0.2 lladdr 02:00:00:00:00:04 nud permanent dev inside",
    "neigh add fd00::2 lladdr 02:00:00:00:00:02 nud permanent dev near",
    "neigh add fd00::fe lladdr 02:00:00:00:00:fe nud permanent dev near",
    "route add default via 10.0.0.254",
    "-6 route add default via fd00::fe dev near",
];

/// Indices of the balancer's interfaces.
#[derive(Clone, Copy, Debug)]
pub struct Interfaces {
    /// [`NEAR`], where all packets come in.
    pub near: u32,
    /// [`INSIDE`].
    pub inside: u32,
}

/// Moves the calling thread into a new network namespace, builds the network there, and returns the interfaces.
///
/// # Errors
/// The thread lacks the rights, or `ip` refused a step.
pub fn build() -> Result<Interfaces> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace (this needs root)")?;
    // Router solicitations and the like would reach the counters of the far end.
    sysctl("net/ipv6/conf/default/addr_gen_mode", "1")?;
    for step in SETUP {
        let output = Command::new("ip")
            .args(step.split(' '))
            .output()
            .context("running ip")?;
        ensure!(
            output.status.success(),
            "ip {step}: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    sysctl("net/ipv4/conf/all/forwarding", "1")?;
    sysctl("net/ipv6/conf/all/forwarding", "1")?;
    Ok(Interfaces {
        near: if_nametoindex(NEAR)?,
        inside: if_nametoindex(INSIDE)?,
    })
}

/// Sets a kernel variable of the calling thread's network namespace.
///
/// # Errors
/// There is no such variable, or the value is refused.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("setting {name}"))
}
