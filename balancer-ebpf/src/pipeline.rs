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
//! `open_connection`, which opens their connection and takes them the rest of the way: the verifier looks at each program by
//! itself.

use aya_ebpf::programs::XdpContext;
use balancer_common::{
    addr::{Address, TCP, UDP},
    settings::Interface,
    trace::Answer,
    verdict::{Discard, Verdict},
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, Tcp, Udp},
};

use crate::{
    family::{Family, scratch},
    forward::{forward, route},
    maps::INTERFACES,
    open::{self, open, opened},
    packet::header_mut,
    parse::{Ip, Transport, key, parse_ip},
    rewrite::rewrite,
    steering::Steering,
    table::Found,
    track::track,
};

/// Steers one frame, if its packet has an entry; else it is `open_connection`'s.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> Result<Option<Verdict>, Discard> {
    steer::<Known>(ctx)
}

/// Opens the connection of a frame's packet, and steers it.
#[inline(always)]
pub fn open_and_run(ctx: &XdpContext) -> Result<Verdict, Discard> {
    steer::<New>(ctx)?.ok_or(Discard::Busy)
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
    // As `examine` wants it.
    match header_mut::<H>(ctx, Ethernet::LENGTH)?.protocol() {
        TCP => key::<H, Tcp>(ctx, &parse_ip::<H>(ctx)?).map(drop)?,
        UDP => key::<H, Udp>(ctx, &parse_ip::<H>(ctx)?).map(drop)?,
        _ => return Err(Discard::NotTcpUdp),
    }
    let mut answer = open::ask::<H>(ctx);
    answer.port = u32::from(u16::from_be(scratch::<H>()?.key.ports.source()));
    Ok(answer)
}

/// How a packet gets its connection's entry.
trait Pass {
    /// What comes before all else.
    fn prepare<H: Family>(ctx: &XdpContext) -> Result<(), Discard>;

    /// The entry, or nothing where the packet may open a connection.
    fn entry<H: Family, T: Transport>(
        ctx: &XdpContext,
    ) -> Result<Option<Tracked<H::Address>>, Discard>;
}

/// What is known of a packet that has an entry.
struct Tracked<A: Address> {
    ip: Ip,
    found: Found<A>,
}

/// The packet's connection is known.
struct Known;

impl Pass for Known {
    #[inline(always)]
    fn prepare<H: Family>(_: &XdpContext) -> Result<(), Discard> {
        Ok(())
    }

    #[inline(always)]
    fn entry<H: Family, T: Transport>(
        ctx: &XdpContext,
    ) -> Result<Option<Tracked<H::Address>>, Discard> {
        let ip = parse_ip::<H>(ctx)?;
        let key = key::<H, T>(ctx, &ip)?;
        let found = track::<H, T>(ctx, &ip, &key)?;
        Ok(found.map(|found| Tracked { ip, found }))
    }
}

/// The packet opens a connection.
struct New;

impl Pass for New {
    #[inline(always)]
    fn prepare<H: Family>(ctx: &XdpContext) -> Result<(), Discard> {
        // While nothing of the packet is held, and once for both transports.
        open::<H>(ctx)
    }

    #[inline(always)]
    fn entry<H: Family, T: Transport>(
        ctx: &XdpContext,
    ) -> Result<Option<Tracked<H::Address>>, Discard> {
        let ip = parse_ip::<H>(ctx)?;
        let scratch = scratch::<H>()?;
        let found = opened::<H>(scratch).ok_or(Discard::Busy)?;
        Ok(Some(Tracked { ip, found }))
    }
}

/// Takes one frame through a pass.
#[inline(always)]
fn steer<P: Pass>(ctx: &XdpContext) -> Result<Option<Verdict>, Discard> {
    let ethernet = header_mut::<Ethernet>(ctx, 0)?;
    let interface = INTERFACES
        .get(ctx.ingress_ifindex() as u32)
        .ok_or(Discard::OtherMac)?;
    if interface.mac == 0 || interface.mac != Interface::mac_bits(ethernet.start()) {
        return Err(Discard::OtherMac);
    }
    match ethernet.ethertype() {
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
) -> Result<Option<Verdict>, Discard> {
    match header_mut::<H>(ctx, Ethernet::LENGTH)?.protocol() {
        TCP | UDP => {}
        _ => return Err(other_protocol::<H>(ctx)),
    }
    P::prepare::<H>(ctx)?;
    match header_mut::<H>(ctx, Ethernet::LENGTH)?.protocol() {
        TCP => carry::<P, H, Tcp>(ctx, interface),
        UDP => carry::<P, H, Udp>(ctx, interface),
        _ => Err(other_protocol::<H>(ctx)),
    }
}

/// Takes one packet of the family `H` with the transport `T` the whole way, if it has an entry.
#[inline(always)]
fn carry<P: Pass, H: Family, T: Transport>(
    ctx: &XdpContext,
    interface: &Interface,
) -> Result<Option<Verdict>, Discard> {
    let Some(Tracked { ip, found }) = P::entry::<H, T>(ctx)? else {
        return Ok(None);
    };
    let steering = Steering::of(found)?;
    let hop = route::<H>(ctx, found, &steering, interface);
    rewrite::<H, T>(ctx, &ip, &steering)?;
    // Without a way out the packet may still be the kernel's to forward: it is passed translated.
    forward::<H>(ctx, &ip, interface, &hop).map(Some)
}

/// Why a packet that carries neither TCP nor UDP leaves early.
#[inline(always)]
fn other_protocol<H: Family>(ctx: &XdpContext) -> Discard {
    match parse_ip::<H>(ctx) {
        Ok(_) => Discard::NotTcpUdp,
        Err(reason) => reason,
    }
}
