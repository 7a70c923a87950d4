//! Changes to the model: each takes a whole model and gives the next. Pure; whether
//! the result is valid is judged elsewhere, by the rules of the configuration file.

use std::{net::SocketAddr, time::Duration};

use crate::model::{
    AdminState, Backups, Check, ForwardMethod, HealthPolicy, Model, NoReal, OnDown, RealServer,
    Scheduler, ServiceKey, VirtualService, error::ApiError,
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
    pub fn apply(&self, model: &Model) -> Result<Model, ApiError> {
        let mut model = model.clone();
        match self {
            Self::AddService(key, settings) => {
                if model.service(key).is_some() {
                    return Err(ApiError::conflict(format!(
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
                    return Err(ApiError::conflict(format!(
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
pub struct PersistencePlan {
    /// Nothing where it runs already.
    pub running: Option<Change>,
    /// For the file.
    pub saved: Change,
}

impl PersistencePlan {
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
) -> Result<&'a mut VirtualService, ApiError> {
    model
        .services
        .iter_mut()
        .find(|service| service.key == *key)
        .ok_or_else(|| ApiError::not_found(format!("there is no service {key}: `list` shows all")))
}

fn real_mut(
    service: &mut VirtualService,
    address: SocketAddr,
) -> Result<&mut RealServer, ApiError> {
    let key = service.key;
    service
        .reals
        .iter_mut()
        .find(|real| real.address == address)
        .ok_or_else(|| {
            ApiError::not_found(format!(
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
pub(crate) mod tests;
