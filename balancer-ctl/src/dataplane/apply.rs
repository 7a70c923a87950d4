//! Applies changes to the kernel's tables: the only writer of services, rings and real servers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    net::IpAddr,
    sync::atomic::{Ordering, fence},
};

use anyhow::Context;
use balancer_common::{
    addr::{Addr, Address},
    persistence::{MemberKey, Stickiness},
    real_server::{RealServer, state},
    scheduler::{self, RING_WORDS, Ring, SLOTS_PER_WORD},
    service::{self, Service},
    stats::RealStats,
};

use super::{jiffies::Tick, maps::Maps, settings::SettingsRow};
use crate::{
    dataplane::plan::{
        ring_space::RingSpace,
        tables::{Affinity, ServiceRow, TableChange, Tables},
    },
    model::{Protocol, ServiceKey},
    netlink::address::Networks,
};

/// A service key in the form of the maps, in network byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KernelKey {
    V4(service::ServiceKeyV4),
    V6(service::ServiceKeyV6),
}

fn kernel_key(key: &ServiceKey) -> KernelKey {
    let port = key.address.port().to_be();
    let protocol = u16::from(key.protocol.number());
    let address = Addr::from(key.address.ip());
    match key.address.ip() {
        IpAddr::V4(_) => KernelKey::V4(service::ServiceKey {
            address: Address::narrow(address),
            port,
            protocol,
        }),
        IpAddr::V6(_) => KernelKey::V6(service::ServiceKey {
            address: Address::narrow(address),
            port,
            protocol,
        }),
    }
}

fn model_key<A: Address>(key: &service::ServiceKey<A>) -> Option<ServiceKey> {
    let protocol = match u8::try_from(key.protocol).ok()? {
        balancer_common::addr::TCP => Protocol::Tcp,
        balancer_common::addr::UDP => Protocol::Udp,
        _ => return None,
    };
    let address = (IpAddr::from(key.address.widen()), u16::from_be(key.port)).into();
    Some(ServiceKey { protocol, address })
}

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

/// Applies changes of one kind.
fn apply_run(maps: &Maps, settings: &SettingsRow, run: &[TableChange]) -> anyhow::Result<()> {
    let (mut turns, mut stats, mut reals) = (Vec::new(), Vec::new(), Vec::new());
    let (mut services_v4, mut services_v6, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for change in run {
        match change {
            TableChange::ResetService { id } => {
                turns.push((*id, 0_u64));
                stats.push((*id, RealStats::default()));
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
            TableChange::SetAddresses { words } => addresses.extend(words.iter().copied()),
            TableChange::SetAnyPort(on) => settings
                .update(|settings| settings.any_port = u32::from(*on))
                .context("cannot write the settings")?,
            TableChange::AddRealPorts { ports } => {
                add_real_ports(maps, ports).context("cannot write real servers' ports")?;
            }
            TableChange::RemoveRealPorts { ports } => {
                for port in ports {
                    match kernel_key(port) {
                        KernelKey::V4(key) => maps.real_ports_v4.delete(&key),
                        KernelKey::V6(key) => maps.real_ports_v6.delete(&key),
                    }
                    .context("cannot delete a real server's port")?;
                }
            }
            TableChange::SetService {
                key,
                service,
                reals: _,
                available: _,
            } => match kernel_key(key) {
                KernelKey::V4(key) => services_v4.push((key, *service)),
                KernelKey::V6(key) => services_v6.push((key, *service)),
            },
            TableChange::RemoveService { key } => match kernel_key(key) {
                KernelKey::V4(key) => maps.services_v4.delete(&key).map(drop),
                KernelKey::V6(key) => maps.services_v6.delete(&key).map(drop),
            }
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
    maps.services_v4
        .set_many(&services_v4)
        .context("cannot write IPv4 services")?;
    maps.services_v6
        .set_many(&services_v6)
        .context("cannot write IPv6 services")?;
    Ok(())
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

fn add_real_ports(maps: &Maps, ports: &[ServiceKey]) -> io::Result<()> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for port in ports {
        match kernel_key(port) {
            KernelKey::V4(key) => v4.push((key, 1)),
            KernelKey::V6(key) => v6.push((key, 1)),
        }
    }
    maps.real_ports_v4.set_many(&v4)?;
    maps.real_ports_v6.set_many(&v6)
}

/// Reads the kernel's tables. [`Tables::networks`] and [`Tables::routed`] stay empty.
///
/// # Errors
/// The kernel refused a call.
pub fn observe(maps: &Maps, settings: &SettingsRow, tick: Tick) -> anyhow::Result<Tables> {
    let v4 = maps
        .services_v4
        .all()
        .context("cannot read the IPv4 services")?;
    let v6 = maps
        .services_v6
        .all()
        .context("cannot read the IPv6 services")?;
    let v4 = v4
        .iter()
        .filter_map(|(key, service)| Some((model_key(key)?, *service)));
    let v6 = v6
        .iter()
        .filter_map(|(key, service)| Some((model_key(key)?, *service)));
    let row = |service: Service| ServiceRow {
        ring: read_ring(maps, service.ring),
        available: read_ring(maps, service.available),
        service,
    };
    let services = v4.chain(v6).map(|(key, service)| (key, row(service)));
    let services: BTreeMap<_, _> = services.collect();
    let rings = services.values().map(|row| row.service);
    let rings = rings.flat_map(|service| [service.ring, service.available]);
    let space = RingSpace::with_used(RING_WORDS, rings);
    let addresses = maps
        .addresses
        .all()
        .context("cannot read the address filter")?;
    let reals = maps.reals.all().context("cannot read the real servers")?;
    Ok(Tables {
        services,
        limits: (0..)
            .zip(&reals)
            .map(|(id, _)| maps.loads.limits(id))
            .collect(),
        reals: reals.into_iter().map(|(_, real)| real).collect(),
        affinities: affinities(maps).context("cannot read the services' persistence")?,
        tick,
        addresses: addresses.into_iter().map(|(_, word)| word).collect(),
        any_port: settings.get().any_port != 0,
        real_ports: real_ports(maps).context("cannot read the real servers' ports")?,
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

fn real_ports(maps: &Maps) -> io::Result<HashSet<ServiceKey>> {
    let v4 = maps.real_ports_v4.all()?;
    let v6 = maps.real_ports_v6.all()?;
    let v4 = v4.iter().filter_map(|(key, _)| model_key(key));
    let v6 = v6.iter().filter_map(|(key, _)| model_key(key));
    Ok(v4.chain(v6).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_way_to_the_kernel_and_back() {
        for text in ["192.0.2.80:80", "[2001:db8::80]:0", "192.0.2.80:53"] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let key = ServiceKey {
                    protocol,
                    address: text.parse().unwrap(),
                };
                let back = match kernel_key(&key) {
                    KernelKey::V4(key) => model_key(&key),
                    KernelKey::V6(key) => model_key(&key),
                };
                assert_eq!(back, Some(key));
            }
        }
    }

    #[test]
    fn a_key_is_in_network_byte_order() {
        let key = ServiceKey {
            protocol: Protocol::Tcp,
            address: "192.0.2.80:80".parse().unwrap(),
        };
        let expected = service::ServiceKey {
            address: u32::from_ne_bytes([192, 0, 2, 80]),
            port: u16::from_ne_bytes([0, 80]),
            protocol: 6,
        };
        assert_eq!(kernel_key(&key), KernelKey::V4(expected));
    }
}
