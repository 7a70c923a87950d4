//! Packet headers as they lie in a frame.
//!
//! Each struct is `repr(C)` with fields of single bytes, so that a reference to one is sound at any place in a
//! packet. Accessors take and give whole fields in network byte order, unless they say otherwise.

pub mod answer;

use crate::{
    addr::{Address, TCP, UDP},
    checksum::{Delta, DeltaSum},
    conntrack::Ports,
};

/// Ethertype of IPv4, network byte order.
pub const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
/// Ethertype of a VLAN tag (IEEE 802.1Q clause 9.5), network byte order.
pub const ETHERTYPE_VLAN: u16 = 0x8100_u16.to_be();
/// Ethertype of a service VLAN tag (IEEE 802.1ad), network byte order.
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8_u16.to_be();
/// Ethertype of IPv6, network byte order.
pub const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// The Ethernet header (IEEE 802.3 clause 3).
///
/// ```text
///   destination (6) | source (6) | ethertype (2)
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ethernet {
    macs: [[u8; 4]; 3],
    ethertype: [u8; 2],
}

impl Ethernet {
    /// Length in bytes.
    pub const LENGTH: usize = size_of::<Self>();

    /// The frame's first eight bytes, the first six of which are the receiver's MAC address.
    #[inline(always)]
    #[must_use]
    pub const fn start(&self) -> u64 {
        let [[a, b, c, d], [e, f, g, h], _] = self.macs;
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    /// Whether the frame is for many: a group address (broadcast, multicast).
    #[inline(always)]
    #[must_use]
    pub const fn is_to_group(&self) -> bool {
        self.macs[0][0] & 1 != 0
    }

    /// Writes both MAC addresses, given as the frame's first 12 bytes.
    #[inline(always)]
    pub const fn address(&mut self, macs: [u32; 3]) {
        self.macs = [
            macs[0].to_ne_bytes(),
            macs[1].to_ne_bytes(),
            macs[2].to_ne_bytes(),
        ];
    }

    /// What the frame carries.
    #[inline(always)]
    #[must_use]
    pub const fn ethertype(&self) -> u16 {
        u16::from_ne_bytes(self.ethertype)
    }
}

/// A VLAN tag behind the Ethernet header's addresses and the tag's own ethertype (IEEE 802.1Q clause 9.6).
///
/// ```text
///   priority 3 | drop eligible 1 | VLAN 12 | ethertype of what follows 16
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VlanTag {
    control: [u8; 2],
    ethertype: [u8; 2],
}

impl VlanTag {
    /// Length in bytes.
    pub const LENGTH: usize = size_of::<Self>();

    /// The VLAN's number, host byte order; 0 = none, the tag carries a priority only.
    #[inline(always)]
    #[must_use]
    pub const fn vlan(&self) -> u16 {
        u16::from_be_bytes(self.control) & 0x0fff
    }

    /// What follows the tag.
    #[inline(always)]
    #[must_use]
    pub const fn ethertype(&self) -> u16 {
        u16::from_ne_bytes(self.ethertype)
    }
}

/// A frame's start: its Ethernet header and the IP header `H` behind it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame<H> {
    /// The Ethernet header.
    pub ethernet: Ethernet,
    /// The IP header, without options.
    pub ip: H,
}

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
    version_ihl: u8,
    tos: u8,
    total_length: [u8; 2],
    identification: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
}

const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
const MORE_FRAGMENTS_OR_OFFSET: u16 = 0x3fff_u16.to_be();

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
    version_class_label: [u8; 4],
    payload_length: [u8; 2],
    next_header: u8,
    hop_limit: u8,
    source: [[u8; 4]; 4],
    destination: [[u8; 4]; 4],
}

/// Next header number of the fragment header (RFC 8200 section 4.5).
const IPV6_FRAGMENT: u8 = 44;

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
fn bytes(words: [u32; 4]) -> [[u8; 4]; 4] {
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
        self.next_header == IPV6_FRAGMENT
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

/// The difference that a replaced port makes, on top of that of the addresses.
#[inline(always)]
const fn replaced(old: u16, new: u16, delta: Delta) -> Delta {
    DeltaSum::from(delta).half(old, new).fold()
}

/// What the pipeline asks of a transport header.
pub trait L4Header: Sized {
    /// IP protocol number.
    const PROTOCOL: u8;
    /// Length in bytes without options.
    const LENGTH: usize = size_of::<Self>();

    /// Both ports, read as one word.
    fn ports(&self) -> Ports;
    /// The ports' four bytes.
    fn ports_field(&mut self) -> &mut [u8; 4];
    /// Brings the checksum along, if there is one.
    fn sum_up(&mut self, delta: Delta);

    /// Replaces the source port and brings the checksum along; `delta` is the difference that the addresses make.
    #[inline(always)]
    fn replace_source_port(&mut self, port: u16, delta: Delta) {
        self.sum_up(replaced(self.ports().source(), port, delta));
        let field = self.ports_field();
        [field[0], field[1]] = port.to_ne_bytes();
    }

    /// Replaces the destination port and brings the checksum along; `delta` is the difference that the addresses make.
    #[inline(always)]
    fn replace_destination_port(&mut self, port: u16, delta: Delta) {
        self.sum_up(replaced(self.ports().destination(), port, delta));
        let field = self.ports_field();
        [field[2], field[3]] = port.to_ne_bytes();
    }
}

/// The TCP header without options (RFC 9293 section 3.1).
///
/// ```text
///   source port 16 | destination port 16
///   sequence number 32
///   acknowledgement number 32
///   data offset 4 | reserved 4 | flags 8 | window 16
///   checksum 16 | urgent pointer 16
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Tcp {
    ports: [u8; 4],
    sequence: [u8; 4],
    acknowledgement: [u8; 4],
    data_offset: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}

impl Tcp {
    /// Length in bytes of the header with its options, as the header states it: 0 to 60.
    #[inline(always)]
    #[must_use]
    pub const fn stated_length(&self) -> usize {
        (self.data_offset >> 4) as usize * 4
    }

    /// The flag bits of [`crate::tcp::flags`].
    #[inline(always)]
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    /// Sequence number, host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn sequence(&self) -> u32 {
        u32::from_be_bytes(self.sequence)
    }

    /// Acknowledgement number, host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn acknowledgement(&self) -> u32 {
        u32::from_be_bytes(self.acknowledgement)
    }
}

impl L4Header for Tcp {
    const PROTOCOL: u8 = TCP;

    #[inline(always)]
    fn ports_field(&mut self) -> &mut [u8; 4] {
        &mut self.ports
    }

    #[inline(always)]
    fn ports(&self) -> Ports {
        Ports(u32::from_ne_bytes(self.ports))
    }

    #[inline(always)]
    fn sum_up(&mut self, delta: Delta) {
        self.checksum = delta.apply(u16::from_ne_bytes(self.checksum)).to_ne_bytes();
    }
}

/// The UDP header (RFC 768).
///
/// ```text
///   source port 16 | destination port 16
///   length 16 | checksum 16
/// ```
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Udp {
    ports: [u8; 4],
    length: [u8; 2],
    checksum: [u8; 2],
}

impl Udp {
    /// Length in bytes of header and data, as the header states it (host order).
    #[inline(always)]
    #[must_use]
    pub const fn length(&self) -> usize {
        u16::from_be_bytes(self.length) as usize
    }

    /// Whether the sender computed a checksum: zero says it did not.
    #[inline(always)]
    #[must_use]
    pub const fn has_checksum(&self) -> bool {
        u16::from_ne_bytes(self.checksum) != 0
    }
}

impl L4Header for Udp {
    const PROTOCOL: u8 = UDP;

    #[inline(always)]
    fn ports_field(&mut self) -> &mut [u8; 4] {
        &mut self.ports
    }

    #[inline(always)]
    fn ports(&self) -> Ports {
        Ports(u32::from_ne_bytes(self.ports))
    }

    #[inline(always)]
    fn sum_up(&mut self, delta: Delta) {
        if self.has_checksum() {
            let checksum = delta.apply(u16::from_ne_bytes(self.checksum));
            // RFC 768: a computed zero is sent as all ones.
            self.checksum = if checksum == 0 {
                [0xff; 2]
            } else {
                checksum.to_ne_bytes()
            };
        }
    }
}

const _: () = assert!(Ethernet::LENGTH == 14);
const _: () = assert!(Ipv4::LENGTH == 20 && Ipv6::LENGTH == 40);
const _: () = assert!(Tcp::LENGTH == 20 && Udp::LENGTH == 8);
const _: () =
    assert!(align_of::<Ethernet>() == 1 && align_of::<Ipv4>() == 1 && align_of::<Ipv6>() == 1);
const _: () = assert!(align_of::<Tcp>() == 1 && align_of::<Udp>() == 1);
