//! What the kernel's tables hold, as far as the daemon writes them, and the changes it may make. Pure.

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

use super::space::RingSpace;
use crate::{dataplane, model::ServiceKey, netlink::address::Networks};

/// One step towards the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableChange {
    /// The id begins a new life: its turns and counters become zero.
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
        /// What stands there from now on.
        real: RealServer,
    },
    /// Writes ring slots that no service points at.
    WriteRing {
        /// First slot.
        offset: u32,
        /// Real ids.
        reals: Vec<u32>,
    },
    /// Says whether any service listens on every port.
    SetAnyPort(bool),
    /// Notes addresses and ports of real servers.
    AddRealPorts {
        /// Protocol, address, and port; 0 where packets keep theirs.
        ports: Vec<ServiceKey>,
    },
    /// Forgets addresses and ports at which no real server is any more.
    RemoveRealPorts {
        /// As above.
        ports: Vec<ServiceKey>,
    },
    /// Writes a service. Its ring is `reals`, written before.
    SetService {
        /// VIP, port, protocol.
        key: ServiceKey,
        /// What stands there from now on.
        service: Service,
        /// What its ring holds.
        reals: Vec<u32>,
    },
    /// Deletes a service.
    RemoveService {
        /// VIP, port, protocol.
        key: ServiceKey,
    },
}

/// A service as it stands, and what its ring holds.
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
    /// The services that these tables were last brought to, as far as that is known: what equals its plan needs no other.
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
            space: RingSpace::without(ring_slots, []),
            networks: Networks::default(),
            routed: BTreeSet::new(),
            planned: HashMap::new(),
        }
    }

    /// What [`RealServer::network_mask`] is for a real server of this address. One behind a gateway is in another network,
    /// even where a larger one of this host's has its address, too.
    #[must_use]
    pub fn network_mask(&self, address: IpAddr) -> Addr {
        if self.routed.contains(&address) {
            return Addr::default();
        }
        self.networks.mask_around(address)
    }

    /// All changes are made that a plan for `services` asked for.
    pub fn adopt(&mut self, services: &[dataplane::Service]) {
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

    /// What these tables are after `change`.
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
                    self.space.take(service.ring);
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

    /// Real ids by service id, address and port, of the services that `is_wanted` names by their ids; those of removed
    /// real servers too.
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

/// The address filter in which just these addresses have their bits.
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
