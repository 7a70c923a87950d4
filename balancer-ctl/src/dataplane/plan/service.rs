//! The plan of one service: its real servers, rings, scheduler and persistence. Pure.

use std::collections::BTreeMap;

use balancer_common::{
    addr::Addr,
    conntrack::forwarding,
    persistence::Stickiness,
    real_server::{RealServer, state},
    scheduler::{self, Ring, pick},
    service::{self, FILTERED, HAIRPIN, LIMITED, PERSISTENT, REJECT},
};

use super::{
    CapacityError, Planner, affinity, ring_space,
    tables::{self, TableChange},
};
use crate::{
    dataplane::{
        Connections, Real, Service,
        ring::{self, Candidate},
    },
    model::{Filter, ForwardMethod, Hairpin, NoReal, ServiceKey},
};

impl Planner<'_> {
    pub(super) fn plan_service(&mut self, desired: &Service) -> Result<(), CapacityError> {
        let row = self.observed.services.get(&desired.key);
        let id = match row {
            Some(row) => row.service.id,
            None => {
                let id = self
                    .free_services
                    .pop()
                    .ok_or(CapacityError::Services { wanted: 1, held: 0 })?;
                self.resets.push(TableChange::ResetService { id });
                id
            }
        };
        let mut reals = Vec::with_capacity(desired.reals.len());
        for real in &desired.reals {
            reals.push((self.plan_real(id, desired.key, real)?, real));
        }
        let choice = affinity::choice(desired.scheduler, desired.hash);
        let candidates: Vec<_> = reals
            .iter()
            .map(|(id, real)| candidate(*id, real))
            .collect();
        let slots = choice.ring.map_or_else(Vec::new, |kind| {
            ring::build(kind, &candidates, self.longest)
        });
        let available = affinity::available(&choice, &reals);
        let full = |wanted: usize, space: &ring_space::RingSpace| CapacityError::Ring {
            service: desired.key,
            wanted,
            free: space.free_slots(),
        };
        let in_place = row.filter(|row| {
            let is_hash = row.service.pick == pick::HASH && choice.pick == pick::HASH;
            is_hash && row.ring.len() == slots.len() && row.ring != slots
        });
        let ring = if let Some(row) = in_place {
            self.rewrite_ring(desired.key, row, &slots);
            row.service.ring
        } else {
            self.place_ring(&slots, row.map(|row| (row.service.ring, &row.ring)))
                .ok_or_else(|| full(slots.len(), &self.space))?
        };
        let present = row.map(|row| (row.service.available, &row.available));
        let list = self
            .place_ring(&available, present)
            .ok_or_else(|| full(available.len(), &self.space))?;
        let no_real = match desired.no_real {
            NoReal::Reject => REJECT,
            NoReal::Drop => 0,
        };
        let persistent = if desired.persistence.is_some() {
            PERSISTENT
        } else {
            0
        };
        let hairpin = match desired.hairpin {
            Hairpin::FullNat => HAIRPIN,
            Hairpin::Refuse => 0,
        };
        let service = service::Service {
            ring,
            available: list,
            id,
            flags: no_real | persistent | hairpin | filter_flags(&desired.filter),
            pick: choice.pick,
            hash: choice.hash,
            measure: choice.measure,
            zero: 0,
        };
        self.plan_affinity(id, desired, &reals);
        // A long list is compared as a whole where the tables are known to match it.
        let planned = row.and_then(|_| self.observed.planned.get(&desired.key));
        if planned.is_none_or(|planned| planned.filter != desired.filter) {
            let changes = self.filter_changes(id, &desired.filter, desired.key.address.ip())?;
            self.affinities.extend(changes.first);
            // What an id still has of another service, since a daemon was killed in the middle, goes before it is used.
            let last = if row.is_some() {
                &mut self.left
            } else {
                &mut self.affinities
            };
            last.extend(changes.last);
        }
        if row.is_none_or(|row| row.service != service) {
            self.services.push(TableChange::SetService {
                key: desired.key,
                service,
                reals: slots,
                available,
            });
        }
        Ok(())
    }

    /// Returns where a ring is: where the service has its present one, with the real ids in it, if that has the same slots, else new
    /// slots, which are to be written.
    fn place_ring(&mut self, slots: &[u32], present: Option<(Ring, &Vec<u32>)>) -> Option<Ring> {
        if let Some((ring, ids)) = present
            && ids == slots
        {
            return Some(ring);
        }
        let ring = self.space.allocate(u32::try_from(slots.len()).ok()?)?;
        if ring.length > 0 {
            let reals = slots.to_vec();
            self.rings.push(TableChange::WriteRing { ring, reals });
        }
        Some(ring)
    }

    /// Rewrites the words of a service's ring that differ from `slots`.
    fn rewrite_ring(&mut self, key: ServiceKey, row: &tables::ServiceRow, slots: &[u32]) {
        let words = row.service.ring.words();
        let (old, new) = (scheduler::words(&row.ring), scheduler::words(slots));
        let differing = words.zip(old.into_iter().zip(new));
        let words = differing
            .filter(|(_, (old, new))| old != new)
            .map(|(index, (_, new))| (index, new))
            .collect();
        let reals = slots.to_vec();
        self.rings
            .push(TableChange::RewriteRing { key, words, reals });
    }

    /// What a service says of its clients' persistence, and by which servers' addresses its real servers are found.
    fn plan_affinity(&mut self, id: u32, desired: &Service, reals: &[(u32, &Real)]) {
        let stickiness = affinity::stickiness(desired, self.observed.tick);
        let mut members = BTreeMap::new();
        if desired.persistence.is_some() {
            // Of several on one server the first that takes new connections, else the first.
            for (real_id, real) in reals {
                let server = Addr::from(real.address.ip());
                let is_better = |present: &(u32, bool)| !present.1 && real.weight > 0;
                if members.get(&server).is_none_or(is_better) {
                    members.insert(server, (*real_id, real.weight > 0));
                }
            }
        }
        let members = members.into_iter().map(|(server, (id, _))| (server, id));
        let (first, last) = self.affinity_changes(id, stickiness, &members.collect());
        self.affinities.extend(first);
        self.left.extend(last);
    }

    /// The changes to a service's persistence that come before it is written, and those that come after.
    pub(super) fn affinity_changes(
        &self,
        service: u32,
        stickiness: Stickiness,
        members: &BTreeMap<Addr, u32>,
    ) -> (Vec<TableChange>, Vec<TableChange>) {
        let none = tables::Affinity::default();
        let present = self.observed.affinities.get(&service).unwrap_or(&none);
        let added: Vec<_> = members
            .iter()
            .filter(|(server, id)| present.members.get(*server) != Some(id))
            .map(|(server, id)| (*server, *id))
            .collect();
        let (mut first, mut last) = (Vec::new(), Vec::new());
        if !added.is_empty() {
            let members = added;
            first.push(TableChange::SetMembers { service, members });
        }
        if present.stickiness != stickiness {
            let is_end = stickiness == Stickiness::default();
            let changes = if is_end { &mut last } else { &mut first };
            changes.push(TableChange::SetStickiness {
                service,
                stickiness,
            });
        }
        let servers: Vec<_> = present
            .members
            .keys()
            .filter(|server| !members.contains_key(*server))
            .copied()
            .collect();
        if !servers.is_empty() {
            last.push(TableChange::RemoveMembers { service, servers });
        }
        (first, last)
    }

    /// The id of a desired real server.
    fn plan_real(
        &mut self,
        service: u32,
        key: ServiceKey,
        desired: &Real,
    ) -> Result<u32, CapacityError> {
        let [address, vip] = [desired.address, key.address].map(|socket| Addr::from(socket.ip()));
        let wanted = RealServer {
            address,
            vip,
            network_mask: self.observed.network_mask(desired.address.ip()),
            port: desired.address.port().to_be(),
            delta: RealServer::between(&vip, &address),
            state: state_of(desired),
            service,
            service_port: key.address.port().to_be(),
            forwarding: match desired.forwarding {
                ForwardMethod::Nat => forwarding::NAT,
                ForwardMethod::FullNat => forwarding::FULL_NAT,
            },
            snat_addresses: {
                let id = self.known_reals.get(&(service, desired.address));
                let present = id.and_then(|id| self.observed.reals.get(*id as usize));
                let present = present.map_or(0, |real| real.snat_addresses);
                let sources = &self.observed.sources;
                sources.places_of(desired.address.ip(), present)
            },
        };
        let Some(id) = self.known_reals.get(&(service, desired.address)).copied() else {
            let held = 0;
            let capacity = self.observed.reals.len();
            let id = self.free_reals.pop().ok_or(CapacityError::Reals {
                wanted: 1,
                held,
                capacity,
            })?;
            self.wanted_reals.insert(id);
            self.reals.push(TableChange::SetReal { id, real: wanted });
            self.set_limits(id, affinity::limits(desired));
            return Ok(id);
        };
        self.wanted_reals.insert(id);
        self.set_limits(id, affinity::limits(desired));
        let old = self.observed.reals[id as usize];
        if old != wanted {
            let change = TableChange::SetReal { id, real: wanted };
            if old.state == state::TAKES_NEW {
                self.leaving.push(change)
            } else {
                self.reals.push(change)
            }
        }
        Ok(id)
    }

    fn set_limits(&mut self, id: u32, limits: tables::Limits) {
        if self.observed.limits[id as usize] == limits {
            return;
        }
        let change = TableChange::SetLimits { id, limits };
        // Who takes no new connections is not compared once its service knows that.
        if limits.weight > 0 {
            self.limits.push(change);
        } else {
            self.left.push(change);
        }
    }
}

/// What a service says of its filter.
pub(super) fn filter_flags(filter: &Filter) -> u16 {
    let has_rules = !filter.allow.is_empty() || !filter.deny.is_empty();
    let rules = if has_rules { FILTERED } else { 0 };
    let limit = if filter.rate.is_some() { LIMITED } else { 0 };
    rules | limit
}

pub(super) const fn candidate(id: u32, real: &Real) -> Candidate {
    Candidate {
        id,
        address: real.address,
        weight: real.weight,
        hash_weight: real.hash_weight,
    }
}

/// The state of a desired real server.
const fn state_of(real: &Real) -> u32 {
    match real.connections {
        _ if real.weight > 0 => state::TAKES_NEW,
        _ if real.takes_persistent => state::TAKES_KNOWN,
        Connections::Keep => state::DRAINING,
        Connections::Reset => state::RESET,
    }
}
