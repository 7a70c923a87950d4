//! Frames that the host's own stack would get in the host's own name. Forwarding needs `accept_local`, by which the
//! kernel takes IPv4 packets from its own addresses also from outside; so they are refused here.

use aya_ebpf::{EbpfContext as _, bindings::xdp_md, programs::XdpContext};
use balancer_common::{
    verdict::Discard,
    wire::{
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, Ethernet, Ipv4,
        Ipv6, VlanTag,
    },
};

use crate::{
    family::{Family, scratch},
    maps::{is_hosts, may_be_hosts},
    packet::{header_anew, header_mut},
};

/// How many priority tags may stand in front of a packet. The kernel takes any number off.
const MAX_TAGS: usize = 2;

/// Why a frame must not go to the host's stack although its `reason` passes it.
#[inline(always)]
pub fn host_source(ctx: &XdpContext, reason: Discard) -> Option<Discard> {
    let ethernet = header_mut::<Ethernet>(ctx, 0).ok()?;
    let may_be_hosts = match ethernet.ethertype() {
        ETHERTYPE_IPV4 => may_come_from_host::<Ipv4>(ctx),
        ETHERTYPE_IPV6 => may_come_from_host::<Ipv6>(ctx),
        ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => true,
        _ => false,
    };
    if !may_be_hosts {
        return None;
    }
    // The stack takes nothing that is for another machine alone; a bridge or a macvlan above may.
    let is_for_many = u64::from(reason == Discard::OtherMac);
    match examine(ctx.as_ptr().cast(), is_for_many) {
        FROM_HOST => Some(Discard::Martian),
        NESTED => Some(Discard::NestedTags),
        _ => None,
    }
}

/// A quick answer for untagged packets; `false` is certain.
#[inline(always)]
fn may_come_from_host<H: Family>(ctx: &XdpContext) -> bool {
    match header_mut::<H>(ctx, Ethernet::LENGTH) {
        Ok(header) => may_be_hosts(header.source()),
        Err(_) => false,
    }
}

/// The packet has this host's address as its source.
const FROM_HOST: u64 = 1;
/// There are too many tags.
const NESTED: u64 = 2;

/// Looks at a packet's source; with `is_for_many` only in frames to a group address. A packet behind tags that name no VLAN
/// is the interface's own; one in a VLAN is that VLAN's interface's.
#[inline(never)]
fn examine(ctx: *mut xdp_md, is_for_many: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    let Some(ethernet) = header_anew::<Ethernet>(&ctx, 0) else {
        return 0;
    };
    if is_for_many != 0 && !ethernet.is_to_group() {
        return 0;
    }
    let mut ethertype = ethernet.ethertype();
    let mut offset = Ethernet::LENGTH;
    for _ in 0..=MAX_TAGS {
        match ethertype {
            ETHERTYPE_IPV4 => return comes_from_host::<Ipv4>(&ctx, offset),
            ETHERTYPE_IPV6 => return comes_from_host::<Ipv6>(&ctx, offset),
            ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => {}
            _ => return 0,
        }
        let Some(tag) = header_anew::<VlanTag>(&ctx, offset) else {
            return 0;
        };
        if tag.vlan() != 0 {
            return 0;
        }
        ethertype = tag.ethertype();
        offset += VlanTag::LENGTH;
    }
    NESTED
}

/// [`FROM_HOST`] where the packet at `offset` bytes has this host's address as its source.
#[inline(always)]
fn comes_from_host<H: Family>(ctx: &XdpContext, offset: usize) -> u64 {
    match header_anew::<H>(ctx, offset) {
        Some(header) if scratch::<H>().is_ok_and(|scratch| is_hosts(scratch, header.source())) => {
            FROM_HOST
        }
        _ => 0,
    }
}
