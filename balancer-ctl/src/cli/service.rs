//! add-service, edit-service, del-service.

use hyper::Method;

use clap::{Args as _, Command};

use super::{
    CommandError, Context,
    arguments::{ChangeService, Checks, DelService},
    encoded, listed_options,
};
use crate::{
    api::{EditService, NewService},
    model::ServiceKey,
};

pub async fn add(context: &Context, arguments: ChangeService) -> Result<(), CommandError> {
    let ServiceKey { protocol, address } = arguments.service.new_key()?;
    let body = NewService {
        address: address.to_string(),
        protocol: Some(protocol),
        settings: settings(arguments.settings, arguments.checks),
    };
    context
        .change_with(
            Method::POST,
            &format!("/v1/services?{}", arguments.runtime.query()),
            Some(&body),
        )
        .await
}

pub async fn edit(context: &Context, arguments: ChangeService) -> Result<(), CommandError> {
    let service = arguments.service.or_only()?;
    let body = settings(arguments.settings, arguments.checks);
    if body == EditService::default() {
        return Err(CommandError::Usage(format!(
            "nothing to change: give {}",
            settings_options()
        )));
    }
    let target = format!(
        "/v1/services/{}?{}",
        encoded(&service.to_string()),
        arguments.runtime.query()
    );
    context
        .change_with(Method::PATCH, &target, Some(&body))
        .await
}

/// The settings that the options give. The given checks replace all of the service's; `--no-check` removes them.
fn settings(settings: EditService, checks: Checks) -> EditService {
    let Checks { check, no_check } = checks;
    EditService {
        checks: (no_check || !check.is_empty()).then(|| check.into()),
        ..settings
    }
}

/// The options that change a service, in the order of the help.
fn settings_options() -> String {
    const FIRST: [&str; 5] = ["scheduler", "name", "no-real", "check", "no-check"];
    let command = Checks::augment_args(EditService::augment_args(Command::new("")));
    let mut options: Vec<_> = command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .collect();
    options.sort_by_key(|option| {
        let place = FIRST.iter().position(|first| first == option);
        place.unwrap_or(FIRST.len())
    });
    listed_options(&options)
}

pub async fn del(context: &Context, arguments: DelService) -> Result<(), CommandError> {
    let DelService { service, runtime } = arguments;
    let service = service.or_only()?;
    let target = format!(
        "/v1/services/{}?{}",
        encoded(&service.to_string()),
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
            "--scheduler, --name, --no-real, --check, --no-check, --hash, --persistent, --netmask, --group, \
             --persistence-drain, --on-down, --slow-start, --quorum, --hysteresis or \
             --backups"
        );
    }
}
