//! The data path. Both directions and both families run through the same five verbs:
//!
//! ```text
//!  frame ─ parse ─▶ key ─ track ─ hit ───────────────────────▶ translation ─┐
//!            │               └ miss ─ classify ─ schedule ──▶ translation ─┤
//!            └ discard ───────────────┐                                    ▼
//!                                     └──▶ finish ◀── forward ◀── rewrite ◀─┘
//! ```

use aya_ebpf::programs::XdpContext;
use balancer_common::{
    addr::{TCP, UDP},
    verdict::{Discard, Verdict},
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6, Tcp, Udp},
};

use crate::{
    forward::forward,
    maps::INTERFACES,
    packet::header_mut,
    parse::{Parsed, parse_ip, parse_tcp, parse_udp},
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
    if interface.configured == 0
        || ethernet.destination() != (interface.mac_start, interface.mac_end)
    {
        return Err(Discard::OtherMac);
    }
    match ethernet.ethertype() {
        ETHERTYPE_IPV4 => steer::<Ipv4>(ctx),
        ETHERTYPE_IPV6 => steer::<Ipv6>(ctx),
        _ => Err(Discard::NotIp),
    }
}

/// Steers one packet of the family `H`.
#[inline(always)]
fn steer<H: Family>(ctx: &XdpContext) -> Result<Verdict, Discard> {
    let ip = parse_ip::<H>(ctx)?;
    match ip.protocol {
        TCP => {
            let packet = parse_tcp(ctx, &ip)?;
            let steering = track::<H>(&packet)?;
            rewrite::<H, Tcp>(ctx, &packet, &steering)?;
            forward::<H>(ctx, &packet, &steering)
        }
        UDP => {
            let packet: Parsed<H::Address> = parse_udp::<H>(ctx, &ip)?;
            let steering = track::<H>(&packet)?;
            rewrite::<H, Udp>(ctx, &packet, &steering)?;
            forward::<H>(ctx, &packet, &steering)
        }
        _ => Err(Discard::NotTcpUdp),
    }
}
