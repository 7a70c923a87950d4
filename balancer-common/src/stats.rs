//! Counters.

use crate::plain_data;

/// What one CPU has seen of a real server: a value of the per-CPU array `REAL_STATS`. Packets and bytes (of the
/// IP packet, without Ethernet) are counted when they are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RealStats {
    /// `[original, reply]`: packets and bytes from the client, then from the real server.
    pub directions: [Traffic; 2],
    /// New connections.
    pub connections: u64,
}

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Traffic {
    /// IP packets.
    pub packets: u64,
    /// Bytes of IP packets.
    pub bytes: u64,
}

const _: () = assert!(size_of::<RealStats>() == 40);
plain_data!(RealStats, Traffic);
