//! add-real, edit-real, del-real, drain, maintenance, ready.

use clap::{Arg, Args as _, Command};
use hyper::Method;

use super::{
    CommandError, Context,
    arguments::{ChangeReal, DelReal, RuntimeOption, ServiceOption, SetState},
    encoded, listed_options,
};
use crate::{
    api::NewReal,
    model::{AdminState, ForwardMethod, RealSettings, address::RealRef},
};

pub async fn add(context: &Context, arguments: ChangeReal) -> Result<(), CommandError> {
    let ChangeReal {
        real,
        service,
        settings,
        full_nat,
        no_backup,
        runtime,
        planned,
    } = arguments;
    planned.refuse()?;
    let body = NewReal {
        address: real.to_string(),
        protocol: None,
        settings: with_flags(settings, full_nat, no_backup),
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
        settings,
        full_nat,
        no_backup,
        runtime,
        planned,
    } = arguments;
    planned.refuse()?;
    let body = with_flags(settings, full_nat, no_backup);
    if body == RealSettings::default() {
        return Err(CommandError::Usage(format!(
            "nothing to change: give {}",
            settings_options()
        )));
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

/// The settings with what `--full-nat` and `--no-backup` set, which are never given together with `--nat` and `--backup`.
fn with_flags(settings: RealSettings, full_nat: bool, no_backup: bool) -> RealSettings {
    RealSettings {
        forwarding: settings
            .forwarding
            .or_else(|| full_nat.then_some(ForwardMethod::FullNat)),
        backup: settings.backup.or_else(|| no_backup.then_some(false)),
        ..settings
    }
}

/// The options that change a real server, in the order of the help.
fn settings_options() -> String {
    let command = RealSettings::augment_args(Command::new(""));
    let options = command.get_arguments().filter_map(Arg::get_long);
    listed_options(&options.chain(["full-nat", "no-backup"]).collect::<Vec<_>>())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_options_the_message_lists_every_setting() {
        assert_eq!(
            settings_options(),
            "--weight, --nat, --upper, --lower, --backup, --full-nat or --no-backup"
        );
    }
}
