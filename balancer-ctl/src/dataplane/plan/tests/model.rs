//! A model of the kernel's maps, and a world in which plans are applied to it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use balancer_common::{address_filter::bit_of, scheduler::Ring, service::Service};

use super::super::*;
use crate::{
    dataplane::{self, Connections},
    model::{ForwardMethod, Protocol, Scheduler},
};

/// The maps as the packet program reads them.
#[derive(Clone)]
pub struct Maps {
    pub services: BTreeMap<ServiceKey, Service>,
    pub reals: Vec<RealServer>,
    pub rings: Vec<u32>,
    pub addresses: Vec<u64>,
    pub any_port: bool,
    pub real_ports: BTreeSet<ServiceKey>,
}

pub const REALS: u32 = 64;
const SLOTS: u32 = 512;

impl Maps {
    pub fn new() -> Self {
        Self {
            services: BTreeMap::new(),
            reals: vec![RealServer::default(); REALS as usize],
            rings: vec![u32::MAX; SLOTS as usize],
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
            TableChange::WriteRing { offset, reals } => {
                let range = *offset..offset + reals.len() as u32;
                for ring in untouchable.iter() {
                    assert!(range.end <= ring.offset || ring.offset + ring.length <= range.start);
                }
                self.rings[range.start as usize..range.end as usize].copy_from_slice(reals);
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
            } => {
                self.services.insert(*key, *service);
                assert_eq!(&self.ring(&service.ring), reals);
                untouchable.push(service.ring);
            }
            TableChange::RemoveService { key } => {
                self.services.remove(key);
            }
        }
    }

    fn ring(&self, ring: &Ring) -> Vec<u32> {
        self.rings[ring.offset as usize..(ring.offset + ring.length) as usize].to_vec()
    }

    /// Where a service's new connections go, in turn, and its flags; `None` without a service.
    fn resolve(&self, key: &ServiceKey) -> Option<(Vec<SocketAddr>, u32)> {
        let service = self.services.get(key)?;
        assert!(key.address.port() != 0 || self.any_port);
        assert!(self.sees(key.address.ip()));
        let addresses = self
            .ring(&service.ring)
            .into_iter()
            .map(|id| {
                let real = self.reals[id as usize];
                assert_eq!((real.state, real.service), (state::TAKES_NEW, service.id));
                assert!(self.sees(real.address.into()));
                assert_eq!(IpAddr::from(real.vip), key.address.ip());
                assert_eq!(real.delta, RealServer::between(&real.vip, &real.address));
                let address = tables::address_of(&real);
                let port = ServiceKey {
                    protocol: key.protocol,
                    address,
                };
                assert!(self.real_ports.contains(&port));
                address
            })
            .collect();
        Some((addresses, service.flags))
    }
}

/// [`Maps::resolve`] by the desired state.
fn wanted(services: &[dataplane::Service], key: &ServiceKey) -> Option<(Vec<SocketAddr>, u32)> {
    let service = services.iter().find(|service| service.key == *key)?;
    let weighted: Vec<_> = (0_u32..)
        .zip(&service.reals)
        .map(|(id, real)| (id, real.weight))
        .collect();
    let addresses = ring::build(service.scheduler, &weighted)
        .into_iter()
        .map(|index| service.reals[index as usize].address)
        .collect();
    Some((addresses, u32::from(service.no_real == NoReal::Reject)))
}

pub struct World {
    pub maps: Maps,
    pub tables: Tables,
    pub desired: Vec<dataplane::Service>,
    pub untouchable: Vec<Ring>,
}

impl World {
    pub fn new() -> Self {
        Self {
            maps: Maps::new(),
            tables: Tables::empty(REALS, SLOTS),
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
                assert!(
                    now == wanted(&self.desired, key) || now == wanted(&desired, key),
                    "{key} is half way after {change:?}"
                );
            }
        }
        for key in &keys {
            assert_eq!(self.maps.resolve(key), wanted(&desired, key));
        }
        assert_eq!(self.tables.reals, self.maps.reals);
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
            .map(|service| service.ring)
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
        forwarding: ForwardMethod::Nat,
        connections: Connections::Keep,
    });
    dataplane::Service {
        key: key(number),
        scheduler: Scheduler::Wrr,
        no_real: NoReal::Reject,
        unit: 1,
        reals: reals.collect(),
    }
}
