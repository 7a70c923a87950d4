//! Makes the views that the API returns from the model, the availability and the data plane's counters. Pure.

mod obstacles;
mod rates;
mod status;
mod trace;

pub use self::{
    rates::add_rates,
    status::{ReportContext, status, vips, vips_without_interface},
    trace::trace,
};
use crate::{
    control::availability::{Availability, RealStatus},
    dataplane::{self, Snapshot},
    health::AgentRequest,
    model::{ForwardMethod, RealServer, VirtualService, view},
};

/// These services with their counters and connections.
#[must_use]
pub fn services<'a>(
    services: impl IntoIterator<Item = &'a VirtualService>,
    availability: &Availability,
    snapshot: &Snapshot,
) -> view::Services {
    let services = services.into_iter().map(|service| {
        let counted = snapshot
            .services
            .get(&service.key)
            .cloned()
            .unwrap_or_default();
        view::Service {
            reals: service
                .reals
                .iter()
                .map(|real| {
                    shown(
                        real,
                        service.forwarding,
                        !service.checks.is_empty(),
                        availability.real(&service.key, real.address),
                        counted
                            .reals
                            .get(&real.address)
                            .copied()
                            .unwrap_or_default(),
                    )
                })
                .collect(),
            counters: counted.counters,
            discards: counted
                .discards
                .iter()
                .map(|(reason, count)| ((*reason).to_owned(), *count))
                .collect(),
            persistence_entries: service
                .persistence
                .is_some()
                .then_some(counted.kept_clients),
            ..view::Service::filtered(service, &counted.filtered)
        }
    });
    view::Services {
        services: services.collect(),
    }
}

fn shown(
    real: &RealServer,
    forwarding: ForwardMethod,
    is_checked: bool,
    status: Option<&RealStatus>,
    counted: dataplane::RealSnapshot,
) -> view::Real {
    view::Real {
        address: real.address,
        weight: real.weight,
        effective_weight: status.map_or(0, |status| status.weight),
        forwarding: real.forwarding.unwrap_or(forwarding),
        upper: real.upper,
        lower: real.lower,
        backup: real.backup,
        state: status.map_or(view::RealState::Down, |status| status.state),
        reason: reason(real, status, counted.is_full),
        admin: real.state,
        health: is_checked
            .then(|| status?.healthy)
            .flatten()
            .map(|healthy| match healthy {
                true => view::RealHealth::Up,
                false => view::RealHealth::Down,
            }),
        agent: status
            .map(|status| status.requested)
            .filter(|request| *request != AgentRequest::default()),
        active: counted.active,
        inactive: counted.inactive,
        counters: counted.counters,
        rates: None,
        runtime: real.runtime,
    }
}

/// Why a real server is not simply up: its state's reason, and that it is full.
fn reason(real: &RealServer, status: Option<&RealStatus>, is_full: bool) -> Option<String> {
    let of_state = status.and_then(|status| status.reason.clone());
    let takes_new = status.is_some_and(|status| status.weight > 0);
    let full = (is_full && takes_new).then(|| {
        let RealServer { upper, lower, .. } = real;
        let below = balancer_common::load::RealLoad::resume_below(*upper, *lower);
        format!("full: its upper limit is {upper}, and it takes new ones below {below}")
    });
    let reasons: Vec<_> = of_state.into_iter().chain(full).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// A service's name, else its key.
#[must_use]
pub fn service_name(service: &VirtualService) -> String {
    service
        .name
        .clone()
        .unwrap_or_else(|| service.key.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    pub const SERVICES: &str = r#"
        [[service]]
        name = "web"
        address = "192.0.2.80:80"
        [[service.real]]
        address = "10.0.0.2"
        [[service.real]]
        address = "10.0.0.3"
        weight = 0
        [[service]]
        address = "192.0.2.80:53"
        protocol = "udp"
        [[service.real]]
        address = "10.0.0.2"
    "#;

    pub fn available(model: &Model) -> Availability {
        let none = crate::health::fake::FakeCheckers::default();
        Availability::at_start(model, &none, crate::os::clock::now())
    }
}
