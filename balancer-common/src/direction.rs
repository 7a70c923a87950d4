//! Which way a flow's packets travel.

/// From the client to the real server.
pub const ORIGINAL: u8 = 0;
/// From the real server to the client.
pub const REPLY: u8 = 1;
