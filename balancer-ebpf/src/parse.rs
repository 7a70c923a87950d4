//! Headers become values: the flow's key and the few facts that later steps decide on.

use aya_ebpf::programs::XdpContext;
use balancer_common::{
    addr::{Address, TCP, UDP},
    conntrack::FlowKey,
    verdict::Discard,
    wire::{Ethernet, IpHeader, L4Header, Tcp, Udp},
};

use crate::packet::header_mut;

/// An IP header's facts.
pub struct Ip<A> {
    source: A,
    destination: A,
    /// Offset in bytes of the transport header from the frame's start.
    l4_offset: usize,
    /// Length in bytes of the IP packet.
    length: usize,
    /// Length in bytes of what follows the IP header.
    payload: usize,
    /// Why this packet must not be forwarded even if it is ours.
    fault: Option<Discard>,
    /// Number of the transport protocol.
    pub protocol: u8,
}

/// A packet's facts. Network byte order in the key, host byte order elsewhere.
///
/// `repr(C)`, in this order: LLVM may join neighbouring stores, since unaligned packet access is allowed, and the
/// verifier wants them aligned on the stack.
#[repr(C)]
pub struct Parsed<A> {
    /// The flow.
    pub key: FlowKey<A>,
    /// Offset in bytes of the transport header from the frame's start. A whole BPF word: the verifier keeps the
    /// bounds of a number that LLVM spills only then.
    pub l4_offset: usize,
    /// TCP sequence number.
    pub sequence: u32,
    /// TCP acknowledgement number.
    pub acknowledgement: u32,
    /// Length in bytes of the IP packet.
    pub length: u32,
    /// Why this packet must not be forwarded even if it is ours. Traffic that is not ours passes all the same.
    pub fault: Option<Discard>,
    /// TCP flags.
    pub flags: u8,
}

/// Reads the IP header.
#[inline(always)]
pub fn parse_ip<H: IpHeader>(ctx: &XdpContext) -> Result<Ip<H::Address>, Discard> {
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
        source: header.source(),
        destination: header.destination(),
        l4_offset: Ethernet::LENGTH + header_length,
        length,
        payload: length - header_length,
        fault: if header.hops() <= 1 {
            Some(Discard::TimeExceeded)
        } else {
            None
        },
        protocol: header.protocol(),
    })
}

/// Reads the TCP header.
#[inline(always)]
pub fn parse_tcp<A: Address>(ctx: &XdpContext, ip: &Ip<A>) -> Result<Parsed<A>, Discard> {
    let tcp = header_mut::<Tcp>(ctx, ip.l4_offset)?;
    if ip.payload < Tcp::LENGTH {
        return Err(Discard::Malformed);
    }
    Ok(Parsed {
        key: key(ip, tcp, TCP),
        l4_offset: ip.l4_offset,
        length: ip.length as u32,
        sequence: tcp.sequence(),
        acknowledgement: tcp.acknowledgement(),
        flags: tcp.flags(),
        fault: ip.fault,
    })
}

/// Reads the UDP header.
#[inline(always)]
pub fn parse_udp<H: IpHeader>(
    ctx: &XdpContext,
    ip: &Ip<H::Address>,
) -> Result<Parsed<H::Address>, Discard> {
    let udp = header_mut::<Udp>(ctx, ip.l4_offset)?;
    if ip.payload < Udp::LENGTH {
        return Err(Discard::Malformed);
    }
    let fault = if udp.length() < Udp::LENGTH || udp.length() > ip.payload {
        Some(Discard::UdpLength)
    } else if H::CHECKSUM_IS_REQUIRED && !udp.has_checksum() {
        Some(Discard::UdpNoChecksum)
    } else {
        ip.fault
    };
    Ok(Parsed {
        key: key(ip, udp, UDP),
        l4_offset: ip.l4_offset,
        length: ip.length as u32,
        sequence: 0,
        acknowledgement: 0,
        flags: 0,
        fault,
    })
}

#[inline(always)]
fn key<A: Address>(ip: &Ip<A>, l4: &impl L4Header, protocol: u8) -> FlowKey<A> {
    FlowKey {
        source: ip.source,
        destination: ip.destination,
        source_port: l4.source_port(),
        destination_port: l4.destination_port(),
        protocol: u32::from(protocol),
    }
}
