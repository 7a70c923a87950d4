//! What the packet program answers when it is asked which real server a client would get.

use crate::plain_data;

/// How the real server of a new connection was found, in the order in which it is looked for.
pub mod offer {
    /// The client keeps it.
    pub const KEPT: u32 = 0;
    /// The scheduler chose it.
    pub const SCHEDULER: u32 = 1;
    /// It is the least loaded.
    pub const LEAST: u32 = 2;
    /// The least loaded one was of no use, and this one comes after it.
    pub const SECOND_LEAST: u32 = 3;
}

/// The answer, which stands at the beginning of the packet that the question was. All in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Answer {
    /// Why the packet would leave early, a [`Discard`](crate::verdict::Discard); their number where it would not.
    pub reason: u32,
    /// The id of the real server that it would go to.
    pub real: u32,
    /// One of [`offer`]; nothing where it has a connection.
    pub offer: u32,
    /// 1 where it has a connection already.
    pub has_connection: u32,
    /// 1 where the client keeps its real server by a connection that is not complete yet.
    pub is_pending: u32,
    /// The slot of the service's ring that was looked at last; all ones where it is one of those that take new connections.
    pub slot: u32,
    /// The id of the rule of the service's filter that the client falls under, or of the limit that refuses it; 0 = none.
    pub rule: u32,
    /// 1 where the connection has full NAT, or would have.
    pub is_full_nat: u32,
    /// The question's source port, so that the answer is known to be its own.
    pub port: u32,
}

const _: () = assert!(size_of::<Answer>() == 36);
plain_data!(Answer);
