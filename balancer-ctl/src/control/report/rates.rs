//! Rates: differences of two views of the services.

use std::collections::BTreeMap;

use crate::{dataplane, model::view};

/// Adds the rates per second between two views that lie `milliseconds` apart.
pub fn add_rates(before: &view::Services, after: &mut view::Services, milliseconds: u64) {
    let old: BTreeMap<_, _> = before
        .services
        .iter()
        .map(|service| {
            let reals: BTreeMap<_, _> = service
                .reals
                .iter()
                .map(|real| (real.address, real.counters))
                .collect();
            (
                (service.protocol, service.address),
                (service.counters, reals),
            )
        })
        .collect();
    for service in &mut after.services {
        let old = old.get(&(service.protocol, service.address));
        service.rates = Some(rate(
            old.map(|(counters, _)| counters),
            &service.counters,
            milliseconds,
        ));
        for real in &mut service.reals {
            let old = old.and_then(|(_, reals)| reals.get(&real.address));
            real.rates = Some(rate(old, &real.counters, milliseconds));
        }
    }
}

/// A counter that is new, or was set to zero in between, counts from zero.
fn rate(
    before: Option<&dataplane::Counters>,
    after: &dataplane::Counters,
    milliseconds: u64,
) -> dataplane::Counters {
    let before = before.copied().unwrap_or_default();
    let rate = |before: u64, after: u64| {
        let grown = after.checked_sub(before).unwrap_or(after);
        u64::try_from(u128::from(grown) * 1000 / u128::from(milliseconds.max(1)))
            .unwrap_or(u64::MAX)
    };
    dataplane::Counters {
        connections: rate(before.connections, after.connections),
        packets_in: rate(before.packets_in, after.packets_in),
        bytes_in: rate(before.bytes_in, after.bytes_in),
        packets_out: rate(before.packets_out, after.packets_out),
        bytes_out: rate(before.bytes_out, after.bytes_out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::report::{
            services,
            tests::{SERVICES, available},
        },
        dataplane::Snapshot,
        model::change::tests::model,
    };

    #[test]
    fn rates_are_differences_per_second() {
        let model = model(SERVICES);
        let mut snapshot = Snapshot::default();
        let web = snapshot.services.entry(model.services[0].key).or_default();
        web.counters = dataplane::Counters {
            connections: 100,
            bytes_out: 7,
            ..Default::default()
        };
        let before = services(&model.services, &available(&model), &snapshot);
        let web = snapshot.services.entry(model.services[0].key).or_default();
        web.counters = dataplane::Counters {
            connections: 150,
            bytes_out: 3,
            ..Default::default()
        };
        web.reals
            .entry(model.services[0].reals[0].address)
            .or_default()
            .counters
            .packets_in = 30;
        let mut after = services(&model.services, &available(&model), &snapshot);
        add_rates(&before, &mut after, 500);
        let expected = dataplane::Counters {
            connections: 100,
            bytes_out: 6,
            ..Default::default()
        };
        assert_eq!(
            after.services[0].rates,
            Some(expected),
            "a counter that fell was set to zero"
        );
        let expected = dataplane::Counters {
            packets_in: 60,
            ..Default::default()
        };
        assert_eq!(after.services[0].reals[0].rates, Some(expected));
        assert_eq!(
            after.services[1].rates,
            Some(dataplane::Counters::default())
        );
    }
}
