//! What the data plane tells of itself: counters, connections, state.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use anyhow::Context;
use balancer_common::{real_server::state, stats::RealStats, verdict::Discard};

use super::{
    Connection, ConnectionFilter, Counters, DataplaneStatus, Reading, RealSnapshot,
    ServiceSnapshot, Snapshot,
    census::{self, Census, Lister},
    kernel::KernelDataplane,
    redirects::Redirects,
};
use crate::{model::ServiceKey, plan::tables::address_of};

/// Connections that are counted while the daemon waits, a few milliseconds; of more the last walk's numbers are told.
const COUNTED_AT_ONCE: u64 = 8_192;

impl KernelDataplane {
    pub(super) fn delete_connections(
        &mut self,
        service: &ServiceKey,
        real: SocketAddr,
    ) -> anyhow::Result<u64> {
        self.walk_soon();
        self.tables()?;
        let tables = self.tables.as_ref().context("the tables were read above")?;
        let purged = census::purge(&self.maps, &self.settings, |connection, id| {
            census::belongs(connection, service, real, tables.reals.get(id as usize))
        });
        purged.context("cannot delete connections")
    }

    /// Counts all connections in the tables now.
    pub(super) fn count_connections(&mut self) -> anyhow::Result<Census> {
        let now = self.now()?;
        let timeouts = self.settings.get().timeouts;
        let reals = self.tables()?.reals.len();
        census::count(&self.maps, reals, now, &timeouts).context("cannot count connections")
    }

    pub(super) fn read_counters(&mut self) -> anyhow::Result<Snapshot> {
        let now = self.now()?;
        let timeouts = self.settings.get().timeouts;
        let usage = self
            .maps
            .usage
            .get(&0)
            .context("cannot read the usage counters")?
            .unwrap_or_default();
        let is_large = usage.connections(&self.settings.get()) > COUNTED_AT_ONCE;
        self.tables()?;
        let mut census = match &self.census {
            Some(census) if is_large => census.clone(),
            _ => self.count_connections()?,
        };
        census::add_half_open(&self.maps, &mut census, now, &timeouts)
            .context("cannot count handshakes")?;
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
            let counters = census::counters(&removed.unwrap_or_default());
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
            let counters = census::counters(&census::sum(&stats));
            service.counters = add(service.counters, counters);
            if !state::is_removed(real.state) {
                let [active, inactive] = census.get(id as usize).copied().unwrap_or_default();
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

    pub(super) fn list_connections(
        &mut self,
        filter: ConnectionFilter,
    ) -> anyhow::Result<Reading<Vec<Connection>>> {
        let now = self.now()?;
        let timeouts = self.settings.get().timeouts;
        let lister = Lister {
            maps: Arc::clone(&self.maps),
            filter,
            tick: self.tick,
            now,
            timeouts,
        };
        Ok(Box::new(move || {
            let connections = lister.list();
            Ok(connections.context("cannot read the connection table")?)
        }))
    }

    pub(super) fn read_status(&mut self) -> anyhow::Result<DataplaneStatus> {
        let usage = self
            .maps
            .usage
            .get(&0)
            .context("cannot read the usage counters")?
            .unwrap_or_default();
        let mut discards = Vec::new();
        for (index, reason) in (0_u32..).zip(Discard::ALL) {
            let counts = self
                .maps
                .discards
                .get(index)
                .context("cannot read the discard counters")?;
            discards.push((*reason, counts.iter().sum()));
        }
        let mut warnings = self.notes.clone();
        warnings.extend(self.problems.iter().cloned());
        let mut interfaces = Vec::new();
        for attached in &self.attached {
            match attached.describe()? {
                Some(interface) => {
                    interfaces.push(interface);
                }
                None => warnings.push(format!(
                    "the interface {} does not carry the packet program any more: it is attached again when that is possible",
                    attached.link.name
                )),
            }
        }
        warnings.extend(self.fallback.reason.clone());
        warnings.extend(self.host.warnings().iter().cloned());
        if let Some(redirects) = &mut self.redirects {
            redirects.read(Instant::now())?;
            let name = |index| {
                let mut attached = self.attached.iter();
                let known = attached.find(|attached| attached.link.index == index);
                known.map_or_else(|| format!("interface {index}"), |a| a.link.name.clone())
            };
            let reasons = redirects.reasons(Instant::now(), name);
            warnings.extend(reasons.into_iter().take(10));
        }
        Ok(DataplaneStatus {
            interfaces,
            connections: usage.connections(&self.settings.get()),
            max_connections: u64::from(self.configured.max_connections),
            discards,
            redirect_failures: self.redirects.as_ref().map_or(0, Redirects::total),
            warnings,
        })
    }

    pub(super) fn reset_counters(&mut self, service: Option<&ServiceKey>) -> anyhow::Result<()> {
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
            if let Some(redirects) = &mut self.redirects {
                redirects.reset();
            }
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

const fn add(a: Counters, b: Counters) -> Counters {
    Counters {
        connections: a.connections + b.connections,
        packets_in: a.packets_in + b.packets_in,
        bytes_in: a.bytes_in + b.bytes_in,
        packets_out: a.packets_out + b.packets_out,
        bytes_out: a.bytes_out + b.bytes_out,
    }
}
