//! Real servers as the packet program sees them.

use crate::{addr::Addr, plain_data};

/// Most real servers over all services together; capacity of `REALS` and `REAL_STATS`.
pub const MAX_REALS: u32 = 32_768;

/// What may happen to a real id; a value of [`RealServer::state`].
pub mod state {
    /// No real server has this id.
    pub const FREE: u32 = 0;
    /// The real server takes new connections.
    pub const TAKES_NEW: u32 = 1;
    /// The real server keeps its connections and takes no new ones (weight 0).
    pub const DRAINING: u32 = 2;
    /// The real server was removed from its service; its connections go on until they end.
    pub const REMOVED: u32 = 3;
    /// The real server has failed: the next packet of each of its clients ends the connection (see `balancer-ebpf`'s
    /// `track`). It takes no new ones.
    pub const RESET: u32 = 4;
    /// The real server was removed after it had failed: what [`RESET`] says goes on.
    pub const REMOVED_RESET: u32 = 5;

    /// Whether the clients' connections are to end at their next packet.
    #[inline(always)]
    #[must_use]
    pub const fn is_reset(state: u32) -> bool {
        state >= RESET
    }

    /// Whether the real server was removed from its service.
    #[inline(always)]
    #[must_use]
    pub const fn is_removed(state: u32) -> bool {
        matches!(state, REMOVED | REMOVED_RESET)
    }
}

/// A real server of one virtual service. Address and port in network byte order.
///
/// Its index in `REALS`, the real id, belongs to one (service, real) pair; it is given to another only when
/// no connection refers to it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RealServer {
    /// The server's address.
    pub address: Addr,
    /// The server's port; 0 = the packet's destination port stays (services on every port).
    pub port: u16,
    /// Always zero.
    pub zero: u16,
    /// One of [`state`].
    pub state: u32,
    /// Id of the service it belongs to (the index in `TURNS`).
    pub service: u32,
    /// Mask of the server's network, where this host is in that network too: of IPv4 the last word; zeroes = it is not. A
    /// client of the same network would be answered directly, past the balancer.
    pub network_mask: Addr,
}

const _: () = assert!(size_of::<RealServer>() == 44);
plain_data!(RealServer);
