//! The IP headers of both families.

use super::extension::{Extension, extension_kind};
use crate::{addr::Address, checksum::Delta};

/// What the pipeline asks of an IP header of either family.
pub trait IpHeader: Sized {
    /// The family's address.
    type Address: Address;
    /// `AF_INET` or `AF_INET6`.
    const FAMILY: u8;
    /// Length in bytes without options or extension headers.
    const LENGTH: usize = size_of::<Self>();

    /// Whether UDP over this family must carry a checksum (RFC 8200 section 8.1).
    const CHECKSUM_IS_REQUIRED: bool;

    /// Length in bytes with options, or `None` where the header contradicts itself.
    fn header_length(&self) -> Option<usize>;
    /// Length in bytes of the packet, header included, as the header states it (host order).
    fn packet_length(&self) -> usize;
    /// Length in bytes of what follows the header, as the header states it. Read anew at each call: were it made of
    /// numbers that the caller goes on with, each comparison would split the verifier's ways.
    fn payload_length(&self) -> usize;
    /// Whether the header has options. Read anew at each call, too.
    fn has_options(&self) -> bool;
    /// Number of the protocol that follows the fixed header.
    fn protocol(&self) -> u8;
    /// Whether the packet is a fragment.
    fn is_fragment(&self) -> bool;
    /// Whether the packet is a fragment without the beginning of its datagram; of IPv6 the fragment header says it.
    fn is_later_fragment(&self) -> bool;
    /// Whether the fixed header is followed by extension headers that may be looked through.
    fn has_extensions(&self) -> bool;
    /// Whether routers may not fragment the packet.
    fn must_not_fragment(&self) -> bool;
    /// Source address.
    fn source(&self) -> Self::Address;
    /// Destination address.
    fn destination(&self) -> Self::Address;
    /// Whether both addresses may be used as keys (see `addr::Addr`).
    fn addresses_are_usable(&self) -> bool;
    /// Type of service in the first byte (IPv4) or flow information (IPv6, network byte order), as a route look-up
    /// takes them.
    fn flow_information(&self) -> u32;
    /// Remaining hops.
    fn hops(&self) -> u8;
    /// Takes one hop away and keeps the checksum right. The caller has seen that `hops` is above 1.
    fn count_hop(&mut self);
    /// Replaces the source address and brings the header checksum along, where the family has one.
    fn replace_source(&mut self, source: Self::Address, delta: Delta);
    /// Replaces the destination address and brings the header checksum along, where the family has one.
    fn replace_destination(&mut self, destination: Self::Address, delta: Delta);
}

/// Reads a field that may have been read before, as if it had not.
#[inline(always)]
fn read_anew<T: Copy>(field: &T) -> T {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::read_volatile(field) }
}

/// The IPv4 header (RFC 791 section 3.1).
///
/// ```text
///   version 4 | IHL 4 | TOS 8 | total length 16
///   identification 16         | flags 3 | fragment offset 13
///   TTL 8 | protocol 8        | header checksum 16
///   source address 32
///   destination address 32
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ipv4 {
    pub(super) version_ihl: u8,
    pub(super) tos: u8,
    pub(super) total_length: [u8; 2],
    pub(super) identification: [u8; 2],
    pub(super) fragment: [u8; 2],
    pub(super) ttl: u8,
    pub(super) protocol: u8,
    pub(super) checksum: [u8; 2],
    pub(super) source: [u8; 4],
    pub(super) destination: [u8; 4],
}

pub(super) const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
const MORE_FRAGMENTS_OR_OFFSET: u16 = 0x3fff_u16.to_be();
const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

impl Ipv4 {
    /// The identification, as it lies in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn identification(&self) -> u16 {
        u16::from_ne_bytes(self.identification)
    }

    /// A fragment's place in its datagram, in units of eight bytes.
    #[inline(always)]
    #[must_use]
    pub const fn fragment_offset(&self) -> u16 {
        u16::from_be(u16::from_ne_bytes(self.fragment) & FRAGMENT_OFFSET)
    }
}

impl IpHeader for Ipv4 {
    type Address = u32;
    const FAMILY: u8 = 2;
    const CHECKSUM_IS_REQUIRED: bool = false;

    #[inline(always)]
    fn header_length(&self) -> Option<usize> {
        // 0x45..=0x4f: version 4, at least five words.
        if self.version_ihl >> 4 != 4 || self.version_ihl < 0x45 {
            return None;
        }
        Some((self.version_ihl & 0x0f) as usize * 4)
    }

    #[inline(always)]
    fn packet_length(&self) -> usize {
        u16::from_be_bytes(self.total_length) as usize
    }

    #[inline(always)]
    fn payload_length(&self) -> usize {
        let header = (read_anew(&self.version_ihl) & 0x0f) as usize * 4;
        (u16::from_be_bytes(read_anew(&self.total_length)) as usize).saturating_sub(header)
    }

    #[inline(always)]
    fn has_options(&self) -> bool {
        read_anew(&self.version_ihl) != 0x45
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        u16::from_ne_bytes(self.fragment) & MORE_FRAGMENTS_OR_OFFSET != 0
    }

    #[inline(always)]
    fn is_later_fragment(&self) -> bool {
        u16::from_ne_bytes(self.fragment) & FRAGMENT_OFFSET != 0
    }

    #[inline(always)]
    fn has_extensions(&self) -> bool {
        false
    }

    #[inline(always)]
    fn must_not_fragment(&self) -> bool {
        u16::from_ne_bytes(self.fragment) & DONT_FRAGMENT != 0
    }

    #[inline(always)]
    fn source(&self) -> u32 {
        u32::from_ne_bytes(self.source)
    }

    #[inline(always)]
    fn destination(&self) -> u32 {
        u32::from_ne_bytes(self.destination)
    }

    #[inline(always)]
    fn addresses_are_usable(&self) -> bool {
        true
    }

    #[inline(always)]
    fn flow_information(&self) -> u32 {
        u32::from_ne_bytes([self.tos, 0, 0, 0])
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.ttl
    }

    #[inline(always)]
    fn count_hop(&mut self) {
        self.ttl -= 1;
        // The TTL is the high byte of its word: the checksum grows by 0x0100, with end-around carry. All ones become
        // zero, which a sender would have written (RFC 1624 section 3).
        let sum = u32::from(u16::from_be_bytes(self.checksum)) + 0x0100;
        self.checksum = ((sum + u32::from(sum >= 0xffff)) as u16).to_be_bytes();
    }

    #[inline(always)]
    fn replace_source(&mut self, source: u32, delta: Delta) {
        self.source = source.to_ne_bytes();
        self.checksum = delta.apply(u16::from_ne_bytes(self.checksum)).to_ne_bytes();
    }

    #[inline(always)]
    fn replace_destination(&mut self, destination: u32, delta: Delta) {
        self.destination = destination.to_ne_bytes();
        self.checksum = delta.apply(u16::from_ne_bytes(self.checksum)).to_ne_bytes();
    }
}

/// The IPv6 header (RFC 8200 section 3).
///
/// ```text
///   version 4 | traffic class 8 | flow label 20
///   payload length 16 | next header 8 | hop limit 8
///   source address 128
///   destination address 128
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ipv6 {
    pub(super) version_class_label: [u8; 4],
    pub(super) payload_length: [u8; 2],
    pub(super) next_header: u8,
    pub(super) hop_limit: u8,
    pub(super) source: [[u8; 4]; 4],
    pub(super) destination: [[u8; 4]; 4],
}

/// Four words of an IPv6 address.
#[inline(always)]
fn words(bytes: [[u8; 4]; 4]) -> [u32; 4] {
    [
        u32::from_ne_bytes(bytes[0]),
        u32::from_ne_bytes(bytes[1]),
        u32::from_ne_bytes(bytes[2]),
        u32::from_ne_bytes(bytes[3]),
    ]
}

/// The bytes of an IPv6 address's four words.
#[inline(always)]
pub(super) fn bytes(words: [u32; 4]) -> [[u8; 4]; 4] {
    [
        words[0].to_ne_bytes(),
        words[1].to_ne_bytes(),
        words[2].to_ne_bytes(),
        words[3].to_ne_bytes(),
    ]
}

impl IpHeader for Ipv6 {
    type Address = [u32; 4];
    const FAMILY: u8 = 10;
    const CHECKSUM_IS_REQUIRED: bool = true;

    #[inline(always)]
    fn header_length(&self) -> Option<usize> {
        if self.version_class_label[0] >> 4 != 6 {
            return None;
        }
        Some(Self::LENGTH)
    }

    #[inline(always)]
    fn packet_length(&self) -> usize {
        Self::LENGTH + u16::from_be_bytes(self.payload_length) as usize
    }

    #[inline(always)]
    fn payload_length(&self) -> usize {
        u16::from_be_bytes(read_anew(&self.payload_length)) as usize
    }

    #[inline(always)]
    fn has_options(&self) -> bool {
        false
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.next_header
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        extension_kind(self.next_header) as u32 == Extension::Fragment as u32
    }

    #[inline(always)]
    fn is_later_fragment(&self) -> bool {
        false
    }

    #[inline(always)]
    fn has_extensions(&self) -> bool {
        extension_kind(self.next_header) as u32 != Extension::None as u32
    }

    #[inline(always)]
    fn must_not_fragment(&self) -> bool {
        true
    }

    #[inline(always)]
    fn source(&self) -> [u32; 4] {
        words(self.source)
    }

    #[inline(always)]
    fn destination(&self) -> [u32; 4] {
        words(self.destination)
    }

    #[inline(always)]
    fn addresses_are_usable(&self) -> bool {
        !crate::addr::Addr(words(self.source)).is_v4()
            && !crate::addr::Addr(words(self.destination)).is_v4()
    }

    #[inline(always)]
    fn flow_information(&self) -> u32 {
        u32::from_ne_bytes(self.version_class_label) & 0x0fff_ffff_u32.to_be()
    }

    #[inline(always)]
    fn hops(&self) -> u8 {
        self.hop_limit
    }

    #[inline(always)]
    fn count_hop(&mut self) {
        self.hop_limit -= 1;
    }

    #[inline(always)]
    fn replace_source(&mut self, source: [u32; 4], _: Delta) {
        self.source = bytes(source);
    }

    #[inline(always)]
    fn replace_destination(&mut self, destination: [u32; 4], _: Delta) {
        self.destination = bytes(destination);
    }
}
