//! Real traffic through the real daemon, by each kind of interface. Runs on this machine and, with
//! `cargo xtask test --kernel`, on stock kernels, where nothing is at hand but `curl`, `ip`, `ethtool` and busybox.

mod curls;
