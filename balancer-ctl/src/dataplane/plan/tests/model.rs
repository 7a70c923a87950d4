//! A model of the kernel's maps, and a world in which plans are applied to it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use balancer_common::{
    address_filter::bit_of,
    scheduler::{self, Ring, pick},
    service::{PERSISTENT, REJECT, Service},
};

use super::super::{
    service::candidate,
    tables::{Affinity, Limits},
    *,
};
use crate::{
    dataplane::{self, Connections, jiffies::Tick, ring},
    model::{ForwardMethod, HashKey, NoReal, Protocol, Scheduler},
};

/// The maps as the packet program reads them.
#[derive(Clone)]
pub struct Maps {
    pub services: BTreeMap<ServiceKey, Service>,
    pub reals: Vec<RealServer>,
    pub limits: Vec<Limits>,
    pub affinities: BTreeMap<u32, Affinity>,
    pub rings: Vec<u32>,
    pub addresses: Vec<u64>,
    pub any_port: bool,
    pub real_ports: BTreeSet<ServiceKey>,
}

pub const REALS: u32 = 64;
pub const SLOTS: u32 = 512;
/// For services that have the rings of hashes.
pub const MANY_SLOTS: u32 = 1 << 19;

/// Where slots lie.
pub const fn ring(offset: u32, length: u32) -> Ring {
    Ring { offset, length }
}

impl Maps {
    pub fn new(slots: u32) -> Self {
        Self {
            services: BTreeMap::new(),
            reals: vec![RealServer::default(); REALS as usize],
            limits: vec![Limits::default(); REALS as usize],
            affinities: BTreeMap::new(),
            rings: vec![u32::MAX; slots as usize],
            addresses: tables::filter_of(std::iter::empty()),
            any_port: false,
            real_ports: BTreeSet::new(),
        }
    }

    /// Whether the packet program examines packets from or to this address.
    fn sees(&self, address: IpAddr) -> bool {
        let bit = bit_of(address);
        self.addresses[bit.word as usize] & bit.mask != 0
    }

    /// Applies a change as the kernel would, and checks that it does not overwrite a ring that packets may read:
    /// `untouchable` are the regions that any service has pointed at since the last grace period.
    fn apply(&mut self, change: &TableChange, untouchable: &mut Vec<Ring>) {
        match change {
            TableChange::ResetService { id } => {
                assert!(self.services.values().all(|service| service.id != *id));
                assert!(
                    self.reals
                        .iter()
                        .all(|real| real.state == state::FREE || real.service != *id)
                );
            }
            TableChange::SetReal { id, real } => self.reals[*id as usize] = *real,
            TableChange::SetLimits { id, limits } => self.limits[*id as usize] = *limits,
            TableChange::WriteRing { ring, reals } => {
                let written = ring.words();
                for ring in untouchable.iter().map(Ring::words) {
                    assert!(written.end <= ring.start || ring.end <= written.start);
                }
                let start = ring.offset as usize;
                self.rings[start..start + reals.len()].copy_from_slice(reals);
            }
            TableChange::RewriteRing { key, words, reals } => {
                let ring = self.services[key].ring;
                for (index, word) in words {
                    let slots =
                        (index * 4..index * 4 + 4).filter(|slot| *slot < ring.offset + ring.length);
                    for slot in slots {
                        self.rings[slot as usize] = scheduler::real_in(*word, slot);
                    }
                }
                assert_eq!(&self.ring(&ring), reals);
                assert!(!words.is_empty());
            }
            TableChange::SetStickiness {
                service,
                stickiness,
            } => self.affinities.entry(*service).or_default().stickiness = *stickiness,
            TableChange::SetMembers { service, members } => {
                let affinity = self.affinities.entry(*service).or_default();
                affinity.members.extend(members.iter().copied());
            }
            TableChange::RemoveMembers { service, servers } => {
                let affinity = self.affinities.get_mut(service).unwrap();
                for server in servers {
                    affinity.members.remove(server).unwrap();
                }
            }
            TableChange::SetAddresses { words } => {
                for (index, word) in words {
                    self.addresses[*index as usize] = *word;
                }
            }
            TableChange::SetAnyPort(on) => self.any_port = *on,
            TableChange::AddRealPorts { ports } => self.real_ports.extend(ports),
            TableChange::RemoveRealPorts { ports } => {
                self.real_ports.retain(|port| !ports.contains(port));
            }
            TableChange::SetService {
                key,
                service,
                reals,
                available,
            } => {
                self.services.insert(*key, *service);
                assert_eq!(&self.ring(&service.ring), reals);
                assert_eq!(&self.ring(&service.available), available);
                untouchable.extend([service.ring, service.available]);
            }
            TableChange::RemoveService { key } => {
                self.services.remove(key);
            }
        }
    }

    fn ring(&self, ring: &Ring) -> Vec<u32> {
        self.rings[ring.offset as usize..(ring.offset + ring.length) as usize].to_vec()
    }

    /// Where a service's new connections go; `None` without a service.
    fn resolve(&self, key: &ServiceKey) -> Option<Resolved> {
        let service = self.services.get(key)?;
        assert!(key.address.port() != 0 || self.any_port);
        assert!(self.sees(key.address.ip()));
        let addresses = |ring: &Ring, takes_new: bool| -> Vec<SocketAddr> {
            let ids = self.ring(ring).into_iter();
            ids.map(|id| {
                let real = self.reals[id as usize];
                assert_eq!(real.service, service.id);
                assert!(!takes_new || real.state == state::TAKES_NEW);
                assert!(!takes_new || self.limits[id as usize].weight > 0);
                assert!(!takes_new || self.sees(real.address.into()));
                assert_eq!(IpAddr::from(real.vip), key.address.ip());
                assert_eq!(real.delta, RealServer::between(&real.vip, &real.address));
                let address = tables::address_of(&real);
                let port = ServiceKey {
                    protocol: key.protocol,
                    address,
                };
                assert!(self.real_ports.contains(&port) || !takes_new);
                address
            })
            .collect()
        };
        let affinity = self.affinities.get(&service.id).cloned();
        let affinity = affinity.unwrap_or_default();
        let is_persistent = service.flags & PERSISTENT != 0;
        assert!(!is_persistent || affinity.stickiness != Stickiness::default());
        for (server, id) in &affinity.members {
            let real = self.reals[*id as usize];
            assert_eq!((real.address, real.service), (*server, service.id));
        }
        Some(Resolved {
            ring: addresses(&service.ring, service.pick != pick::HASH),
            available: addresses(&service.available, true),
            choice: (service.pick, service.hash, service.measure.0, service.flags),
        })
    }
}

/// Where a service's new connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resolved {
    ring: Vec<SocketAddr>,
    available: Vec<SocketAddr>,
    choice: (u8, u8, u32, u16),
}

/// [`Maps::resolve`] by the desired state.
fn wanted(services: &[dataplane::Service], key: &ServiceKey) -> Option<Resolved> {
    let service = services.iter().find(|service| service.key == *key)?;
    let reals: Vec<_> = (0_u32..).zip(&service.reals).collect();
    let candidates: Vec<_> = reals
        .iter()
        .map(|(id, real)| candidate(*id, real))
        .collect();
    let choice = affinity::choice(service.scheduler, service.hash);
    let addresses = |ids: Vec<u32>| -> Vec<_> {
        let ids = ids.into_iter();
        ids.map(|index| service.reals[index as usize].address)
            .collect()
    };
    let ring = choice
        .ring
        .map(|kind| ring::build(kind, &candidates, Longest::Exact));
    let reject = u16::from(service.no_real == NoReal::Reject) * REJECT;
    let persistent = u16::from(service.persistence.is_some()) * PERSISTENT;
    Some(Resolved {
        ring: addresses(ring.unwrap_or_default()),
        available: addresses(affinity::available(&choice, &reals)),
        choice: (
            choice.pick,
            choice.hash,
            choice.measure.0,
            reject | persistent,
        ),
    })
}

pub struct World {
    pub maps: Maps,
    pub tables: Tables,
    pub desired: Vec<dataplane::Service>,
    pub untouchable: Vec<Ring>,
}

impl World {
    pub fn new() -> Self {
        Self::with_slots(SLOTS)
    }

    pub fn with_slots(slots: u32) -> Self {
        Self {
            maps: Maps::new(slots),
            tables: Tables::empty(REALS, slots / 4, Tick::with_hz(250)),
            desired: Vec::new(),
            untouchable: Vec::new(),
        }
    }

    pub fn change_to(
        &mut self,
        desired: Vec<dataplane::Service>,
    ) -> Result<Vec<TableChange>, CapacityError> {
        let changes = plan(&desired, &self.tables)?;
        let mut forgetful = self.tables.clone();
        forgetful.planned.clear();
        assert_eq!(
            plan(&desired, &forgetful).as_ref(),
            Ok(&changes),
            "what is known of the last plan saves work and changes nothing"
        );
        let keys: BTreeSet<_> = self
            .desired
            .iter()
            .chain(&desired)
            .map(|service| service.key)
            .collect();
        for change in &changes {
            self.maps.apply(change, &mut self.untouchable);
            self.tables.apply(change);
            for key in &keys {
                let now = self.maps.resolve(key);
                let (old, new) = (wanted(&self.desired, key), wanted(&desired, key));
                // Each slot of a hash's ring counts by itself: it is rewritten where it is.
                let in_place = now.as_ref().is_some_and(|now| {
                    let like = |other: &Option<Resolved>| {
                        other.as_ref().is_some_and(|other| {
                            (&other.available, other.choice) == (&now.available, now.choice)
                        })
                    };
                    let has_ring = |other: &Option<Resolved>| {
                        other.as_ref().is_some_and(|other| other.ring == now.ring)
                    };
                    now.choice.0 == pick::HASH && like(&old) && has_ring(&new)
                });
                assert!(
                    now == old || now == new || in_place,
                    "{key} is half way after {change:?}"
                );
            }
        }
        for key in &keys {
            assert_eq!(self.maps.resolve(key), wanted(&desired, key));
        }
        assert_eq!(self.tables.reals, self.maps.reals);
        assert_eq!(self.tables.limits, self.maps.limits);
        assert_eq!(self.tables.affinities, self.maps.affinities);
        let persistent = desired
            .iter()
            .filter(|service| service.persistence.is_some());
        let used = self.tables.affinities.values();
        let used = used.filter(|affinity| **affinity != Affinity::default());
        assert_eq!(used.count(), persistent.count());
        let reals = self
            .tables
            .reals
            .iter()
            .filter(|real| real.state != state::FREE);
        let vips = desired.iter().map(|service| service.key.address.ip());
        assert_eq!(
            self.maps.addresses,
            tables::filter_of(vips.chain(reals.map(|real| real.address.into())))
        );
        let services: BTreeMap<_, _> = self
            .tables
            .services
            .iter()
            .map(|(key, row)| (*key, row.service))
            .collect();
        assert_eq!(services, self.maps.services);
        for service in &desired {
            for real in &service.reals {
                let id = self.tables.real_ids(|_| true)
                    [&(self.tables.services[&service.key].service.id, real.address)];
                let expected = match (real.weight, real.connections) {
                    (1.., _) => state::TAKES_NEW,
                    (0, _) if real.takes_persistent => state::TAKES_KNOWN,
                    (0, Connections::Keep) => state::DRAINING,
                    (0, Connections::Reset) => state::RESET,
                };
                assert_eq!(self.tables.reals[id as usize].state, expected);
            }
        }
        let ports: BTreeSet<_> = tables::ports_of(&desired).into_iter().collect();
        assert_eq!(self.maps.real_ports, ports);
        let live = self
            .tables
            .reals
            .iter()
            .filter(|real| real.state != state::FREE && !state::is_removed(real.state));
        assert_eq!(
            live.count(),
            desired
                .iter()
                .map(|service| service.reals.len())
                .sum::<usize>()
        );
        assert_eq!(
            plan(&desired, &self.tables),
            Ok(Vec::new()),
            "a second plan has nothing to do"
        );
        self.tables.set_planned(&desired);
        self.desired = desired;
        Ok(changes)
    }

    /// A grace period: all packets that were in the packet program have left it.
    pub fn grace(&mut self) {
        self.tables.space.release();
        self.untouchable = self
            .maps
            .services
            .values()
            .flat_map(|service| [service.ring, service.available])
            .collect();
    }

    pub fn id(&self, service: u8, real: u8) -> u32 {
        let id = self.tables.services[&key(service)].service.id;
        self.tables.real_ids(|_| true)[&(id, address(real))]
    }
}

pub fn key(number: u8) -> ServiceKey {
    // Number 0 listens on all ports.
    let port = if number == 0 { 0 } else { 80 };
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)), port);
    ServiceKey {
        protocol: Protocol::Tcp,
        address,
    }
}

pub fn address(number: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 0, number)), 8080)
}

pub fn service(number: u8, reals: &[(u8, u32)]) -> dataplane::Service {
    let reals = reals.iter().map(|(number, weight)| Real {
        address: address(*number),
        weight: *weight,
        hash_weight: *weight,
        takes_persistent: false,
        upper: 0,
        lower: 0,
        forwarding: ForwardMethod::Nat,
        connections: Connections::Keep,
    });
    dataplane::Service {
        key: key(number),
        scheduler: Scheduler::Wrr,
        hash: HashKey::Client,
        persistence: None,
        no_real: NoReal::Reject,
        unit: 1,
        reals: reals.collect(),
    }
}
