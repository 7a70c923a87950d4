//! The addresses that the kernel takes for this host's own, and the broadcast addresses of its networks. No packet
//! that comes in by an interface can truly have one of them as its source: who sends it speaks in this host's name.

use crate::{addr::Addr, plain_data};

/// Capacity of `HOST_ADDRESSES`.
pub const MAX_HOST_PREFIXES: u32 = 65_536;

/// Key of `HOST_ADDRESSES`, a longest-prefix table: one address, or a prefix that is this host's as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct HostPrefix {
    /// Leading bits of the 16-byte form that count: 96 to 128 for IPv4.
    pub length: u32,
    /// The first address, network byte order.
    pub address: Addr,
}

const _: () = assert!(size_of::<HostPrefix>() == 20);
plain_data!(HostPrefix);
