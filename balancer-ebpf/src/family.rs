//! The address families, each with its maps.

use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use balancer_common::{
    conntrack::Bucket,
    failover::FailoverReal,
    fragment::{Fragment, FragmentKey},
    service::{Service, ServiceKey},
    verdict::Discard,
    wire::{Ipv4, Ipv6, answer::AnswerHeader},
};

use crate::{
    headers::Walkable,
    maps::{
        CONNTRACK_V4, CONNTRACK_V6, FAILOVER_REALS_V4, FAILOVER_REALS_V6, FRAGMENTS_V4,
        FRAGMENTS_V6, REAL_PORTS_V4, REAL_PORTS_V6, SCRATCH_V4, SCRATCH_V6, SERVICES_V4,
        SERVICES_V6, UNPROVEN_FRAGMENTS_V4, UNPROVEN_FRAGMENTS_V6,
    },
    scratch::Scratch,
};

/// What became of first fragments.
pub type Fragments<A> = LruHashMap<FragmentKey<A>, Fragment>;

/// An address family with its maps.
pub trait Family: AnswerHeader + Walkable {
    /// Its place in `Settings::buckets`.
    const INDEX: usize;
    /// The connection table.
    fn table() -> &'static Array<Bucket<Self::Address>>;
    /// The services.
    fn services() -> &'static HashMap<ServiceKey<Self::Address>, Service>;
    /// The real servers' addresses and ports.
    fn real_ports() -> &'static HashMap<ServiceKey<Self::Address>, u32>;
    /// The real servers whose segments may belong to connections of another node.
    fn failover_reals() -> &'static HashMap<ServiceKey<Self::Address>, FailoverReal>;
    /// What became of the first fragments of datagrams whose connections are assured or confirmed.
    fn fragments() -> &'static Fragments<Self::Address>;
    /// What became of other datagrams' first fragments.
    fn unproven_fragments() -> &'static Fragments<Self::Address>;
    /// Room for what does not fit on the stack.
    fn scratch() -> &'static PerCpuArray<Scratch<Self::Address>>;
}

impl Family for Ipv4 {
    const INDEX: usize = 0;

    #[inline(always)]
    fn table() -> &'static Array<Bucket<u32>> {
        &CONNTRACK_V4
    }

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<u32>, Service> {
        &SERVICES_V4
    }

    #[inline(always)]
    fn real_ports() -> &'static HashMap<ServiceKey<u32>, u32> {
        &REAL_PORTS_V4
    }

    #[inline(always)]
    fn failover_reals() -> &'static HashMap<ServiceKey<u32>, FailoverReal> {
        &FAILOVER_REALS_V4
    }

    #[inline(always)]
    fn fragments() -> &'static Fragments<u32> {
        &FRAGMENTS_V4
    }

    #[inline(always)]
    fn unproven_fragments() -> &'static Fragments<u32> {
        &UNPROVEN_FRAGMENTS_V4
    }

    #[inline(always)]
    fn scratch() -> &'static PerCpuArray<Scratch<u32>> {
        &SCRATCH_V4
    }
}

impl Family for Ipv6 {
    const INDEX: usize = 1;

    #[inline(always)]
    fn table() -> &'static Array<Bucket<[u32; 4]>> {
        &CONNTRACK_V6
    }

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<[u32; 4]>, Service> {
        &SERVICES_V6
    }

    #[inline(always)]
    fn real_ports() -> &'static HashMap<ServiceKey<[u32; 4]>, u32> {
        &REAL_PORTS_V6
    }

    #[inline(always)]
    fn failover_reals() -> &'static HashMap<ServiceKey<[u32; 4]>, FailoverReal> {
        &FAILOVER_REALS_V6
    }

    #[inline(always)]
    fn fragments() -> &'static Fragments<[u32; 4]> {
        &FRAGMENTS_V6
    }

    #[inline(always)]
    fn unproven_fragments() -> &'static Fragments<[u32; 4]> {
        &UNPROVEN_FRAGMENTS_V6
    }

    #[inline(always)]
    fn scratch() -> &'static PerCpuArray<Scratch<[u32; 4]>> {
        &SCRATCH_V6
    }
}

/// This CPU's scratch.
#[inline(always)]
pub fn scratch<H: Family>() -> Result<&'static mut Scratch<H::Address>, Discard> {
    let scratch = H::scratch().get_ptr_mut(0).ok_or(Discard::TableFull)?;
    // SAFETY: this CPU's own value, no other program of ours runs on this CPU until this one has ended, and no
    // caller holds two references at once.
    Ok(unsafe { &mut *scratch })
}
