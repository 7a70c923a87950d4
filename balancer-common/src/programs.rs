//! The packet program's parts: the verifier looks at each program by itself.

/// The programs that others hand packets to, each at its place in `PROGRAMS`: `balancer` to all, `walk_headers` and `full_nat` to
/// `open_connection`.
pub const CALLED: [&str; 4] = [
    "open_connection",
    "translate_error",
    "walk_headers",
    "full_nat",
];

/// The first packet of a connection.
pub const OPEN_CONNECTION: u32 = 0;
/// An ICMP error.
pub const TRANSLATE_ERROR: u32 = 1;
/// A fragment, or a packet with IPv6 extension headers.
pub const WALK_HEADERS: u32 = 2;
/// A packet whose connection has full NAT.
pub const FULL_NAT: u32 = 3;
