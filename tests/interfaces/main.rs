//! The daemon on every kind of interface, with real traffic. These tests need `ip`, `ethtool`, `bpftool` and no server
//! program, so that they run on a stock kernel in a virtual machine, too. What the running kernel lacks is a skip.

mod bonds;
mod changes;
mod generic;
mod native;
mod redirects;
mod refusals;
mod scene;
mod web;
