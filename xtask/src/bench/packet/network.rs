//! The network the packet bench stands in: a namespace of its own with one veth pair, next hops known beforehand.
//!
//! The namespace has no name: it ends with the process, whatever ends that.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};

/// The interface the program under test works on, and the one at the far end.
pub const NEAR: &str = "near";
/// See [`NEAR`].
pub const FAR: &str = "far";

/// MAC address of [`NEAR`].
pub const BALANCER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC address of the gateway behind which the clients are.
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// MAC address of the real server.
pub const REAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Real server and VIP of IPv4.
pub const REAL_V4: [u8; 4] = [10, 0, 0, 2];
/// See [`REAL_V4`].
pub const VIP_V4: [u8; 4] = [10, 0, 0, 100];
/// An address of IPv4 that is no VIP.
pub const NO_VIP_V4: [u8; 4] = [10, 0, 0, 101];
/// A client's address of IPv4, outside the range that sets of flows use.
pub const CLIENT_V4: [u8; 4] = [192, 0, 2, 10];
/// Real server of IPv6, fd00::2.
pub const REAL_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// VIP of IPv6, fd00::100.
pub const VIP_V6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
/// A client's address of IPv6, 2001:db8::10.
pub const CLIENT_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];

const SETUP: &[&str] = &[
    "link set lo up",
    "link add near address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:fe",
    "addr add 10.0.0.1/24 dev near",
    "addr add fd00::1/64 dev near nodad",
    "link set near up",
    "link set far up",
    "neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev near",
    "neigh add 10.0.0.254 lladdr 02:00:00:00:00:fe nud permanent dev near",
    "neigh add fd00::2 lladdr 02:00:00:00:00:02 nud permanent dev near",
    "neigh add fd00::fe lladdr 02:00:00:00:00:fe nud permanent dev near",
    "route add default via 10.0.0.254",
    "-6 route add default via fd00::fe dev near",
];

/// Moves the calling thread into a new network namespace, builds the network there, and returns the index of [`NEAR`].
///
/// # Errors
/// The thread lacks the rights, or `ip` refused a step.
pub fn build() -> Result<u32> {
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
    Ok(nix::net::if_::if_nametoindex(NEAR)?)
}

fn sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("setting {name}"))
}
