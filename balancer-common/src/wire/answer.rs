//! Headers written from nothing: answers that leave in the virtual service's name.

use super::{
    Ethernet, IpHeader, Ipv4, Ipv6, Tcp,
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
pub trait AnswerHeader: IpHeader {
    /// IP protocol number of the family's ICMP.
    const ICMP: u8;
    /// ICMP type and code of "port unreachable" (RFC 792, RFC 4443 section 3.1).
    const PORT_UNREACHABLE: [u8; 2];
    /// Whether the ICMP checksum covers the pseudo header (RFC 4443 section 2.3).
    const ICMP_COVERS_ADDRESSES: bool;
    /// Longest header in bytes.
    const LONGEST: usize;

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
    const ICMP: u8 = 1;
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    const ICMP_COVERS_ADDRESSES: bool = false;
    const LONGEST: usize = 60;

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
    const ICMP: u8 = 58;
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];
    const ICMP_COVERS_ADDRESSES: bool = true;
    const LONGEST: usize = 40;

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
    /// Length in bytes with options, as the header states it.
    #[inline(always)]
    #[must_use]
    pub const fn header_length(&self) -> usize {
        (self.data_offset >> 4) as usize * 4
    }

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

/// The header of an ICMP error of either family (RFC 792, RFC 4443 section 3.1).
///
/// ```text
///   type 8 | code 8 | checksum 16
///   unused 32
///   the packet that the error is about
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IcmpError {
    kind: [u8; 2],
    checksum: [u8; 2],
    unused: [u8; 4],
}

impl IcmpError {
    /// Length in bytes.
    pub const LENGTH: usize = size_of::<Self>();

    /// Writes "port unreachable" about a packet of `key`, of which `length` bytes follow whose sum is `quoted`.
    #[inline(always)]
    pub fn write_port_unreachable<H: AnswerHeader>(
        &mut self,
        key: &FlowKey<H::Address>,
        length: usize,
        quoted: u64,
    ) {
        let covered = if H::ICMP_COVERS_ADDRESSES {
            pseudo_header(key, H::ICMP, Self::LENGTH + length)
        } else {
            Sum::new()
        };
        let kind = H::PORT_UNREACHABLE;
        let sum = covered.number(u16::from_be_bytes(kind)).add(quoted);
        *self = Self {
            kind,
            checksum: sum.checksum().to_ne_bytes(),
            unused: [0; 4],
        };
    }
}

const _: () = assert!(align_of::<IcmpError>() == 1 && IcmpError::LENGTH == 8);

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
        assert_eq!((tcp.header_length(), tcp.window), (20, [0; 2]));
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
