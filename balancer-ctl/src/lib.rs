//! The daemon and the operator's tool, in folders, each of which imports only from those below it:
//!
//! ```text
//!   bin → startup → cli → api → control → {health, notify, peer, vrrp, dataplane, config} → host → netlink → model → os
//! ```
//!
//! Those in braces do not import each other. `cargo xtask lint` reads every `use` line and holds this against its table
//! (`xtask/src/lint/layers.rs`).
//!
//! - [`startup`]: opens the data plane, starts the threads, serves, signals; only the binaries import it
//! - [`cli`]: `balancer-ctl`, a file per noun, and the syntax of `balancerd`; only the binaries and `startup` import it
//! - [`api`]: the control socket, HTTP and JSON; for `cli` and `startup`
//! - [`control`]: the daemon (the one owner of all state), availability, conditions, reports; for `api` and above
//! - [`config`]: the file: read, validate, edit, write; for `control` and above
//! - [`dataplane`]: plan and rings, maps, the connection table, interfaces, next hops; for `control` and above
//! - [`health`]: checkers, their schedule, probes, the store of their states; for `control` and above
//! - [`notify`]: which programs are run for which events, and when; for `control` and above
//! - [`peer`]: the channel between the nodes: their key, who they are, what they tell and ask each other; for `control` and above
//! - [`vrrp`]: who of several balancers has the VIPs: advertisements, states, announcements; for `control` and above
//! - [`host`], [`netlink`]: what the kernel around the program says and is told; for all above
//! - [`model`]: data that all share: services, real servers, checks, changes, events, views; for all above
//! - [`os`]: clock, files, memory, systemd, programs that are run; for all

pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod health;
pub mod host;
pub mod model;
pub mod netlink;
pub mod notify;
pub mod os;
pub mod peer;
pub mod startup;
pub mod vrrp;
