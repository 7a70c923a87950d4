//! TCP as the balancer follows it: flags and the connection's state.

use crate::direction;

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
///            SYN|ACK              ACK                 FIN                           FIN
///  SynSent ──────────▶ SynReceived ───▶ Established ──────▶ FinOriginal / FinReply ──────▶ Closing
///                          ▲                 │ ▲
///                          └──── SYN|ACK ────┘ └── data after the client's FIN, both sides after a reset
///
///  lives ─ RST of the client ─▶ ClosedOriginal            UdpUnreplied ─answer─▶ UdpUnconfirmed ─datagram─▶ Udp
///  any ── RST of the real server ──▶ Closed
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
    /// A reset by the real server was seen.
    Closed = 7,
    /// UDP, the real server has answered and the client has sent again.
    Udp = 8,
    /// UDP, and only the client was heard: anybody can have sent that in its name, so it is forgotten soon.
    UdpUnreplied = 9,
    /// UDP, and the real server has answered: it would answer anybody who speaks in the client's name.
    UdpUnconfirmed = 10,
    /// A reset by the client was seen: anybody can have sent that in its name, so the real server may not believe it.
    ClosedOriginal = 11,
}

impl State {
    /// All states, in numeric order.
    pub const ALL: [Self; 11] = [
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinOriginal,
        Self::FinReply,
        Self::Closing,
        Self::Closed,
        Self::Udp,
        Self::UdpUnreplied,
        Self::UdpUnconfirmed,
        Self::ClosedOriginal,
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
            Self::UdpUnconfirmed => "udp-unconfirmed",
            Self::ClosedOriginal => "closed-client",
        }
    }

    /// Whether the connection counts as active (IPVS: established TCP; all else, and all UDP, is inactive).
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Established)
    }
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

/// What a segment says that may bring its connection to another state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its flags.
    pub flags: u8,
    /// Sequence number, host byte order.
    pub sequence: u32,
    /// Acknowledgement number, host byte order.
    pub acknowledgement: u32,
    /// Whether it carries data.
    pub has_data: bool,
}

/// The state after a client's segment. `sequence` is that of the real server's SYN|ACK (host order), while the handshake
/// is under way.
///
/// A SYN changes nothing: on a connection that lives anybody can have sent it in the client's name, and the real server's
/// answer tells. Nor does what no client sends (SYN with FIN or RST), nor a reset of a handshake: with a wrong number the real
/// server does not believe it, and an entry of a handshake that was given up is displaced, or idle, soon enough.
#[inline(always)]
#[must_use]
pub const fn next_original(state: u8, sequence: u32, segment: Segment) -> u8 {
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
        if flags & flags::ACK == 0 || !completes_handshake(segment.acknowledgement, sequence) {
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
    if segment.has_data {
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

/// The state after a real server's segment. `sequence` as for [`next_original`].
#[inline(always)]
#[must_use]
pub const fn next_reply(state: u8, sequence: u32, segment: Segment) -> u8 {
    const ESTABLISHED: u8 = State::Established as u8;
    const FIN_ORIGINAL: u8 = State::FinOriginal as u8;
    let flags = segment.flags;
    if flags & flags::RST != 0 {
        // After its SYN|ACK the real server also answers a wrong acknowledgement with a reset, and goes on waiting for
        // the right one (RFC 9293 section 3.10.7.4): only a reset that continues its own sequence ends the handshake.
        let continues = segment.sequence == sequence.wrapping_add(1);
        return if state == State::SynReceived as u8 && !continues {
            state
        } else {
            State::Closed as u8
        };
    }
    if flags & flags::SYN != 0 {
        // Sent again where its number is known; else the real server has begun a new connection.
        let is_known = segment.sequence == sequence && state != State::SynSent as u8;
        return if is_known && state < State::Closing as u8 {
            state
        } else {
            State::SynReceived as u8
        };
    }
    if flags & flags::FIN != 0 {
        return match state {
            ESTABLISHED => State::FinReply as u8,
            FIN_ORIGINAL => State::Closing as u8,
            _ => state,
        };
    }
    state
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

/// Whether a SYN on a connection in `state` opens a new one: both sides have said that the old one is over, so the
/// client has begun anew on the same port and must not wait for a timeout.
#[inline(always)]
#[must_use]
pub const fn may_be_reused(state: u8) -> bool {
    state == State::Closing as u8 || state == State::Closed as u8
}

/// Whether a segment with these flags asks for a new connection.
#[inline(always)]
#[must_use]
pub const fn opens(flags: u8) -> bool {
    flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
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
    use State::{
        Closed, ClosedOriginal, Closing, Established, FinOriginal, FinReply, SynReceived, SynSent,
    };

    const TCP_STATES: [State; 8] = [
        SynSent,
        SynReceived,
        Established,
        FinOriginal,
        FinReply,
        Closing,
        Closed,
        ClosedOriginal,
    ];
    /// Sequence number of the SYN|ACK.
    const ISN: u32 = 9000;

    const fn segment(flags: u8) -> Segment {
        Segment {
            flags,
            sequence: 1001,
            acknowledgement: 9001,
            has_data: false,
        }
    }

    fn after_original(segment: Segment) -> [State; 8] {
        TCP_STATES.map(|state| {
            State::from_number(next_original(state as u8, ISN, segment)).expect("a state")
        })
    }

    fn after_reply(segment: Segment) -> [State; 8] {
        TCP_STATES.map(|state| {
            State::from_number(next_reply(state as u8, ISN, segment)).expect("a state")
        })
    }

    #[test]
    fn every_transition_by_a_client() {
        use flags::{ACK, FIN, RST, SYN};
        for flags in [SYN, SYN | ACK, SYN | FIN, SYN | RST, SYN | RST | ACK] {
            assert_eq!(after_original(segment(flags)), TCP_STATES, "{flags:x}");
        }
        assert_eq!(
            after_original(segment(ACK)),
            [
                SynSent,
                Established,
                Established,
                FinOriginal,
                FinReply,
                Closing,
                Closed,
                ClosedOriginal
            ]
        );
        let wrong = Segment {
            acknowledgement: 1,
            ..segment(ACK)
        };
        assert_eq!(after_original(wrong), TCP_STATES);
        assert_eq!(after_original(segment(0)), TCP_STATES);
        assert_eq!(
            after_original(segment(FIN | ACK)),
            [
                SynSent,
                FinOriginal,
                FinOriginal,
                FinOriginal,
                Closing,
                Closing,
                Closed,
                ClosedOriginal
            ]
        );
        assert_eq!(
            after_original(segment(RST)),
            [
                SynSent,
                SynReceived,
                ClosedOriginal,
                ClosedOriginal,
                ClosedOriginal,
                Closing,
                Closed,
                ClosedOriginal
            ]
        );
        let data = Segment {
            has_data: true,
            ..segment(ACK)
        };
        assert_eq!(
            after_original(data),
            [
                SynSent,
                Established,
                Established,
                Established,
                FinReply,
                FinReply,
                Closed,
                ClosedOriginal
            ]
        );
    }

    #[test]
    fn every_transition_by_a_real_server() {
        use flags::{ACK, FIN, RST, SYN};
        for flags in [ACK, 0] {
            for has_data in [false, true] {
                let segment = Segment {
                    has_data,
                    ..segment(flags)
                };
                assert_eq!(after_reply(segment), TCP_STATES, "{flags:x}");
            }
        }
        let again = Segment {
            sequence: ISN,
            ..segment(SYN | ACK)
        };
        assert_eq!(
            after_reply(again),
            [
                SynReceived,
                SynReceived,
                Established,
                FinOriginal,
                FinReply,
                SynReceived,
                SynReceived,
                SynReceived
            ]
        );
        assert_eq!(after_reply(segment(SYN | ACK)), [SynReceived; 8]);
        assert_eq!(
            after_reply(segment(FIN | ACK)),
            [
                SynSent,
                SynReceived,
                FinReply,
                Closing,
                FinReply,
                Closing,
                Closed,
                ClosedOriginal
            ]
        );
        let mut reset = [Closed; 8];
        let continuing = Segment {
            sequence: ISN + 1,
            ..segment(RST)
        };
        assert_eq!(after_reply(continuing), reset);
        reset[1] = SynReceived;
        assert_eq!(after_reply(segment(RST | ACK)), reset);
    }

    #[test]
    fn what_is_steady_stays_as_it_is() {
        let is_udp = |state: State| {
            matches!(
                state,
                State::Udp | State::UdpUnreplied | State::UdpUnconfirmed
            )
        };
        for state in State::ALL {
            for direction in [direction::ORIGINAL, direction::REPLY] {
                if !is_steady(state as u8, direction) {
                    continue;
                }
                for has_data in [false, true] {
                    let segment = Segment {
                        has_data,
                        ..segment(flags::ACK)
                    };
                    let next = match (is_udp(state), direction) {
                        (true, _) => next_udp(state as u8, direction),
                        (false, direction::ORIGINAL) => next_original(state as u8, ISN, segment),
                        (false, _) => next_reply(state as u8, ISN, segment),
                    };
                    assert_eq!(next, state as u8, "{state:?} {direction}");
                }
                assert!(!is_reset(state as u8), "{state:?} {direction}");
            }
        }
    }

    #[test]
    fn a_udp_client_is_assured_by_its_second_datagram_after_an_answer() {
        use State::{Udp, UdpUnconfirmed, UdpUnreplied};
        for (state, original, reply) in [
            (UdpUnreplied, UdpUnreplied, UdpUnconfirmed),
            (UdpUnconfirmed, Udp, UdpUnconfirmed),
            (Udp, Udp, Udp),
        ] {
            assert_eq!(next_udp(state as u8, direction::ORIGINAL), original as u8);
            assert_eq!(next_udp(state as u8, direction::REPLY), reply as u8);
        }
    }

    #[test]
    fn only_what_both_sides_have_ended_gives_its_ports_to_a_new_connection() {
        let reusable: Vec<_> = State::ALL
            .into_iter()
            .filter(|state| may_be_reused(*state as u8))
            .collect();
        assert_eq!(reusable, [Closing, Closed]);
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
        assert_eq!(State::from_number(12), None);
    }
}
