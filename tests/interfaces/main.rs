//! Real traffic through the real daemon, by each kind of interface. Runs on this machine and, with
//! `cargo xtask test --kernel`, on stock kernels, where nothing is at hand but `curl`, `ip`, `ethtool`, `bpftool` and
//! busybox. What the running kernel lacks is a skip.

mod bonds;
mod changes;
mod curls;
mod generic;
mod native;
mod redirects;
mod refusals;
mod scene;
mod web;
