//! Changes to the model's services, one by one or in a [`Batch`]. Pure. The result is checked elsewhere, by
//! the rules of the configuration file.

mod batch;
mod replace;

use std::net::{IpAddr, SocketAddr};

pub use self::{
    batch::{Batch, SavedBatch},
    replace::{WantedService, changes_to, require_possible},
};
use crate::model::{
    Model, RealServer, RealSettings, ServiceKey, ServiceSettings, VirtualService, error::ApiError,
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

impl Change {
    /// The VIP of the service that it adds, if it adds one.
    #[must_use]
    pub const fn new_vip(&self) -> Option<IpAddr> {
        match self {
            Self::AddService(key, _) => Some(key.address.ip()),
            _ => None,
        }
    }

    /// Makes the change. Where it is refused, nothing has changed.
    ///
    /// # Errors
    /// What the change names does not exist, what it adds exists already, or a setting needs another that is not there.
    pub fn apply(&self, services: &mut Vec<VirtualService>) -> Result<(), ApiError> {
        match self {
            Self::AddService(key, settings) => {
                if services.iter().any(|service| service.key == *key) {
                    return Err(ApiError::conflict(format!(
                        "service {key} exists already: change it with `edit-service`"
                    )));
                }
                let mut service = VirtualService::new(*key);
                set_service(&mut service, settings)?;
                services.push(service);
            }
            Self::EditService(key, settings) => {
                set_service(service_mut(services, key)?, settings)?;
            }
            Self::DelService(key) => {
                service_mut(services, key)?;
                services.retain(|service| service.key != *key);
            }
            Self::AddReal(key, address, settings) => {
                let service = service_mut(services, key)?;
                if service.reals.iter().any(|real| real.address == *address) {
                    return Err(ApiError::conflict(format!(
                        "real {address} of service {key} exists already: change it with `edit-real`"
                    )));
                }
                let mut real = RealServer::new(*address);
                real.set(*settings);
                service.reals.push(real);
            }
            Self::EditReal(key, address, settings) => {
                real_mut(service_mut(services, key)?, *address)?.set(*settings);
            }
            Self::DelReal(key, address) => {
                let service = service_mut(services, key)?;
                real_mut(service, *address)?;
                service.reals.retain(|real| real.address != *address);
            }
            Self::Clear => services.clear(),
        }
        Ok(())
    }

    /// The service that the change is about; `None` = all.
    #[must_use]
    pub const fn service(&self) -> Option<&ServiceKey> {
        match self {
            Self::AddService(key, _)
            | Self::EditService(key, _)
            | Self::DelService(key)
            | Self::AddReal(key, ..)
            | Self::EditReal(key, ..)
            | Self::DelReal(key, _) => Some(key),
            Self::Clear => None,
        }
    }
}

/// A change that is written to the file: what it changes of the running model and what of the file's. That is mostly the same. But what
/// was added or deleted with `--runtime` before is there, or gone, already; the same change without `--runtime` then makes it
/// permanent. [`Change::apply`] refuses what fits neither.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistencePlan {
    /// For the running model; `None` if nothing changes there.
    pub running: Option<Change>,
    /// For the file's model.
    pub saved: Change,
}

impl PersistencePlan {
    /// The plan for `change`, where `running` runs and the file describes `saved`.
    #[must_use]
    pub fn new(change: &Change, running: &Model, saved: &Model) -> Self {
        Self::made_permanent(change, running, saved).unwrap_or_else(|| Self {
            running: Some(change.clone()),
            saved: change.clone(),
        })
    }

    fn made_permanent(change: &Change, running: &Model, saved: &Model) -> Option<Self> {
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

fn service_mut<'a>(
    services: &'a mut [VirtualService],
    key: &ServiceKey,
) -> Result<&'a mut VirtualService, ApiError> {
    services
        .iter_mut()
        .find(|service| service.key == *key)
        .ok_or_else(|| ApiError::not_found(format!("there is no service {key}: `list` shows all")))
}

fn set_service(service: &mut VirtualService, settings: &ServiceSettings) -> Result<(), ApiError> {
    if let Some(persistence) = &settings.persistence
        && let Some(sentence) = persistence.refusal(&service.key, service.persistence.as_ref())
    {
        return Err(ApiError::invalid(sentence));
    }
    service.set(settings.clone());
    Ok(())
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

/// Marks in `running` each service and real server that differs from what is `saved` in the file. With no
/// file, everything does. A real server that only the file has marks its service.
pub fn mark_runtime(running: &mut Model, saved: Option<&Model>) {
    let saved = saved.map(Model::by_key).unwrap_or_default();
    for service in &mut running.services {
        let saved = saved.get(&service.key).copied();
        service.runtime = saved.is_none_or(|saved| {
            !saved.is_same_but_reals(service)
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

/// Whether two real servers differ at most in `runtime`.
fn is_same_real(one: &RealServer, other: &RealServer) -> bool {
    one.address == other.address && one.settings() == other.settings()
}

/// Whether `running` is what the file describes, except for the order.
#[must_use]
pub fn is_saved(running: &Model, saved: &Model) -> bool {
    let by_key = saved.by_key();
    running.services.len() == saved.services.len()
        && running.services.iter().all(|service| {
            !service.runtime
                && service.reals.iter().all(|real| !real.runtime)
                && by_key
                    .get(&service.key)
                    .is_some_and(|s| s.reals.len() == service.reals.len())
        })
}

#[cfg(test)]
pub(crate) mod tests;
