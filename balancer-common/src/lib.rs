//! What the packet program and user space share: the layout of every map, the header structs, and the
//! pure decisions (checksums, connection states, scheduling) that both sides must take alike.
//!
//! Nothing here may touch a kernel, a clock or a socket, and nothing may allocate. User space adds the
//! feature `user`, which brings conversions to `std::net` types and the `aya::Pod` marks; the packet
//! program never sees it.
#![cfg_attr(not(any(test, feature = "user")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod addr;
pub mod address_filter;
pub mod answer;
pub mod branchless;
pub mod checksum;
pub mod conntrack;
pub mod direction;
pub mod failover;
pub mod filter;
pub mod flow_hash;
pub mod fragment;
pub mod host_address;
pub mod load;
pub mod next_hop;
pub mod persistence;
pub mod programs;
pub mod real_server;
pub mod redirect;
pub mod scheduler;
pub mod service;
pub mod settings;
pub mod snat;
pub mod stats;
pub mod tcp;
pub mod token_bucket;
pub mod trace;
pub mod verdict;
pub mod wire;

/// Version of the map layouts below. It is part of the pin directory's name (`v7`), so a daemon never takes
/// up maps of another layout. Raise it with every change to a shared struct or to a map's meaning.
pub const ABI_VERSION: u32 = 7;

/// Marks shared structs as plain data for aya: every byte is initialised, every bit pattern is valid.
macro_rules! plain_data {
    ($($type:ty),+ $(,)?) => {$(
        // SAFETY: `repr(C)`, `Copy`, only integers and arrays of them, and the size assertion beside
        // each type shows that the fields fill it without implicit padding.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $type {}
    )+};
}
pub(crate) use plain_data;
