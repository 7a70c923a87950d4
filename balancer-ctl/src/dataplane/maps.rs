//! The maps of the packet program, typed.

use std::path::Path;

use balancer_common::{
    conntrack::{ConntrackEntryV4, ConntrackEntryV6, FlowKeyV4, FlowKeyV6},
    half_open::HalfOpenBucket,
    host_address::HostPrefix,
    real_server::RealServer,
    service::{Service, ServiceKeyV4, ServiceKeyV6},
    settings::{Interface, Settings, Usage},
    stats::RealStats,
};

use super::table::{PerCpuTable, Table};

/// All pinned maps, opened by name.
#[derive(Debug)]
pub struct Maps {
    pub settings: Table<u32, Settings>,
    pub usage: Table<u32, Usage>,
    pub interfaces: Table<u32, Interface>,
    /// `struct bpf_devmap_val`: interface index, and the descriptor of no program.
    pub devices: Table<u32, [u32; 2]>,
    pub services_v4: Table<ServiceKeyV4, Service>,
    pub services_v6: Table<ServiceKeyV6, Service>,
    pub addresses: Table<u32, u64>,
    pub host_addresses: Table<HostPrefix, u32>,
    pub host_filter: Table<u32, u64>,
    pub reals: Table<u32, RealServer>,
    pub rings: Table<u32, u32>,
    pub turns: Table<u32, u64>,
    pub conntrack_v4: Table<FlowKeyV4, ConntrackEntryV4>,
    pub conntrack_v6: Table<FlowKeyV6, ConntrackEntryV6>,
    pub half_open: Table<u32, HalfOpenBucket>,
    pub real_stats: PerCpuTable<RealStats>,
    pub service_stats: Table<u32, RealStats>,
    pub discards: PerCpuTable<u64>,
}

impl Maps {
    /// Opens the maps pinned in `directory`.
    ///
    /// # Errors
    /// One is missing or has another layout.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            settings: Table::open(directory, "SETTINGS")?,
            usage: Table::open(directory, "USAGE")?,
            interfaces: Table::open(directory, "INTERFACES")?,
            devices: Table::open(directory, "DEVICES")?,
            services_v4: Table::open(directory, "SERVICES_V4")?,
            services_v6: Table::open(directory, "SERVICES_V6")?,
            addresses: Table::open(directory, "ADDRESSES")?,
            host_addresses: Table::open(directory, "HOST_ADDRESSES")?,
            host_filter: Table::open(directory, "HOST_FILTER")?,
            reals: Table::open(directory, "REALS")?,
            rings: Table::open(directory, "RINGS")?,
            turns: Table::open(directory, "TURNS")?,
            conntrack_v4: Table::open(directory, "CONNTRACK_V4")?,
            conntrack_v6: Table::open(directory, "CONNTRACK_V6")?,
            half_open: Table::open(directory, "HALF_OPEN")?,
            real_stats: PerCpuTable::open(directory, "REAL_STATS")?,
            service_stats: Table::open(directory, "SERVICE_STATS")?,
            discards: PerCpuTable::open(directory, "DISCARDS")?,
        })
    }
}
