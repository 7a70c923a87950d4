//! The headers of TCP and UDP.

use crate::{
    addr::{TCP, UDP},
    checksum::{Delta, DeltaSum},
    conntrack::Ports,
};

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
    /// Offset of the checksum in bytes.
    const CHECKSUM_OFFSET: usize;

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

/// A UDP checksum that is not zero, brought along. RFC 768: a computed zero is sent as all ones.
#[inline(always)]
#[must_use]
pub const fn udp_checksum(checksum: u16, delta: Delta) -> u16 {
    match delta.apply(checksum) {
        0 => 0xffff,
        checksum => checksum,
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
    pub(super) ports: [u8; 4],
    pub(super) sequence: [u8; 4],
    pub(super) acknowledgement: [u8; 4],
    pub(super) data_offset: u8,
    pub(super) flags: u8,
    pub(super) window: [u8; 2],
    pub(super) checksum: [u8; 2],
    pub(super) urgent: [u8; 2],
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
    const CHECKSUM_OFFSET: usize = core::mem::offset_of!(Self, checksum);

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
    const CHECKSUM_OFFSET: usize = core::mem::offset_of!(Self, checksum);

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
            self.checksum = udp_checksum(u16::from_ne_bytes(self.checksum), delta).to_ne_bytes();
        }
    }
}
