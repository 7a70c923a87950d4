//! What a node that shares its VIPs knows of connections that another one has begun.

use crate::plain_data;

/// A real server's address and port whose segments may belong to connections of the node that had the VIP before: a value of
/// `FAILOVER_REALS_V4` and `FAILOVER_REALS_V6`, by the real server's address, port and protocol.
///
/// Such a segment goes to the client as its service's, without an entry. A client that has the connection acknowledges it, and that
/// acknowledgement picks the connection up, or is answered with a reset, as the service's scheduler wants it; without it a client that only
/// receives would say nothing, and neither side would learn that the VIP has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FailoverReal {
    /// Until when, nanoseconds of `CLOCK_MONOTONIC`. Later the segment is what it seems to be: of a direct connection to the real server, or
    /// of none.
    pub until: u64,
    /// The real id.
    pub real: u32,
    /// Its service's port, network byte order.
    pub port: u16,
    /// Always zero.
    pub zero: u16,
}

const _: () = assert!(size_of::<FailoverReal>() == 16);
plain_data!(FailoverReal);
