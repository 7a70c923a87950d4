//! add-service, edit-service, del-service.

use hyper::Method;

use super::{
    CommandError, Context,
    arguments::{ChangeService, DelService, ServiceHealth},
    encoded,
};
use crate::{
    api::{EditService, NewService},
    model::ServiceKey,
};

pub async fn add(context: &Context, arguments: ChangeService) -> Result<(), CommandError> {
    let ChangeService {
        service,
        scheduler,
        name,
        no_real,
        health,
        lasting,
        later,
    } = arguments;
    later.refuse()?;
    let ServiceKey { protocol, address } = service.new_key()?;
    let check = checks(&health);
    let ServiceHealth {
        on_down,
        slow_start,
        quorum,
        hysteresis,
        backups,
        ..
    } = health;
    let body = NewService {
        address: address.to_string(),
        protocol,
        name,
        scheduler,
        no_real,
        on_down,
        slow_start,
        quorum,
        hysteresis,
        backups,
        check,
    };
    context
        .change_with(
            Method::POST,
            &format!("/v1/services?{}", lasting.query()),
            Some(&body),
        )
        .await
}

pub async fn edit(context: &Context, arguments: ChangeService) -> Result<(), CommandError> {
    let ChangeService {
        service,
        scheduler,
        name,
        no_real,
        health,
        lasting,
        later,
    } = arguments;
    later.refuse()?;
    let service = service.or_only()?;
    let check = checks(&health);
    let ServiceHealth {
        on_down,
        slow_start,
        quorum,
        hysteresis,
        backups,
        ..
    } = health;
    let body = EditService {
        name,
        scheduler,
        no_real,
        on_down,
        slow_start,
        quorum,
        hysteresis,
        backups,
        check,
    };
    if body == EditService::default() {
        return Err(CommandError::Usage(
            "nothing to change: give --scheduler, --name, --no-real, --check, --no-check, --on-down, --slow-start, \
             --quorum, --hysteresis or --backups"
                .to_owned(),
        ));
    }
    let target = format!(
        "/v1/services/{}?{}",
        encoded(&service.to_string()),
        lasting.query()
    );
    context
        .change_with(Method::PATCH, &target, Some(&body))
        .await
}

pub async fn del(context: &Context, arguments: DelService) -> Result<(), CommandError> {
    let DelService { service, lasting } = arguments;
    let service = service.or_only()?;
    let target = format!(
        "/v1/services/{}?{}",
        encoded(&service.to_string()),
        lasting.query()
    );
    context.change(Method::DELETE, &target).await
}

/// All checks of the service, where the options name any or none at all.
fn checks(health: &ServiceHealth) -> Option<serde_json::Value> {
    let named = health.no_check || !health.check.is_empty();
    named.then(|| health.check.clone().into())
}
