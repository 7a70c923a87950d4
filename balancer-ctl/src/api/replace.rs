//! All services replaced by one request.

use axum::{body::Bytes, extract::State, response::IntoResponse as _};
use serde::{Deserialize, Serialize};

use super::{
    NewReal, NewService,
    answer::Json,
    daemon_handle::DaemonHandle,
    request::{Answer, Parameters, check_files, invalid, json, parsed, scope},
};
use crate::{
    control::daemon::{Message, Replacement},
    model::{
        ServiceKey,
        address::{RealRef, service_address},
        change::WantedService,
        error::ApiError,
    },
};

/// Body of `PUT /v1/services`: all services that there are to be. One that exists keeps what is absent of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllServices {
    /// They.
    pub services: Vec<WholeService>,
}

/// A service and all its real servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WholeService {
    /// The service.
    pub service: NewService,
    /// Its real servers.
    pub reals: Vec<NewReal>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceQuery {
    #[serde(default)]
    runtime: bool,
    #[serde(default)]
    dry_run: bool,
}

pub async fn replace(
    State(daemon): State<DaemonHandle>,
    query: Parameters<ReplaceQuery>,
    body: Bytes,
) -> Answer {
    let ReplaceQuery { runtime, dry_run } = query.0?;
    let body: AllServices = json(&body)?;
    let mut services = Vec::with_capacity(body.services.len());
    for service in body.services {
        services.push(wanted(service).await?);
    }
    let replacement = Replacement {
        services,
        scope: scope(runtime),
        is_dry_run: dry_run,
    };
    let result = daemon
        .ask(|reply| Message::Replace(replacement, reply))
        .await?;
    Ok(Json(result).into_response())
}

async fn wanted(WholeService { service, reals }: WholeService) -> Result<WantedService, ApiError> {
    let address = service_address(&service.address).map_err(invalid)?;
    let protocol = service.protocol.unwrap_or_default();
    let key = ServiceKey { protocol, address };
    let settings = check_files(service.settings.with_checks(super::checks)?).await?;
    let reals = reals.into_iter().map(|real| {
        let address: RealRef = parsed(&real.address)?;
        Ok((address.within(&key), real.settings))
    });
    Ok(WantedService {
        key,
        settings,
        reals: reals.collect::<Result<_, ApiError>>()?,
    })
}
