//! The availability under the next model, made of the present one. Services that did not change are carried over: their states are
//! shared, and their checkers keep their targets. Pure.

use std::{cell::LazyCell, collections::HashMap, sync::Arc, time::Instant};

use super::{
    Availability, CheckIndex, ServiceStatus, check_targets, evaluate, past::PastStates, restore,
    restore::RestoredSince, undecided_state,
};
use crate::{
    health::{CheckState, CheckStore, CheckTarget},
    model::{Model, RealServer, ServiceKey, VirtualService},
};

/// The next availability while it is built, service by service.
pub(super) struct Successor<'a, F> {
    before: &'a Availability,
    earlier: &'a dyn CheckStore,
    now: Instant,
    /// Made for the first checker that neither ran nor is stored.
    past: LazyCell<PastStates<'a>, F>,
    next: Availability,
    /// For each check state of `before` its number in `next`.
    carried: Vec<Option<usize>>,
    /// Since when each check state of `next` lasts, where it was stored.
    since: Vec<RestoredSince>,
}

impl<'a> Successor<'a, ()> {
    /// The availability under `model`, after `before`, which is that of the services `present`.
    pub(super) fn build(
        before: &'a Availability,
        present: &[VirtualService],
        model: &Model,
        earlier: &'a dyn CheckStore,
        now: Instant,
    ) -> Availability {
        let mut next = Availability::default();
        next.checkers.reserve(before.checkers.len());
        let mut successor = Successor {
            before,
            earlier,
            now,
            past: LazyCell::new(|| PastStates::of_all(before)),
            next,
            carried: vec![None; before.check_states.len()],
            since: Vec::new(),
        };
        let numbers = present.iter().enumerate();
        let numbers: HashMap<_, _> = numbers.map(|(number, old)| (old.key, number)).collect();
        for service in &model.services {
            let old = numbers.get(&service.key).copied();
            let unchanged = old.filter(|old| present[*old] == *service);
            match unchanged.zip(successor.lasting_status(&service.key)) {
                Some((old, status)) => successor.carry_service(service.key, old, status),
                None => successor.evaluate_service(service),
            }
        }
        successor.next
    }
}

impl<'a, F: FnOnce() -> PastStates<'a>> Successor<'a, F> {
    /// A service's state, unless the passing of time alone has changed it.
    fn lasting_status(&self, key: &ServiceKey) -> Option<Arc<ServiceStatus>> {
        let status = self.before.services.get(key)?;
        let is_due = status.deadline.is_some_and(|deadline| deadline <= self.now);
        (!is_due).then(|| Arc::clone(status))
    }

    /// Takes a service over, whose number was `old`.
    fn carry_service(&mut self, key: ServiceKey, old: usize, status: Arc<ServiceStatus>) {
        let before = self.before;
        let reals = before.check_index[old].reals.iter();
        let reals = reals.map(|indices| indices.iter().map(|old| self.carry(*old)).collect());
        let check_index = CheckIndex {
            reals: reals.collect(),
        };
        self.add_service(key, check_index, status, before.desired[old].clone());
    }

    /// Evaluates a service that is new or has changed.
    fn evaluate_service(&mut self, service: &VirtualService) {
        let reals = service.reals.iter();
        let check_index = CheckIndex {
            reals: reals.map(|real| self.checkers_of(service, real)).collect(),
        };
        let check_states = &self.next.check_states;
        let restored;
        let before = match self.before.services.get(&service.key) {
            None => {
                let quorum = self.earlier.quorum(&service.key);
                restored =
                    restore::service(service, &check_index, check_states, &self.since, quorum);
                &restored
            }
            Some(before) => &**before,
        };
        let (status, desired) =
            evaluate::service(service, &check_index, check_states, Some(before), self.now);
        self.add_service(service.key, check_index, Arc::new(status), desired);
    }

    fn add_service(
        &mut self,
        key: ServiceKey,
        check_index: CheckIndex,
        status: Arc<ServiceStatus>,
        desired: crate::dataplane::Service,
    ) {
        let number = self.next.desired.len();
        for index in check_index.reals.iter().flatten() {
            let dependents = &mut self.next.dependents[*index];
            if dependents.last() != Some(&number) {
                dependents.push(number);
            }
        }
        self.next.check_index.push(check_index);
        self.next.services.insert(key, status);
        self.next.desired.push(desired);
    }

    /// The indices of a real server's checkers; those that do not run yet are added.
    fn checkers_of(&mut self, service: &VirtualService, real: &RealServer) -> Vec<usize> {
        let mut indices = Vec::with_capacity(service.checks.len());
        for target in check_targets(service, real) {
            let index = match (
                self.before.checkers.get(&target),
                self.next.checkers.get(&target),
            ) {
                (Some(old), _) => self.carry(*old),
                (None, Some(index)) => *index,
                (None, None) => self.start_checker(service, real, target),
            };
            indices.push(index);
        }
        indices
    }

    /// Adds a checker that did not run.
    fn start_checker(
        &mut self,
        service: &VirtualService,
        real: &RealServer,
        target: CheckTarget,
    ) -> usize {
        let mut known = RestoredSince::default();
        let restored = self.earlier.restored(&target, &service.key, real.address);
        let restored = restored.map(|restored| {
            known = RestoredSince {
                since: restored.since,
                has_returned: restored.has_returned,
            };
            restored.check_state
        });
        let check_state = restored
            .or_else(|| self.past.of(service, real, &target.check))
            .unwrap_or_else(|| undecided_state(&target.check));
        self.add_checker(Arc::new(target), check_state, known)
    }

    /// Takes a checker over, once. Returns its index in `next`.
    fn carry(&mut self, old: usize) -> usize {
        if let Some(index) = self.carried[old] {
            return index;
        }
        let target = Arc::clone(&self.before.check_targets[old]);
        let check_state = self.before.check_states[old].clone();
        let index = self.add_checker(target, check_state, RestoredSince::default());
        self.carried[old] = Some(index);
        index
    }

    fn add_checker(
        &mut self,
        target: Arc<CheckTarget>,
        check_state: CheckState,
        since: RestoredSince,
    ) -> usize {
        let index = self.next.check_states.len();
        self.next.checkers.insert(Arc::clone(&target), index);
        self.next.check_targets.push(target);
        self.next.check_states.push(check_state);
        self.next.dependents.push(Vec::new());
        self.since.push(since);
        index
    }
}
