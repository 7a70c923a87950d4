//! add-real, edit-real, del-real.

use hyper::Method;

use super::{
    Context, Failure,
    arguments::{ChangeReal, DelReal},
    encoded,
};
use crate::{
    api::{EditReal, NewReal},
    model::ForwardMethod,
};

pub async fn add(context: &Context, arguments: ChangeReal) -> Result<(), Failure> {
    let ChangeReal {
        real,
        service,
        weight,
        nat,
        lasting,
        later,
    } = arguments;
    later.refuse()?;
    let body = NewReal {
        address: real.to_string(),
        weight,
        forwarding: nat.then_some(ForwardMethod::Nat),
    };
    let service = encoded(&service.or_only()?.to_string());
    let target = format!("/v1/services/{service}/reals?{}", lasting.query());
    context
        .change_with(Method::POST, &target, Some(&body))
        .await
}

pub async fn edit(context: &Context, arguments: ChangeReal) -> Result<(), Failure> {
    let ChangeReal {
        real,
        service,
        weight,
        nat,
        lasting,
        later,
    } = arguments;
    later.refuse()?;
    let body = EditReal {
        weight,
        forwarding: nat.then_some(ForwardMethod::Nat),
    };
    if body == EditReal::default() {
        return Err(Failure::Usage(
            "nothing to change: give --weight or --nat".to_owned(),
        ));
    }
    let service = encoded(&service.or_only()?.to_string());
    let target = format!(
        "/v1/services/{service}/reals/{}?{}",
        encoded(&real.to_string()),
        lasting.query()
    );
    context
        .change_with(Method::PATCH, &target, Some(&body))
        .await
}

pub async fn del(context: &Context, arguments: DelReal) -> Result<(), Failure> {
    let DelReal {
        real,
        service,
        purge,
        lasting,
    } = arguments;
    let service = encoded(&service.or_only()?.to_string());
    let real = encoded(&real.to_string());
    let target = format!(
        "/v1/services/{service}/reals/{real}?{}&purge={purge}",
        lasting.query()
    );
    context.change(Method::DELETE, &target).await
}
