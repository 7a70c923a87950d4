//! What the tests that need root share: packets, the loaded packet program with its maps, and snapshots of
//! everything it counts.

pub mod addresses;
pub mod advertisements;
pub mod bulk;
pub mod client;
pub mod cpus;
pub mod daemon;
pub mod dataplane;
pub mod emulated;
pub mod expected;
pub mod filters;
pub mod initial;
pub mod keepalived;
pub mod loads;
mod mapped;
pub mod network;
pub mod packet;
pub mod pair;
pub mod pass;
pub mod persistence;
pub mod plain;
pub mod privileged;
pub mod raw;
pub mod rows;
pub mod servers;
pub mod services;
pub mod snapshot;
pub mod switches;
pub mod topology;
pub mod translated;
