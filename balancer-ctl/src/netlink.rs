//! The kernel's routing state: links, routes and neighbours, read and watched. Blocking sockets, no runtime: the
//! data plane's owner may live inside one.

pub mod address;
pub mod features;
pub mod keeper;
pub mod layers;
pub mod link;
pub mod local;
pub mod monitor;
pub mod neighbour;
pub mod neighbour_table;
mod pace;
pub mod route;
mod socket;

pub use socket::Netlink;
