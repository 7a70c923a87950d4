//! The content of the kernel's tables that the daemon writes, and the changes to them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use balancer_common::{
    addr::Addr,
    address_filter::{self, bit_of},
    conntrack::forwarding,
    filter::{RateLimit, Rule, RulePrefix},
    persistence::Stickiness,
    real_server::{RealServer, state},
    scheduler::Ring,
    service::{MAX_SERVICES, Service},
};

use super::{ring_space::RingSpace, sources::Sources};
use crate::{
    dataplane::{self, jiffies::Tick},
    model::ServiceKey,
    netlink::address::Networks,
};

/// One step towards the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// Sets an id's turns and counters to zero, before a new service gets it.
    ResetService {
        /// Service id.
        id: u32,
    },
    /// Writes words of the address filter.
    SetAddresses {
        /// Index and word.
        words: Vec<(u32, u64)>,
    },
    /// Writes a real server.
    SetReal {
        /// Real id.
        id: u32,
        /// The new value.
        real: RealServer,
    },
    /// Writes the weight and the limits of a real server.
    SetLimits {
        /// Real id.
        id: u32,
        /// The new value.
        limits: Limits,
    },
    /// Writes ring slots that no service points at.
    WriteRing {
        /// Where they are.
        ring: Ring,
        /// Real ids.
        reals: Vec<u32>,
    },
    /// Rewrites a service's ring where it is: only a hash's, of which each slot counts by itself.
    RewriteRing {
        /// VIP, port, protocol.
        key: ServiceKey,
        /// Index in `RINGS` and value of each word that differs.
        words: Vec<(u32, u64)>,
        /// Real ids in the whole ring.
        reals: Vec<u32>,
    },
    /// Writes what a service says of its clients' persistence.
    SetStickiness {
        /// Service id.
        service: u32,
        /// The new value.
        stickiness: Stickiness,
    },
    /// Writes real ids by service and server.
    SetMembers {
        /// Service id.
        service: u32,
        /// The servers' addresses and the real ids.
        members: Vec<(Addr, u32)>,
    },
    /// Deletes real ids by service and server.
    RemoveMembers {
        /// Service id.
        service: u32,
        /// The servers' addresses.
        servers: Vec<Addr>,
    },
    /// Makes the counters of rules that are about to be written, at zero.
    AddRuleCounts {
        /// Rule ids.
        ids: Vec<u32>,
    },
    /// Writes rules of a service's filter, in this order.
    SetRules {
        /// Their prefixes, and they.
        rules: Vec<(RulePrefix, Rule)>,
    },
    /// Deletes rules of a service's filter, in this order.
    RemoveRules {
        /// Their prefixes.
        prefixes: Vec<RulePrefix>,
    },
    /// Writes how many connections a service's clients may open.
    SetRateLimit {
        /// Service id.
        service: u32,
        /// The new value.
        limit: RateLimit,
    },
    /// Deletes the counters of rules that are no more.
    RemoveRuleCounts {
        /// Rule ids.
        ids: Vec<u32>,
    },
    /// Sets whether any service listens on all ports.
    SetAnyPort(bool),
    /// Adds addresses and ports of real servers.
    AddRealPorts {
        /// Protocol, address and port; port 0 where packets keep theirs.
        ports: Vec<ServiceKey>,
    },
    /// Removes addresses and ports that no real server has any more.
    RemoveRealPorts {
        /// As above.
        ports: Vec<ServiceKey>,
    },
    /// Writes a service, whose ring was written before.
    SetService {
        /// VIP, port, protocol.
        key: ServiceKey,
        /// The new value.
        service: Service,
        /// Real ids in its ring.
        reals: Vec<u32>,
        /// Real ids in the list of those that take new connections.
        available: Vec<u32>,
    },
    /// Deletes a service.
    RemoveService {
        /// VIP, port, protocol.
        key: ServiceKey,
    },
}

/// The weight and the limits of a real server, as `REAL_LOADS` has them beside its load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The weight by which it takes new connections.
    pub weight: u32,
    /// It is full with this many connections; 0 = never.
    pub upper: u32,
    /// Once full, it takes new ones again below this many.
    pub resume: u32,
}

/// A service, and the content of its rings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRow {
    /// The kernel's value.
    pub service: Service,
    /// Real ids in its ring.
    pub ring: Vec<u32>,
    /// Real ids in the list of those that take new connections.
    pub available: Vec<u32>,
}

/// What the program finds by a service's id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// What it says of its clients' persistence.
    pub stickiness: Stickiness,
    /// Real ids by server.
    pub members: BTreeMap<Addr, u32>,
}

/// A service's filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterRow {
    /// Its rules, the shortest prefixes first.
    pub rules: BTreeMap<RulePrefix, Rule>,
    /// How many connections clients may open.
    pub limit: RateLimit,
}

/// The observed state.
#[derive(Clone, Debug)]
pub struct Tables {
    /// By VIP, port and protocol.
    pub services: BTreeMap<ServiceKey, ServiceRow>,
    /// By real id.
    pub reals: Vec<RealServer>,
    /// By real id.
    pub limits: Vec<Limits>,
    /// By service id; none for services that were never persistent.
    pub affinities: BTreeMap<u32, Affinity>,
    /// By service id; none for services without one.
    pub filters: BTreeMap<u32, FilterRow>,
    /// The address filter: a bit per VIP and real server.
    pub addresses: Vec<u64>,
    /// Whether the program looks for services on every port.
    pub any_port: bool,
    /// Protocols, addresses and ports of the services' real servers.
    pub real_ports: HashSet<ServiceKey>,
    /// The clock of persistence's timeouts.
    pub tick: Tick,
    /// Free words for rings.
    pub space: RingSpace,
    /// The networks that this host is in.
    pub networks: Networks,
    /// Real servers that packets reach by a gateway.
    pub routed: BTreeSet<IpAddr>,
    /// The source addresses of connections with full NAT.
    pub sources: Sources,
    /// The desired services that the tables match, as far as known: a service that equals its entry needs no new plan.
    pub planned: HashMap<ServiceKey, dataplane::Service>,
}

impl Tables {
    /// Real servers that are reached by full NAT and have no source address, though it is known by which interface packets to them leave.
    #[must_use]
    pub fn reals_without_source(&self) -> BTreeSet<IpAddr> {
        let reals = self.reals.iter().filter(|real| {
            real.forwarding == forwarding::FULL_NAT
                && real.snat_addresses == 0
                && real.state != state::FREE
                && !state::is_removed(real.state)
        });
        let known = &self.sources.wanted.known;
        reals
            .map(|real| IpAddr::from(real.address))
            .filter(|address| known.contains(address))
            .collect()
    }

    /// Tables as they are when the maps are new.
    #[must_use]
    pub fn empty(reals: u32, ring_words: u32, tick: Tick) -> Self {
        Self {
            services: BTreeMap::new(),
            reals: vec![RealServer::default(); reals as usize],
            limits: vec![Limits::default(); reals as usize],
            affinities: BTreeMap::new(),
            filters: BTreeMap::new(),
            tick,
            addresses: vec![0; address_filter::WORDS as usize],
            any_port: false,
            real_ports: HashSet::new(),
            space: RingSpace::with_used(ring_words, []),
            networks: Networks::default(),
            routed: BTreeSet::new(),
            sources: Sources::default(),
            planned: HashMap::new(),
        }
    }

    /// What the services whose clients keep their real servers say of that, by service id.
    pub fn persistent_services(&self) -> HashMap<u32, Stickiness> {
        let rows = self.affinities.iter();
        let rows = rows.map(|(service, affinity)| (*service, affinity.stickiness));
        rows.filter(|(_, row)| row.timeout != 0).collect()
    }

    /// The [`RealServer::network_mask`] of a real server with this address; zeroes for one behind a gateway, even if
    /// one of this host's networks contains its address.
    #[must_use]
    pub fn network_mask(&self, address: IpAddr) -> Addr {
        if self.routed.contains(&address) {
            return Addr::default();
        }
        self.networks.mask_around(address)
    }

    /// Notes that the tables match `services`: all changes of their plan were made.
    pub fn set_planned(&mut self, services: &[dataplane::Service]) {
        for service in services {
            if self.planned.get(&service.key) != Some(service) {
                self.planned.insert(service.key, service.clone());
            }
        }
        if self.planned.len() > services.len() {
            let keys: HashSet<_> = services.iter().map(|service| service.key).collect();
            self.planned.retain(|key, _| keys.contains(key));
        }
    }

    /// Applies `change` to this copy.
    pub fn apply(&mut self, change: &TableChange) {
        match change {
            TableChange::ResetService { id: _ } => {}
            TableChange::WriteRing { ring: _, reals: _ } => {}
            TableChange::SetLimits { id, limits } => {
                if let Some(slot) = self.limits.get_mut(*id as usize) {
                    *slot = *limits;
                }
            }
            TableChange::RewriteRing {
                key,
                words: _,
                reals,
            } => {
                if let Some(row) = self.services.get_mut(key) {
                    row.ring.clone_from(reals);
                }
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
                if let Some(affinity) = self.affinities.get_mut(service) {
                    affinity
                        .members
                        .retain(|server, _| !servers.contains(server));
                }
            }
            TableChange::AddRuleCounts { ids: _ } | TableChange::RemoveRuleCounts { ids: _ } => {}
            TableChange::SetRules { rules } => {
                for (prefix, rule) in rules {
                    let row = self.filters.entry(prefix.first.service).or_default();
                    row.rules.insert(*prefix, *rule);
                }
            }
            TableChange::RemoveRules { prefixes } => {
                for prefix in prefixes {
                    self.change_filter(prefix.first.service, |row| {
                        row.rules.remove(prefix);
                    });
                }
            }
            TableChange::SetRateLimit { service, limit } => {
                self.change_filter(*service, |row| row.limit = *limit);
            }
            TableChange::SetReal { id, real } => {
                if let Some(slot) = self.reals.get_mut(*id as usize) {
                    *slot = *real;
                }
            }
            TableChange::SetAddresses { words } => {
                for (index, word) in words {
                    if let Some(slot) = self.addresses.get_mut(*index as usize) {
                        *slot = *word;
                    }
                }
            }
            TableChange::SetAnyPort(any_port) => self.any_port = *any_port,
            TableChange::AddRealPorts { ports } => self.real_ports.extend(ports),
            TableChange::RemoveRealPorts { ports } => {
                for port in ports {
                    self.real_ports.remove(port);
                }
            }
            TableChange::SetService {
                key,
                service,
                reals,
                available,
            } => {
                let row = ServiceRow {
                    service: *service,
                    ring: reals.clone(),
                    available: available.clone(),
                };
                let old = self.services.insert(*key, row).unwrap_or_default().service;
                let pairs = [(old.ring, service.ring), (old.available, service.available)];
                for (old, new) in pairs {
                    if old != new {
                        self.space.occupy(new);
                        self.space.retire(old);
                    }
                }
            }
            TableChange::RemoveService { key } => {
                if let Some(row) = self.services.remove(key) {
                    self.space.retire(row.service.ring);
                    self.space.retire(row.service.available);
                }
            }
        }
    }

    /// Changes a service's filter; one that has nothing any more is forgotten.
    fn change_filter(&mut self, service: u32, change: impl FnOnce(&mut FilterRow)) {
        let row = self.filters.entry(service).or_default();
        change(row);
        if *row == FilterRow::default() {
            self.filters.remove(&service);
        }
    }

    /// Real ids by service id, address and port, of the services whose id `is_wanted` accepts; includes removed real
    /// servers.
    #[must_use]
    pub fn real_ids(&self, is_wanted: impl Fn(u32) -> bool) -> HashMap<(u32, SocketAddr), u32> {
        (0_u32..)
            .zip(&self.reals)
            .filter(|(_, real)| real.state != state::FREE && is_wanted(real.service))
            .map(|(id, real)| ((real.service, address_of(real)), id))
            .collect()
    }

    /// By service id, whether a service has it or a real server still refers to it.
    #[must_use]
    pub fn service_ids_in_use(&self) -> Vec<bool> {
        let mut used = vec![false; MAX_SERVICES as usize];
        let services = self.services.values().map(|row| row.service.id);
        let reals = self
            .reals
            .iter()
            .filter(|real| real.state != state::FREE)
            .map(|real| real.service);
        for id in services.chain(reals) {
            if let Some(used) = used.get_mut(id as usize) {
                *used = true;
            }
        }
        used
    }
}

/// Protocols, addresses and ports of these services' real servers.
#[must_use]
pub fn ports_of(services: &[dataplane::Service]) -> HashSet<ServiceKey> {
    let ports = services.iter().flat_map(|service| {
        let protocol = service.key.protocol;
        let reals = service.reals.iter();
        reals.map(move |real| ServiceKey {
            protocol,
            address: real.address,
        })
    });
    ports.collect()
}

/// The address filter with the bits of these addresses only.
#[must_use]
pub fn filter_of(addresses: impl Iterator<Item = IpAddr>) -> Vec<u64> {
    let mut words = vec![0; address_filter::WORDS as usize];
    for address in addresses {
        let bit = bit_of(address);
        if let Some(word) = words.get_mut(bit.word as usize) {
            *word |= bit.mask;
        }
    }
    words
}

/// A real server's address and port.
#[must_use]
pub fn address_of(real: &RealServer) -> SocketAddr {
    SocketAddr::new(IpAddr::from(real.address), u16::from_be(real.port))
}
