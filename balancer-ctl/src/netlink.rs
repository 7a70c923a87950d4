//! The kernel's routing state: links, routes and neighbours, read and watched. Blocking sockets, no runtime: the
//! data plane's owner may live inside one.

pub mod features;
pub mod keeper;
pub mod layers;
pub mod link;
pub mod monitor;
pub mod neighbour;
mod socket;

pub use socket::Netlink;
