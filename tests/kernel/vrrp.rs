//! What VRRP does with the kernel: addresses for a limited time, advertisements, announcements.

mod addresses;
mod announcements;
mod sockets;

use xtask::lab::Namespace;

/// A host with an interface `outside`, which has addresses, and its neighbour.
fn scene() -> [Namespace; 2] {
    Namespace::sweep("vrrp");
    let host = Namespace::new("vrrp").unwrap();
    let other = Namespace::new("vrrp").unwrap();
    for name in ["all", "default"] {
        let variable = format!("net.ipv6.conf.{name}.accept_dad");
        host.sysctl(&variable, "1").unwrap();
    }
    host.connect("outside", &other, "eth0").unwrap();
    host.address("outside", "10.9.0.1/24").unwrap();
    host.address("outside", "fd00:9::1/64").unwrap();
    [host, other]
}
