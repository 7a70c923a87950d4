//! The data path. Both directions and both families run through the same five verbs:
//!
//! ```text
//!  frame ─ parse ─▶ key ─ track ─ hit ─────────────────────▶ entry ─┐
//!            │               └ miss ─ classify ─ schedule ─▶ entry ─┤
//!            └ discard ───────────────┐                             ▼
//!                                     └──▶ finish ◀── forward ◀── rewrite
//!                                           └ answer
//! ```
//!
//! Most packets have an entry, and the program `balancer` is for them. The others it hands to the program
//! `open_connection`, which opens their connection and takes them the rest of the way; ICMP errors, whose entry is the quoted packet's,
//! to `translate_error`; to `full_nat` those whose connection has full NAT; and to `walk_headers` fragments and packets with
//! IPv6 extension headers. The verifier looks at each program by itself.

use aya_ebpf::{EbpfContext as _, programs::XdpContext};
use balancer_common::{
    addr::{TCP, UDP},
    conntrack::FlowKey,
    programs,
    settings::Interface,
    trace::Answer,
    verdict::{Discard, Verdict},
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, Tcp, Udp},
};

use crate::{
    family::{Family, scratch},
    forward::{fit, forward, route},
    fragments::{Followed, follow, remember, remember_passed},
    icmp::{parse_quote, rewrite_error, track_quote},
    maps::{INTERFACES, call, settings},
    open::{self, open, opened},
    packet::header_mut,
    parse::{Ip, Transport, key, may_go_on, parse_ip},
    rewrite::{rewrite, rewrite_fragment},
    steering::Steering,
    table::{Found, find},
    track::track,
    walk::{walk, walked},
};

/// Steers one frame, if its packet has an entry; else it is `open_connection`'s.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> Result<Verdict, Discard> {
    steer::<Known<false>>(ctx)
}

/// Steers one frame whose packet's connection has full NAT.
#[inline(always)]
pub fn run_full_nat(ctx: &XdpContext) -> Result<Verdict, Discard> {
    steer::<Known<true>>(ctx)
}

/// Opens the connection of a frame's packet, and steers it.
#[inline(always)]
pub fn open_and_run(ctx: &XdpContext) -> Result<Verdict, Discard> {
    steer::<New>(ctx)
}

/// Steers a frame whose packet is a fragment, or has extension headers, if it has an entry; else it is `open_connection`'s.
#[inline(always)]
pub fn run_walking(ctx: &XdpContext) -> Result<Verdict, Discard> {
    steer::<Walked>(ctx)
}

/// Translates a frame's ICMP error, and sends it on.
#[inline(always)]
pub fn run_error(ctx: &XdpContext) -> Result<Verdict, Discard> {
    let interface = interface_of(ctx)?;
    match header_mut::<Ethernet>(ctx, 0)?.ethertype() {
        ETHERTYPE_IPV4 => carry_error::<Ipv4>(ctx, interface),
        ETHERTYPE_IPV6 => carry_error::<Ipv6>(ctx, interface),
        _ => Err(Discard::NotIp),
    }
}

/// What would become of a packet that opens a connection, without opening it.
#[inline(always)]
pub fn ask(ctx: &XdpContext) -> Result<Answer, Discard> {
    match header_mut::<Ethernet>(ctx, 0)?.ethertype() {
        ETHERTYPE_IPV4 => ask_ip::<Ipv4>(ctx),
        ETHERTYPE_IPV6 => ask_ip::<Ipv6>(ctx),
        _ => Err(Discard::NotIp),
    }
}

#[inline(always)]
fn ask_ip<H: Family>(ctx: &XdpContext) -> Result<Answer, Discard> {
    if !walk::<H>(ctx.as_ptr().cast()).goes_on()? {
        return Err(Discard::Fragment);
    }
    let mut answer = open::ask::<H>(ctx);
    answer.port = u32::from(u16::from_be(scratch::<H>()?.key.ports.source()));
    Ok(answer)
}

/// How a packet gets its connection's entry.
trait Pass {
    /// Whether it looks for the transport header; else that is at its usual place.
    const WALKS: bool = true;
    /// Whether the connection may be one with full NAT.
    const FULL_NAT: bool = true;

    /// Where its transport header is.
    fn parse<H: Family>(ctx: &XdpContext) -> Result<Ip, Discard>;

    /// What comes before all else. Most have nothing to prepare.
    #[inline(always)]
    fn prepare<H: Family>(_: &XdpContext) -> Result<(), Discard> {
        Ok(())
    }

    /// The entry. Where the packet has none and may open a connection, the pass ends here, and `open_connection` goes on.
    fn entry<H: Family, T: Transport>(
        ctx: &XdpContext,
        ip: &Ip,
    ) -> Result<Found<H::Address>, Discard>;

    /// What is to be done once it is known that the packet goes its way; `by_host`: the host's stack sends it on.
    #[inline(always)]
    fn note<H: Family>(_by_host: bool) -> Result<(), Discard> {
        Ok(())
    }

    /// Takes a later fragment the whole way.
    #[inline(always)]
    fn carry_later<H: Family>(_: &XdpContext, _: &Interface) -> Result<Verdict, Discard> {
        Err(Discard::Fragment)
    }
}

/// The packet's connection is known, with or without full NAT, and its transport header at its usual place.
struct Known<const FULL_NAT: bool>;

impl<const FULL_NAT: bool> Pass for Known<FULL_NAT> {
    const WALKS: bool = false;
    const FULL_NAT: bool = FULL_NAT;

    #[inline(always)]
    fn parse<H: Family>(ctx: &XdpContext) -> Result<Ip, Discard> {
        let parsed = parse_ip::<H>(ctx);
        if let Err(Discard::Fragment) = parsed {
            call(ctx, programs::WALK_HEADERS);
        }
        parsed
    }

    #[inline(always)]
    fn entry<H: Family, T: Transport>(
        ctx: &XdpContext,
        ip: &Ip,
    ) -> Result<Found<H::Address>, Discard> {
        known_or_new::<Self, H, T>(ctx, ip, &key::<H, T>(ctx, ip)?)
    }
}

/// The packet's connection is known, and its transport header was looked for: it is a fragment, or has extension headers.
struct Walked;

impl Pass for Walked {
    #[inline(always)]
    fn parse<H: Family>(ctx: &XdpContext) -> Result<Ip, Discard> {
        walked::<H>(ctx)
    }

    #[inline(always)]
    fn entry<H: Family, T: Transport>(
        ctx: &XdpContext,
        ip: &Ip,
    ) -> Result<Found<H::Address>, Discard> {
        let key = key::<H, T>(ctx, ip)?;
        scratch::<H>()?.key = key;
        known_or_new::<Self, H, T>(ctx, ip, &key)
    }

    #[inline(always)]
    fn note<H: Family>(by_host: bool) -> Result<(), Discard> {
        remember::<H>(by_host)
    }

    #[inline(always)]
    fn carry_later<H: Family>(ctx: &XdpContext, interface: &Interface) -> Result<Verdict, Discard> {
        let Followed { found, by_host } = follow::<H>()?;
        let ip = walked::<H>(ctx)?;
        may_go_on(ctx, header_mut::<H>(ctx, Ethernet::LENGTH)?)?;
        let steering = Steering::of::<H, true>(found)?;
        let hop = route::<H>(ctx, found, &steering, interface);
        fit::<H>(ctx, &ip, &hop, &steering)?;
        rewrite_fragment::<H>(ctx, &ip, &steering)?;
        if by_host {
            return Err(Discard::ToFragment);
        }
        forward::<H>(ctx, &ip, interface, &hop)
    }
}

/// The entry of a packet with this key; without one the packet is `open_connection`'s.
#[inline(always)]
fn known_or_new<P: Pass, H: Family, T: Transport>(
    ctx: &XdpContext,
    ip: &Ip,
    key: &FlowKey<H::Address>,
) -> Result<Found<H::Address>, Discard> {
    let settings = settings().ok_or(Discard::NoService)?;
    let entry = find::<H>(key, settings);
    if let Some(found) = entry
        && !P::FULL_NAT
        && found.word.is_full_nat()
    {
        call(ctx, programs::FULL_NAT);
        return Err(Discard::Busy);
    }
    if let Some(found) = track::<H, T>(ctx, ip, key, entry, settings)? {
        return Ok(found);
    }
    call(ctx, programs::OPEN_CONNECTION);
    // Only where the daemon has not put the program there.
    Err(Discard::Busy)
}

/// The packet opens a connection.
struct New;

impl Pass for New {
    #[inline(always)]
    fn parse<H: Family>(ctx: &XdpContext) -> Result<Ip, Discard> {
        walked::<H>(ctx)
    }

    #[inline(always)]
    fn prepare<H: Family>(ctx: &XdpContext) -> Result<(), Discard> {
        // While nothing of the packet is held, and once for both transports.
        let opened = open::<H>(ctx);
        if let Err(reason) = opened {
            remember_passed::<H>(reason)?;
        }
        opened
    }

    #[inline(always)]
    fn entry<H: Family, T: Transport>(
        _: &XdpContext,
        _: &Ip,
    ) -> Result<Found<H::Address>, Discard> {
        opened::<H>(scratch::<H>()?).ok_or(Discard::Busy)
    }

    #[inline(always)]
    fn note<H: Family>(by_host: bool) -> Result<(), Discard> {
        remember::<H>(by_host)
    }
}

/// The interface that a frame came in by, if the frame is for this machine alone.
#[inline(always)]
fn interface_of(ctx: &XdpContext) -> Result<&'static Interface, Discard> {
    let ethernet = header_mut::<Ethernet>(ctx, 0)?;
    let interface = INTERFACES
        .get(ctx.ingress_ifindex() as u32)
        .ok_or(Discard::OtherMac)?;
    if interface.mac == 0 || interface.mac != Interface::mac_bits(ethernet.start()) {
        return Err(Discard::OtherMac);
    }
    Ok(interface)
}

/// Takes one frame through a pass.
#[inline(always)]
fn steer<P: Pass>(ctx: &XdpContext) -> Result<Verdict, Discard> {
    let interface = interface_of(ctx)?;
    match header_mut::<Ethernet>(ctx, 0)?.ethertype() {
        ETHERTYPE_IPV4 => steer_ip::<P, Ipv4>(ctx, interface),
        ETHERTYPE_IPV6 => steer_ip::<P, Ipv6>(ctx, interface),
        _ => Err(Discard::NotIp),
    }
}

/// Takes one packet of the family `H` through a pass.
#[inline(always)]
fn steer_ip<P: Pass, H: Family>(
    ctx: &XdpContext,
    interface: &Interface,
) -> Result<Verdict, Discard> {
    if P::WALKS {
        return steer_walking::<P, H>(ctx, interface);
    }
    match header_mut::<H>(ctx, Ethernet::LENGTH)?.protocol() {
        TCP => carry::<P, H, Tcp>(ctx, interface),
        UDP => carry::<P, H, Udp>(ctx, interface),
        _ => Err(other_protocol::<H>(ctx)),
    }
}

/// As [`steer_ip`], with a look for the transport header.
#[inline(always)]
fn steer_walking<P: Pass, H: Family>(
    ctx: &XdpContext,
    interface: &Interface,
) -> Result<Verdict, Discard> {
    let walked = walk::<H>(ctx.as_ptr().cast()).goes_on();
    if let Err(reason) = walked {
        remember_passed::<H>(reason)?;
    }
    if !walked? {
        return P::carry_later::<H>(ctx, interface);
    }
    P::prepare::<H>(ctx)?;
    match scratch::<H>()?.walk.protocol as u8 {
        TCP => carry::<P, H, Tcp>(ctx, interface),
        UDP => carry::<P, H, Udp>(ctx, interface),
        _ => Err(Discard::NotTcpUdp),
    }
}

/// Takes one packet of the family `H` with the transport `T` the whole way, if it has an entry.
#[inline(always)]
fn carry<P: Pass, H: Family, T: Transport>(
    ctx: &XdpContext,
    interface: &Interface,
) -> Result<Verdict, Discard> {
    let ip = P::parse::<H>(ctx)?;
    let found = P::entry::<H, T>(ctx, &ip)?;
    let steering = if P::FULL_NAT {
        Steering::of::<H, true>(found)?
    } else {
        Steering::of::<H, false>(found)?
    };
    let hop = route::<H>(ctx, found, &steering, interface);
    // Before the rewrite: whoever is told that it is too big knows the packet as it came.
    fit::<H>(ctx, &ip, &hop, &steering)?;
    P::note::<H>(hop.is_hosts(&ip))?;
    rewrite::<H, T>(ctx, &ip, &steering)?;
    // Without a way out the packet may still be the kernel's to forward: it is passed translated.
    forward::<H>(ctx, &ip, interface, &hop)
}

/// Takes one ICMP error of the family `H` the whole way, if what it quotes has an entry.
#[inline(always)]
fn carry_error<H: Family>(ctx: &XdpContext, interface: &Interface) -> Result<Verdict, Discard> {
    let ip = parse_ip::<H>(ctx)?;
    let quote = parse_quote::<H>(ctx, &ip)?;
    let found = track_quote::<H>(ctx)?;
    let steering = Steering::of::<H, true>(found)?;
    let hop = route::<H>(ctx, found, &steering, interface);
    fit::<H>(ctx, &ip, &hop, &steering)?;
    rewrite_error::<H>(ctx, &ip, &quote, &steering)?;
    forward::<H>(ctx, &ip, interface, &hop)
}

/// Hands an ICMP message, or a packet with extension headers, over; else why a packet that carries neither TCP nor UDP leaves early.
#[inline(always)]
fn other_protocol<H: Family>(ctx: &XdpContext) -> Discard {
    if header_mut::<H>(ctx, Ethernet::LENGTH).is_ok_and(|header| header.has_extensions()) {
        call(ctx, programs::WALK_HEADERS);
    }
    if let Err(reason) = parse_ip::<H>(ctx) {
        return reason;
    }
    if header_mut::<H>(ctx, Ethernet::LENGTH).is_ok_and(|header| header.protocol() == H::PROTOCOL) {
        call(ctx, programs::TRANSLATE_ERROR);
    }
    Discard::NotTcpUdp
}
