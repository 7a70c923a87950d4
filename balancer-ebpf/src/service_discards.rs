//! Which service's packets left early, and why.

use aya_ebpf::{EbpfContext as _, bindings::xdp_md, programs::XdpContext};
use balancer_common::{
    addr::{TCP, UDP},
    conntrack::Ports,
    verdict::{Discard, Outcome},
    wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6},
};

use crate::{
    classify::classify,
    family::{Family, scratch},
    maps::{SERVICE_DISCARDS, settings},
    packet::header_anew,
};

/// `BPF_NOEXIST`: another CPU may have made the place.
const IF_ABSENT: u64 = 1;
/// The bits of the length of a header with its options.
const LENGTH_BITS: usize = 0x3f;

/// The service that a packet as it came is for, if its packets are counted that leave for this reason: its id plus one. 0 where
/// it is for none, is a fragment or has IPv6 extension headers.
#[inline(always)]
pub fn service_of(ctx: &XdpContext, reason: Discard) -> u64 {
    match reason.outcome() {
        Outcome::Drop | Outcome::Answer => find(ctx.as_ptr().cast()),
        Outcome::Pass | Outcome::Forward => 0,
    }
}

#[inline(never)]
fn find(ctx: *mut xdp_md) -> u64 {
    let ctx = XdpContext::new(ctx);
    let Some(ethernet) = header_anew::<Ethernet>(&ctx, 0) else {
        return 0;
    };
    let id = match ethernet.ethertype() {
        ETHERTYPE_IPV4 => by_destination::<Ipv4>(&ctx),
        ETHERTYPE_IPV6 => by_destination::<Ipv6>(&ctx),
        _ => None,
    };
    match id {
        Some(id) => u64::from(id) + 1,
        None => 0,
    }
}

#[inline(always)]
fn by_destination<H: Family>(ctx: &XdpContext) -> Option<u32> {
    let settings = settings()?;
    let scratch = scratch::<H>().ok()?;
    let header = header_anew::<H>(ctx, Ethernet::LENGTH)?;
    let protocol = header.protocol();
    if header.is_fragment() || protocol != TCP && protocol != UDP {
        return None;
    }
    let key = &mut scratch.other_key;
    key.destination = header.destination();
    key.protocol = u32::from(protocol);
    let length = header.header_length()? & LENGTH_BITS;
    let ports = header_anew::<[[u8; 2]; 2]>(ctx, Ethernet::LENGTH + length)?;
    key.ports = Ports::new(u16::from_ne_bytes(ports[0]), u16::from_ne_bytes(ports[1]));
    classify::<H>(&scratch.other_key, settings).map(|service| service.id)
}

/// Counts a packet of the service that [`service_of`] has found.
#[inline(always)]
pub fn count_for(service: u64, reason: Discard) {
    if service != 0 {
        add(u64::from(reason.of_service((service - 1) as u32)));
    }
}

#[inline(never)]
fn add(key: u64) -> u64 {
    let key = key as u32;
    if SERVICE_DISCARDS.get_ptr_mut(&key).is_none() {
        // An error: it is there by now, or there is no room.
        let _ = SERVICE_DISCARDS.insert(&key, &0, IF_ABSENT);
    }
    let Some(count) = SERVICE_DISCARDS.get_ptr_mut(&key) else {
        return 0;
    };
    // SAFETY: this CPU's own value.
    unsafe { *count += 1 };
    1
}
