//! All services replaced at once: the changes that make those that there are the ones that are wanted.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use balancer_common::real_server::MAX_REALS;

use super::Change;
use crate::model::{
    PersistenceSettings, RealServer, RealSettings, ServiceKey, ServiceSettings, VirtualService,
    error::ApiError,
    persistence::{Netmask, PERSISTENCE_SETTINGS},
    real::REAL_SETTINGS,
    service::SERVICE_SETTINGS,
    setting,
};

/// A service as it is wanted, with all its real servers. What is not set of one that exists keeps its value; of a new one it has the
/// default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedService {
    /// Which service.
    pub key: ServiceKey,
    /// Its settings.
    pub settings: ServiceSettings,
    /// All its real servers.
    pub reals: Vec<(SocketAddr, RealSettings)>,
}

/// Refuses services, or real servers of one, that are named twice, and more real servers than there can be.
///
/// # Errors
/// It names one of them, or says how many.
pub fn require_possible(wanted: &[WantedService]) -> Result<(), ApiError> {
    let count: usize = wanted.iter().map(|service| service.reals.len()).sum();
    if count > MAX_REALS as usize {
        return Err(ApiError::invalid(format!(
            "{count} real servers are more than there can be: {MAX_REALS}"
        )));
    }
    let mut keys = HashSet::new();
    for service in wanted {
        let key = service.key;
        if !keys.insert(key) {
            return Err(ApiError::invalid(format!("service {key} is named twice")));
        }
        let mut addresses = HashSet::new();
        let mut reals = service.reals.iter();
        if let Some((address, _)) = reals.find(|(address, _)| !addresses.insert(*address)) {
            return Err(ApiError::invalid(format!(
                "real {address} of service {key} is named twice"
            )));
        }
    }
    Ok(())
}

/// The changes that turn `present` into the services that are wanted: others are deleted, and what is as it is wanted stays untouched.
#[must_use]
pub fn changes_to(present: &[VirtualService], wanted: &[WantedService]) -> Vec<Change> {
    let keys: HashSet<_> = wanted.iter().map(|service| service.key).collect();
    let by_key: HashMap<_, _> = present
        .iter()
        .map(|service| (service.key, service))
        .collect();
    let gone = present
        .iter()
        .filter(|service| !keys.contains(&service.key));
    let mut changes: Vec<_> = gone.map(|gone| Change::DelService(gone.key)).collect();
    for service in wanted {
        change_service(
            by_key.get(&service.key).copied(),
            service.clone(),
            &mut changes,
        );
    }
    changes
}

fn change_service(
    present: Option<&VirtualService>,
    wanted: WantedService,
    changes: &mut Vec<Change>,
) {
    let WantedService {
        key,
        settings,
        reals,
    } = wanted;
    let new = VirtualService::new(key);
    let before = present.unwrap_or(&new);
    let settings = differing(settings, before);
    match present {
        None => changes.push(Change::AddService(key, settings)),
        Some(_) if settings == ServiceSettings::default() => {}
        Some(_) => changes.push(Change::EditService(key, settings)),
    }
    let gone = before.reals.iter().map(|real| real.address);
    let gone = gone.filter(|gone| reals.iter().all(|(address, _)| address != gone));
    changes.extend(gone.map(|address| Change::DelReal(key, address)));
    for (address, settings) in reals {
        let mut there = before.reals.iter();
        let there = there.find(|real| real.address == address);
        let new = RealServer::new(address);
        let settings = differing_real(settings, there.unwrap_or(&new));
        match there {
            None => changes.push(Change::AddReal(key, address, settings)),
            Some(_) if settings == RealSettings::default() => {}
            Some(_) => changes.push(Change::EditReal(key, address, settings)),
        }
    }
}

/// Those of the settings that `service` does not have yet.
fn differing(mut settings: ServiceSettings, service: &VirtualService) -> ServiceSettings {
    setting::leave_out(&SERVICE_SETTINGS, &mut settings, &service.settings());
    // Without a key, the default one is hashed.
    let hash = service.hash.unwrap_or_default();
    settings.hash = settings.hash.filter(|wanted| *wanted != hash);
    settings.checks = settings.checks.filter(|checks| *checks != service.checks);
    settings.persistence = settings
        .persistence
        .and_then(|wanted| differing_persistence(wanted, service));
    settings
}

fn differing_persistence(
    mut wanted: PersistenceSettings,
    service: &VirtualService,
) -> Option<PersistenceSettings> {
    let vip = service.key.address.ip();
    let present = service.persistence.clone();
    if wanted.unfit(vip).is_none() && wanted.clone().applied(present.clone(), vip) == present {
        return None;
    }
    if let Some(present) = present.filter(|_| !wanted.is_off()) {
        let timeout = wanted.timeout;
        setting::leave_out(&PERSISTENCE_SETTINGS, &mut wanted, &present.settings());
        wanted.timeout = timeout;
    }
    let has_netmask = service
        .persistence
        .as_ref()
        .is_some_and(|own| own.netmask.is_some());
    wanted.netmask = wanted
        .netmask
        .filter(|netmask| has_netmask || *netmask != Netmask::Whole);
    Some(wanted)
}

/// Those of the settings that `real` does not have yet.
fn differing_real(mut settings: RealSettings, real: &RealServer) -> RealSettings {
    setting::leave_out(&REAL_SETTINGS, &mut settings, &real.settings());
    settings
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Scheduler, address::service_key, change::tests::model};

    const SERVICES: &str = r#"
        [[service]]
        name = "web"
        address = "192.0.2.80:80"
        scheduler = "mh"
        hash = "client-port"
        persistence = { timeout = "5m", netmask = 24, group = "shop" }
        check = { type = "http" }
        [[service.real]]
        address = "10.0.0.2:80"
        state = "drain"
        [[service.real]]
        address = "10.0.0.3:80"
        weight = 3
        [[service]]
        address = "192.0.2.80:443"
    "#;

    fn weight(weight: u32) -> RealSettings {
        RealSettings {
            weight: Some(weight),
            ..RealSettings::default()
        }
    }

    fn web(settings: ServiceSettings, reals: &[(&str, u32)]) -> WantedService {
        WantedService {
            key: service_key("192.0.2.80:80").unwrap(),
            settings,
            reals: reals
                .iter()
                .map(|(address, of)| (address.parse().unwrap(), weight(*of)))
                .collect(),
        }
    }

    /// The services that a file describes.
    fn services(text: &str) -> Vec<VirtualService> {
        model(text).services
    }

    #[test]
    fn what_is_not_named_goes_and_what_is_not_set_stays() {
        let present = services(SERVICES);
        let settings = ServiceSettings {
            scheduler: Some(Scheduler::Mh),
            persistence: Some(PersistenceSettings {
                timeout: Some(Duration::from_secs(600)),
                netmask: Some(Netmask::Prefix(24)),
                ..PersistenceSettings::default()
            }),
            ..ServiceSettings::default()
        };
        let wanted = [web(settings, &[("10.0.0.2:80", 2), ("10.0.0.4:80", 1)])];
        let key = wanted[0].key;
        let changes = changes_to(&present, &wanted);
        let timeout = PersistenceSettings {
            timeout: Some(Duration::from_secs(600)),
            ..PersistenceSettings::default()
        };
        let expected = [
            Change::DelService(service_key("192.0.2.80:443").unwrap()),
            Change::EditService(
                key,
                ServiceSettings {
                    persistence: Some(timeout),
                    ..ServiceSettings::default()
                },
            ),
            Change::DelReal(key, "10.0.0.3:80".parse().unwrap()),
            Change::EditReal(key, "10.0.0.2:80".parse().unwrap(), weight(2)),
            Change::AddReal(key, "10.0.0.4:80".parse().unwrap(), RealSettings::default()),
        ];
        assert_eq!(changes, expected);
        let mut after = present;
        for change in &changes {
            change.apply(&mut after).unwrap();
        }
        assert_eq!(
            after,
            services(
                r#"
                [[service]]
                name = "web"
                address = "192.0.2.80:80"
                scheduler = "mh"
                hash = "client-port"
                persistence = { timeout = "10m", netmask = 24, group = "shop" }
                check = { type = "http" }
                [[service.real]]
                address = "10.0.0.2:80"
                state = "drain"
                weight = 2
                [[service.real]]
                address = "10.0.0.4:80"
                "#
            )
        );
        assert_eq!(changes_to(&after, &wanted), []);
    }

    #[test]
    fn what_is_named_twice_is_refused() {
        let one = web(ServiceSettings::default(), &[("10.0.0.2:80", 1)]);
        let twice = web(
            ServiceSettings::default(),
            &[("10.0.0.2:80", 1), ("10.0.0.2:80", 2)],
        );
        assert_eq!(require_possible(std::slice::from_ref(&one)), Ok(()));
        for (wanted, sentence) in [
            (
                vec![one.clone(), one],
                "service tcp/192.0.2.80:80 is named twice",
            ),
            (
                vec![twice],
                "real 10.0.0.2:80 of service tcp/192.0.2.80:80 is named twice",
            ),
        ] {
            assert_eq!(require_possible(&wanted).unwrap_err().sentence, sentence);
        }
    }
}
