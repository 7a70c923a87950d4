//! The states of a connection.

/// State of a connection. The order matters: what comes before [`State::Established`] is half-open.
///
/// ```text
///            SYN|ACK              ACK                 FIN                           FIN           ACK of the client's FIN
///  SynSent ──────────▶ SynReceived ───▶ Established ──────▶ FinOriginal / FinReply ──────▶ Closing ─────────────▶ TimeWait
///                          ▲                 │ ▲
///                          └──── SYN|ACK ────┘ └── data after the client's FIN, both sides after a reset
///
///  lives ─ RST of the client ─▶ ClosedOriginal            UdpUnreplied ─answer─▶ UdpUnconfirmed ─datagram─▶ Udp
///  any ── RST of the real server ──▶ Closed
///
///  PickedUp ─ the real server goes on with it ──▶ Established, FinReply
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
    /// Both sides have closed, the client perhaps in another's words: the real server has not acknowledged its FIN.
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
    /// Both sides have closed, and the real server has acknowledged the client's FIN.
    TimeWait = 12,
    /// A client's segment of a connection that nobody here has seen begin: another balancer may have given it to the same real server
    /// by the same hash, or anybody may have sent it in the client's name. The real server tells.
    PickedUp = 13,
}

impl State {
    /// All states, in numeric order.
    pub const ALL: [Self; 13] = [
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
        Self::TimeWait,
        Self::PickedUp,
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
            Self::TimeWait => "time-wait",
            Self::PickedUp => "picked-up",
        }
    }

    /// Whether the connection counts as active (IPVS: established TCP; all else, and all UDP, is inactive).
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Established)
    }
}
