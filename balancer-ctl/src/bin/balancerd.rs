//! balancerd
fn main() {}
