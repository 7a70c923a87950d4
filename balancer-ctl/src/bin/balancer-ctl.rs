//! balancer-ctl
fn main() {}
