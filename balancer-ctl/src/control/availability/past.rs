//! The state in which a new checker of a real server begins that is in service already. Pure.

use std::{collections::HashMap, net::SocketAddr};

use super::Availability;
use crate::{
    health::{CheckState, UNKNOWN_TIME},
    model::{Check, RealServer, ServiceKey, VirtualService},
};

/// The previous check states, indexed for new checkers.
pub(super) struct PastStates<'a> {
    availability: &'a Availability,
    /// Each service's number.
    numbers: HashMap<ServiceKey, usize>,
}

impl<'a> PastStates<'a> {
    pub(super) fn of_all(availability: &'a Availability) -> Self {
        let services = availability.desired.iter().enumerate();
        Self {
            availability,
            numbers: services.map(|(number, of)| (of.key, number)).collect(),
        }
    }

    /// The numbers of a real server's check states.
    fn indices(&self, service: &ServiceKey, real: SocketAddr) -> Option<&'a [usize]> {
        let number = *self.numbers.get(service)?;
        let mut reals = self.availability.desired[number].reals.iter();
        let position = reals.position(|old| old.address == real)?;
        let check_index = &self.availability.check_index[number];
        Some(&check_index.reals[position])
    }

    /// The initial state of a new checker for a real server that is in service already. If only the timing changed, the state is kept.
    /// With another probe, a real server that is up stays up until the first result, and one that is down comes up with the first
    /// pass.
    pub(super) fn of(
        &self,
        service: &VirtualService,
        real: &RealServer,
        check: &Check,
    ) -> Option<CheckState> {
        let old = self.indices(&service.key, real.address)?;
        let (targets, check_states) = (
            &self.availability.check_targets,
            &self.availability.check_states,
        );
        let asks_the_same = |index: &&usize| {
            let old = &targets[**index].check;
            (&old.probe, &old.target, &old.source) == (&check.probe, &check.target, &check.source)
        };
        // What an agent requested holds until it says otherwise, also if its address changes.
        let is_agent_too =
            |index: &&usize| targets[**index].check.probe.is_agent() && check.probe.is_agent();
        let goes_on = old.iter().find(asks_the_same);
        if let Some(index) = goes_on.or_else(|| old.iter().find(is_agent_too)) {
            return Some(check_states[*index].clone());
        }
        let status = self.availability.real(&service.key, real.address)?;
        let since = old.iter().map(|index| check_states[*index].since);
        let latest = since.max_by_key(|since| since.since_boot);
        (status.healthy == Some(true))
            .then(|| CheckState::up_before(latest.unwrap_or(UNKNOWN_TIME)))
    }
}
