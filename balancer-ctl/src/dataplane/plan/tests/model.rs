//! A model of the kernel's maps, and a world in which plans are applied to it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use balancer_common::{
    address_filter::bit_of,
    filter::{ClientKey, verdict},
    scheduler::{self, Ring, pick},
    service::{FILTERED, PERSISTENT, REJECT, Service},
};

use super::super::{
    service::{candidate, filter_flags},
    tables::{Affinity, FilterRow, Limits},
    *,
};
use crate::{
    dataplane::{self, Connections, jiffies::Tick, ring},
    model::{
        Filter, ForwardMethod, Hairpin, HashKey, NoReal, Protocol, Scheduler, filter::Prefixes,
        prefix::Prefix,
    },
};

/// The maps as the packet program reads them.
#[derive(Clone)]
pub struct Maps {
    pub services: BTreeMap<ServiceKey, Service>,
    pub reals: Vec<RealServer>,
    pub limits: Vec<Limits>,
    pub affinities: BTreeMap<u32, Affinity>,
    pub filters: BTreeMap<u32, FilterRow>,
    pub rule_counts: BTreeSet<u32>,
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
            filters: BTreeMap::new(),
            rule_counts: BTreeSet::new(),
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
            TableChange::AddRuleCounts { ids } => {
                let in_use = self.rule_ids();
                assert!(ids.iter().all(|id| *id != 0 && !in_use.contains(id)));
                self.rule_counts.extend(ids);
            }
            TableChange::SetRules { rules } => {
                for (prefix, rule) in rules {
                    assert!(self.rule_counts.contains(&rule.id));
                    let row = self.filters.entry(prefix.first.service).or_default();
                    row.rules.insert(*prefix, *rule);
                }
            }
            TableChange::RemoveRules { prefixes } => {
                for prefix in prefixes {
                    let row = self.filters.get_mut(&prefix.first.service).unwrap();
                    row.rules.remove(prefix).unwrap();
                }
                self.filters.retain(|_, row| *row != FilterRow::default());
            }
            TableChange::SetRateLimit { service, limit } => {
                assert!(limit.id == 0 || self.rule_counts.contains(&limit.id));
                self.filters.entry(*service).or_default().limit = *limit;
                self.filters.retain(|_, row| *row != FilterRow::default());
            }
            TableChange::RemoveRuleCounts { ids } => {
                let in_use = self.rule_ids();
                for id in ids {
                    assert!(!in_use.contains(id));
                    assert!(self.rule_counts.remove(id));
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

    /// The ids of all rules and limits.
    fn rule_ids(&self) -> BTreeSet<u32> {
        let rows = self.filters.values();
        let ids = rows.flat_map(|row| {
            let rules = row.rules.values().map(|rule| rule.id);
            rules.chain([row.limit.id])
        });
        ids.filter(|id| *id != 0).collect()
    }

    /// Whether a client may open connections to a service, by the longest prefix.
    fn lets_in(&self, key: &ServiceKey, client: IpAddr) -> bool {
        let Some(service) = self.services.get(key) else {
            return true;
        };
        if service.flags & FILTERED == 0 {
            return true;
        }
        let bits = |client: ClientKey| -> Vec<bool> {
            let mut bytes = client.service.to_ne_bytes().to_vec();
            bytes.extend(client.client.0.iter().flat_map(|word| word.to_ne_bytes()));
            let bits = bytes
                .iter()
                .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
            bits.map(|bit| bit != 0).collect()
        };
        let client = bits(ClientKey {
            service: service.id,
            client: client.into(),
        });
        let rules = self.filters.values().flat_map(|row| &row.rules);
        let matching = rules.filter(|(prefix, _)| {
            let length = prefix.length as usize;
            bits(prefix.first)[..length] == client[..length]
        });
        let rule = matching.max_by_key(|(prefix, _)| prefix.length);
        rule.is_none_or(|(_, rule)| rule.verdict == verdict::ALLOW)
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

/// Changes of filters, of which each rule is written or deleted by itself; all others as they are.
fn one_by_one(change: &TableChange) -> Vec<TableChange> {
    match change {
        TableChange::SetRules { rules } => {
            let rules = rules.iter().map(|rule| vec![*rule]);
            rules.map(|rules| TableChange::SetRules { rules }).collect()
        }
        TableChange::RemoveRules { prefixes } => {
            let prefixes = prefixes.iter().map(|prefix| vec![*prefix]);
            prefixes
                .map(|prefixes| TableChange::RemoveRules { prefixes })
                .collect()
        }
        _ => vec![change.clone()],
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
            reject | persistent | filter_flags(&service.filter),
        ),
    })
}

/// Whether a filter lets a client open connections: what the lists mean, said plainly.
pub fn lets_in(filter: &Filter, client: IpAddr) -> bool {
    let client = Prefix::of(client, 128);
    let longest = |list: &Prefixes| {
        let lengths = list.iter().filter(|prefix| prefix.contains(&client));
        lengths.map(|prefix| prefix.length).max()
    };
    match (longest(&filter.allow), longest(&filter.deny)) {
        (None, None) => filter.allow.is_empty(),
        (allow, deny) => allow > deny,
    }
}

/// Clients that the filters of tests tell apart.
pub fn clients() -> impl Iterator<Item = IpAddr> {
    (0..32_u32).map(|bits| Ipv4Addr::from(bits << 27 | 1).into())
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
        let filter = |services: &[dataplane::Service], key: &ServiceKey| {
            let service = services.iter().find(|service| service.key == *key);
            service
                .map(|service| service.filter.clone())
                .unwrap_or_default()
        };
        let filters = keys
            .iter()
            .map(|key| [filter(&self.desired, key), filter(&desired, key)]);
        let filters: Vec<_> = filters.collect();
        for change in &changes.iter().flat_map(one_by_one).collect::<Vec<_>>() {
            self.maps.apply(change, &mut self.untouchable);
            self.tables.apply(change);
            for (key, filters) in keys.iter().zip(&filters) {
                if self.maps.services.contains_key(key) {
                    for client in clients() {
                        let is_let_in = self.maps.lets_in(key, client);
                        let [before, after] = filters.each_ref().map(|one| lets_in(one, client));
                        assert!(
                            is_let_in == before || is_let_in == after,
                            "{client} is refused or let in for a moment, after {change:?}"
                        );
                    }
                }
            }
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
        assert_eq!(self.tables.filters, self.maps.filters);
        assert_eq!(self.maps.rule_ids(), self.maps.rule_counts);
        for service in &desired {
            for client in clients() {
                let is_let_in = self.maps.lets_in(&service.key, client);
                assert_eq!(is_let_in, lets_in(&service.filter, client), "{client}");
            }
            let id = self.tables.services[&service.key].service.id;
            let limit = self.maps.filters.get(&id).map(|row| row.limit.each);
            let limit = limit.filter(|each| *each != 0);
            let each = service
                .filter
                .rate
                .map(|rate| 1_000_000_000 / u64::from(rate.per_second));
            assert_eq!(limit, each);
        }
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
        hairpin: Hairpin::Refuse,
        filter: Filter::default(),
        unit: 1,
        reals: reals.collect(),
    }
}
