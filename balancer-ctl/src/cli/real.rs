//! add-real, edit-real, del-real, drain, maintenance, ready.

use hyper::Method;

use super::{
    CommandError, Context,
    arguments::{ChangeReal, DelReal, RuntimeOption, ServiceOption, SetState},
    encoded,
};
use crate::{
    api::NewReal,
    model::{AdminState, ForwardMethod, RealSettings, address::RealRef},
};

pub async fn add(context: &Context, arguments: ChangeReal) -> Result<(), CommandError> {
    let ChangeReal {
        real,
        service,
        weight,
        nat,
        backup,
        no_backup,
        runtime,
        planned,
    } = arguments;
    planned.refuse()?;
    let body = NewReal {
        address: real.to_string(),
        protocol: None,
        settings: RealSettings {
            weight,
            forwarding: nat.then_some(ForwardMethod::Nat),
            backup: backup_of(backup, no_backup),
            state: None,
        },
    };
    let service = encoded(&service.or_only()?.to_string());
    let target = format!("/v1/services/{service}/reals?{}", runtime.query());
    context
        .change_with(Method::POST, &target, Some(&body))
        .await
}

pub async fn edit(context: &Context, arguments: ChangeReal) -> Result<(), CommandError> {
    let ChangeReal {
        real,
        service,
        weight,
        nat,
        backup,
        no_backup,
        runtime,
        planned,
    } = arguments;
    planned.refuse()?;
    let body = RealSettings {
        weight,
        forwarding: nat.then_some(ForwardMethod::Nat),
        backup: backup_of(backup, no_backup),
        state: None,
    };
    if body == RealSettings::default() {
        return Err(CommandError::Usage(
            "nothing to change: give --weight, --nat, --backup or --no-backup".to_owned(),
        ));
    }
    patch(context, real, &service, runtime, &body).await
}

/// Sets a real server's administrative state.
pub async fn set(
    context: &Context,
    arguments: SetState,
    state: AdminState,
) -> Result<(), CommandError> {
    let SetState {
        real,
        service,
        runtime,
    } = arguments;
    let body = RealSettings {
        state: Some(state),
        ..RealSettings::default()
    };
    patch(context, real, &service, runtime, &body).await
}

async fn patch(
    context: &Context,
    real: RealRef,
    service: &ServiceOption,
    runtime: RuntimeOption,
    body: &RealSettings,
) -> Result<(), CommandError> {
    let service = encoded(&service.or_only()?.to_string());
    let target = format!(
        "/v1/services/{service}/reals/{}?{}",
        encoded(&real.to_string()),
        runtime.query()
    );
    context
        .change_with(Method::PATCH, &target, Some(body))
        .await
}

/// The value that the two options set, of which at most one is given.
fn backup_of(backup: bool, no_backup: bool) -> Option<bool> {
    (backup || no_backup).then_some(backup)
}

pub async fn del(context: &Context, arguments: DelReal) -> Result<(), CommandError> {
    let DelReal {
        real,
        service,
        purge,
        runtime,
    } = arguments;
    let service = encoded(&service.or_only()?.to_string());
    let real = encoded(&real.to_string());
    let target = format!(
        "/v1/services/{service}/reals/{real}?{}&purge={purge}",
        runtime.query()
    );
    context.change(Method::DELETE, &target).await
}
