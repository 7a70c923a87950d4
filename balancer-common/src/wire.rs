//! Packet headers as they lie in a frame.
//!
//! Each struct is `repr(C)` with fields of single bytes, so that a reference to one is sound at any place in a
//! packet. Accessors take and give whole fields in network byte order, unless they say otherwise.

pub mod answer;
mod extension;
pub mod icmp;
mod ip;
mod transport;

pub use self::{
    extension::{Extension, ExtensionHeader, extension_kind},
    ip::{IpHeader, Ipv4, Ipv6},
    transport::{L4Header, Tcp, Udp, udp_checksum},
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

const _: () = assert!(Ethernet::LENGTH == 14);
const _: () = assert!(Ipv4::LENGTH == 20 && Ipv6::LENGTH == 40);
const _: () = assert!(Tcp::LENGTH == 20 && Udp::LENGTH == 8);
const _: () =
    assert!(align_of::<Ethernet>() == 1 && align_of::<Ipv4>() == 1 && align_of::<Ipv6>() == 1);
const _: () = assert!(align_of::<Tcp>() == 1 && align_of::<Udp>() == 1);
