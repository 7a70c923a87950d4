//! Applies changes to the kernel's tables: the only writer of services, rings and real servers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    sync::atomic::{Ordering, fence},
};

use anyhow::Context;
use balancer_common::{
    addr::Addr,
    filter::RateLimit,
    persistence::{MemberKey, Stickiness},
    real_server::{RealServer, state},
    scheduler::{self, RING_WORDS, Ring, SLOTS_PER_WORD},
    service::Service,
    stats::RealStats,
    verdict::Discard,
};

use super::{jiffies::Tick, maps::Maps, settings::SettingsRow};
use crate::{
    dataplane::plan::{
        ring_space::RingSpace,
        sources::Sources,
        tables::{Affinity, FilterRow, ServiceRow, TableChange, Tables},
    },
    netlink::address::Networks,
};

/// Applies `changes` in their order. Consecutive changes of one kind go to the kernel in one call, which keeps their
/// order.
///
/// # Errors
/// The kernel refused a call; the changes before it are made. [`observe`] then reads what the tables hold.
pub fn apply(maps: &Maps, settings: &SettingsRow, changes: &[TableChange]) -> anyhow::Result<()> {
    for run in changes.chunk_by(|a, b| std::mem::discriminant(a) == std::mem::discriminant(b)) {
        apply_run(maps, settings, run)?;
    }
    Ok(())
}

/// Deletes the counters of a service's packets that were dropped or answered in its stead.
///
/// # Errors
/// The kernel refused a call.
pub fn forget_discards(maps: &Maps, service: u32) -> anyhow::Result<()> {
    for reason in Discard::ALL {
        maps.service_discards
            .delete(reason.of_service(service))
            .context("cannot reset a service's discards")?;
    }
    Ok(())
}

/// Applies changes of one kind.
fn apply_run(maps: &Maps, settings: &SettingsRow, run: &[TableChange]) -> anyhow::Result<()> {
    let (mut turns, mut stats, mut reals) = (Vec::new(), Vec::new(), Vec::new());
    let (mut services, mut addresses) = (Vec::new(), Vec::new());
    for change in run {
        match change {
            TableChange::ResetService { id } => {
                turns.push((*id, 0_u64));
                stats.push((*id, RealStats::default()));
                forget_discards(maps, *id)?;
            }
            TableChange::SetReal { id, real } => reals.push((*id, *real)),
            TableChange::SetLimits { id, limits } => maps.loads.set_limits(*id, *limits),
            TableChange::WriteRing { ring, reals } => {
                write_words(maps, ring.words().zip(scheduler::words(reals)))?;
            }
            TableChange::RewriteRing {
                key: _,
                words,
                reals: _,
            } => write_words(maps, words.iter().copied())?,
            TableChange::SetStickiness {
                service,
                stickiness,
            } => maps
                .stickiness
                .set(service, stickiness)
                .context("cannot write a service's persistence")?,
            TableChange::SetMembers { service, members } => {
                let members: Vec<_> = members
                    .iter()
                    .map(|(server, id)| (member_key(*service, *server), *id))
                    .collect();
                maps.members
                    .set_many(&members)
                    .context("cannot write a service's servers")?;
            }
            TableChange::RemoveMembers { service, servers } => {
                for server in servers {
                    maps.members
                        .delete(&member_key(*service, *server))
                        .context("cannot delete a service's server")?;
                }
            }
            TableChange::AddRuleCounts { ids } => maps
                .filter_counts
                .reset(ids)
                .context("cannot make the counters of a filter")?,
            TableChange::SetRules { rules } => maps
                .filter_rules
                .set_many(rules)
                .context("cannot write a service's filter")?,
            TableChange::RemoveRules { prefixes } => {
                for prefix in prefixes {
                    maps.filter_rules
                        .delete(prefix)
                        .context("cannot delete from a service's filter")?;
                }
            }
            TableChange::SetRateLimit { service, limit } => maps
                .rate_limits
                .set(service, limit)
                .context("cannot write a service's limit of connections")?,
            TableChange::RemoveRuleCounts { ids } => {
                for id in ids {
                    maps.filter_counts
                        .delete(*id)
                        .context("cannot delete the counters of a filter")?;
                }
            }
            TableChange::SetAddresses { words } => addresses.extend(words.iter().copied()),
            TableChange::SetAnyPort(on) => settings
                .update(|settings| settings.any_port = u32::from(*on))
                .context("cannot write the settings")?,
            TableChange::AddRealPorts { ports } => maps
                .real_ports
                .set_many(ports.iter().map(|port| (*port, 1)))
                .context("cannot write real servers' ports")?,
            TableChange::RemoveRealPorts { ports } => {
                for port in ports {
                    maps.real_ports
                        .delete(port)
                        .context("cannot delete a real server's port")?;
                }
            }
            TableChange::SetService {
                key,
                service,
                reals: _,
                available: _,
            } => services.push((*key, *service)),
            TableChange::RemoveService { key } => maps
                .services
                .delete(key)
                .map(drop)
                .with_context(|| format!("cannot delete the service {key}"))?,
        }
    }
    maps.addresses
        .set_many(&addresses)
        .context("cannot write the address filter")?;
    maps.turns.set_many(&turns).context("cannot write turns")?;
    maps.service_stats
        .set_many(&stats)
        .context("cannot write service counters")?;
    maps.reals
        .set_many(&reals)
        .context("cannot write real servers")?;
    maps.services
        .set_many(services)
        .context("cannot write services")
}

const fn member_key(service: u32, server: Addr) -> MemberKey {
    MemberKey { server, service }
}

/// Writes words of the rings, each as a whole.
fn write_words(maps: &Maps, words: impl Iterator<Item = (u32, u64)>) -> anyhow::Result<()> {
    for (index, word) in words {
        let place = maps.rings.long(index as usize, 0);
        let place = place.context("a ring lies beyond the slots that there are")?;
        place.store(word, Ordering::Relaxed);
    }
    // Before the service that names them.
    fence(Ordering::SeqCst);
    Ok(())
}

/// The real ids in a ring.
fn read_ring(maps: &Maps, ring: Ring) -> Vec<u32> {
    let slots = ring.offset..ring.offset + ring.length;
    let words = slots.map(|slot| (slot, maps.rings.read((slot / SLOTS_PER_WORD) as usize)));
    words
        .filter_map(|(slot, word)| Some(scheduler::real_in(word?, slot)))
        .collect()
}

/// Reads the kernel's tables. [`Tables::networks`], [`Tables::routed`] and what sources are wanted stay empty.
///
/// # Errors
/// The kernel refused a call.
pub fn observe(maps: &Maps, settings: &SettingsRow, tick: Tick) -> anyhow::Result<Tables> {
    let services = maps.services.all().context("cannot read the services")?;
    let row = |service: Service| ServiceRow {
        ring: read_ring(maps, service.ring),
        available: read_ring(maps, service.available),
        service,
    };
    let services = services
        .into_iter()
        .map(|(key, service)| (key, row(service)));
    let services: BTreeMap<_, _> = services.collect();
    let rings = services.values().map(|row| row.service);
    let rings = rings.flat_map(|service| [service.ring, service.available]);
    let space = RingSpace::with_used(RING_WORDS, rings);
    let addresses = maps
        .addresses
        .all()
        .context("cannot read the address filter")?;
    let reals = maps.reals.all().context("cannot read the real servers")?;
    let real_ports = maps
        .real_ports
        .all()
        .context("cannot read the real servers' ports")?;
    let mut sources = Sources::default();
    let all = maps
        .snat_addresses
        .all()
        .context("cannot read the source addresses")?;
    let places = sources.places.iter_mut().flatten();
    for (place, (_, address)) in places.zip(all) {
        *place = (address != Addr::default()).then(|| IpAddr::from(address));
    }
    Ok(Tables {
        services,
        sources,
        limits: (0..)
            .zip(&reals)
            .map(|(id, _)| maps.loads.limits(id))
            .collect(),
        reals: reals.into_iter().map(|(_, real)| real).collect(),
        affinities: affinities(maps).context("cannot read the services' persistence")?,
        filters: filters(maps).context("cannot read the services' filters")?,
        tick,
        addresses: addresses.into_iter().map(|(_, word)| word).collect(),
        any_port: settings.get().any_port != 0,
        real_ports: real_ports.into_iter().map(|(port, _)| port).collect(),
        space,
        networks: Networks::default(),
        routed: BTreeSet::new(),
        planned: HashMap::new(),
    })
}

/// What the program finds by services' ids, but for services that are not persistent.
fn affinities(maps: &Maps) -> io::Result<BTreeMap<u32, Affinity>> {
    let mut affinities = BTreeMap::<u32, Affinity>::new();
    for (service, stickiness) in maps.stickiness.all()? {
        if stickiness != Stickiness::default() {
            affinities.entry(service).or_default().stickiness = stickiness;
        }
    }
    for (key, id) in maps.members.all()? {
        let affinity = affinities.entry(key.service).or_default();
        affinity.members.insert(key.server, id);
    }
    Ok(affinities)
}

/// The services' filters.
fn filters(maps: &Maps) -> io::Result<BTreeMap<u32, FilterRow>> {
    let mut filters = BTreeMap::<u32, FilterRow>::new();
    for (service, limit) in maps.rate_limits.all()? {
        if limit != RateLimit::default() {
            filters.entry(service).or_default().limit = limit;
        }
    }
    for (prefix, rule) in maps.filter_rules.all()? {
        let row = filters.entry(prefix.first.service).or_default();
        row.rules.insert(prefix, rule);
    }
    Ok(filters)
}

/// Counters of all CPUs added up.
pub fn sum(stats: &[RealStats]) -> RealStats {
    stats.iter().fold(RealStats::default(), |mut sum, one| {
        for (sum, one) in sum.directions.iter_mut().zip(&one.directions) {
            sum.packets = sum.packets.wrapping_add(one.packets);
            sum.bytes = sum.bytes.wrapping_add(one.bytes);
        }
        sum.connections = sum.connections.wrapping_add(one.connections);
        sum
    })
}

/// Frees the id of a removed real server that no connection refers to any more. Its counters are added to those of its
/// service.
///
/// # Errors
/// The kernel refused a call.
pub fn free_real(maps: &Maps, tables: &mut Tables, id: u32) -> anyhow::Result<()> {
    let Some(real) = tables.reals.get_mut(id as usize) else {
        return Ok(());
    };
    if !state::is_removed(real.state) {
        return Ok(());
    }
    let counted = sum(&maps.real_stats.get(id).context("cannot read counters")?);
    let before = maps
        .service_stats
        .get(&real.service)
        .context("cannot read counters")?
        .unwrap_or_default();
    maps.real_stats
        .set(id, RealStats::default())
        .context("cannot reset counters")?;
    maps.service_stats
        .set(&real.service, &sum(&[before, counted]))
        .context("cannot write service counters")?;
    maps.reals
        .set(&id, &RealServer::default())
        .context("cannot free a real server's id")?;
    *real = RealServer::default();
    Ok(())
}
