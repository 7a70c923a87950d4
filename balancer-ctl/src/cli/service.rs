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
    arguments.later.refuse()?;
    let ServiceKey { protocol, address } = arguments.service.new_key()?;
    let body = NewService {
        address: address.to_string(),
        protocol: Some(protocol),
        settings: settings(arguments.settings, arguments.checks),
    };
    context
        .change_with(
            Method::POST,
            &format!("/v1/services?{}", arguments.lasting.query()),
            Some(&body),
        )
        .await
}

pub async fn edit(context: &Context, arguments: ChangeService) -> Result<(), CommandError> {
    arguments.later.refuse()?;
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
        arguments.lasting.query()
    );
    context
        .change_with(Method::PATCH, &target, Some(&body))
        .await
}

/// The settings that the options give. The checks given are all of the service; `--no-check` is none.
fn settings(settings: EditService, checks: Checks) -> EditService {
    let Checks { check, no_check } = checks;
    EditService {
        checks: (no_check || !check.is_empty()).then(|| check.into()),
        ..settings
    }
}

/// The options that set something, in the order of the help.
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
    let DelService { service, lasting } = arguments;
    let service = service.or_only()?;
    let target = format!(
        "/v1/services/{}?{}",
        encoded(&service.to_string()),
        lasting.query()
    );
    context.change(Method::DELETE, &target).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_offered_where_nothing_was_given() {
        assert_eq!(
            settings_options(),
            "--scheduler, --name, --no-real, --check, --no-check, --on-down, --slow-start, --quorum, --hysteresis or \
             --backups"
        );
    }
}
