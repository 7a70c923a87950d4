//! The filter with which connections are listed.

use std::net::IpAddr;

use balancer_common::tcp::State;

use super::ServiceKey;

/// Which connections to list; a field that is `None` matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Client address and port; a port of `None` matches all ports.
    pub client: Option<(IpAddr, Option<u16>)>,
    /// The virtual service.
    pub service: Option<ServiceKey>,
    /// Real server's address and port; a port of `None` matches all ports.
    pub real: Option<(IpAddr, Option<u16>)>,
    /// The connection's state.
    pub state: Option<State>,
    /// List at most this many.
    pub limit: Option<usize>,
}
