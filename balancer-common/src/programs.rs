//! The packet program's parts: the verifier looks at each program by itself.

/// The programs that others hand packets to, each at its place in `PROGRAMS`: `balancer` to all, `walk_headers` to `open_connection`.
pub const CALLED: [&str; 3] = ["open_connection", "translate_error", "walk_headers"];

/// The first packet of a connection.
pub const OPEN_CONNECTION: u32 = 0;
/// An ICMP error.
pub const TRANSLATE_ERROR: u32 = 1;
/// A fragment, or a packet with IPv6 extension headers.
pub const WALK_HEADERS: u32 = 2;
