//! The kernel's links, routes and neighbours, read and watched. The sockets block and need no async runtime.

pub mod address;
pub mod layers;
pub mod link;
pub mod local;
pub mod monitor;
pub mod neighbour;
pub mod neighbour_manager;
pub mod neighbour_table;
mod probe_pacing;
pub mod route;
mod socket;
pub mod xdp_features;

pub use socket::Netlink;
