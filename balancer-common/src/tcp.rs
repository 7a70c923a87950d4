//! TCP as the balancer follows it: flags and the connection's state.

use crate::conntrack::direction;

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

/// State of a connection. The order matters: what comes before [`State::Established`] is half-open.
///
/// ```text
///  SynSent ──SYN|ACK──▶ SynReceived ──ACK──▶ Established ──FIN──▶ FinOriginal / FinReply ──FIN──▶ Closing
///     └────────RST──────────┴──────────────────┴──────────────────────┴─────────RST──────────▶ Closed
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The client's SYN was seen.
    SynSent = 1,
    /// The real server's SYN|ACK was seen.
    SynReceived = 2,
    /// The handshake is complete.
    Established = 3,
    /// The client has closed its side.
    FinOriginal = 4,
    /// The real server has closed its side.
    FinReply = 5,
    /// Both sides have closed.
    Closing = 6,
    /// A reset was seen.
    Closed = 7,
    /// UDP, and the real server has answered.
    Udp = 8,
    /// UDP, and only the client was heard: anybody can have sent that in its name, so it is forgotten soon.
    UdpUnreplied = 9,
}

impl State {
    /// All states, in numeric order.
    pub const ALL: [Self; 9] = [
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinOriginal,
        Self::FinReply,
        Self::Closing,
        Self::Closed,
        Self::Udp,
        Self::UdpUnreplied,
    ];

    /// The state that a number from a map stands for.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == number)
    }

    /// The state's name as `connections` prints it (IPVS's names where it has them).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::FinOriginal => "fin-client",
            Self::FinReply => "fin-real",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Udp => "udp",
            Self::UdpUnreplied => "udp-unreplied",
        }
    }

    /// Whether the connection counts as active (IPVS: established TCP; all else, and all UDP, is inactive).
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Established)
    }
}

/// The state after a packet with `flags` in `direction`, for a connection whose handshake is complete.
#[inline(always)]
#[must_use]
pub const fn next(state: u8, flags: u8, direction: u8) -> u8 {
    if flags & flags::RST != 0 {
        return State::Closed as u8;
    }
    if flags & flags::FIN == 0 || state >= State::Closing as u8 {
        return state;
    }
    let (mine, other) = if direction == direction::ORIGINAL {
        (State::FinOriginal as u8, State::FinReply as u8)
    } else {
        (State::FinReply as u8, State::FinOriginal as u8)
    };
    if state == other {
        State::Closing as u8
    } else {
        mine
    }
}

/// Whether a SYN on a connection in `state` opens a new one: the old one is closing or closed, so the
/// client has begun anew on the same port and must not wait for a timeout.
#[inline(always)]
#[must_use]
pub const fn may_be_reused(state: u8) -> bool {
    state == State::Closing as u8
        || state == State::Closed as u8
        || state == State::FinOriginal as u8
        || state == State::FinReply as u8
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
mod tests {
    use super::*;
    use State::{Closed, Closing, Established, FinOriginal, FinReply};

    #[test]
    fn every_transition_of_a_complete_connection() {
        const O: u8 = direction::ORIGINAL;
        const R: u8 = direction::REPLY;
        const FIN: u8 = flags::FIN | flags::ACK;
        const RST: u8 = flags::RST;
        const ACK: u8 = flags::ACK;
        let table = [
            (Established, ACK, O, Established),
            (Established, ACK, R, Established),
            (Established, FIN, O, FinOriginal),
            (Established, FIN, R, FinReply),
            (FinOriginal, FIN, O, FinOriginal),
            (FinOriginal, FIN, R, Closing),
            (FinOriginal, ACK, R, FinOriginal),
            (FinReply, FIN, R, FinReply),
            (FinReply, FIN, O, Closing),
            (FinReply, ACK, O, FinReply),
            (Closing, FIN, O, Closing),
            (Closing, FIN, R, Closing),
            (Closing, ACK, O, Closing),
            (Closed, ACK, O, Closed),
            (Closed, FIN, R, Closed),
        ];
        for (state, flags, direction, after) in table {
            assert_eq!(
                next(state as u8, flags, direction),
                after as u8,
                "{state:?} {flags:x}"
            );
        }
        for state in [Established, FinOriginal, FinReply, Closing, Closed] {
            for direction in [O, R] {
                assert_eq!(next(state as u8, RST, direction), Closed as u8);
                assert_eq!(next(state as u8, RST | flags::FIN, direction), Closed as u8);
            }
        }
    }

    #[test]
    fn only_an_acknowledgement_of_the_syn_ack_completes_the_handshake() {
        assert!(completes_handshake(9001, 9000));
        assert!(completes_handshake(0, u32::MAX));
        assert!(completes_handshake(9001 + 1460, 9000));
        assert!(!completes_handshake(9000, 9000));
        assert!(!completes_handshake(1, 9000));
        assert!(completes_handshake(9000 + (1 << 16), 9000));
        assert!(!completes_handshake(9001 + (1 << 16), 9000));
    }

    #[test]
    fn a_reset_continues_what_the_segment_acknowledges_or_acknowledges_all_of_it() {
        use flags::{ACK, FIN, RST, SYN};
        assert_eq!(reset(ACK, 1001, 7000, 5), (7000, 0, RST));
        assert_eq!(reset(SYN | ACK, 1001, 7000, 0), (7000, 0, RST));
        assert_eq!(reset(SYN, 1000, 0, 0), (0, 1001, RST | ACK));
        assert_eq!(reset(SYN, u32::MAX, 0, 10), (0, 10, RST | ACK));
        assert_eq!(reset(FIN, 5, 77, 3), (0, 9, RST | ACK));
        assert_eq!(reset(0, 5, 77, 0), (0, 5, RST | ACK));
    }

    #[test]
    fn numbers_name_their_states() {
        for state in State::ALL {
            assert_eq!(State::from_number(state as u8), Some(state));
        }
        assert_eq!(State::from_number(0), None);
        assert_eq!(State::from_number(10), None);
    }
}
