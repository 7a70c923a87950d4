//! The real servers whose segments may belong to connections that another node has begun: see [`FailoverReal`].

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use anyhow::Context;
use balancer_common::{conntrack::forwarding, failover::FailoverReal, real_server::state};
use nix::time::{ClockId, clock_gettime};

use super::{
    plan::tables::{Tables, address_of},
    service_key_maps::ServiceKeyMaps,
};
use crate::model::{Protocol, ServiceKey};

/// VIPs that another node has, or had until now, with the time for which connections that it has begun are still expected; without one
/// for as long as it has the VIP.
pub type FailoverVips = BTreeMap<IpAddr, Option<Duration>>;

/// The maps, and what the daemon knows of their content.
#[derive(Debug)]
pub struct FailoverRealTable {
    maps: ServiceKeyMaps<FailoverReal>,
    known: HashMap<ServiceKey, FailoverReal>,
    /// The VIPs, with the values of [`FailoverReal::until`].
    vips: BTreeMap<IpAddr, u64>,
}

impl FailoverRealTable {
    /// Opens and reads the maps pinned in `directory`.
    ///
    /// # Errors
    /// A map is missing, or the kernel refused a call.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let maps = ServiceKeyMaps::open(directory, "FAILOVER_REALS")?;
        let known = maps
            .all()
            .context("cannot read which real servers may have connections of another node")?;
        Ok(Self {
            maps,
            known: known.into_iter().collect(),
            vips: BTreeMap::new(),
        })
    }

    /// Sets the VIPs.
    ///
    /// # Errors
    /// The clock cannot be read; nothing is changed.
    pub fn set_vips(&mut self, vips: &FailoverVips) -> anyhow::Result<()> {
        let now = monotonic()?;
        let until = |left: Option<Duration>| {
            left.map_or(u64::MAX, |left| {
                now.saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
            })
        };
        self.vips = vips
            .iter()
            .map(|(vip, left)| (*vip, until(*left)))
            .collect();
        Ok(())
    }

    /// Brings the maps to what these tables and the VIPs say.
    ///
    /// # Errors
    /// The kernel refused a call; the next one tries again.
    pub fn follow(&mut self, tables: &Tables) -> anyhow::Result<()> {
        if self.vips.is_empty() && self.known.is_empty() {
            return Ok(());
        }
        let now = monotonic()?;
        self.vips.retain(|_, until| *until > now);
        let wanted = wanted(tables, &self.vips);
        let known = self.known.keys();
        let gone: Vec<_> = known
            .filter(|key| !wanted.contains_key(*key))
            .copied()
            .collect();
        for key in gone {
            self.maps
                .delete(&key)
                .context("cannot forget which real servers may have connections of another node")?;
            self.known.remove(&key);
        }
        for (key, real) in wanted {
            if self.known.get(&key) == Some(&real) {
                continue;
            }
            self.maps
                .set(&key, &real)
                .context("cannot write which real servers may have connections of another node")?;
            self.known.insert(key, real);
        }
        Ok(())
    }
}

/// The kernel's monotonic clock, nanoseconds.
fn monotonic() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the clock")?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}

/// The maps' content. What a real server sends that also serves a VIP which is none of these may be of a direct connection, here or by
/// that VIP: it is left alone. Where several of the VIPs' services have a real server's address and port, the first one has its segments.
fn wanted(tables: &Tables, vips: &BTreeMap<IpAddr, u64>) -> HashMap<ServiceKey, FailoverReal> {
    let services = tables.services.iter();
    let services = services.filter(|(key, _)| key.protocol == Protocol::Tcp);
    let services: HashMap<_, _> = services.map(|(key, row)| (row.service.id, key)).collect();
    let mut wanted = HashMap::<ServiceKey, Option<(&ServiceKey, FailoverReal)>>::new();
    let reals = (0_u32..).zip(&tables.reals);
    // Answers by full NAT come to this host's own addresses.
    let reals = reals.filter(|(_, real)| {
        real.state != state::FREE
            && !state::is_removed(real.state)
            && real.forwarding != forwarding::FULL_NAT
    });
    for (id, real) in reals {
        let Some(service) = services.get(&real.service) else {
            continue;
        };
        let key = ServiceKey {
            protocol: Protocol::Tcp,
            address: address_of(real),
        };
        let port = service.address.port();
        let of_service = vips.get(&service.address.ip()).map(|until| FailoverReal {
            until: *until,
            real: id,
            port: port.to_be(),
            zero: 0,
        });
        if port == 0 {
            continue;
        }
        let chosen = wanted
            .entry(key)
            .or_insert_with(|| of_service.map(|real| (*service, real)));
        *chosen = match (*chosen, of_service) {
            (Some(first), Some(other)) if *service < first.0 => Some((*service, other)),
            (Some(first), Some(_)) => Some(first),
            _ => None,
        };
    }
    wanted
        .into_iter()
        .filter_map(|(key, chosen)| Some((key, chosen?.1)))
        .collect()
}

#[cfg(test)]
mod tests;
