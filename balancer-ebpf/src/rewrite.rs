//! The translation applied to the headers, and counted.

use aya_ebpf::programs::XdpContext;
use balancer_common::{
    addr::Address as _,
    checksum::{Delta, DeltaSum},
    verdict::Discard,
    wire::{Ethernet, L4Header},
};

use crate::{
    family::{Family, scratch},
    maps::REAL_STATS,
    packet::header_mut,
    parse::Ip,
    scratch::Peer,
    steering::Steering,
};

/// Writes the real server's address and port in place of the service's, or the other way round, with full NAT also those of the client's
/// side, brings both checksums along and counts the packet.
#[inline(always)]
pub fn rewrite<H: Family, T: L4Header>(
    ctx: &XdpContext,
    ip: &Ip,
    steering: &Steering,
) -> Result<(), Discard> {
    count(ip, steering);
    let header = header_mut::<H>(ctx, Ethernet::LENGTH)?;
    let l4 = header_mut::<T>(ctx, ip.l4_offset)?;
    let delta = replace_address(header, steering);
    if steering.is_original {
        l4.replace_destination_port(steering.port, delta);
    } else {
        l4.replace_source_port(steering.port, delta);
    }
    if steering.is_full_nat {
        let peer = &scratch::<H>()?.peer;
        let delta = replace_peer(header, peer, steering);
        if steering.is_original {
            l4.replace_source_port(peer.port as u16, delta);
        } else {
            l4.replace_destination_port(peer.port as u16, delta);
        }
    }
    Ok(())
}

/// As [`rewrite`], of a later fragment, which has no ports.
#[inline(always)]
pub fn rewrite_fragment<H: Family>(
    ctx: &XdpContext,
    ip: &Ip,
    steering: &Steering,
) -> Result<(), Discard> {
    count(ip, steering);
    let header = header_mut::<H>(ctx, Ethernet::LENGTH)?;
    replace_address(header, steering);
    if steering.is_full_nat {
        replace_peer(header, &scratch::<H>()?.peer, steering);
    }
    Ok(())
}

/// Writes the real server's address in place of the VIP, or the other way round. Returns what that makes of a checksum.
#[inline(always)]
fn replace_address<H: Family>(header: &mut H, steering: &Steering) -> Delta {
    let real = steering.real;
    if steering.is_original {
        header.replace_destination(H::Address::narrow(real.address), real.delta);
        real.delta
    } else {
        let delta = real.delta.inverse();
        header.replace_source(H::Address::narrow(real.vip), delta);
        delta
    }
}

/// Writes the peer's address in place of the client's side. Returns what that makes of a checksum.
#[inline(always)]
pub fn replace_peer<H: Family>(
    header: &mut H,
    peer: &Peer<H::Address>,
    steering: &Steering,
) -> Delta {
    if steering.is_original {
        let delta = peer_delta::<H>(header.source(), peer);
        header.replace_source(peer.address, delta);
        delta
    } else {
        let delta = peer_delta::<H>(header.destination(), peer);
        header.replace_destination(peer.address, delta);
        delta
    }
}

/// What replacing an address by the peer's makes of a checksum.
#[inline(always)]
pub fn peer_delta<H: Family>(old: H::Address, peer: &Peer<H::Address>) -> Delta {
    DeltaSum::new()
        .words(old.word_sum(), peer.address.word_sum())
        .fold()
}

/// Counts a packet of its real server.
#[inline(always)]
pub fn count(ip: &Ip, steering: &Steering) {
    if let Some(stats) = REAL_STATS.get_ptr_mut(steering.real_id) {
        // SAFETY: this CPU's own value; the direction is 0 or 1.
        let traffic = unsafe { &mut (*stats).directions[usize::from(!steering.is_original)] };
        traffic.packets += 1;
        traffic.bytes += ip.length as u64;
    }
}
