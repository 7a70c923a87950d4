//! The typed maps of services, real servers, rings and counters.

use std::path::Path;

use anyhow::Context;
use balancer_common::{
    addr::Addr,
    filter::{RateLimit, Rule, RulePrefix},
    persistence::{MemberKey, Stickiness},
    real_server::RealServer,
    service::Service,
    stats::RealStats,
};

use super::{
    loads::Loads,
    map::{Map, PerCpuHash, PerCpuMap},
    mapped_memory::MappedMemory,
    service_key_maps::ServiceKeyMaps,
};

/// Pinned maps, opened by name.
#[derive(Debug)]
pub struct Maps {
    pub services: ServiceKeyMaps<Service>,
    pub addresses: Map<u32, u64>,
    pub reals: Map<u32, RealServer>,
    pub real_ports: ServiceKeyMaps<u32>,
    pub snat_addresses: Map<u32, Addr>,
    /// Four slots a word.
    pub rings: MappedMemory<u64>,
    pub loads: Loads,
    pub stickiness: Map<u32, Stickiness>,
    pub members: Map<MemberKey, u32>,
    pub filter_rules: Map<RulePrefix, Rule>,
    pub filter_counts: PerCpuHash,
    pub rate_limits: Map<u32, RateLimit>,
    pub turns: Map<u32, u64>,
    pub real_stats: PerCpuMap<RealStats>,
    pub service_stats: Map<u32, RealStats>,
    pub discards: PerCpuMap<u64>,
    pub service_discards: PerCpuHash,
}

impl Maps {
    /// Opens the maps pinned in `directory`.
    ///
    /// # Errors
    /// One is missing or has another layout.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            services: ServiceKeyMaps::open(directory, "SERVICES")?,
            addresses: Map::open(directory, "ADDRESSES")?,
            reals: Map::open(directory, "REALS")?,
            real_ports: ServiceKeyMaps::open(directory, "REAL_PORTS")?,
            snat_addresses: Map::open(directory, "SNAT_ADDRESSES")?,
            rings: Map::<u32, u64>::open(directory, "RINGS")?
                .memory()
                .context("cannot read the rings as memory")?,
            loads: Loads::open(directory)?,
            stickiness: Map::open(directory, "STICKINESS")?,
            members: Map::open(directory, "MEMBERS")?,
            filter_rules: Map::open(directory, "FILTER_RULES")?,
            filter_counts: PerCpuHash::open(directory, "FILTER_COUNTS")?,
            rate_limits: Map::open(directory, "RATE_LIMITS")?,
            turns: Map::open(directory, "TURNS")?,
            real_stats: PerCpuMap::open(directory, "REAL_STATS")?,
            service_stats: Map::open(directory, "SERVICE_STATS")?,
            discards: PerCpuMap::open(directory, "DISCARDS")?,
            service_discards: PerCpuHash::open(directory, "SERVICE_DISCARDS")?,
        })
    }
}
