//! The packet program, embedded when this crate was built.

/// The object file, aligned for the loader. Empty when the crate was built with `BALANCER_EBPF=skip`; whoever
/// loads it has to say so.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/balancer"));
