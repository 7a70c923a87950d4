//! Headers become values: the flow's key, and the few facts that later steps decide on.

use core::ptr;

use aya_ebpf::programs::XdpContext;
use balancer_common::{
    addr::Address,
    conntrack::FlowKey,
    verdict::Discard,
    wire::{Ethernet, IpHeader, L4Header, Tcp, Udp},
};

use crate::packet::header_mut;

/// An IP header's facts, in host byte order. Small enough for registers.
pub struct Ip {
    /// Offset in bytes of the transport header from the frame's start. A whole BPF word: the verifier keeps the
    /// bounds of a number that LLVM spills only then.
    pub l4_offset: usize,
    /// Length in bytes of the IP packet.
    pub length: usize,
}

/// What only a packet without a row is asked for, in host byte order.
///
/// Aligned to 8 bytes, in this order: LLVM may join neighbouring stores, since unaligned packet access is allowed, and
/// the verifier wants them aligned on the stack.
#[repr(C, align(8))]
pub struct Facts {
    /// TCP sequence number.
    pub sequence: u32,
    /// TCP acknowledgement number.
    pub acknowledgement: u32,
    /// TCP flags; 0 for UDP.
    pub flags: u32,
    /// 1 where the packet has rows of an earlier connection, which end when this one begins.
    pub replaces: u32,
    /// Why the packet must not be forwarded even if it is ours. Traffic that is not ours passes all the same.
    pub fault: Option<Discard>,
}

/// What the steps before the rewrite ask of a transport header.
pub trait Transport: L4Header {
    /// TCP flags; 0 for UDP.
    fn flags(&self) -> u8;
    /// TCP sequence and acknowledgement numbers, host byte order.
    fn numbers(&self) -> (u32, u32);
    /// Why a packet with `payload` bytes behind its IP header must not be forwarded.
    fn fault<H: IpHeader>(&self, payload: usize) -> Option<Discard>;
}

impl Transport for Tcp {
    #[inline(always)]
    fn flags(&self) -> u8 {
        self.flags()
    }

    #[inline(always)]
    fn numbers(&self) -> (u32, u32) {
        (self.sequence(), self.acknowledgement())
    }

    #[inline(always)]
    fn fault<H: IpHeader>(&self, _: usize) -> Option<Discard> {
        None
    }
}

impl Transport for Udp {
    #[inline(always)]
    fn flags(&self) -> u8 {
        0
    }

    #[inline(always)]
    fn numbers(&self) -> (u32, u32) {
        (0, 0)
    }

    #[inline(always)]
    fn fault<H: IpHeader>(&self, payload: usize) -> Option<Discard> {
        if self.length() < Self::LENGTH || self.length() > payload {
            return Some(Discard::UdpLength);
        }
        if H::CHECKSUM_IS_REQUIRED && !self.has_checksum() {
            return Some(Discard::UdpNoChecksum);
        }
        None
    }
}

/// Reads the IP header.
#[inline(always)]
pub fn parse_ip<H: IpHeader>(ctx: &XdpContext) -> Result<Ip, Discard> {
    let header = header_mut::<H>(ctx, Ethernet::LENGTH)?;
    let header_length = header.header_length().ok_or(Discard::Malformed)?;
    let length = header.packet_length();
    // The frame may be longer than the packet (Ethernet pads to 60 bytes), never shorter.
    if length < header_length || Ethernet::LENGTH + length > ctx.data_end() - ctx.data() {
        return Err(Discard::Malformed);
    }
    if header.is_fragment() {
        return Err(Discard::Fragment);
    }
    if !header.addresses_are_usable() {
        return Err(Discard::MappedAddress);
    }
    Ok(Ip {
        l4_offset: Ethernet::LENGTH + header_length,
        length,
    })
}

/// Reads the flow's key.
#[inline(always)]
pub fn key<H: IpHeader, T: L4Header>(
    ctx: &XdpContext,
    ip: &Ip,
) -> Result<FlowKey<H::Address>, Discard> {
    let l4 = header_mut::<T>(ctx, ip.l4_offset)?;
    if ip.l4_offset + T::LENGTH > Ethernet::LENGTH + ip.length {
        return Err(Discard::Malformed);
    }
    // Behind an IPv6 header LLVM would join the last word of the address and the ports, and store them at an odd
    // half of the stack; it never joins volatile reads.
    // SAFETY: plain reads of a header that was borrowed just now.
    let l4 = unsafe { ptr::read_volatile(l4) };
    let header = header_mut::<H>(ctx, Ethernet::LENGTH)?;
    Ok(FlowKey {
        source: header.source(),
        destination: header.destination(),
        source_port: l4.source_port(),
        destination_port: l4.destination_port(),
        protocol: u32::from(T::PROTOCOL),
    })
}

/// Reads what a packet without a row is asked for.
#[inline(always)]
pub fn facts<H: IpHeader, T: Transport>(
    ctx: &XdpContext,
    ip: &Ip,
    key: &FlowKey<H::Address>,
    replaces: u32,
) -> Result<Facts, Discard> {
    // The fixed offset first: after a check of the further one LLVM drops this one, which the verifier needs.
    let hops = header_mut::<H>(ctx, Ethernet::LENGTH)?.hops();
    let l4 = header_mut::<T>(ctx, ip.l4_offset)?;
    let (sequence, acknowledgement) = l4.numbers();
    let payload = Ethernet::LENGTH + ip.length - ip.l4_offset;
    let other = if hops <= 1 {
        Some(Discard::TimeExceeded)
    } else if key.source.is_martian() || key.source == key.destination {
        Some(Discard::Martian)
    } else {
        None
    };
    Ok(Facts {
        sequence,
        acknowledgement,
        fault: l4.fault::<H>(payload).or(other),
        flags: u32::from(l4.flags()),
        replaces,
    })
}
