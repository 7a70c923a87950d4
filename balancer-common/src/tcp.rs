//! TCP as the balancer follows it: flags and the connection's state.

mod state;

pub use self::state::State;
use crate::{branchless::is_zero, direction};

/// Flag bits as they stand in byte 13 of the TCP header (RFC 9293 section 3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// Whether a connection in `state` stays as it is whatever comes in `direction` without SYN, FIN or RST: most packets need no
/// further look.
#[inline(always)]
#[must_use]
pub const fn is_steady(state: u8, direction: u8) -> bool {
    const BOTH: u32 = 1 << State::Established as u32 | 1 << State::Udp as u32;
    const ORIGINAL: u32 = BOTH | 1 << State::UdpUnreplied as u32;
    const REPLY: u32 = BOTH
        | 1 << State::UdpUnconfirmed as u32
        | 1 << State::FinOriginal as u32
        | 1 << State::FinReply as u32;
    let steady = if direction == direction::ORIGINAL {
        ORIGINAL
    } else {
        REPLY
    };
    steady >> (state & 0xf) & 1 != 0
}

/// Whether a connection in `state` is complete, and not at its end in both directions: its client uses it.
#[inline(always)]
#[must_use]
pub const fn is_running(state: u8) -> bool {
    const RUNNING: u32 = 1 << State::Established as u32
        | 1 << State::FinOriginal as u32
        | 1 << State::FinReply as u32
        | 1 << State::Udp as u32;
    RUNNING >> (state & 0xf) & 1 != 0
}

/// What a segment says that may bring its connection to another state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Its flags.
    pub flags: u8,
    /// Sequence number, host byte order.
    pub sequence: u32,
    /// Acknowledgement number, host byte order.
    pub acknowledgement: u32,
    /// Bytes of data that it carries.
    pub data: u32,
}

impl Segment {
    /// The acknowledgement number that answers this FIN, host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn after_fin(self) -> u32 {
        self.sequence.wrapping_add(self.data).wrapping_add(1)
    }

    /// Whether it carries data that does not lie in the window before the FIN that `number` acknowledges. Data in that window is sent
    /// again and says nothing about the FIN; whoever forges a FIN has to hit it blindly.
    #[inline(always)]
    const fn is_behind_fin(self, number: u32) -> bool {
        const WINDOW_BITS: u32 = 20;
        let windows = number.wrapping_sub(self.after_fin()) >> WINDOW_BITS;
        // Both differ from zero: a product in place of a second branch, which the verifier would have to follow.
        self.data as u64 * windows as u64 != 0
    }
}

/// The state after a client's segment. `number` (host order) is what [`next_number`] has kept: here that of the real server's
/// SYN|ACK, while the handshake is under way.
///
/// A SYN changes nothing: on a connection that lives anybody can have sent it in the client's name, and the real server's
/// answer tells. Nor does what no client sends (SYN with FIN or RST), nor a reset of a handshake: with a wrong number the real
/// server does not believe it, and an entry of a handshake that was given up is displaced, or idle, soon enough.
#[inline(always)]
#[must_use]
pub const fn next_original(state: u8, number: u32, segment: Segment) -> u8 {
    const ESTABLISHED: u8 = State::Established as u8;
    const FIN_ORIGINAL: u8 = State::FinOriginal as u8;
    const FIN_REPLY: u8 = State::FinReply as u8;
    let flags = segment.flags;
    if flags & flags::SYN != 0 {
        return state;
    }
    if flags & flags::RST != 0 {
        return if state < ESTABLISHED || state >= State::Closing as u8 {
            state
        } else {
            State::ClosedOriginal as u8
        };
    }
    let has_fin = flags & flags::FIN != 0;
    if state == State::SynReceived as u8 {
        if flags & flags::ACK == 0 || !completes_handshake(segment.acknowledgement, number) {
            return state;
        }
        return if has_fin { FIN_ORIGINAL } else { ESTABLISHED };
    }
    if has_fin {
        return match state {
            ESTABLISHED => FIN_ORIGINAL,
            FIN_REPLY => State::Closing as u8,
            _ => state,
        };
    }
    if segment.is_behind_fin(number) {
        // It goes on sending: the FIN was not its own.
        if state == FIN_ORIGINAL {
            return ESTABLISHED;
        }
        if state == State::Closing as u8 {
            return FIN_REPLY;
        }
    }
    state
}

/// The state after a real server's segment. `number` (host order) is what [`next_number`] has kept: the sequence number of its
/// SYN|ACK while the handshake is under way, after the client's FIN the acknowledgement that answers it.
#[inline(always)]
#[must_use]
pub const fn next_reply(state: u8, number: u32, segment: Segment) -> u8 {
    const ESTABLISHED: u8 = State::Established as u8;
    const FIN_ORIGINAL: u8 = State::FinOriginal as u8;
    const CLOSING: u8 = State::Closing as u8;
    let flags = segment.flags;
    if flags & flags::RST != 0 {
        // After its SYN|ACK the real server also answers a wrong acknowledgement with a reset, and goes on waiting for
        // the right one (RFC 9293 section 3.10.7.4): only a reset that continues its own sequence ends the handshake.
        let continues = segment.sequence == number.wrapping_add(1);
        return if state == State::SynReceived as u8 && !continues {
            state
        } else {
            State::Closed as u8
        };
    }
    if flags & flags::SYN != 0 {
        // Sent again where its number is known; else the real server has begun a new connection.
        let is_known = segment.sequence == number && state != State::SynSent as u8;
        // While the client's FIN is not answered, the number of the SYN|ACK is no longer kept: a new connection's data brings the
        // state to established again.
        return if state == FIN_ORIGINAL || is_known && state < CLOSING {
            state
        } else {
            State::SynReceived as u8
        };
    }
    // To a segment of no connection it would have answered with a reset (RFC 9293 section 3.10.7.1).
    let state = if state == State::PickedUp as u8 {
        ESTABLISHED
    } else {
        state
    };
    let has_fin = flags & flags::FIN != 0;
    if has_fin && state == ESTABLISHED {
        return State::FinReply as u8;
    }
    if state == CLOSING || has_fin && state == FIN_ORIGINAL {
        let acknowledges_fin = flags & flags::ACK != 0 && segment.acknowledgement == number;
        return if acknowledges_fin {
            State::TimeWait as u8
        } else {
            CLOSING
        };
    }
    state
}

/// The number (host order) to keep for [`next_original`] and [`next_reply`], when a segment brings the connection from the state
/// `before` to `state`, and `number` was kept so far: of a handshake the sequence number of the real server's SYN|ACK, after the
/// client's FIN the acknowledgement that answers it. Of several FINs, one of which the client did not send, the last counts; none
/// counts that comes while the handshake's number is still needed.
#[inline(always)]
#[must_use]
pub const fn next_number(
    before: u8,
    state: u8,
    number: u32,
    segment: Segment,
    is_original: bool,
) -> u32 {
    let flags = segment.flags;
    if is_original {
        // Bits in place of branches, each of which the verifier would follow.
        const CLOSED: u32 = 1 << State::FinOriginal as u32 | 1 << State::Closing as u32;
        const HANDSHAKE: u32 = 1 << State::SynReceived as u32;
        const ONLY_FIN: u32 = 1 << flags::FIN;
        let of_three = flags & (flags::FIN | flags::SYN | flags::RST);
        let counts =
            CLOSED >> (state & 0xf) & !HANDSHAKE >> (before & 0xf) & ONLY_FIN >> of_three & 1;
        return number ^ (number ^ segment.after_fin()) & 0_u32.wrapping_sub(counts);
    }
    if state != State::SynReceived as u8 {
        return number;
    }
    if flags & flags::SYN != 0 {
        segment.sequence
    } else if segment.data > 0 {
        // A real server sends data only to whom it believes: its number is right, whatever SYN|ACK was the last.
        segment.sequence.wrapping_sub(1)
    } else {
        number
    }
}

/// Whether a client's packet that brings its connection from the state `before` to another shows that the client exists, 1 or 0: it
/// acknowledges exactly the real server's SYN|ACK, whose sequence number was `number` (host order), or comes after a datagram of the real
/// server. The connection is complete with a number a little beyond, too, but one of 65,536 is soon guessed. Without branches.
#[inline(always)]
#[must_use]
pub fn shows_client(before: u8, number: u32, acknowledgement: u32) -> u32 {
    let was = |state: State| u32::from(before == state as u8);
    let differs = acknowledgement ^ number.wrapping_add(1);
    let is_exact = is_zero(u64::from(differs)) as u32;
    was(State::UdpUnconfirmed) | was(State::SynReceived) & is_exact
}

/// Whether the client of a TCP connection in `state` has shown that it exists: it has acknowledged the real server's SYN|ACK, or
/// the real server knows the connection.
#[inline(always)]
#[must_use]
pub const fn has_shown_client(state: u8) -> bool {
    const SHOWN: u32 = 1 << State::Established as u32
        | 1 << State::FinOriginal as u32
        | 1 << State::FinReply as u32
        | 1 << State::Closing as u32
        | 1 << State::TimeWait as u32;
    SHOWN >> (state & 0xf) & 1 != 0
}

/// Whether a connection in `state` was reset, so that traffic of both sides shows that they did not believe it.
#[inline(always)]
#[must_use]
pub const fn is_reset(state: u8) -> bool {
    state == State::Closed as u8 || state == State::ClosedOriginal as u8
}

/// The state of a UDP connection after a datagram in `direction`.
#[inline(always)]
#[must_use]
pub const fn next_udp(state: u8, direction: u8) -> u8 {
    if state == State::UdpUnreplied as u8 && direction == direction::REPLY {
        State::UdpUnconfirmed as u8
    } else if state == State::UdpUnconfirmed as u8 && direction == direction::ORIGINAL {
        State::Udp as u8
    } else {
        state
    }
}

/// Whether a SYN on a connection in `state` opens a new one: the real server has reset it, or both have closed it and the real server
/// has acknowledged the client's FIN, so the client has begun anew on the same port and must not wait for a timeout.
#[inline(always)]
#[must_use]
pub const fn may_be_reused(state: u8) -> bool {
    state == State::TimeWait as u8 || state == State::Closed as u8
}

/// Whether a segment with these flags asks for a new connection.
#[inline(always)]
#[must_use]
pub const fn opens(flags: u8) -> bool {
    flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
}

/// Whether a segment with these flags belongs to a connection that is complete, and does not reset it.
#[inline(always)]
#[must_use]
pub const fn continues(flags: u8) -> bool {
    flags & (flags::SYN | flags::ACK | flags::RST) == flags::ACK
}

/// Whether `acknowledged` (host order) answers a SYN|ACK whose sequence number was `sequence` (host order):
/// it is one more, or beyond by what a server may send before the handshake ends (TCP Fast Open, RFC 7413).
#[inline(always)]
#[must_use]
pub const fn completes_handshake(acknowledged: u32, sequence: u32) -> bool {
    acknowledged.wrapping_sub(sequence.wrapping_add(1)) < 1 << 16
}

/// Sequence and acknowledgement numbers (host order) and flags of the reset that answers a segment with these
/// `flags` and numbers and with `data` bytes behind its header (RFC 9293 section 3.10.7.1).
#[inline(always)]
#[must_use]
pub const fn reset(flags: u8, sequence: u32, acknowledgement: u32, data: u32) -> (u32, u32, u8) {
    if flags & flags::ACK != 0 {
        return (acknowledgement, 0, flags::RST);
    }
    // SYN and FIN take a place in the sequence.
    let length = data + (flags & flags::SYN != 0) as u32 + (flags & flags::FIN != 0) as u32;
    (0, sequence.wrapping_add(length), flags::RST | flags::ACK)
}

#[cfg(test)]
mod tests;
