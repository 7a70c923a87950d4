//! The content of the kernel's tables that the daemon writes, and the changes to them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use balancer_common::{
    addr::Addr,
    address_filter::{self, bit_of},
    real_server::{RealServer, state},
    service::{MAX_SERVICES, Service},
};

use super::ring_space::RingSpace;
use crate::{dataplane, model::ServiceKey, netlink::address::Networks};

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
    /// Writes ring slots that no service points at.
    WriteRing {
        /// First slot.
        offset: u32,
        /// Real ids.
        reals: Vec<u32>,
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
    },
    /// Deletes a service.
    RemoveService {
        /// VIP, port, protocol.
        key: ServiceKey,
    },
}

/// A service, and the content of its ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRow {
    /// The kernel's value.
    pub service: Service,
    /// Real ids in its ring.
    pub ring: Vec<u32>,
}

/// The observed state.
#[derive(Clone, Debug)]
pub struct Tables {
    /// By VIP, port and protocol.
    pub services: BTreeMap<ServiceKey, ServiceRow>,
    /// By real id.
    pub reals: Vec<RealServer>,
    /// The address filter: a bit per VIP and real server.
    pub addresses: Vec<u64>,
    /// Whether the program looks for services on every port.
    pub any_port: bool,
    /// Protocols, addresses and ports of the services' real servers.
    pub real_ports: HashSet<ServiceKey>,
    /// Free ring slots.
    pub space: RingSpace,
    /// The networks that this host is in.
    pub networks: Networks,
    /// Real servers that packets reach by a gateway.
    pub routed: BTreeSet<IpAddr>,
    /// The desired services that the tables match, as far as known: a service that equals its entry needs no new plan.
    pub planned: HashMap<ServiceKey, dataplane::Service>,
}

impl Tables {
    /// Tables as they are when the maps are new.
    #[must_use]
    pub fn empty(reals: u32, ring_slots: u32) -> Self {
        Self {
            services: BTreeMap::new(),
            reals: vec![RealServer::default(); reals as usize],
            addresses: vec![0; address_filter::WORDS as usize],
            any_port: false,
            real_ports: HashSet::new(),
            space: RingSpace::with_used(ring_slots, []),
            networks: Networks::default(),
            routed: BTreeSet::new(),
            planned: HashMap::new(),
        }
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
            TableChange::WriteRing {
                offset: _,
                reals: _,
            } => {}
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
            } => {
                let row = ServiceRow {
                    service: *service,
                    ring: reals.clone(),
                };
                let old = self.services.insert(*key, row).unwrap_or_default();
                if old.service.ring != service.ring {
                    self.space.occupy(service.ring);
                    self.space.retire(old.service.ring);
                }
            }
            TableChange::RemoveService { key } => {
                if let Some(old) = self.services.remove(key) {
                    self.space.retire(old.service.ring);
                }
            }
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
