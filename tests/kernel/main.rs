//! The data plane against the real kernel: what is pinned, attached, reused after a restart, expired. Needs root.

mod addresses;
mod attaching;
mod expiry;
mod local;
mod neighbours;
mod persistence;
mod reachability;
mod scene;
mod self_test;
mod table;
mod takeover;
mod traffic;
mod vrrp;
mod watch;
