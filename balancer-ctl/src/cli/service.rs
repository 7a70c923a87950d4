//! add-service, edit-service, del-service, clear.

use std::io::{self, BufRead, IsTerminal as _, Write as _};

use hyper::Method;

use clap::{Args as _, Command};

use super::{
    CommandError, Context,
    arguments::{ChangeService, Checks, Clear, DelService},
    encoded, listed_options,
    render::counted,
};
use crate::{
    api::{EditService, NewService},
    model::{ServiceKey, address::ServiceRef, view},
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
    // The daemon refuses to delete one that is not named, and says which there are.
    let service = service.named()?.unwrap_or(ServiceRef::Only);
    let target = format!(
        "/v1/services/{}?{}",
        encoded(&service.to_string()),
        runtime.query()
    );
    context.change(Method::DELETE, &target).await
}

/// Deletes all services, if that is meant.
pub async fn clear(context: &Context, Clear { yes, runtime }: &Clear) -> Result<(), CommandError> {
    if !yes {
        let input = io::stdin();
        if !input.is_terminal() {
            return Err(CommandError::Usage(
                "`clear` deletes all services: give --yes if that is meant".to_owned(),
            ));
        }
        let there: view::Services = context.client.get("/v1/services").await?;
        let services = counted(there.services.len() as u64, "service");
        write!(io::stderr(), "delete all services, {services}? [y/N] ")?;
        if !is_yes(&mut input.lock())? {
            return Err(CommandError::Refused("nothing was deleted".to_owned()));
        }
    }
    let target = format!("/v1/services?{}", runtime.query());
    context.change(Method::DELETE, &target).await
}

/// Whether the next line is a yes.
fn is_yes(input: &mut impl BufRead) -> io::Result<bool> {
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    let answer = answer.trim().to_ascii_lowercase();
    Ok(matches!(answer.as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        for (answer, meant) in [
            ("y\n", true),
            (" YES \n", true),
            ("n\n", false),
            ("\n", false),
            ("", false),
            ("yesterday\n", false),
        ] {
            assert_eq!(is_yes(&mut answer.as_bytes()).unwrap(), meant, "{answer}");
        }
    }

    #[test]
    fn without_options_the_message_lists_every_setting() {
        assert_eq!(
            settings_options(),
            "--scheduler, --name, --no-real, --check, --no-check, --hash, --persistent, --netmask, --group, \
             --persistence-drain, --forwarding, --hairpin, --on-down, --slow-start, --quorum, --hysteresis, \
             --backups, --allow, --deny or --rate"
        );
    }
}
