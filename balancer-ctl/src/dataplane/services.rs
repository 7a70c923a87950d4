//! Services, their real servers and rings, as the kernel's tables hold them, and what is counted of them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::Path,
};

use anyhow::{Context, anyhow};
use balancer_common::{real_server::state, settings::Settings, stats::RealStats, verdict::Discard};

use super::{
    Counters, RealSnapshot, Service, ServiceSnapshot, Snapshot, apply,
    connections::ConnectionTables, conntrack::ConnectionCounts, grace, maps::Maps,
    settings::SettingsRow,
};
use crate::{
    dataplane::plan::{
        self, Full,
        tables::{TableChange, Tables, address_of},
    },
    model::ServiceKey,
    netlink::address::Networks,
};

/// The tables of services.
#[derive(Debug)]
pub struct ServiceTables {
    maps: Maps,
    settings: SettingsRow,
    /// What the maps hold; none after a failure half way, until it is read again.
    tables: Option<Tables>,
    /// The networks that this host is in.
    networks: Networks,
    /// Real servers that packets reach by a gateway.
    routed: BTreeSet<IpAddr>,
}

impl ServiceTables {
    /// Those in the maps pinned in `directory`.
    ///
    /// # Errors
    /// A map is missing, or the kernel refused a call.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let maps = Maps::open(directory)?;
        let settings = SettingsRow::open(directory)?;
        let tables = apply::observe(&maps, &settings)?;
        Ok(Self {
            maps,
            settings,
            tables: Some(tables),
            networks: Networks::default(),
            routed: BTreeSet::new(),
        })
    }

    /// The settings as they stand.
    pub const fn settings(&self) -> Settings {
        self.settings.get()
    }

    /// Changes the settings.
    ///
    /// # Errors
    /// The kernel refused; nothing is changed.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) -> anyhow::Result<()> {
        self.settings
            .update(change)
            .context("cannot write the settings")
    }

    /// The tables as they stand, read again after a failure.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn tables(&mut self) -> anyhow::Result<&mut Tables> {
        let tables = match self.tables.take() {
            Some(tables) => tables,
            None => Tables {
                networks: self.networks.clone(),
                routed: self.routed.clone(),
                ..apply::observe(&self.maps, &self.settings)?
            },
        };
        Ok(self.tables.insert(tables))
    }

    /// Brings the tables to `services`. The changes that were made.
    ///
    /// # Errors
    /// A table is too small: nothing was changed. Or the kernel refused a call.
    pub fn reconcile(
        &mut self,
        services: &[Service],
        connections: &mut ConnectionTables,
    ) -> anyhow::Result<Vec<TableChange>> {
        let tables = self.tables()?;
        let changes = match plan::plan(services, tables) {
            Err(Full::Ring { .. }) if tables.space.has_retired() => {
                // No packet reads retired rings any more after this.
                grace::wait()?;
                tables.space.release();
                plan::plan(services, tables)
            }
            result => result,
        };
        let changes = changes.map_err(|full| anyhow!(full))?;
        self.make(&changes, connections)?.adopt(services);
        Ok(changes)
    }

    /// Makes changes in the kernel's tables, and notes them. After a failure the tables are read again.
    fn make(
        &mut self,
        changes: &[TableChange],
        connections: &mut ConnectionTables,
    ) -> anyhow::Result<&mut Tables> {
        self.tables()?;
        let mut tables = self.tables.take().context("the tables were read above")?;
        connections.about_to_change(changes);
        apply::apply(&self.maps, &self.settings, changes)?;
        for change in changes {
            tables.apply(change);
        }
        Ok(self.tables.insert(tables))
    }

    /// Follows which networks this host is in.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn follow_networks(
        &mut self,
        networks: Networks,
        connections: &mut ConnectionTables,
    ) -> anyhow::Result<()> {
        self.networks.clone_from(&networks);
        let tables = self.tables()?;
        tables.networks = networks;
        let changes = plan::follow_networks(tables);
        self.make(&changes, connections)?;
        Ok(())
    }

    /// Follows which real servers packets reach by a gateway.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn follow_gateways(
        &mut self,
        routed: BTreeSet<IpAddr>,
        connections: &mut ConnectionTables,
    ) -> anyhow::Result<()> {
        self.routed.clone_from(&routed);
        let tables = self.tables()?;
        if tables.routed == routed {
            return Ok(());
        }
        tables.routed = routed;
        let changes = plan::follow_networks(tables);
        self.make(&changes, connections)?;
        Ok(())
    }

    /// The addresses of all real servers, removed ones that have connections among them.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn real_addresses(&mut self) -> anyhow::Result<BTreeSet<IpAddr>> {
        let reals = self.tables()?.reals.iter();
        Ok(reals
            .filter(|real| real.state != state::FREE)
            .map(|real| IpAddr::from(real.address))
            .collect())
    }

    /// Ids of real servers that were removed.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn removed(&mut self) -> anyhow::Result<HashSet<u32>> {
        let reals = (0_u32..).zip(&self.tables()?.reals);
        Ok(reals
            .filter(|(_, real)| state::is_removed(real.state))
            .map(|(id, _)| id)
            .collect())
    }

    /// Gives the ids of removed real servers back: no connection refers to them any more.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn free_reals(&mut self, ids: impl IntoIterator<Item = u32>) -> anyhow::Result<()> {
        self.tables()?;
        let mut tables = self.tables.take().context("the tables were read above")?;
        for id in ids {
            apply::free_real(&self.maps, &mut tables, id)?;
        }
        self.tables = Some(tables);
        Ok(())
    }

    /// Services and real servers with their counters and these connections.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn snapshot(&mut self, count: &ConnectionCounts) -> anyhow::Result<Snapshot> {
        self.tables()?;
        let tables = self.tables.as_ref().context("the tables were read above")?;
        let mut snapshot = Snapshot::default();
        let mut keys = HashMap::new();
        for (key, row) in &tables.services {
            let id = row.service.id;
            keys.insert(id, *key);
            let removed = self
                .maps
                .service_stats
                .get(&id)
                .context("cannot read service counters")?;
            let counters = counters(&removed.unwrap_or_default());
            snapshot.services.insert(
                *key,
                ServiceSnapshot {
                    counters,
                    ..ServiceSnapshot::default()
                },
            );
        }
        for (id, real) in (0_u32..)
            .zip(&tables.reals)
            .filter(|(_, real)| real.state != state::FREE)
        {
            let Some(service) = keys
                .get(&real.service)
                .and_then(|key| snapshot.services.get_mut(key))
            else {
                continue;
            };
            let stats = self
                .maps
                .real_stats
                .get(id)
                .context("cannot read counters")?;
            let counters = counters(&apply::sum(&stats));
            service.counters = add(service.counters, counters);
            if !state::is_removed(real.state) {
                let [active, inactive] = count.reals.get(id as usize).copied().unwrap_or_default();
                service.reals.insert(
                    address_of(real),
                    RealSnapshot {
                        active,
                        inactive,
                        counters,
                    },
                );
            }
        }
        Ok(snapshot)
    }

    /// How many packets left early for a reason.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn discarded(&self, reason: Discard) -> anyhow::Result<u64> {
        let counts = self
            .maps
            .discards
            .get(reason as u32)
            .context("cannot read the discard counters")?;
        Ok(counts.iter().sum())
    }

    /// Sets the counters of one service, or of all and the discards, to zero.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn zero(&mut self, service: Option<&ServiceKey>) -> anyhow::Result<()> {
        self.tables()?;
        let tables = self.tables.as_ref().context("the tables were read above")?;
        let rows = tables
            .services
            .iter()
            .filter(|(key, _)| service.is_none_or(|wanted| wanted == *key));
        let ids: HashSet<_> = rows.map(|(_, row)| row.service.id).collect();
        for id in &ids {
            self.maps
                .service_stats
                .set(id, &RealStats::default())
                .context("cannot reset counters")?;
        }
        for (id, real) in (0_u32..).zip(&tables.reals) {
            if real.state != state::FREE && ids.contains(&real.service) {
                self.maps
                    .real_stats
                    .set(id, RealStats::default())
                    .context("cannot reset counters")?;
            }
        }
        if service.is_none() {
            for index in 0..self.maps.discards.capacity() {
                self.maps
                    .discards
                    .set(index, 0)
                    .context("cannot reset the discard counters")?;
            }
        }
        Ok(())
    }
}

/// Counters in the daemon's words.
const fn counters(stats: &RealStats) -> Counters {
    let [original, reply] = stats.directions;
    Counters {
        connections: stats.connections,
        packets_in: original.packets,
        bytes_in: original.bytes,
        packets_out: reply.packets,
        bytes_out: reply.bytes,
    }
}

const fn add(a: Counters, b: Counters) -> Counters {
    Counters {
        connections: a.connections + b.connections,
        packets_in: a.packets_in + b.packets_in,
        bytes_in: a.bytes_in + b.bytes_in,
        packets_out: a.packets_out + b.packets_out,
        bytes_out: a.bytes_out + b.bytes_out,
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::stats::Traffic;

    use super::*;

    #[test]
    fn counters_of_all_cpus_add_up() {
        let one = RealStats {
            directions: [
                Traffic {
                    packets: 1,
                    bytes: 100,
                },
                Traffic {
                    packets: 2,
                    bytes: 200,
                },
            ],
            connections: 3,
        };
        assert_eq!(
            counters(&apply::sum(&[one, RealStats::default(), one])),
            Counters {
                connections: 6,
                packets_in: 2,
                bytes_in: 200,
                packets_out: 4,
                bytes_out: 400
            }
        );
    }
}
