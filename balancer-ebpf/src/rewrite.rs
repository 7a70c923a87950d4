//! The translation applied to the headers, and counted.

use aya_ebpf::programs::XdpContext;
use balancer_common::{
    verdict::Discard,
    wire::{Ethernet, IpHeader, L4Header},
};

use crate::{maps::REAL_STATS, packet::header_mut, parse::Ip, track::Steering};

/// Writes the translation's addresses and ports, brings both checksums along and counts the packet.
#[inline(always)]
pub fn rewrite<H: IpHeader, T: L4Header>(
    ctx: &XdpContext,
    ip: &Ip,
    steering: &Steering<H::Address>,
) -> Result<(), Discard> {
    // SAFETY: `track` took the pointer from a row or from the scratch in this run of the program.
    let row = unsafe { &*steering.row };
    if let Some(stats) = REAL_STATS.get_ptr_mut(row.real) {
        // SAFETY: this CPU's own value; the direction is 0 or 1 by the mask.
        let traffic = unsafe { &mut (*stats).directions[(row.direction & 1) as usize] };
        traffic.packets += 1;
        traffic.bytes += ip.length as u64;
    }
    let to = &row.translation;
    let header = header_mut::<H>(ctx, Ethernet::LENGTH)?;
    header.translate(to.source, to.destination, to.ip_delta);
    let l4 = header_mut::<T>(ctx, ip.l4_offset)?;
    l4.translate(to.source_port, to.destination_port, to.l4_delta);
    Ok(())
}
