//! The daemon and the operator's tool, as folders ("rooms"), each of which imports only from those below it:
//!
//! ```text
//!   bin → startup → cli → api → control → {health, notify, dataplane, config} → host → netlink → model → os
//! ```
//!
//! `cargo xtask lint` reads every `use` line and holds this against its table (`xtask/src/lint/layers.rs`).

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
pub mod startup;
