//! Headers written from nothing: answers that leave in the virtual service's name.

use super::{
    Ethernet, IpHeader as _, Ipv4, Ipv6, Tcp,
    icmp::{Icmp, IcmpError},
    ip::{DONT_FRAGMENT, bytes},
};
use crate::{
    addr::{Address, TCP},
    checksum::Sum,
    conntrack::{FlowKey, Ports},
};

/// Hops that an answer may take.
const HOPS: u8 = 64;

impl Ethernet {
    /// Sends the frame back where it came from.
    #[inline(always)]
    pub const fn turn_back(&mut self) {
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l]] = self.macs;
        self.macs = [[g, h, i, j], [k, l, a, b], [c, d, e, f]];
    }

    /// Whether the source is a group address, which no sender has.
    #[inline(always)]
    #[must_use]
    pub const fn is_from_group(&self) -> bool {
        self.macs[1][2] & 1 != 0
    }
}

/// An IP header that answers can be written with.
pub trait AnswerHeader: Icmp {
    /// Writes a whole header without options, for `payload` bytes behind it.
    fn write(
        &mut self,
        source: Self::Address,
        destination: Self::Address,
        protocol: u8,
        payload: usize,
    );
}

impl AnswerHeader for Ipv4 {
    #[inline(always)]
    fn write(&mut self, source: u32, destination: u32, protocol: u8, payload: usize) {
        let length = (Self::LENGTH + payload) as u16;
        let sum = Sum::new()
            .number(0x4500)
            .number(length)
            .number(u16::from_be(DONT_FRAGMENT))
            .number(u16::from_be_bytes([HOPS, protocol]))
            .add(source.word_sum() + destination.word_sum());
        *self = Self {
            version_ihl: 0x45,
            tos: 0,
            total_length: length.to_be_bytes(),
            // Of no meaning in a packet that is not fragmented (RFC 6864).
            identification: [0; 2],
            fragment: DONT_FRAGMENT.to_ne_bytes(),
            ttl: HOPS,
            protocol,
            checksum: sum.checksum().to_ne_bytes(),
            source: source.to_ne_bytes(),
            destination: destination.to_ne_bytes(),
        };
    }
}

impl AnswerHeader for Ipv6 {
    #[inline(always)]
    fn write(&mut self, source: [u32; 4], destination: [u32; 4], protocol: u8, payload: usize) {
        *self = Self {
            version_class_label: [0x60, 0, 0, 0],
            payload_length: (payload as u16).to_be_bytes(),
            next_header: protocol,
            hop_limit: HOPS,
            source: bytes(source),
            destination: bytes(destination),
        };
    }
}

/// The sum of the pseudo header of a packet between the two addresses of `key` (RFC 9293 section 3.1, RFC 8200 section
/// 8.1): which of them is the source makes no difference.
#[inline(always)]
fn pseudo_header<A: Address>(key: &FlowKey<A>, protocol: u8, length: usize) -> Sum {
    Sum::new()
        .add(key.source.word_sum() + key.destination.word_sum())
        .number(u16::from(protocol))
        .number(length as u16)
}

impl Tcp {
    /// Writes a whole header without options or window: the answer to a segment of `key`, with these numbers (host
    /// order) and flags.
    #[inline(always)]
    pub fn write_answer<A: Address>(
        &mut self,
        key: &FlowKey<A>,
        sequence: u32,
        acknowledgement: u32,
        flags: u8,
    ) {
        const WORDS: u8 = (size_of::<Tcp>() / 4) as u8;
        let sum = pseudo_header(key, TCP, size_of::<Self>())
            .add(u64::from(key.ports.0))
            .add(u64::from(sequence.to_be()) + u64::from(acknowledgement.to_be()))
            .number(u16::from_be_bytes([WORDS << 4, flags]));
        *self = Self {
            ports: Ports::new(key.ports.destination(), key.ports.source())
                .0
                .to_ne_bytes(),
            sequence: sequence.to_be_bytes(),
            acknowledgement: acknowledgement.to_be_bytes(),
            data_offset: WORDS << 4,
            flags,
            window: [0; 2],
            checksum: sum.checksum().to_ne_bytes(),
            urgent: [0; 2],
        };
    }
}

impl IcmpError {
    /// Writes an error of `kind` (type and code) about a packet, whose header is `rest`, from `addresses`' destination to its source, or the
    /// other way round. Of the packet `length` bytes follow, whose sum is `quoted`.
    #[inline(always)]
    pub fn write<H: AnswerHeader>(
        &mut self,
        kind: [u8; 2],
        rest: [u8; 4],
        addresses: &FlowKey<H::Address>,
        length: usize,
        quoted: u64,
    ) {
        let covered = if H::COVERS_ADDRESSES {
            pseudo_header(addresses, H::PROTOCOL, Self::LENGTH + length)
        } else {
            Sum::new()
        };
        let sum = covered
            .number(u16::from_be_bytes(kind))
            .add(u64::from(u32::from_ne_bytes(rest)))
            .add(quoted);
        *self = Self {
            kind,
            checksum: sum.checksum().to_ne_bytes(),
            rest,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::flags::{ACK, RST};

    fn key() -> FlowKey<u32> {
        FlowKey {
            source: u32::from_ne_bytes([198, 51, 100, 10]),
            destination: u32::from_ne_bytes([192, 0, 2, 80]),
            ports: Ports::new(40_000_u16.to_be(), 80_u16.to_be()),
            protocol: 6,
        }
    }

    #[test]
    fn resets_have_the_checksums_of_the_packet_cases() {
        let mut tcp = Tcp {
            ports: [0xa5; 4],
            sequence: [0xa5; 4],
            acknowledgement: [0xa5; 4],
            data_offset: 0xa5,
            flags: 0xa5,
            window: [0xa5; 2],
            checksum: [0xa5; 2],
            urgent: [0xa5; 2],
        };
        // Case 15, then case 18.
        tcp.write_answer(&key(), 7000, 0, RST);
        assert_eq!(u16::from_be_bytes(tcp.checksum), 0x0b6a);
        tcp.write_answer(&key(), 0, 1001, RST | ACK);
        assert_eq!(u16::from_be_bytes(tcp.checksum), 0x22c9);
        assert_eq!((tcp.stated_length(), tcp.window), (20, [0; 2]));
    }

    #[test]
    fn frames_turn_back() {
        // To 00-01-02-03-04-05, from 01-07-08-09-0a-0b, which is a group.
        let mut ethernet = Ethernet {
            macs: [[0, 1, 2, 3], [4, 5, 1, 7], [8, 9, 10, 11]],
            ethertype: [8, 0],
        };
        assert!(ethernet.is_from_group());
        ethernet.turn_back();
        assert_eq!(ethernet.macs, [[1, 7, 8, 9], [10, 11, 0, 1], [2, 3, 4, 5]]);
        assert!(!ethernet.is_from_group());
    }
}
