//! Answers in a virtual service's place: TCP resets and ICMP errors, made of the packet that is answered and sent back by the interface
//! where it came in.
//!
//! Who answers is a subprogram for the sake of its caller's stack. It may be one although it touches the packet, since
//! it borrows headers by [`header_anew`] only.

use aya_ebpf::{
    EbpfContext,
    bindings::xdp_md,
    helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use balancer_common::{
    addr::{Addr, Address as _, TCP, UDP},
    answer::admit,
    conntrack::{FlowKey, Ports},
    tcp,
    verdict::Discard,
    wire::{
        ETHERTYPE_IPV4, Ethernet, Frame, Ipv4, Ipv6, L4Header, Tcp, Udp,
        icmp::{Icmp, IcmpError},
    },
};

use crate::{
    atomic,
    family::{Family, scratch},
    headers::l4_offset,
    maps::ANSWERS,
    packet::{frame_length, header_anew, header_mut},
    parse::Ip,
};

/// Makes the frame the answer to itself. `false` where it may not or cannot be answered.
#[inline(always)]
pub fn answer(ctx: &XdpContext, reason: Discard) -> bool {
    let Some(ethernet) = header_anew::<Ethernet>(ctx, 0) else {
        return false;
    };
    if ethernet.is_from_group() {
        return false;
    }
    let ctx = ctx.as_ptr().cast();
    let answered = if ethernet.ethertype() == ETHERTYPE_IPV4 {
        answer_ip::<Ipv4>(ctx, reason as u64)
    } else {
        answer_ip::<Ipv6>(ctx, reason as u64)
    };
    answered != 0
}

/// Has the ICMP error by which the packet is answered, if it comes to that, speak as this VIP, and name this MTU in bytes. Whoever lets a
/// packet be answered has its transport header's place in the scratch.
#[inline(always)]
pub fn answer_as<H: Family>(
    ctx: &XdpContext,
    ip: &Ip,
    vip: &Addr,
    mtu: u32,
) -> Result<(), Discard> {
    let scratch = scratch::<H>()?;
    let vip = H::Address::narrow(*vip);
    atomic::copy(&raw mut scratch.icmp_answer.source, &vip);
    scratch.icmp_answer.mtu = mtu;
    if !ip.is_walked {
        scratch.walk.l4_offset = ip.l4_offset as u32;
        scratch.walk.protocol = u32::from(header_mut::<H>(ctx, Ethernet::LENGTH)?.protocol());
    }
    Ok(())
}

/// Whether this CPU may give another answer.
#[inline(always)]
fn admitted() -> bool {
    let Some(due) = ANSWERS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own value; the helper only reads a clock.
    unsafe { admit(&mut *due, bpf_ktime_get_ns()) }
}

/// Answers a packet of the family `H` that left early for this reason, a `Discard`: 1 where the frame is the answer now. A number, since
/// LLVM leaves half of a returned `bool`'s word undefined.
#[inline(never)]
fn answer_ip<H: Family>(ctx: *mut xdp_md, reason: u64) -> u64 {
    const TIME_EXCEEDED: u64 = Discard::TimeExceeded as u64;
    const TOO_BIG: u64 = Discard::TooBig as u64;
    const REAL_RESET: u64 = Discard::RealReset as u64;
    let ctx = XdpContext::new(ctx);
    let (Some(header), Ok(scratch)) = (header_anew::<H>(&ctx, Ethernet::LENGTH), scratch::<H>())
    else {
        return 0;
    };
    // Nothing is said about an ICMP error, nor about a later fragment (RFC 1122 section 3.2.2).
    if scratch.walk.protocol != u32::from(TCP) && scratch.walk.protocol != u32::from(UDP) {
        return 0;
    }
    // A connection whose real server has failed is answered once, and only to a client that has acknowledged the real server's SYN|ACK:
    // nobody can ask for many such answers in another's name.
    if reason != REAL_RESET && !admitted() {
        return 0;
    }
    let answered = match (reason, scratch.walk.protocol as u8) {
        (TIME_EXCEEDED, protocol) => error::<H>(&ctx, H::TIME_EXCEEDED, 0, protocol),
        (TOO_BIG, protocol) => error::<H>(&ctx, H::TOO_BIG, scratch.icmp_answer.mtu, protocol),
        (_, TCP) => reset::<H>(&ctx),
        (_, protocol) => {
            scratch.icmp_answer.source = header.destination();
            error::<H>(&ctx, H::PORT_UNREACHABLE, 0, protocol)
        }
    };
    u64::from(answered.is_some())
}

/// Makes a TCP segment the reset that answers it.
#[inline(always)]
fn reset<H: Family>(ctx: &XdpContext) -> Option<()> {
    let (mut key, offset, length) = read::<H>(ctx)?;
    let segment = header_anew::<Tcp>(ctx, offset)?;
    key.ports = segment.ports();
    let data = (Ethernet::LENGTH + length).saturating_sub(offset + segment.stated_length());
    let (sequence, acknowledgement, flags) = tcp::reset(
        segment.flags(),
        segment.sequence(),
        segment.acknowledgement(),
        data as u32,
    );
    cut(ctx, Ethernet::LENGTH + H::LENGTH + Tcp::LENGTH)?;
    let frame = header_anew::<Frame<H>>(ctx, 0)?;
    frame.ethernet.turn_back();
    frame
        .ip
        .write(key.destination, key.source, TCP, Tcp::LENGTH);
    let segment = header_anew::<Tcp>(ctx, Ethernet::LENGTH + H::LENGTH)?;
    segment.write_answer(&key, sequence, acknowledgement, flags);
    Some(())
}

/// Most bytes that an answer quotes: of a packet with many extension headers only the beginning.
const LONGEST_QUOTE: usize = 128;

/// Makes a packet the ICMP error that answers it, in the name of the scratch's address. It quotes the IP header and the transport
/// header without options: some receivers find their socket only by all of that (RFC 792 wants 8 bytes of it).
#[inline(always)]
fn error<H: Family>(ctx: &XdpContext, kind: [u8; 2], mtu: u32, protocol: u8) -> Option<()> {
    let (mut key, offset, _) = read::<H>(ctx)?;
    let header = if protocol == TCP {
        Tcp::LENGTH
    } else {
        Udp::LENGTH
    };
    let whole = offset - Ethernet::LENGTH + header;
    let quoted = whole.min(LONGEST_QUOTE);
    cut(ctx, Ethernet::LENGTH + quoted)?;
    // The quotation stays where it is, and the frame begins earlier.
    let room = H::LENGTH + IcmpError::LENGTH;
    // SAFETY: the context is this run's. References into the frame from before end here.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(room as i32)) } != 0 {
        return None;
    }
    let ethernet = *header_anew::<Ethernet>(ctx, room)?;
    let mut sum = 0;
    for word in 0..LONGEST_QUOTE / 4 {
        if word * 4 >= quoted {
            break;
        }
        let bytes = header_anew::<[u8; 4]>(ctx, Ethernet::LENGTH + room + word * 4)?;
        sum += u64::from(u32::from_ne_bytes(*bytes));
    }
    key.destination = scratch::<H>().ok()?.icmp_answer.source;
    let frame = header_anew::<Frame<H>>(ctx, 0)?;
    frame.ethernet = ethernet;
    frame.ethernet.turn_back();
    frame.ip.write(
        key.destination,
        key.source,
        <H as Icmp>::PROTOCOL,
        IcmpError::LENGTH + quoted,
    );
    let error = header_anew::<IcmpError>(ctx, Ethernet::LENGTH + H::LENGTH)?;
    error.write::<H>(kind, H::mtu_field(mtu), &key, quoted, sum);
    Some(())
}

/// The addresses, the transport header's offset in bytes from the frame's start, and the packet's length in bytes.
#[inline(always)]
fn read<H: Family>(ctx: &XdpContext) -> Option<(FlowKey<H::Address>, usize, usize)> {
    let header = header_anew::<H>(ctx, Ethernet::LENGTH)?;
    let key = FlowKey {
        source: header.source(),
        destination: header.destination(),
        ports: Ports(0),
        protocol: 0,
    };
    let offset = l4_offset(&scratch::<H>().ok()?.walk);
    Some((key, offset, header.packet_length()))
}

/// Cuts the frame to `length` bytes. Every frame that is answered is at least as long.
#[inline(always)]
fn cut(ctx: &XdpContext, length: usize) -> Option<()> {
    let surplus = frame_length(ctx) as i32 - length as i32;
    // SAFETY: the context is this run's. References into the frame from before end here.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, -surplus) } != 0 {
        return None;
    }
    Some(())
}
