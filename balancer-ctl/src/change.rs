//! Changes to the model: each takes a whole model and gives the next. Pure; that the result is valid is
//! [`crate::config::validate`]'s business.

use std::{net::SocketAddr, time::Duration};

use crate::{
    error::Refusal,
    model::{
        AdminState, Backups, Check, ForwardMethod, HealthPolicy, Model, NoReal, OnDown, RealServer,
        Scheduler, ServiceKey, VirtualService,
    },
};

/// A change that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a virtual service without real servers.
    AddService(ServiceKey, ServiceSettings),
    /// Changes a virtual service.
    EditService(ServiceKey, ServiceSettings),
    /// Deletes a virtual service and its real servers.
    DelService(ServiceKey),
    /// Adds a real server.
    AddReal(ServiceKey, SocketAddr, RealSettings),
    /// Changes a real server.
    EditReal(ServiceKey, SocketAddr, RealSettings),
    /// Deletes a real server.
    DelReal(ServiceKey, SocketAddr),
    /// Deletes all virtual services.
    Clear,
}

/// What may be set on a virtual service; what is `None` has the default or keeps its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// Name.
    pub name: Option<String>,
    /// Scheduler.
    pub scheduler: Option<Scheduler>,
    /// With no real server.
    pub no_real: Option<NoReal>,
    /// All its checks; empty = none.
    pub checks: Option<Vec<Check>>,
    /// What becomes of the connections of a real server that went down.
    pub on_down: Option<OnDown>,
    /// How long a real server's weight grows after it came back.
    pub slow_start: Option<Duration>,
    /// Least live weight.
    pub quorum: Option<u32>,
    /// How far from the quorum it is lost and regained.
    pub hysteresis: Option<u32>,
    /// Which backups step in.
    pub backups: Option<Backups>,
}

/// What may be set on a real server; what is `None` has the default or keeps its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RealSettings {
    /// Weight.
    pub weight: Option<u32>,
    /// Forwarding method.
    pub forwarding: Option<ForwardMethod>,
    /// Whether it serves only when the others cannot.
    pub backup: Option<bool>,
    /// Administrative state.
    pub state: Option<AdminState>,
}

/// Weight of a real server for which none is given.
pub const DEFAULT_WEIGHT: u32 = 1;

impl Change {
    /// The model after the change.
    ///
    /// # Errors
    /// What the change names does not exist, or what it adds exists already.
    pub fn apply(&self, model: &Model) -> Result<Model, Refusal> {
        let mut model = model.clone();
        match self {
            Self::AddService(key, settings) => {
                if model.service(key).is_some() {
                    return Err(Refusal::conflict(format!(
                        "service {key} exists already: change it with `edit-service`"
                    )));
                }
                let mut service = VirtualService {
                    key: *key,
                    name: None,
                    scheduler: Scheduler::default(),
                    no_real: NoReal::default(),
                    checks: Vec::new(),
                    health: HealthPolicy::default(),
                    reals: Vec::new(),
                    runtime: false,
                };
                set_service(&mut service, settings);
                model.services.push(service);
            }
            Self::EditService(key, settings) => {
                set_service(service_mut(&mut model, key)?, settings)
            }
            Self::DelService(key) => {
                service_mut(&mut model, key)?;
                model.services.retain(|service| service.key != *key);
            }
            Self::AddReal(key, address, settings) => {
                let service = service_mut(&mut model, key)?;
                if service.reals.iter().any(|real| real.address == *address) {
                    return Err(Refusal::conflict(format!(
                        "real {address} of service {key} exists already: change it with `edit-real`"
                    )));
                }
                let mut real = RealServer {
                    address: *address,
                    weight: DEFAULT_WEIGHT,
                    forwarding: ForwardMethod::default(),
                    backup: false,
                    state: AdminState::Ready,
                    runtime: false,
                };
                set_real(&mut real, *settings);
                service.reals.push(real);
            }
            Self::EditReal(key, address, settings) => {
                set_real(
                    real_mut(service_mut(&mut model, key)?, *address)?,
                    *settings,
                );
            }
            Self::DelReal(key, address) => {
                let service = service_mut(&mut model, key)?;
                real_mut(service, *address)?;
                service.reals.retain(|real| real.address != *address);
            }
            Self::Clear => model.services.clear(),
        }
        Ok(model)
    }
}

/// What a change for good does to what runs and to the file, which [`Change::apply`] then judges. Mostly the same; but
/// what was added or deleted with `--runtime` before is made to last by saying it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// Nothing where it runs already.
    pub running: Option<Change>,
    /// For the file.
    pub saved: Change,
}

impl Lasting {
    /// What `change` does to `running` and `saved`.
    #[must_use]
    pub fn new(change: &Change, running: &Model, saved: &Model) -> Self {
        Self::said_again(change, running, saved).unwrap_or_else(|| Self {
            running: Some(change.clone()),
            saved: change.clone(),
        })
    }

    fn said_again(change: &Change, running: &Model, saved: &Model) -> Option<Self> {
        match change {
            Change::AddService(key, settings) if saved.service(key).is_none() => {
                let service = running.service(key)?;
                Some(Self {
                    running: Some(Change::EditService(*key, settings.clone())),
                    saved: Change::AddService(*key, settings.clone().or(service)),
                })
            }
            Change::AddReal(key, address, settings) if saved.real(key, *address).is_none() => {
                let real = running.real(key, *address)?;
                Some(Self {
                    running: Some(Change::EditReal(*key, *address, *settings)),
                    saved: Change::AddReal(*key, *address, settings.or(real)),
                })
            }
            Change::DelReal(key, address) if running.real(key, *address).is_none() => {
                saved.real(key, *address)?;
                Some(Self {
                    running: None,
                    saved: change.clone(),
                })
            }
            _ => None,
        }
    }
}

impl ServiceSettings {
    /// What is not named is as `service` has it; what is the default there stays unnamed.
    fn or(self, service: &VirtualService) -> Self {
        let usual = HealthPolicy::default().quorum;
        let quorum = Some(service.health.quorum).filter(|quorum| *quorum != usual);
        Self {
            name: self.name.or_else(|| service.name.clone()),
            scheduler: self.scheduler.or_else(|| unusual(service.scheduler)),
            no_real: self.no_real.or_else(|| unusual(service.no_real)),
            checks: self
                .checks
                .or_else(|| Some(service.checks.clone()).filter(|checks| !checks.is_empty())),
            on_down: self.on_down.or_else(|| unusual(service.health.on_down)),
            slow_start: self
                .slow_start
                .or_else(|| unusual(service.health.slow_start)),
            quorum: self.quorum.or(quorum),
            hysteresis: self
                .hysteresis
                .or_else(|| unusual(service.health.hysteresis)),
            backups: self.backups.or_else(|| unusual(service.health.backups)),
        }
    }
}

impl RealSettings {
    /// As [`ServiceSettings::or`].
    fn or(self, real: &RealServer) -> Self {
        let weight = Some(real.weight).filter(|weight| *weight != DEFAULT_WEIGHT);
        Self {
            weight: self.weight.or(weight),
            forwarding: self.forwarding.or_else(|| unusual(real.forwarding)),
            backup: self.backup.or_else(|| unusual(real.backup)),
            state: self.state.or_else(|| unusual(real.state)),
        }
    }
}

fn unusual<T: Default + PartialEq>(value: T) -> Option<T> {
    Some(value).filter(|value| *value != T::default())
}

fn service_mut<'a>(
    model: &'a mut Model,
    key: &ServiceKey,
) -> Result<&'a mut VirtualService, Refusal> {
    model
        .services
        .iter_mut()
        .find(|service| service.key == *key)
        .ok_or_else(|| Refusal::not_found(format!("there is no service {key}: `list` shows all")))
}

fn real_mut(service: &mut VirtualService, address: SocketAddr) -> Result<&mut RealServer, Refusal> {
    let key = service.key;
    service
        .reals
        .iter_mut()
        .find(|real| real.address == address)
        .ok_or_else(|| {
            Refusal::not_found(format!(
                "service {key} has no real {address}: `list` shows all"
            ))
        })
}

fn set_service(service: &mut VirtualService, settings: &ServiceSettings) {
    let ServiceSettings {
        name,
        scheduler,
        no_real,
        checks,
        on_down,
        slow_start,
        quorum,
        hysteresis,
        backups,
    } = settings;
    service.name = name.clone().or_else(|| service.name.take());
    service.scheduler = scheduler.unwrap_or(service.scheduler);
    service.no_real = no_real.unwrap_or(service.no_real);
    if let Some(checks) = checks {
        service.checks.clone_from(checks);
    }
    let health = &mut service.health;
    health.on_down = on_down.unwrap_or(health.on_down);
    health.slow_start = slow_start.unwrap_or(health.slow_start);
    health.quorum = quorum.unwrap_or(health.quorum);
    health.hysteresis = hysteresis.unwrap_or(health.hysteresis);
    health.backups = backups.unwrap_or(health.backups);
}

fn set_real(real: &mut RealServer, settings: RealSettings) {
    let RealSettings {
        weight,
        forwarding,
        backup,
        state,
    } = settings;
    real.weight = weight.unwrap_or(real.weight);
    real.forwarding = forwarding.unwrap_or(real.forwarding);
    real.backup = backup.unwrap_or(real.backup);
    real.state = state.unwrap_or(real.state);
}

/// Marks in `running` each service and real server that differs from what is `saved` in the file. With no
/// file, everything does. A real server that only the file has marks its service.
pub fn mark_runtime(running: &mut Model, saved: Option<&Model>) {
    for service in &mut running.services {
        let saved = saved.and_then(|model| model.service(&service.key));
        service.runtime = saved.is_none_or(|saved| {
            !is_same_service(saved, service)
                || saved.reals.iter().any(|saved| {
                    service
                        .reals
                        .iter()
                        .all(|real| real.address != saved.address)
                })
        });
        for real in &mut service.reals {
            let saved = saved.and_then(|saved| {
                saved
                    .reals
                    .iter()
                    .find(|saved| saved.address == real.address)
            });
            real.runtime = saved.is_none_or(|saved| !is_same_real(saved, real));
        }
    }
}

/// Whether two services are the same but for their real servers and their marks.
fn is_same_service(one: &VirtualService, other: &VirtualService) -> bool {
    let VirtualService {
        key,
        name,
        scheduler,
        no_real,
        checks,
        health,
        reals: _,
        runtime: _,
    } = one;
    (key, name, scheduler, no_real, checks, health)
        == (
            &other.key,
            &other.name,
            &other.scheduler,
            &other.no_real,
            &other.checks,
            &other.health,
        )
}

/// Whether two real servers are the same but for their marks.
fn is_same_real(one: &RealServer, other: &RealServer) -> bool {
    let RealServer {
        address,
        weight,
        forwarding,
        backup,
        state,
        runtime: _,
    } = one;
    (address, weight, forwarding, backup, state)
        == (
            &other.address,
            &other.weight,
            &other.forwarding,
            &other.backup,
            &other.state,
        )
}

/// Whether `running` is what the file says, but for the order.
#[must_use]
pub fn is_saved(running: &Model, saved: &Model) -> bool {
    running.services.len() == saved.services.len()
        && running.services.iter().all(|service| {
            !service.runtime
                && service.reals.iter().all(|real| !real.runtime)
                && saved
                    .service(&service.key)
                    .is_some_and(|s| s.reals.len() == service.reals.len())
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{address::service_key, config};

    /// A model with the services of a configuration file's text.
    pub(crate) fn model(services: &str) -> Model {
        let text = format!("node.name = \"lb1\"\ndataplane.interfaces = [\"eth0\"]\n{services}");
        config::read::model(&text, "lb1").unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    const WEB: &str = r#"
        [[service]]
        name = "web"
        address = "192.0.2.80:80"
        scheduler = "rr"
        [[service.real]]
        address = "10.0.0.2"
        weight = 3
    "#;

    fn web() -> ServiceKey {
        service_key("192.0.2.80:80").unwrap()
    }

    fn real(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn adding_gives_defaults_to_what_is_not_named() {
        let added = Change::AddService(web(), ServiceSettings::default())
            .apply(&model(""))
            .unwrap();
        let added =
            Change::AddReal(web(), real("10.0.0.2:80"), RealSettings::default()).apply(&added);
        let expected = r#"
            [[service]]
            address = "192.0.2.80:80"
            scheduler = "wrr"
            no-real = "reject"
            [[service.real]]
            address = "10.0.0.2:80"
            weight = 1
            forwarding = "nat"
        "#;
        assert_eq!(added.unwrap(), model(expected));
    }

    #[test]
    fn editing_keeps_what_is_not_named() {
        let settings = ServiceSettings {
            no_real: Some(NoReal::Drop),
            ..Default::default()
        };
        let edited = Change::EditService(web(), settings)
            .apply(&model(WEB))
            .unwrap();
        let settings = RealSettings {
            weight: Some(0),
            ..Default::default()
        };
        let edited = Change::EditReal(web(), real("10.0.0.2:80"), settings)
            .apply(&edited)
            .unwrap();
        let expected = r#"
            [[service]]
            name = "web"
            address = "192.0.2.80:80"
            scheduler = "rr"
            no-real = "drop"
            [[service.real]]
            address = "10.0.0.2"
            weight = 0
        "#;
        assert_eq!(edited, model(expected));
    }

    #[test]
    fn deleting_takes_one_and_clearing_takes_all() {
        let without_real = Change::DelReal(web(), real("10.0.0.2:80"))
            .apply(&model(WEB))
            .unwrap();
        assert_eq!(
            without_real,
            model("[[service]]\nname = \"web\"\naddress = \"192.0.2.80:80\"\nscheduler = \"rr\"\n")
        );
        assert_eq!(
            Change::DelService(web()).apply(&model(WEB)).unwrap(),
            model("")
        );
        assert_eq!(Change::Clear.apply(&model(WEB)).unwrap(), model(""));
    }

    #[test]
    fn what_exists_cannot_be_added_and_what_does_not_cannot_be_changed() {
        let refusal = |change: Change| change.apply(&model(WEB)).unwrap_err().to_string();
        let other = service_key("udp/192.0.2.80:80").unwrap();
        assert_eq!(
            refusal(Change::AddService(web(), ServiceSettings::default())),
            "service tcp/192.0.2.80:80 exists already: change it with `edit-service`"
        );
        assert_eq!(
            refusal(Change::AddReal(
                web(),
                real("10.0.0.2:80"),
                RealSettings::default()
            )),
            "real 10.0.0.2:80 of service tcp/192.0.2.80:80 exists already: change it with `edit-real`"
        );
        let absent_service = "there is no service udp/192.0.2.80:80: `list` shows all";
        assert_eq!(
            refusal(Change::EditService(other, ServiceSettings::default())),
            absent_service
        );
        assert_eq!(refusal(Change::DelService(other)), absent_service);
        assert_eq!(
            refusal(Change::AddReal(
                other,
                real("10.0.0.2:80"),
                RealSettings::default()
            )),
            absent_service
        );
        let absent_real = "service tcp/192.0.2.80:80 has no real 10.0.0.2:81: `list` shows all";
        assert_eq!(
            refusal(Change::EditReal(
                web(),
                real("10.0.0.2:81"),
                RealSettings::default()
            )),
            absent_real
        );
        assert_eq!(
            refusal(Change::DelReal(web(), real("10.0.0.2:81"))),
            absent_real
        );
    }

    #[test]
    fn only_what_differs_from_the_file_is_marked() {
        let saved = model(WEB);
        let mut running = saved.clone();
        mark_runtime(&mut running, Some(&saved));
        assert!(is_saved(&running, &saved));

        let weight = RealSettings {
            weight: Some(7),
            ..Default::default()
        };
        let mut running = Change::EditReal(web(), real("10.0.0.2:80"), weight)
            .apply(&saved)
            .unwrap();
        running = Change::AddReal(web(), real("10.0.0.3:80"), RealSettings::default())
            .apply(&running)
            .unwrap();
        mark_runtime(&mut running, Some(&saved));
        let marks = |model: &Model| {
            let service = &model.services[0];
            (
                service.runtime,
                service
                    .reals
                    .iter()
                    .map(|real| real.runtime)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(marks(&running), (false, vec![true, true]));
        assert!(!is_saved(&running, &saved));

        mark_runtime(&mut running, None);
        assert_eq!(marks(&running), (true, vec![true, true]));

        let mut without = Change::DelReal(web(), real("10.0.0.2:80"))
            .apply(&saved)
            .unwrap();
        mark_runtime(&mut without, Some(&saved));
        assert_eq!(marks(&without), (true, vec![]));
        assert!(!is_saved(&without, &saved));

        for (service, real) in changes_of_health() {
            let mut running = Change::EditService(web(), service).apply(&saved).unwrap();
            running = Change::EditReal(web(), self::real("10.0.0.2:80"), real)
                .apply(&running)
                .unwrap();
            let changed = (
                running.services[0] != saved.services[0],
                running.services[0].reals[0] != saved.services[0].reals[0],
            );
            mark_runtime(&mut running, Some(&saved));
            assert_eq!(marks(&running), (!changed.1, vec![changed.1]));
            assert!(changed.0 && !is_saved(&running, &saved));
        }

        let mut deleted = Change::Clear.apply(&saved).unwrap();
        mark_runtime(&mut deleted, Some(&saved));
        assert!(!is_saved(&deleted, &saved));
    }
    /// Changes that each set one thing.
    fn changes_of_health() -> Vec<(ServiceSettings, RealSettings)> {
        let checks = config::read::checks("{ type = \"tcp\" }".parse().unwrap()).unwrap();
        let service = |settings| (settings, RealSettings::default());
        let real = |settings| (ServiceSettings::default(), settings);
        vec![
            service(ServiceSettings {
                checks: Some(checks),
                ..Default::default()
            }),
            service(ServiceSettings {
                on_down: Some(OnDown::Keep),
                ..Default::default()
            }),
            service(ServiceSettings {
                slow_start: Some(Duration::from_secs(1)),
                ..Default::default()
            }),
            service(ServiceSettings {
                quorum: Some(2),
                ..Default::default()
            }),
            service(ServiceSettings {
                hysteresis: Some(1),
                ..Default::default()
            }),
            service(ServiceSettings {
                backups: Some(Backups::All),
                ..Default::default()
            }),
            real(RealSettings {
                backup: Some(true),
                ..Default::default()
            }),
            real(RealSettings {
                state: Some(AdminState::Drain),
                ..Default::default()
            }),
        ]
    }

    #[test]
    fn what_was_added_at_runtime_lasts_with_its_health_when_it_is_said_again() {
        let saved = model("");
        let text = r#"
            [[service]]
            address = "192.0.2.80:80"
            on-down = "keep"
            slow-start = "30s"
            quorum = 2
            hysteresis = 1
            backups = "all"
            check = { type = "http", interval = "1s" }
            [[service.real]]
            address = "10.0.0.2"
            backup = true
            state = "maintenance"
        "#;
        let running = model(text);
        let again = |change: &Change, saved: &Model| Lasting::new(change, &running, saved).saved;
        let service = Change::AddService(web(), ServiceSettings::default());
        let saved = again(&service, &saved).apply(&saved).unwrap();
        let real = Change::AddReal(web(), real("10.0.0.2:80"), RealSettings::default());
        assert_eq!(again(&real, &saved).apply(&saved).unwrap(), running);
    }
}
