//! Computes the changes from the observed to the desired state: `plan(desired, observed) -> changes`. Pure; only
//! `dataplane/apply.rs` executes changes.
//!
//! Packets flow while the changes are made one by one, so the order matters. A ring is written into free slots, after
//! the real servers that it names; then the service is pointed at it, in one write; only then are real servers that
//! left the ring marked. Real servers' ports are known before a service points at them and forgotten after. So at every
//! moment a service has its old ring or its new one, and each real server in it takes new connections.

pub mod affinity;
pub mod filter;
pub mod ring_space;
mod service;
pub mod sources;
pub mod tables;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use balancer_common::{
    filter::MAX_RULES,
    persistence::Stickiness,
    real_server::{RealServer, state},
    scheduler::RING_SLOTS,
    service::MAX_SERVICES,
};
use tables::{TableChange, Tables};

use crate::{
    dataplane::{Real, Service, ring::Longest},
    model::{Filter, ServiceKey},
};

/// A table is too small for what is desired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    /// Too many services.
    #[error(
        "{wanted} virtual services do not fit: the table holds {MAX_SERVICES} of each address family and as many in all \
         ({held} places are held by connections of removed services)"
    )]
    Services {
        /// The number that is desired.
        wanted: usize,
        /// Ids that removed services hold.
        held: usize,
    },
    /// Too many real servers.
    #[error(
        "{wanted} real servers do not fit: the table holds {capacity} over all services together ({held} places are held by \
         connections of removed real servers)"
    )]
    Reals {
        /// The number that is desired.
        wanted: usize,
        /// Ids that removed real servers hold.
        held: usize,
        /// The table's size.
        capacity: usize,
    },
    /// Too many rules of filters.
    #[error(
        "the prefixes of the services' filters do not fit beside those that they replace: the table holds {MAX_RULES} at a time"
    )]
    Rules,
    /// Too many ring slots.
    #[error(
        "the ring of service {service} needs {wanted} slots in one piece and {free} of {RING_SLOTS} are free: use weights with a \
         smaller sum or a common divisor, or fewer services with mh"
    )]
    Ring {
        /// The service.
        service: ServiceKey,
        /// Slots that its ring needs.
        wanted: usize,
        /// Free slots, scattered or not.
        free: u32,
    },
}

/// The changes that bring `observed` to `desired`, in the order in which to make them. Empty when nothing differs.
///
/// Rings of turns are as exact as can be, unless less than half of all slots is free then. Else they are shorter, and if that leaves less
/// than an eighth, weights are rounded to whole units: so there is room to write rings anew.
///
/// # Errors
/// A table is too small; nothing has to be done then. With [`CapacityError::Ring`] another try may succeed after retired ring
/// space was released.
pub fn plan(desired: &[Service], observed: &Tables) -> Result<Vec<TableChange>, CapacityError> {
    for (longest, part) in [(Longest::Exact, 2), (Longest::Short, 8)] {
        match plan_exact(desired, observed, longest) {
            Ok(planner) if planner.space.is_free(part) => return Ok(planner.finish(desired)),
            Ok(_) | Err(CapacityError::Ring { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let desired: Vec<_> = desired.iter().map(in_whole_units).collect();
    let planner = plan_exact(&desired, observed, Longest::Short)?;
    Ok(planner.finish(&desired))
}

/// The changes after this host's networks or addresses have changed: what each real server has of them.
#[must_use]
pub fn plan_host_changes(observed: &Tables) -> Vec<TableChange> {
    let reals = (0_u32..).zip(&observed.reals);
    reals
        .filter(|(_, real)| real.state != state::FREE)
        .filter_map(|(id, real)| {
            let address = real.address.into();
            let real = RealServer {
                network_mask: observed.network_mask(address),
                snat_addresses: observed.sources.places_of(address, real.snat_addresses),
                ..*real
            };
            (real != observed.reals[id as usize]).then_some(TableChange::SetReal { id, real })
        })
        .collect()
}

fn plan_exact<'a>(
    desired: &[Service],
    observed: &'a Tables,
    longest: Longest,
) -> Result<Planner<'a>, CapacityError> {
    let mut planner = Planner::new(desired, observed, longest)?;
    for service in desired {
        if !planner.is_unchanged(service) {
            planner.plan_service(service)?;
        }
    }
    Ok(planner)
}

/// The service with its weights rounded to whole units; a weight above 0 stays above 0.
fn in_whole_units(service: &Service) -> Service {
    let mut service = service.clone();
    for real in &mut service.reals {
        real.weight = (real.weight / service.unit.max(1)).max(real.weight.min(1));
    }
    service.unit = 1;
    service
}

struct Planner<'a> {
    observed: &'a Tables,
    known_reals: HashMap<(u32, std::net::SocketAddr), u32>,
    free_reals: Vec<u32>,
    free_services: Vec<u32>,
    space: ring_space::RingSpace,
    longest: Longest,
    /// Rule ids that are free; known once one is needed.
    rule_ids: Option<filter::RuleIds>,
    /// By service id, whether the service already is as desired.
    unchanged: Vec<bool>,
    /// Real ids that the services that change use.
    wanted_reals: HashSet<u32>,
    resets: Vec<TableChange>,
    reals: Vec<TableChange>,
    limits: Vec<TableChange>,
    rings: Vec<TableChange>,
    /// Servers and persistence of the services that follow.
    affinities: Vec<TableChange>,
    services: Vec<TableChange>,
    /// Real servers that take no new connections any more: written after the rings that named them are replaced.
    leaving: Vec<TableChange>,
    /// The limits of those, and the servers that services do not have any more.
    left: Vec<TableChange>,
}

impl<'a> Planner<'a> {
    fn new(
        desired: &[Service],
        observed: &'a Tables,
        longest: Longest,
    ) -> Result<Self, CapacityError> {
        let mut unchanged = vec![false; MAX_SERVICES as usize];
        let mut others = Vec::new();
        for service in desired {
            match observed.services.get(&service.key) {
                Some(row) if observed.planned.get(&service.key) == Some(service) => {
                    if let Some(is_unchanged) = unchanged.get_mut(row.service.id as usize) {
                        *is_unchanged = true;
                    }
                }
                row => others.push((service, row.map(|row| row.service.id))),
            }
        }

        let used = observed.service_ids_in_use();
        let free_services: Vec<_> = (0..MAX_SERVICES)
            .zip(&used)
            .filter(|(_, used)| !**used)
            .map(|(id, _)| id)
            .rev()
            .collect();
        let new_services = others.iter().filter(|(_, id)| id.is_none()).count();
        let of_family = |v4: bool| {
            desired
                .iter()
                .filter(|s| s.key.address.is_ipv4() == v4)
                .count()
        };
        if new_services > free_services.len()
            || of_family(true).max(of_family(false)) > MAX_SERVICES as usize
        {
            let held = used.iter().filter(|used| **used).count() - observed.services.len();
            return Err(CapacityError::Services {
                wanted: desired.len(),
                held,
            });
        }

        let known_reals =
            observed.real_ids(|service| !unchanged.get(service as usize).is_some_and(|is| *is));
        let mut free_reals: Vec<_> = (0_u32..)
            .zip(&observed.reals)
            .filter(|(_, real)| real.state == state::FREE)
            .map(|(id, _)| id)
            .collect();
        free_reals.reverse();
        let new_reals = others
            .iter()
            .map(|(service, id)| {
                let is_known = |real: &&Real| {
                    id.is_some_and(|id| known_reals.contains_key(&(id, real.address)))
                };
                service.reals.len() - service.reals.iter().filter(is_known).count()
            })
            .sum::<usize>();
        if new_reals > free_reals.len() {
            return Err(CapacityError::Reals {
                wanted: desired.iter().map(|service| service.reals.len()).sum(),
                held: observed
                    .reals
                    .iter()
                    .filter(|real| state::is_removed(real.state))
                    .count(),
                capacity: observed.reals.len(),
            });
        }
        Ok(Self {
            observed,
            known_reals,
            free_reals,
            free_services,
            space: observed.space.clone(),
            longest,
            rule_ids: None,
            unchanged,
            wanted_reals: HashSet::new(),
            resets: Vec::new(),
            reals: Vec::new(),
            limits: Vec::new(),
            rings: Vec::new(),
            affinities: Vec::new(),
            services: Vec::new(),
            leaving: Vec::new(),
            left: Vec::new(),
        })
    }

    /// Whether a service already is as desired.
    fn is_unchanged(&self, desired: &Service) -> bool {
        let row = self.observed.services.get(&desired.key);
        row.is_some_and(|row| self.is_unchanged_id(row.service.id))
    }

    fn is_unchanged_id(&self, service: u32) -> bool {
        self.unchanged.get(service as usize).is_some_and(|is| *is)
    }

    /// The ids that no desired service has, of which the tables say something all the same: their services go, or are gone since a daemon
    /// was killed in the middle.
    fn services_that_go(&self, desired: &BTreeSet<ServiceKey>) -> BTreeSet<u32> {
        let present = self.observed.services.iter();
        let stays = present.filter(|(key, _)| desired.contains(key));
        let mut ids: HashSet<_> = stays.map(|(_, row)| row.service.id).collect();
        ids.extend(self.services.iter().filter_map(|change| match change {
            TableChange::SetService { service, .. } => Some(service.id),
            _ => None,
        }));
        let known = self.observed.affinities.keys();
        let known = known.chain(self.observed.filters.keys());
        known.filter(|id| !ids.contains(id)).copied().collect()
    }

    fn finish(mut self, desired: &[Service]) -> Vec<TableChange> {
        let keys: BTreeSet<_> = desired.iter().map(|service| service.key).collect();
        let removed: Vec<_> = self
            .observed
            .services
            .keys()
            .filter(|key| !keys.contains(*key))
            .map(|key| TableChange::RemoveService { key: *key })
            .collect();
        for service in self.services_that_go(&keys) {
            let (_, last) = self.affinity_changes(service, Stickiness::default(), &BTreeMap::new());
            self.left.extend(last);
            // Nothing is added, so that nothing can be refused.
            let vip = std::net::Ipv4Addr::UNSPECIFIED.into();
            if let Ok(changes) = self.filter_changes(service, &Filter::default(), vip) {
                self.left.extend(changes.last);
            }
        }
        for (id, real) in (0_u32..).zip(&self.observed.reals) {
            let is_desired = self.is_unchanged_id(real.service) || self.wanted_reals.contains(&id);
            if real.state != state::FREE && !state::is_removed(real.state) && !is_desired {
                // If its connections were to be reset, they still are.
                let state = if state::is_reset(real.state) {
                    state::REMOVED_RESET
                } else {
                    state::REMOVED
                };
                let real = RealServer { state, ..*real };
                self.leaving.push(TableChange::SetReal { id, real });
            }
        }

        let any_port = desired
            .iter()
            .any(|service| service.key.address.port() == 0);
        let any_port_on =
            (any_port && !self.observed.any_port).then_some(TableChange::SetAnyPort(true));
        let any_port_off =
            (!any_port && self.observed.any_port).then_some(TableChange::SetAnyPort(false));
        // New services are added before old ones are removed, so that an address that moves from one port to all ports
        // is never without a service; unless the table cannot hold both.
        let most = [true, false].map(|v4| {
            let of_family = |key: &&ServiceKey| key.address.is_ipv4() == v4;
            let new = keys
                .iter()
                .filter(of_family)
                .filter(|key| !self.observed.services.contains_key(key));
            self.observed.services.keys().filter(of_family).count() + new.count()
        });
        let roomy = most.iter().all(|count| *count <= MAX_SERVICES as usize);
        let (first, last) = if roomy {
            (Vec::new(), removed)
        } else {
            (removed, Vec::new())
        };

        // The program ignores packets of addresses without a bit: bits are set first and cleared last.
        let vips = desired.iter().map(|service| service.key.address.ip());
        let wanted = desired
            .iter()
            .filter(|service| !self.is_unchanged(service))
            .flat_map(|service| &service.reals)
            .map(|real| real.address.ip());
        let known = self
            .observed
            .reals
            .iter()
            .filter(|real| real.state != state::FREE);
        let known = known.map(|real| std::net::IpAddr::from(real.address));
        let filter = tables::filter_of(vips.chain(wanted).chain(known));
        let union: Vec<_> = filter
            .iter()
            .zip(&self.observed.addresses)
            .map(|(a, b)| a | b)
            .collect();

        let ports = tables::ports_of(desired);
        let missing = |from: &HashSet<ServiceKey>, of: &HashSet<ServiceKey>| {
            let mut ports: Vec<_> = of.difference(from).copied().collect();
            ports.sort_unstable();
            ports
        };
        let added = missing(&self.observed.real_ports, &ports);
        let forgotten = missing(&ports, &self.observed.real_ports);
        let added = (!added.is_empty()).then_some(TableChange::AddRealPorts { ports: added });
        let forgotten =
            (!forgotten.is_empty()).then_some(TableChange::RemoveRealPorts { ports: forgotten });

        let mut changes = set_addresses(&self.observed.addresses, &union);
        changes.extend(self.resets);
        changes.extend(first);
        changes.extend(self.reals);
        changes.extend(self.limits);
        changes.extend(added);
        changes.extend(self.rings);
        changes.extend(self.affinities);
        changes.extend(any_port_on);
        changes.extend(self.services);
        changes.extend(last);
        changes.extend(any_port_off);
        changes.extend(self.leaving);
        changes.extend(self.left);
        changes.extend(forgotten);
        changes.extend(set_addresses(&union, &filter));
        changes
    }
}

/// The change from one address filter to another; none when they are the same.
fn set_addresses(from: &[u64], to: &[u64]) -> Vec<TableChange> {
    let words: Vec<_> = (0_u32..)
        .zip(from.iter().zip(to))
        .filter(|(_, (a, b))| a != b)
        .map(|(index, (_, b))| (index, *b))
        .collect();
    if words.is_empty() {
        Vec::new()
    } else {
        vec![TableChange::SetAddresses { words }]
    }
}

#[cfg(test)]
mod tests;
