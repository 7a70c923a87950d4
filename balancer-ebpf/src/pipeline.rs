//! The data path. Both directions and both families run through the same five verbs:
//!
//! ```text
//!  frame ─ parse ─▶ key ─ track ─ hit ───────────────────────▶ translation ─┐
//!            │               └ miss ─ classify ─ schedule ──▶ translation ─┤
//!            └ discard ───────────────┐                                    ▼
//!                                     └──▶ finish ◀── forward ◀── rewrite ◀─┘
//!                                           └ answer
//! ```

use aya_ebpf::programs::XdpContext;
use balancer_common::{
    addr::{TCP, UDP},
    settings::Interface,
    verdict::{Discard, Verdict},
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, Tcp, Udp},
};

use crate::{
    forward::{forward, route},
    maps::INTERFACES,
    packet::header_mut,
    parse::{Transport, key, parse_ip},
    rewrite::rewrite,
    table::Family,
    track::track,
};

/// Steers one frame.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> Result<Verdict, Discard> {
    let ethernet = header_mut::<Ethernet>(ctx, 0)?;
    let interface = INTERFACES
        .get(ctx.ingress_ifindex() as u32)
        .ok_or(Discard::OtherMac)?;
    if interface.mac == 0 || interface.mac != Interface::mac_bits(ethernet.start()) {
        return Err(Discard::OtherMac);
    }
    match ethernet.ethertype() {
        ETHERTYPE_IPV4 => steer::<Ipv4>(ctx, interface),
        ETHERTYPE_IPV6 => steer::<Ipv6>(ctx, interface),
        _ => Err(Discard::NotIp),
    }
}

/// Steers one packet of the family `H`.
#[inline(always)]
fn steer<H: Family>(ctx: &XdpContext, interface: &Interface) -> Result<Verdict, Discard> {
    match header_mut::<H>(ctx, Ethernet::LENGTH)?.protocol() {
        TCP => carry::<H, Tcp>(ctx, interface),
        UDP => carry::<H, Udp>(ctx, interface),
        _ => Err(other_protocol::<H>(ctx)),
    }
}

/// Takes one packet of the family `H` with the transport `T` the whole way.
#[inline(always)]
fn carry<H: Family, T: Transport>(
    ctx: &XdpContext,
    interface: &Interface,
) -> Result<Verdict, Discard> {
    let ip = parse_ip::<H>(ctx)?;
    let key = key::<H, T>(ctx, &ip)?;
    let steering = track::<H, T>(ctx, &ip, &key, interface)?;
    let routed = route::<H>(ctx, &key, &steering, interface);
    rewrite::<H, T>(ctx, &ip, &steering)?;
    // Without a way out the packet may still be the kernel's to forward: it is passed translated.
    routed?;
    forward::<H>(ctx, &ip, interface, &steering)
}

/// Why a packet that carries neither TCP nor UDP leaves early.
#[inline(always)]
fn other_protocol<H: Family>(ctx: &XdpContext) -> Discard {
    match parse_ip::<H>(ctx) {
        Ok(_) => Discard::NotTcpUdp,
        Err(reason) => reason,
    }
}
