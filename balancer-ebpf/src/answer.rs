//! Answers in a virtual service's place: TCP resets and ICMP port unreachable, made of the packet that is answered and
//! sent back by the interface where it came in.
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
    addr::{TCP, UDP},
    answer::admit,
    conntrack::{FlowKey, Ports},
    tcp,
    verdict::Discard,
    wire::{
        ETHERTYPE_IPV4, Ethernet, Frame, Ipv4, Ipv6, L4Header, Tcp, Udp,
        answer::{AnswerHeader, IcmpError},
    },
};

use crate::{
    maps::ANSWERS,
    packet::{frame_length, header_anew},
};

/// Makes the frame the answer to itself. `false` where it may not or cannot be answered.
#[inline(always)]
pub fn answer(ctx: &XdpContext, reason: Discard) -> bool {
    // A connection whose real server has failed is answered once, and only to a client that has acknowledged the real
    // server's SYN|ACK: nobody can ask for many such answers in another's name.
    if reason != Discard::RealReset && !admitted() {
        return false;
    }
    let Some(ethernet) = header_anew::<Ethernet>(ctx, 0) else {
        return false;
    };
    if ethernet.is_from_group() {
        return false;
    }
    let ctx = ctx.as_ptr().cast();
    let answered = if ethernet.ethertype() == ETHERTYPE_IPV4 {
        answer_ip::<Ipv4>(ctx)
    } else {
        answer_ip::<Ipv6>(ctx)
    };
    answered != 0
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

/// Answers a packet of the family `H`: 1 where the frame is the answer now. A number, since LLVM leaves half of a
/// returned `bool`'s word undefined.
#[inline(never)]
fn answer_ip<H: AnswerHeader>(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let protocol = match header_anew::<H>(&ctx, Ethernet::LENGTH) {
        Some(header) => header.protocol(),
        None => return 0,
    };
    let answered = match protocol {
        TCP => reset::<H>(&ctx),
        UDP => unreachable::<H>(&ctx),
        _ => None,
    };
    u64::from(answered.is_some())
}

/// Makes a TCP segment the reset that answers it.
#[inline(always)]
fn reset<H: AnswerHeader>(ctx: &XdpContext) -> Option<()> {
    let (mut key, header_length, length) = read::<H>(ctx)?;
    let segment = header_anew::<Tcp>(ctx, Ethernet::LENGTH + header_length)?;
    key.ports = segment.ports();
    let data = length.saturating_sub(header_length + segment.header_length());
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

/// Makes a UDP datagram the ICMP error that says that nobody listens. It quotes the IP header and the UDP header, which
/// is what receivers need to find their socket.
#[inline(always)]
fn unreachable<H: AnswerHeader>(ctx: &XdpContext) -> Option<()> {
    let (key, header_length, _) = read::<H>(ctx)?;
    let quoted = header_length + Udp::LENGTH;
    cut(ctx, Ethernet::LENGTH + quoted)?;
    // The quotation stays where it is, and the frame begins earlier.
    let room = H::LENGTH + IcmpError::LENGTH;
    // SAFETY: the context is this run's. References into the frame from before end here.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(room as i32)) } != 0 {
        return None;
    }
    let ethernet = *header_anew::<Ethernet>(ctx, room)?;
    let mut sum = 0;
    for word in 0..(H::LONGEST + Udp::LENGTH) / 4 {
        if word * 4 >= quoted {
            break;
        }
        let bytes = header_anew::<[u8; 4]>(ctx, Ethernet::LENGTH + room + word * 4)?;
        sum += u64::from(u32::from_ne_bytes(*bytes));
    }
    let frame = header_anew::<Frame<H>>(ctx, 0)?;
    frame.ethernet = ethernet;
    frame.ethernet.turn_back();
    frame.ip.write(
        key.destination,
        key.source,
        H::ICMP,
        IcmpError::LENGTH + quoted,
    );
    let error = header_anew::<IcmpError>(ctx, Ethernet::LENGTH + H::LENGTH)?;
    error.write_port_unreachable::<H>(&key, quoted, sum);
    Some(())
}

/// The addresses, the header's length and the packet's.
#[inline(always)]
fn read<H: AnswerHeader>(ctx: &XdpContext) -> Option<(FlowKey<H::Address>, usize, usize)> {
    let header = header_anew::<H>(ctx, Ethernet::LENGTH)?;
    let key = FlowKey {
        source: header.source(),
        destination: header.destination(),
        ports: Ports(0),
        protocol: 0,
    };
    Some((key, header.header_length()?, header.packet_length()))
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
