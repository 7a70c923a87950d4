//! A connection, and what its packets make of it.

use std::net::IpAddr;

use balancer_common::tcp::State;

/// Bits of the TCP flags.
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;
/// See [`FIN`].
pub const ACK: u8 = 16;

/// What tells a flow of packets: one direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Destination address and port.
    pub destination: (IpAddr, u16),
    /// Protocol number.
    pub protocol: u8,
}

/// From the client.
pub const ORIGINAL: usize = 0;
/// From the real server.
pub const REPLY: usize = 1;

/// A connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Which of all that there ever were.
    pub number: u64,
    /// The flow of each direction.
    pub flows: [Flow; 2],
    /// Real id.
    pub real: usize,
    /// Where it stands.
    pub state: State,
    /// When each direction was last heard.
    pub seen: [u64; 2],
    /// The sequence number of the real server's SYN|ACK, or what acknowledges the client's FIN.
    pub kept: u32,
    /// Which sides went on after a reset.
    pub heard: [bool; 2],
    /// Whether the operator has ended it.
    pub is_ended: bool,
}

/// A TCP segment; of a datagram all is zero.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Flags.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Bytes of data.
    pub data: u32,
}

impl Segment {
    /// Whether one of these flags is set.
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// What acknowledges all of it and a FIN behind it.
    const fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.data).wrapping_add(1)
    }
}

/// Whether an acknowledgement answers a SYN|ACK with this number, or up to 64 kB behind it.
pub const fn completes(acknowledgement: u32, number: u32) -> bool {
    acknowledgement.wrapping_sub(number).wrapping_sub(1) < 0x1_0000
}

impl Connection {
    /// For how many jiffies it may be silent.
    pub const fn patience(&self) -> u64 {
        match self.state {
            State::SynSent | State::SynReceived | State::PickedUp => 60_000,
            State::Established => 900_000,
            State::Udp | State::UdpUnconfirmed => 300_000,
            State::UdpUnreplied => 30_000,
            _ => 120_000,
        }
    }

    /// Whether it has been silent for too long, in both directions.
    pub fn is_idle(&self, now: u64) -> bool {
        let patience = self.patience();
        self.seen.iter().all(|seen| now - seen > patience)
    }

    /// Connections that it counts to its real server: active, inactive.
    pub const fn load(&self) -> [u64; 2] {
        match self.state {
            State::Established => [1, 0],
            State::TimeWait | State::Closed => [0, 0],
            _ => [0, 1],
        }
    }

    /// Whether both sides have shown that they are in it, and neither has ended it.
    pub const fn is_proven(&self) -> bool {
        matches!(
            self.state,
            State::Established | State::FinOriginal | State::FinReply | State::Closing | State::Udp
        )
    }

    /// Takes a packet of a direction.
    pub fn advance(&mut self, direction: usize, segment: Segment) {
        let before = self.state;
        let after = match (self.flows[ORIGINAL].protocol, direction) {
            (17, ORIGINAL) if before == State::UdpUnconfirmed => State::Udp,
            (17, REPLY) if before == State::UdpUnreplied => State::UdpUnconfirmed,
            (17, _) => before,
            (_, ORIGINAL) => self.after_client(segment),
            _ => self.after_server(segment),
        };
        if after != before {
            self.state = after;
            self.heard = [false; 2];
        } else if matches!(before, State::Closed | State::ClosedOriginal) && !segment.has(RST | SYN)
        {
            self.heard[direction] = true;
            if self.heard == [true; 2] {
                self.state = State::Established;
                self.heard = [false; 2];
            }
        }
        self.keep(before, direction, segment);
    }

    fn after_client(&self, segment: Segment) -> State {
        let state = self.state;
        if segment.has(SYN) {
            return state;
        }
        if segment.has(RST) {
            return match state {
                State::Established | State::FinOriginal | State::FinReply => State::ClosedOriginal,
                _ => state,
            };
        }
        let fin = segment.has(FIN);
        // Data far from the FIN shows that this was not the client's.
        let goes_on = segment.data > 0 && self.kept.wrapping_sub(segment.end()) >= 1 << 20;
        match state {
            State::SynReceived
                if segment.has(ACK) && completes(segment.acknowledgement, self.kept) =>
            {
                if fin {
                    State::FinOriginal
                } else {
                    State::Established
                }
            }
            State::Established if fin => State::FinOriginal,
            State::FinReply if fin => State::Closing,
            State::FinOriginal if !fin && goes_on => State::Established,
            State::Closing if !fin && goes_on => State::FinReply,
            _ => state,
        }
    }

    fn after_server(&self, segment: Segment) -> State {
        let state = self.state;
        if segment.has(RST) {
            let is_next = segment.sequence == self.kept.wrapping_add(1);
            return if state == State::SynReceived && !is_next {
                state
            } else {
                State::Closed
            };
        }
        if segment.has(SYN) {
            let is_again = segment.sequence == self.kept;
            return match state {
                State::FinOriginal => state,
                State::SynReceived | State::Established | State::FinReply if is_again => state,
                _ => State::SynReceived,
            };
        }
        let fin = segment.has(FIN);
        let answers_fin = segment.has(ACK) && segment.acknowledgement == self.kept;
        match state {
            State::PickedUp | State::Established if fin => State::FinReply,
            State::PickedUp => State::Established,
            State::FinOriginal if fin && answers_fin => State::TimeWait,
            State::FinOriginal if fin => State::Closing,
            State::Closing if answers_fin => State::TimeWait,
            _ => state,
        }
    }

    /// Keeps the number that later segments are compared with.
    fn keep(&mut self, before: State, direction: usize, segment: Segment) {
        if direction == ORIGINAL {
            let is_fin = segment.flags & (FIN | SYN | RST) == FIN;
            if is_fin
                && before != State::SynReceived
                && matches!(self.state, State::FinOriginal | State::Closing)
            {
                self.kept = segment.end();
            }
        } else if self.state == State::SynReceived {
            if segment.has(SYN) {
                self.kept = segment.sequence;
            } else if segment.data > 0 {
                self.kept = segment.sequence.wrapping_sub(1);
            }
        }
    }
}
