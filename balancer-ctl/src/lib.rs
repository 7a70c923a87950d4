//! The daemon and the operator's tool.
//!
//! `cli → api → daemon → {config, dataplane}`; nothing points back. [`model`] is pure and known to all.

pub mod dataplane;
pub mod host;
pub mod model;
pub mod netlink;
pub mod object;
pub mod plan;
pub mod ring;
