//! Services, their real servers and rings in the kernel's tables, and their counters.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::Path,
};

use anyhow::{Context, anyhow};
use balancer_common::{
    addr::Addr, real_server::state, settings::Settings, stats::RealStats, verdict::Discard,
};

use super::{
    Counters, RealSnapshot, Service, ServiceSnapshot, Snapshot, apply, jiffies::Tick, maps::Maps,
    rcu_barrier, settings::SettingsRow,
};
use crate::{
    dataplane::plan::{
        self, CapacityError,
        filter::rule_of,
        sources::SourceAddresses,
        tables::{FilterRow, TableChange, Tables, address_of},
    },
    model::{Filter, ServiceKey, filter::FilterRule},
    netlink::address::Networks,
};

/// Whoever has to know of changes before they are made: packets may choose a real id again that was unused.
pub trait BeforeChange {
    /// These changes are about to be made.
    fn about_to_change(&mut self, changes: &[TableChange]);
}

/// The maps of services, and what the daemon knows of their content.
#[derive(Debug)]
pub struct ServiceTables {
    maps: Maps,
    settings: SettingsRow,
    tick: Tick,
    /// What the maps hold; `None` after a change that failed half way, until they are read again.
    tables: Option<Tables>,
    /// The networks that this host is in.
    networks: Networks,
    /// Real servers that packets reach by a gateway.
    routed: BTreeSet<IpAddr>,
    /// Which source addresses connections with full NAT may have.
    sources: SourceAddresses,
}

impl ServiceTables {
    /// Opens and reads the maps pinned in `directory`.
    ///
    /// # Errors
    /// A map is missing, or the kernel refused a call.
    pub fn open(directory: &Path, tick: Tick) -> anyhow::Result<Self> {
        let maps = Maps::open(directory)?;
        let settings = SettingsRow::open(directory)?;
        let tables = apply::observe(&maps, &settings, tick)?;
        Ok(Self {
            maps,
            settings,
            tick,
            tables: Some(tables),
            networks: Networks::default(),
            routed: BTreeSet::new(),
            sources: SourceAddresses::default(),
        })
    }

    /// The present settings.
    pub const fn settings(&self) -> Settings {
        self.settings.get()
    }

    /// Changes the settings.
    ///
    /// # Errors
    /// The kernel refused; nothing is changed.
    pub fn update_settings(&self, change: impl FnOnce(&mut Settings)) -> anyhow::Result<()> {
        self.settings
            .update(change)
            .context("cannot write the settings")
    }

    /// What the maps hold; read again after a change that failed half way.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn tables(&mut self) -> anyhow::Result<&mut Tables> {
        let tables = match self.tables.take() {
            Some(tables) => tables,
            None => {
                let mut tables = Tables {
                    networks: self.networks.clone(),
                    routed: self.routed.clone(),
                    ..apply::observe(&self.maps, &self.settings, self.tick)?
                };
                tables.sources.wanted = self.sources.clone();
                tables
            }
        };
        Ok(self.tables.insert(tables))
    }

    /// Makes the tables match `services`. Returns the changes that were made.
    ///
    /// # Errors
    /// A table is too small: nothing was changed. Or the kernel refused a call.
    pub fn reconcile(
        &mut self,
        services: &[Service],
        before: &mut impl BeforeChange,
    ) -> anyhow::Result<Vec<TableChange>> {
        let tables = self.tables()?;
        let changes = match plan::plan(services, tables) {
            Err(CapacityError::Ring { .. }) if tables.space.has_retired() => {
                // After this no packet reads retired rings any more.
                rcu_barrier::wait()?;
                tables.space.release();
                plan::plan(services, tables)
            }
            result => result,
        };
        let changes = changes.map_err(|full| anyhow!(full))?;
        self.apply_changes(&changes, before)?.set_planned(services);
        Ok(changes)
    }

    /// Makes `changes` in the maps, and in the daemon's copy. After a failure the maps are read again.
    fn apply_changes(
        &mut self,
        changes: &[TableChange],
        before: &mut impl BeforeChange,
    ) -> anyhow::Result<&mut Tables> {
        self.tables()?;
        let mut tables = self.tables.take().context("the tables were read above")?;
        before.about_to_change(changes);
        apply::apply(&self.maps, &self.settings, changes)?;
        for change in changes {
            tables.apply(change);
        }
        Ok(self.tables.insert(tables))
    }

    /// Sets the networks that this host is in, and updates the real servers' masks.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn set_networks(
        &mut self,
        networks: Networks,
        before: &mut impl BeforeChange,
    ) -> anyhow::Result<()> {
        self.networks.clone_from(&networks);
        let tables = self.tables()?;
        tables.networks = networks;
        let changes = plan::plan_host_changes(tables);
        self.apply_changes(&changes, before)?;
        Ok(())
    }

    /// Sets which real servers packets reach by a gateway, and updates their masks.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn set_routed(
        &mut self,
        routed: BTreeSet<IpAddr>,
        before: &mut impl BeforeChange,
    ) -> anyhow::Result<()> {
        self.routed.clone_from(&routed);
        let tables = self.tables()?;
        if tables.routed == routed {
            return Ok(());
        }
        tables.routed = routed;
        let changes = plan::plan_host_changes(tables);
        self.apply_changes(&changes, before)?;
        Ok(())
    }

    /// Sets which source addresses connections with full NAT may have, and updates the real servers. Returns those that there is no place for.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn set_sources(
        &mut self,
        sources: SourceAddresses,
        before: &mut impl BeforeChange,
    ) -> anyhow::Result<Vec<IpAddr>> {
        self.sources.clone_from(&sources);
        self.tables()?.sources.wanted = sources;
        for takes_over in [false, true] {
            // Who may have an address no more has others by now, before another address gets its place.
            let placed = self.tables()?.sources.place(takes_over);
            if takes_over && placed.is_empty() {
                break;
            }
            for (index, address) in placed {
                self.maps
                    .snat_addresses
                    .set(&index, &Addr::from(address))
                    .context("cannot write a source address")?;
            }
            let changes = plan::plan_host_changes(self.tables()?);
            self.apply_changes(&changes, before)?;
        }
        Ok(self.tables()?.sources.without_place())
    }

    /// The addresses of all real servers, including removed ones that still have connections.
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
    pub fn removed_reals(&mut self) -> anyhow::Result<HashSet<u32>> {
        let reals = (0_u32..).zip(&self.tables()?.reals);
        Ok(reals
            .filter(|(_, real)| state::is_removed(real.state))
            .map(|(id, _)| id)
            .collect())
    }

    /// Frees the ids of removed real servers that no connection refers to any more.
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

    /// Services and real servers, or with `service` only these, with their counters and connections.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn snapshot(&mut self, service: Option<&ServiceKey>) -> anyhow::Result<Snapshot> {
        self.tables()?;
        let tables = self.tables.as_ref().context("the tables were read above")?;
        let mut snapshot = Snapshot::default();
        let discards = self
            .maps
            .service_discards
            .all()
            .context("cannot read the services' discards")?;
        let mut keys = HashMap::new();
        let mut counts = None;
        let rows = tables.services.iter();
        for (key, row) in rows.filter(|(key, _)| service.is_none_or(|wanted| wanted == *key)) {
            let id = row.service.id;
            keys.insert(id, *key);
            let removed = self
                .maps
                .service_stats
                .get(&id)
                .context("cannot read service counters")?;
            let counters = counters(&removed.unwrap_or_default());
            let filtered = match tables.filters.get(&id) {
                Some(row) => {
                    let filter = tables.planned.get(key).map(|service| &service.filter);
                    self.filtered(row, filter.unwrap_or(&Filter::default()), &mut counts)?
                }
                None => BTreeMap::new(),
            };
            snapshot.services.insert(
                *key,
                ServiceSnapshot {
                    counters,
                    filtered,
                    discards: discards_of(id, &discards),
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
                let [active, inactive] = self.maps.loads.counts(id);
                service.reals.insert(
                    address_of(real),
                    RealSnapshot {
                        active,
                        inactive,
                        is_full: self.maps.loads.is_full(id),
                        counters,
                    },
                );
            }
        }
        Ok(snapshot)
    }

    /// Packets that a filter has let in or refused, by rule. `all` are the counters of all filters, once they have been read.
    fn filtered(
        &self,
        row: &FilterRow,
        filter: &Filter,
        all: &mut Option<HashMap<u32, u64>>,
    ) -> anyhow::Result<BTreeMap<FilterRule, u64>> {
        let rules = row.rules.iter();
        let rules = rules.map(|(prefix, rule)| (rule_of(prefix, filter), rule.id));
        let limit = (row.limit.id != 0).then_some((FilterRule::Rate, row.limit.id));
        let rules = rules.chain(limit);
        let counts = &self.maps.filter_counts;
        let refused = "cannot read a filter's counters";
        // Few are read one by one, many together.
        if all.is_none() && row.rules.len() > FEW_RULES {
            *all = Some(counts.all().context(refused)?);
        }
        let counted = rules.map(|(rule, id)| {
            let count = match all {
                Some(all) => all.get(&id).copied(),
                None => counts.get(id).context(refused)?,
            };
            Ok((rule, count.unwrap_or_default()))
        });
        counted.collect()
    }

    /// The rule with this id, of a service's filter.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn rule(&mut self, service: &ServiceKey, id: u32) -> anyhow::Result<Option<FilterRule>> {
        let tables = self.tables()?;
        let row = tables.services.get(service);
        let row = row.and_then(|row| tables.filters.get(&row.service.id));
        let Some(row) = row.filter(|_| id != 0) else {
            return Ok(None);
        };
        if row.limit.id == id {
            return Ok(Some(FilterRule::Rate));
        }
        let filter = tables.planned.get(service).map(|service| &service.filter);
        let mut rules = row.rules.iter();
        let rule = rules.find(|(_, rule)| rule.id == id);
        Ok(rule.map(|(prefix, _)| rule_of(prefix, filter.unwrap_or(&Filter::default()))))
    }

    /// How many packets were discarded for `reason`.
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

    /// Sets the counters of one service to zero; with `None` those of all services, and the discard counters.
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
            apply::forget_discards(&self.maps, *id)?;
        }
        let filters = tables.filters.iter();
        let filters = filters.filter(|(service, _)| ids.contains(*service));
        let rules = filters.flat_map(|(_, row)| {
            let rules = row.rules.values().map(|rule| rule.id);
            rules.chain(Some(row.limit.id).filter(|id| *id != 0))
        });
        self.maps
            .filter_counts
            .reset(&rules.collect::<Vec<_>>())
            .context("cannot reset counters")?;
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

/// Rules whose counters are read one by one.
const FEW_RULES: usize = 64;

/// What was counted of one service's discards, by the reason's name.
fn discards_of(service: u32, all: &HashMap<u32, u64>) -> BTreeMap<&'static str, u64> {
    let reasons = Discard::ALL.iter();
    let counted = reasons.filter_map(|reason| {
        let count = *all.get(&reason.of_service(service))?;
        (count != 0).then_some((reason.name(), count))
    });
    counted.collect()
}

/// Counters in the form that the daemon reports.
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
