//! Headers become values: the flow's key, and the few facts that later steps decide on.

use core::ptr;

use aya_ebpf::{EbpfContext as _, bindings::xdp_md, programs::XdpContext};
use balancer_common::{
    addr::Address,
    conntrack::FlowKey,
    tcp::Segment,
    verdict::Discard,
    wire::{Ethernet, IpHeader, Ipv4, L4Header, Tcp, Udp},
};

use crate::{
    headers::{FIRST, l4_offset},
    maps::is_hosts,
    packet::{header_anew, header_mut},
    scratch::{Scratch, Walk},
};

/// An IP header's facts, in host byte order. Small enough for registers.
pub struct Ip {
    /// Offset in bytes of the transport header from the frame's start. A whole BPF word: the verifier keeps the
    /// bounds of a number that LLVM spills only then.
    pub l4_offset: usize,
    /// Length in bytes of the IP packet.
    pub length: usize,
    /// Whether `walk` has found it. Constant on each way: packets at their usual place are read anew where this is asked.
    pub is_walked: bool,
    /// Whether it is a datagram's first fragment.
    pub is_first: bool,
}

impl Ip {
    /// Length in bytes of what the transport header may speak of: all that follows the IP header; of a fragment more than that.
    #[inline(always)]
    pub fn payload<H: IpHeader>(&self, header: &H) -> usize {
        if !self.is_walked {
            header.payload_length()
        } else if self.is_first {
            usize::MAX
        } else {
            Ethernet::LENGTH + self.length - self.l4_offset
        }
    }
}

/// Why a packet with these headers, of which the transport header may speak of `payload` bytes, must not be forwarded, even if it is ours.
#[inline(always)]
pub fn fault<H: IpHeader, T: Transport>(
    ctx: &XdpContext,
    header: &H,
    l4: &T,
    payload: usize,
) -> Option<Discard> {
    l4.fault::<H>(payload)
        .or_else(|| options_fault(ctx, header))
}

/// That a packet of a connection goes on, as far as its IP header says.
#[inline(always)]
pub fn may_go_on<H: IpHeader>(ctx: &XdpContext, header: &H) -> Result<(), Discard> {
    if header.hops() <= 1 {
        return Err(Discard::TimeExceeded);
    }
    match options_fault(ctx, header) {
        Some(fault) => Err(fault),
        None => Ok(()),
    }
}

/// Why a packet with the options of this header must not be forwarded, even if it is ours.
#[inline(always)]
fn options_fault<H: IpHeader>(ctx: &XdpContext, header: &H) -> Option<Discard> {
    if !header.has_options() {
        return None;
    }
    match examine_options(ctx.as_ptr().cast()) {
        SOURCE_ROUTE => Some(Discard::SourceRoute),
        CONTRADICTION => Some(Discard::Malformed),
        _ => None,
    }
}

/// The options hold a source route.
const SOURCE_ROUTE: u64 = 1;
/// The options contradict themselves.
const CONTRADICTION: u64 = 2;

/// Most options that a header has room for: 40 bytes of padding, each of which is one.
const MAX_OPTIONS: u32 = 40;

/// Looks through the options of an IPv4 packet (RFC 791 section 3.1).
#[inline(never)]
fn examine_options(ctx: *mut xdp_md) -> u64 {
    const END_OF_LIST: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let ctx = XdpContext::new(ctx);
    let Some(header) = header_anew::<Ipv4>(&ctx, Ethernet::LENGTH) else {
        return CONTRADICTION;
    };
    let length = header.packet_length() - header.payload_length() - Ipv4::LENGTH;
    let mut at = 0;
    for _ in 0..MAX_OPTIONS {
        if at >= length {
            return 0;
        }
        // A fragment may end with its options: the last one's length is not asked for where it is one byte.
        let offset = Ethernet::LENGTH + Ipv4::LENGTH + at;
        let Some(kind) = header_anew::<u8>(&ctx, offset) else {
            return CONTRADICTION;
        };
        let step = match *kind {
            END_OF_LIST => return 0,
            NO_OPERATION => 1,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return SOURCE_ROUTE,
            _ => match header_anew::<u8>(&ctx, offset + 1) {
                Some(option_length) => usize::from(*option_length),
                None => return CONTRADICTION,
            },
        };
        if step == 0 || *kind != NO_OPERATION && step == 1 || at + step > length {
            return CONTRADICTION;
        }
        at += step;
        // Options end at 40 bytes. LLVM must not know it: only the mask makes all states of a round alike to the verifier.
        // SAFETY: a local.
        at = unsafe { ptr::read_volatile(&raw const at) } & 0x3f;
    }
    0
}

/// What the steps before the rewrite ask of a transport header.
pub trait Transport: L4Header {
    /// TCP flags; 0 for UDP.
    fn flags(&self) -> u8;
    /// What a segment with `payload` bytes behind its IP header says; of a datagram nothing.
    fn segment(&self, payload: usize) -> Segment;
    /// Why a packet with `payload` bytes behind its IP header must not be forwarded.
    fn fault<H: IpHeader>(&self, payload: usize) -> Option<Discard>;
}

impl Transport for Tcp {
    #[inline(always)]
    fn flags(&self) -> u8 {
        self.flags()
    }

    #[inline(always)]
    fn segment(&self, payload: usize) -> Segment {
        Segment {
            flags: self.flags(),
            sequence: self.sequence(),
            acknowledgement: self.acknowledgement(),
            data: payload.saturating_sub(self.stated_length()) as u32,
        }
    }

    #[inline(always)]
    fn fault<H: IpHeader>(&self, payload: usize) -> Option<Discard> {
        let length = self.stated_length();
        (length < Self::LENGTH || length > payload).then_some(Discard::Malformed)
    }
}

impl Transport for Udp {
    #[inline(always)]
    fn flags(&self) -> u8 {
        0
    }

    #[inline(always)]
    fn segment(&self, _: usize) -> Segment {
        Segment {
            flags: 0,
            sequence: 0,
            acknowledgement: 0,
            data: 0,
        }
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
        is_walked: false,
        is_first: false,
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
    let ports = l4.ports();
    let header = header_mut::<H>(ctx, Ethernet::LENGTH)?;
    Ok(FlowKey {
        source: header.source(),
        destination: header.destination(),
        ports,
        protocol: u32::from(T::PROTOCOL),
    })
}

/// Reads into the scratch, for a subprogram, the key of a packet that [`walk`](crate::walk::walk) has looked through, and what a packet
/// without an entry is asked for.
#[inline(always)]
pub fn examine<H: IpHeader, T: Transport>(
    ctx: &XdpContext,
    scratch: &mut Scratch<H::Address>,
) -> Option<()> {
    let header = header_anew::<H>(ctx, Ethernet::LENGTH)?;
    let offset = l4_offset(&scratch.walk);
    let payload = if scratch.walk.fragment == FIRST {
        usize::MAX
    } else {
        Ethernet::LENGTH + header.packet_length() - offset
    };
    scratch.key.source = header.source();
    scratch.key.destination = header.destination();
    scratch.key.protocol = u32::from(T::PROTOCOL);
    let hops = header.hops();
    let l4 = header_anew::<T>(ctx, offset)?;
    scratch.key.ports = l4.ports();
    scratch.facts.flags = u32::from(l4.flags());
    scratch.icmp_answer.source = scratch.key.destination;
    let fault = fault::<H, T>(ctx, header, l4, payload);
    let (source, destination) = (scratch.key.source, scratch.key.destination);
    // Martians first: they are not answered.
    let other = if source.is_martian() || source == destination || is_hosts(scratch, source) {
        Some(Discard::Martian)
    } else if hops <= 1 {
        Some(Discard::TimeExceeded)
    } else {
        None
    };
    scratch.facts.fault = fault.or(other);
    Some(())
}

/// Reads, for a subprogram, what a packet that [`key`] has found whole says to its connection. Its transport header is where the
/// scratch's walk says.
#[inline(always)]
pub fn segment<H: IpHeader, T: Transport>(ctx: &XdpContext, walk: &Walk) -> Option<Segment> {
    let header = header_anew::<H>(ctx, Ethernet::LENGTH)?;
    let offset = l4_offset(walk);
    let payload = Ethernet::LENGTH + header.packet_length() - offset;
    let l4 = header_anew::<T>(ctx, offset)?;
    Some(l4.segment(payload))
}
