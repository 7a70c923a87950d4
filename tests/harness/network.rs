//! The network of the packet cases: two interfaces, and next hops with fixed MAC addresses.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use crate::addresses::{
    GATEWAY, LB_INSIDE, LB_OUTSIDE, Mac, R, R2, R6, R26, REAL, REAL2, S, S6, T, T6, V, V6,
};

/// Runs an `ip` command in this thread's namespace.
///
/// # Panics
/// It fails.
pub fn ip(command: &str) {
    ip_batch(command);
}

fn ip_batch(commands: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("start ip (package iproute2)");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(commands.as_bytes())
        .expect("write to ip");
    assert!(
        child.wait().expect("wait for ip").success(),
        "ip refused one of:\n{commands}"
    );
}

/// Two veth pairs, the addresses, and next hops with fixed MAC addresses.
pub(crate) fn set_up() {
    let mac = |mac: Mac| mac.map(|byte| format!("{byte:02x}")).join(":");
    // No address of its own may come in between: a test's routes are what the test says.
    for name in ["all", "default"] {
        sysctl(&format!("ipv6/conf/{name}/accept_dad"), "0");
        sysctl(&format!("ipv6/conf/{name}/accept_ra"), "0");
        sysctl(&format!("ipv6/conf/{name}/forwarding"), "1");
        sysctl(&format!("ipv4/conf/{name}/forwarding"), "1");
    }
    ip_batch(&format!(
        "link set lo up
link add outside address {outside} type veth peer name outside-peer
link add inside address {inside} type veth peer name inside-peer
link set outside up
link set outside-peer up
link set inside up
link set inside-peer up
addr add {V}/32 dev lo
addr add {V6}/128 dev lo
addr add 203.0.113.2/24 dev outside
addr add 2001:db8:f::2/64 dev outside
addr add {S}/24 dev inside
addr add {S6}/64 dev inside
neigh add {T} lladdr {gateway} dev outside nud permanent
neigh add {T6} lladdr {gateway} dev outside nud permanent
neigh add {R} lladdr {real} dev inside nud permanent
neigh add {R6} lladdr {real} dev inside nud permanent
neigh add {R2} lladdr {real2} dev inside nud permanent
neigh add {R26} lladdr {real2} dev inside nud permanent
route add default via {T}
route add default via {T6}
",
        outside = mac(LB_OUTSIDE),
        inside = mac(LB_INSIDE),
        gateway = mac(GATEWAY),
        real = mac(REAL),
        real2 = mac(REAL2),
    ));
}

/// Writes a network sysctl of this thread's namespace, named by its path below `net`.
///
/// # Panics
/// It cannot be written.
pub fn sysctl(path: &str, value: &str) {
    let path = format!("/proc/sys/net/{path}");
    fs::write(&path, value).unwrap_or_else(|error| panic!("write {value} to {path}: {error}"));
}
