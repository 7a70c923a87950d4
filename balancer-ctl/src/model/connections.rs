//! Which connections are asked for.

use std::net::IpAddr;

use balancer_common::tcp::State;

use super::ServiceKey;

/// Which connections to list; a field that is `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Client address and port; a port of `None` matches all ports.
    pub client: Option<(IpAddr, Option<u16>)>,
    /// Service.
    pub service: Option<ServiceKey>,
    /// Real server's address and port; a port of `None` matches all ports.
    pub real: Option<(IpAddr, Option<u16>)>,
    /// State.
    pub state: Option<State>,
    /// List at most this many.
    pub limit: Option<usize>,
}
