//! Connections: the rows of the connection table.
//!
//! A connection is two rows, one per direction, that are inserted and deleted as a pair. Each row holds
//! everything its packets need: the translation and the way out.

use crate::{nat::Translation, plain_data, tcp::State};

/// One direction's 5-tuple, in network byte order: the key of the connection table.
///
/// Aligned to 8 bytes: LLVM joins neighbouring stores, and the verifier wants them aligned on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C, align(8))]
pub struct FlowKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number, 6 or 17, in host byte order. A whole word: the key has no padding, which the kernel
    /// would compare too, and no bytes that a compiler might gather from an odd place of the BPF stack.
    pub protocol: u32,
}

/// Key of an IPv4 row, 16 bytes.
pub type FlowKeyV4 = FlowKey<u32>;
/// Key of an IPv6 row, 40 bytes.
pub type FlowKeyV6 = FlowKey<[u32; 4]>;

const _: () = assert!(size_of::<FlowKeyV4>() == 16);
const _: () = assert!(size_of::<FlowKeyV6>() == 40);
plain_data!(FlowKeyV4, FlowKeyV6);

/// The way out of the machine for one direction of a connection, as the kernel's FIB gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Egress {
    /// Interface index.
    pub ifindex: u32,
    /// The route generation at which this was looked up; 0 = never. See [`crate::settings::Interface`].
    pub generation: u32,
    /// The first 12 bytes of the frame as it leaves: MAC address of the next hop, then of the interface.
    pub macs: [u32; 3],
    /// Largest IP packet in bytes that the way carries.
    pub mtu: u16,
    /// Always zero.
    pub zero: u16,
}

const _: () = assert!(size_of::<Egress>() == 24);
plain_data!(Egress);

impl Egress {
    /// Joins the MAC addresses of the next hop and of the interface to the start of a frame.
    #[must_use]
    pub const fn join_macs(destination: [u8; 6], source: [u8; 6]) -> [u32; 3] {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (destination, source);
        [
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
        ]
    }
}

/// Which way a row's packets travel.
pub mod direction {
    /// From the client to the real server.
    pub const ORIGINAL: u8 = 0;
    /// From the real server to the client.
    pub const REPLY: u8 = 1;
}

/// A row of the connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ConntrackEntry<A> {
    /// What this direction's packets become.
    pub translation: Translation<A>,
    /// Where they leave; looked up again when its generation is not the current one.
    pub egress: Egress,
    /// Low 32 bits of the kernel's jiffies at the last packet of this direction, refreshed at most every
    /// [`REFRESH_JIFFIES`].
    pub last_seen: u32,
    /// Index of the real server in `REALS`.
    pub real: u32,
    /// [`State`] as a number; both rows of a pair carry the same.
    pub state: u8,
    /// [`direction`] as a number.
    pub direction: u8,
    /// Always zero.
    pub zero: u16,
    /// Always zero.
    pub reserved: [u32; 3],
}

/// An IPv4 row. With the kernel's 48 bytes of row header and the 16-byte key in front, a 64-byte value
/// makes each row two whole cache lines.
pub type ConntrackEntryV4 = ConntrackEntry<u32>;
/// An IPv6 row.
pub type ConntrackEntryV6 = ConntrackEntry<[u32; 4]>;

const _: () = assert!(size_of::<ConntrackEntryV4>() == 64);
const _: () = assert!(size_of::<ConntrackEntryV6>() == 88);
plain_data!(ConntrackEntryV4, ConntrackEntryV6);

/// How many jiffies may pass before a packet writes `last_seen` again: a hot row's cache line stays clean,
/// and no timeout is shorter than seconds.
pub const REFRESH_JIFFIES: u32 = 64;

impl<A> ConntrackEntry<A> {
    /// Whether the row has been idle for longer than its state's timeout at time `now` (jiffies, low 32 bits).
    #[inline(always)]
    pub fn is_expired(&self, now: u32, timeouts: &Timeouts) -> bool {
        is_older(now, self.last_seen, timeouts.of(self.state))
    }
}

/// Whether more than `timeout` jiffies have passed between `then` and `now`, low 32 bits of a clock that wraps. A
/// `then` that lies a little ahead was written after `now` was read.
#[inline(always)]
#[must_use]
pub const fn is_older(now: u32, then: u32, timeout: u32) -> bool {
    const AHEAD: u32 = u32::MAX - 1024;
    let idle = now.wrapping_sub(then);
    idle > timeout && idle < AHEAD
}

/// Idle timeouts in jiffies, indexed by what a row's state waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Timeouts {
    /// TCP, handshake complete.
    pub established: u32,
    /// TCP, a FIN or RST was seen.
    pub closing: u32,
    /// UDP, answered.
    pub udp: u32,
    /// UDP, never answered.
    pub udp_unreplied: u32,
    /// TCP, handshake not complete (half-open records).
    pub half_open: u32,
}

impl Timeouts {
    /// The timeout for a [`State`] given as a number.
    #[inline(always)]
    #[must_use]
    pub const fn of(&self, state: u8) -> u32 {
        if state == State::Established as u8 {
            self.established
        } else if state == State::Udp as u8 {
            self.udp
        } else if state == State::UdpUnreplied as u8 {
            self.udp_unreplied
        } else if state < State::Established as u8 {
            self.half_open
        } else {
            self.closing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        established: 900,
        closing: 120,
        udp: 300,
        udp_unreplied: 30,
        half_open: 60,
    };

    #[test]
    fn a_row_expires_after_its_states_timeout_and_not_before() {
        for (state, timeout) in [
            (State::SynSent, 60),
            (State::SynReceived, 60),
            (State::Established, 900),
            (State::Udp, 300),
            (State::UdpUnreplied, 30),
            (State::FinOriginal, 120),
            (State::FinReply, 120),
            (State::Closing, 120),
            (State::Closed, 120),
        ] {
            let last_seen = u32::MAX - 10; // the clock wraps in between
            let row = ConntrackEntryV4 {
                last_seen,
                state: state as u8,
                ..Default::default()
            };
            assert!(
                !row.is_expired(last_seen.wrapping_add(timeout), &TIMEOUTS),
                "{state:?}"
            );
            assert!(
                row.is_expired(last_seen.wrapping_add(timeout + 1), &TIMEOUTS),
                "{state:?}"
            );
        }
    }

    #[test]
    fn a_row_does_not_come_back_to_life_when_half_the_clock_has_passed() {
        for idle in [1_u32 << 31, (1 << 31) + 5, u32::MAX - 2000] {
            let row = ConntrackEntryV4 {
                state: State::Established as u8,
                ..Default::default()
            };
            assert!(row.is_expired(idle, &TIMEOUTS), "{idle}");
        }
    }

    #[test]
    fn a_row_written_just_after_the_clock_was_read_is_not_expired() {
        let row = ConntrackEntryV4 {
            last_seen: 5,
            state: State::Established as u8,
            ..Default::default()
        };
        assert!(!row.is_expired(4, &TIMEOUTS));
    }
}
