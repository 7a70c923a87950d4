//! add-service, edit-service, del-service.

use hyper::Method;

use super::{
    Context, Failure,
    arguments::{ChangeService, DelService},
    encoded,
};
use crate::{
    api::{EditService, NewService},
    model::ServiceKey,
};

pub async fn add(context: &Context, arguments: ChangeService) -> Result<(), Failure> {
    let ChangeService {
        service,
        scheduler,
        name,
        no_real,
        lasting,
        later,
    } = arguments;
    later.refuse()?;
    let ServiceKey { protocol, address } = service.new_key()?;
    let body = NewService {
        address: address.to_string(),
        protocol,
        name,
        scheduler,
        no_real,
    };
    context
        .change_with(
            Method::POST,
            &format!("/v1/services?{}", lasting.query()),
            Some(&body),
        )
        .await
}

pub async fn edit(context: &Context, arguments: ChangeService) -> Result<(), Failure> {
    let ChangeService {
        service,
        scheduler,
        name,
        no_real,
        lasting,
        later,
    } = arguments;
    later.refuse()?;
    let service = service.or_only()?;
    let body = EditService {
        name,
        scheduler,
        no_real,
    };
    if body == EditService::default() {
        return Err(Failure::Usage(
            "nothing to change: give --scheduler, --name or --no-real".to_owned(),
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

pub async fn del(context: &Context, arguments: DelService) -> Result<(), Failure> {
    let DelService { service, lasting } = arguments;
    let service = service.or_only()?;
    let target = format!(
        "/v1/services/{}?{}",
        encoded(&service.to_string()),
        lasting.query()
    );
    context.change(Method::DELETE, &target).await
}
