//! Balancers that share VIPs by VRRP, with each other and with keepalived: who has them when something fails, or an operator says so.

mod channel;
mod failures;
mod group;
mod operator;
mod others;
mod peers;
mod tracking;
mod traffic;
mod view;

use balancer_tests::{pair::Pair, topology::run};

/// A virtual router on the outside, of IPv4, at an interval of 100 ms.
fn outside(priority: u8, more: &str) -> String {
    outside_at(priority, "100ms", more)
}

/// As [`outside`], at another interval.
fn outside_at(priority: u8, interval: &str, more: &str) -> String {
    format!(
        "[[vrrp]]\nname = \"outside\"\ninterface = \"outside\"\nrouter-id = 51\npriority = {priority}\n\
         advertisement-interval = \"{interval}\"\naddresses = [\"203.0.113.80/24\"]\n{more}\n"
    )
}

/// Virtual routers on both sides, of both families, Active together.
fn both_sides(priority: u8, more: &str) -> String {
    let router = |name: &str, interface: &str, id: u8, address: &str| {
        format!(
            "[[vrrp]]\nname = \"{name}\"\ninterface = \"{interface}\"\nrouter-id = {id}\npriority = {priority}\n\
             advertisement-interval = \"100ms\"\naddresses = [\"{address}\"]\ngroup = \"pair\"\n{more}\n"
        )
    };
    router("outside", "outside", 51, "203.0.113.80/24")
        + &router("inside", "inside", 52, "192.168.0.1/24")
        + &router("outside6", "outside", 51, "2001:db8:f::80/64")
        + &router("inside6", "inside", 52, "fd00:1::1/64")
}

/// Runs a command that must fail, and returns what it says.
fn refused(pair: &Pair, node: usize, arguments: &str) -> String {
    let daemon = pair.nodes[node].daemon();
    let mut command = daemon.command("balancer-ctl");
    let output = run(command.args(arguments.split_whitespace()));
    assert!(!output.status.success(), "{arguments}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
