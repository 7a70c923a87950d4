//! The way to a transport header that is not at its usual place, or not there: over IPv6 extension headers, and in fragments.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use balancer_common::{
    addr::{Address, TCP, UDP},
    conntrack::Ports,
    fragment::FragmentKey,
    verdict::Discard,
    wire::{Ethernet, L4Header as _, Tcp, Udp},
};

use crate::{
    encoded::Encoded,
    family::{Family, scratch},
    headers::{FIRST, LATER, WHOLE, l4_offset},
    maps::may_be_ours,
    packet::{frame_length, header_anew, header_mut},
    parse::Ip,
    scratch::Walk,
};

/// Finds the transport header of a packet; where it is, is in the scratch then. `false` where it has none: a later fragment.
#[inline(never)]
pub fn walk<H: Family>(ctx: *mut xdp_md) -> Encoded {
    Encoded::step(try_walk::<H>(&XdpContext::new(ctx)))
}

#[inline(always)]
fn try_walk<H: Family>(ctx: &XdpContext) -> Result<bool, Discard> {
    let scratch = scratch::<H>()?;
    scratch.walk.fragment = WHOLE;
    let header = header_anew::<H>(ctx, Ethernet::LENGTH).ok_or(Discard::Malformed)?;
    let header_length = header.header_length().ok_or(Discard::Malformed)?;
    let length = header.packet_length();
    // As in `parse_ip`.
    if length < header_length || Ethernet::LENGTH + length > frame_length(ctx) {
        return Err(Discard::Malformed);
    }
    if !header.addresses_are_usable() {
        return Err(Discard::MappedAddress);
    }
    let end = Ethernet::LENGTH + length;
    let key = &mut scratch.fragment_key;
    key.source = header.source();
    key.destination = header.destination();
    let walked = H::walk(ctx, Ethernet::LENGTH, end, &mut scratch.walk, key);
    let walked = walked.and_then(|()| complete(&scratch.walk, end));
    // What cannot be looked through is the host's to judge where it is for the host.
    let is_first = scratch.walk.fragment == FIRST;
    match walked {
        Err(Discard::ExtensionHeaders) if !may_be_ours(key.destination) => {
            return Err(Discard::NotTcpUdp);
        }
        Err(Discard::FragmentTiny) if !is_ours(key) => return Err(Discard::Fragment),
        // The headers go on in the next fragment (RFC 7112).
        Err(Discard::Malformed) if is_first && is_ours(key) => return Err(Discard::FragmentTiny),
        Err(reason) => return Err(reason),
        Ok(()) => {}
    }
    if scratch.walk.fragment == LATER {
        // Nobody is told of what becomes of these.
        scratch.walk.protocol = 0;
        return Ok(false);
    }
    Ok(true)
}

/// Whether a fragment with this key may be a VIP's or a real server's.
#[inline(always)]
pub fn is_ours<A: Address>(key: &FragmentKey<A>) -> bool {
    may_be_ours(key.destination) || may_be_ours(key.source)
}

/// That all of a transport header is there, in all but later fragments.
#[inline(always)]
const fn complete(walk: &Walk, end: usize) -> Result<(), Discard> {
    let needed = match walk.protocol as u8 {
        _ if walk.fragment == LATER => return Ok(()),
        TCP => Tcp::LENGTH,
        UDP => Udp::LENGTH,
        _ => return Err(Discard::NotTcpUdp),
    };
    if walk.l4_offset as usize + needed > end {
        return Err(Discard::Malformed);
    }
    Ok(())
}

/// Finds the transport header of the packet that an ICMP error quotes, whose own header lies `at` bytes from the frame's start: `true` where
/// it is one of TCP or UDP, of which there are the ports and four bytes more. The key of its connection's other direction is in the scratch
/// then: whoever sent the quoted packet is its destination.
#[inline(never)]
pub fn walk_quote<H: Family>(ctx: *mut xdp_md, at: u64) -> Encoded {
    Encoded::step(try_walk_quote::<H>(
        &XdpContext::new(ctx),
        at as usize & 0x7f,
    ))
}

#[inline(always)]
fn try_walk_quote<H: Family>(ctx: &XdpContext, at: usize) -> Result<bool, Discard> {
    /// What every error has to quote of a transport header (RFC 792).
    const QUOTED: usize = 8;
    let scratch = scratch::<H>()?;
    scratch.walk.fragment = WHOLE;
    let header = header_anew::<H>(ctx, Ethernet::LENGTH).ok_or(Discard::Malformed)?;
    let end = Ethernet::LENGTH + header.packet_length();
    let quoted = header_anew::<H>(ctx, at).ok_or(Discard::Malformed)?;
    let header_length = quoted.header_length().ok_or(Discard::Malformed)?;
    if at + header_length > end {
        return Err(Discard::Malformed);
    }
    scratch.key.source = quoted.destination();
    scratch.key.destination = quoted.source();
    match H::walk(ctx, at, end, &mut scratch.walk, &mut scratch.fragment_key) {
        Err(Discard::Malformed) => return Err(Discard::Malformed),
        Err(_) => return Ok(false),
        Ok(()) => {}
    }
    let protocol = scratch.walk.protocol;
    if scratch.walk.fragment == LATER || protocol != u32::from(TCP) && protocol != u32::from(UDP) {
        return Ok(false);
    }
    let offset = l4_offset(&scratch.walk);
    if offset + QUOTED > end {
        return Err(Discard::Malformed);
    }
    let ports = Ports(u32::from_ne_bytes(
        *header_anew::<[u8; 4]>(ctx, offset).ok_or(Discard::Malformed)?,
    ));
    scratch.key.ports = Ports::new(ports.destination(), ports.source());
    scratch.key.protocol = protocol;
    Ok(true)
}

/// What [`walk`] has found.
#[inline(always)]
pub fn walked<H: Family>(ctx: &XdpContext) -> Result<Ip, Discard> {
    let length = header_mut::<H>(ctx, Ethernet::LENGTH)?.packet_length();
    let walk = &scratch::<H>()?.walk;
    Ok(Ip {
        l4_offset: l4_offset(walk),
        length,
        is_walked: true,
        is_first: walk.fragment == FIRST,
    })
}
