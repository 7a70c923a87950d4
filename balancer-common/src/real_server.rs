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
}

const _: () = assert!(size_of::<RealServer>() == 28);
plain_data!(RealServer);
