//! ICMP errors about packets of connections (RFC 5508 section 4): each goes to whoever sent the quoted packet, and speaks of it as that one
//! sent it. It changes nothing of the connection.

use aya_ebpf::{EbpfContext as _, programs::XdpContext};
use balancer_common::{
    addr::{Address as _, UDP},
    checksum::DeltaSum,
    verdict::Discard,
    wire::{
        Ethernet, L4Header as _, Tcp, Udp,
        icmp::{IcmpError, QuoteDeltas},
        udp_checksum,
    },
};

use crate::{
    family::{Family, scratch},
    headers::l4_offset,
    maps::{is_hosts, now, settings},
    packet::{header_anew, header_mut},
    parse::{Ip, may_go_on},
    rewrite::{count, peer_delta, replace_peer},
    steering::Steering,
    table::{Found, Key, are_idle, find_again, is_idle, partner, state_of},
    walk::walk_quote,
};

/// The packet that an ICMP error quotes.
pub struct Quote {
    /// Offset in bytes of its IP header from the frame's start.
    ip_offset: usize,
    /// Offset in bytes of its transport header from the frame's start.
    l4_offset: usize,
    /// Whether it is a UDP datagram; else a TCP segment.
    is_udp: bool,
}

/// Reads the quoted packet; see [`walk_quote`].
#[inline(always)]
pub fn parse_quote<H: Family>(ctx: &XdpContext, ip: &Ip) -> Result<Quote, Discard> {
    let kind = header_mut::<IcmpError>(ctx, ip.l4_offset)?.kind();
    let ip_offset = ip.l4_offset + IcmpError::LENGTH;
    // The frame may be longer than the packet.
    if ip_offset > Ethernet::LENGTH + ip.length {
        return Err(Discard::Malformed);
    }
    if !H::is_error(kind) {
        return Err(Discard::NotTcpUdp);
    }
    let is_tracked = walk_quote::<H>(ctx.as_ptr().cast(), ip_offset as u64).goes_on()?;
    let walk = &mut scratch::<H>()?.walk;
    let quote = Quote {
        ip_offset,
        l4_offset: l4_offset(walk),
        is_udp: walk.protocol == u32::from(UDP),
    };
    // It is the quoted packet's: the error itself is not answered.
    walk.protocol = 0;
    if is_tracked {
        Ok(quote)
    } else {
        Err(Discard::IcmpUnmatched)
    }
}

/// Borrows a part of the quotation. The frame's bounds are read anew: LLVM would draw conclusions from earlier look-ups that the
/// verifier does not.
#[inline(always)]
fn borrow<T>(ctx: &XdpContext, offset: usize) -> Result<&mut T, Discard> {
    header_anew::<T>(ctx, offset).ok_or(Discard::Malformed)
}

/// Finds the entry of the quoted packet's connection, in the direction in which the error goes.
#[inline(always)]
pub fn track_quote<H: Family>(ctx: &XdpContext) -> Result<Found<H::Address>, Discard> {
    let settings = settings().ok_or(Discard::NoService)?;
    let scratch = scratch::<H>()?;
    let header = header_mut::<H>(ctx, Ethernet::LENGTH)?;
    let (source, destination) = (header.source(), header.destination());
    if destination != scratch.key.destination {
        return Err(Discard::IcmpUnmatched);
    }
    let found = find_again::<H>(scratch, Key::Own, settings).ok_or(Discard::IcmpUnmatched)?;
    let now = now();
    if is_idle(found.entry, found.word.state(), now, settings) {
        // The other direction may be the one that lives.
        let other = partner::<H>(scratch, found, settings).ok_or(Discard::IcmpUnmatched)?;
        if are_idle(found, other, state_of(found, other), now, settings) {
            return Err(Discard::IcmpUnmatched);
        }
    }
    may_go_on(ctx, header_mut::<H>(ctx, Ethernet::LENGTH)?)?;
    if source.is_martian() || source == destination || is_hosts(scratch, source) {
        return Err(Discard::Martian);
    }
    Ok(found)
}

/// Replaces a quoted port at `offset`, and adds what that makes of a checksum to `sum`.
#[inline(always)]
fn replace_port(
    ctx: &XdpContext,
    offset: usize,
    port: u16,
    sum: DeltaSum,
) -> Result<DeltaSum, Discard> {
    let quoted = borrow::<[u8; 2]>(ctx, offset)?;
    let old = u16::from_ne_bytes(*quoted);
    *quoted = port.to_ne_bytes();
    Ok(sum.half(old, port))
}

/// Writes the real server's address in place of the VIP in an error to it, or the other way round where it says the error itself; in
/// the quoted packet, which went the other way, address and port; and brings the checksums along.
#[inline(always)]
pub fn rewrite_error<H: Family>(
    ctx: &XdpContext,
    ip: &Ip,
    quote: &Quote,
    steering: &Steering,
) -> Result<(), Discard> {
    let real = steering.real;
    let header = header_mut::<H>(ctx, Ethernet::LENGTH)?;
    let is_reals = header.source() == H::Address::narrow(real.address);
    if steering.is_original && is_reals && !steering.is_full_nat {
        // It would reach the real server from itself.
        return Err(Discard::Martian);
    }
    let is_peers = steering.is_full_nat && header.source() == scratch::<H>()?.peer.address;
    if is_peers && (steering.is_original || !is_reals) {
        // It would reach the other side from itself.
        return Err(Discard::Martian);
    }
    count(ip, steering);
    let (mut outer, mut address) = (DeltaSum::new(), DeltaSum::new());
    let mut port = DeltaSum::new();
    if steering.is_full_nat {
        let peer = &scratch::<H>()?.peer;
        // All that reaches the real server comes from the peer's address.
        outer = outer.plus(replace_peer(header, peer, steering));
        if steering.is_original {
            let quoted = borrow::<H>(ctx, quote.ip_offset)?;
            let delta = peer_delta::<H>(quoted.destination(), peer);
            quoted.replace_destination(peer.address, delta);
            address = address.plus(delta);
            port = replace_port(ctx, quote.l4_offset + 2, peer.port as u16, port)?;
        } else {
            let quoted = borrow::<H>(ctx, quote.ip_offset)?;
            let delta = peer_delta::<H>(quoted.source(), peer);
            quoted.replace_source(peer.address, delta);
            address = address.plus(delta);
            port = replace_port(ctx, quote.l4_offset, peer.port as u16, port)?;
        }
    }
    let header = header_anew::<H>(ctx, Ethernet::LENGTH).ok_or(Discard::Malformed)?;
    let port_at = if steering.is_original {
        outer = outer.plus(real.delta);
        header.replace_destination(H::Address::narrow(real.address), real.delta);
        let quoted = borrow::<H>(ctx, quote.ip_offset)?;
        quoted.replace_source(H::Address::narrow(real.address), real.delta);
        address = address.plus(real.delta);
        0
    } else {
        let delta = real.delta.inverse();
        if is_reals {
            outer = outer.plus(delta);
            header.replace_source(H::Address::narrow(real.vip), delta);
        }
        let quoted = borrow::<H>(ctx, quote.ip_offset)?;
        quoted.replace_destination(H::Address::narrow(real.vip), delta);
        address = address.plus(delta);
        2
    };
    let port = replace_port(ctx, quote.l4_offset + port_at, steering.port, port)?;
    let (outer, delta, port_delta) = (outer.fold(), address.fold(), port.fold());
    let at = quote.l4_offset
        + if quote.is_udp {
            Udp::CHECKSUM_OFFSET
        } else {
            Tcp::CHECKSUM_OFFSET
        };
    let mut is_summed = false;
    // Routers may quote a segment without its checksum.
    if at + 2 <= Ethernet::LENGTH + ip.length {
        let checksum = borrow::<[u8; 2]>(ctx, at)?;
        let old = u16::from_ne_bytes(*checksum);
        is_summed = !quote.is_udp || old != 0;
        if is_summed {
            let QuoteDeltas { transport, .. } =
                QuoteDeltas::new::<H>(delta, port_delta, outer, true);
            let new = if quote.is_udp {
                udp_checksum(old, transport)
            } else {
                transport.apply(old)
            };
            *checksum = new.to_ne_bytes();
        }
    }
    let deltas = QuoteDeltas::new::<H>(delta, port_delta, outer, is_summed);
    borrow::<IcmpError>(ctx, ip.l4_offset)?.sum_up(deltas.error);
    Ok(())
}
