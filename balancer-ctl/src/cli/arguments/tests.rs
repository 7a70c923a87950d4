//! What the help says can be typed.

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_arguments_are_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_that_is_listed_has_an_example() {
    for command in Arguments::command()
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let example = format!("Example:\n  balancer-ctl {}", command.get_name());
        assert!(help.starts_with(&example), "{}: {help}", command.get_name());
    }
}

#[test]
fn every_example_can_be_typed() {
    for command in Arguments::command()
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        for line in help.lines().skip(1) {
            Arguments::try_parse_from(line.split_whitespace())
                .unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}

#[test]
fn a_service_is_named_in_any_spelling() {
    for line in [
        "add-real 10.0.0.2:80 --service tcp/192.0.2.80:80",
        "add-real 10.0.0.2:80 --service 192.0.2.80:80",
        "add-real 10.0.0.2:80 -t 192.0.2.80:80 -m -w 1",
        "--json add-real -t 192.0.2.80:80 10.0.0.2",
    ] {
        let words = std::iter::once("balancer-ctl").chain(line.split(' '));
        let Command::AddReal(arguments) = Arguments::try_parse_from(words).unwrap().command else {
            panic!("{line}");
        };
        assert_eq!(
            arguments.service.or_only().unwrap().to_string(),
            "tcp/192.0.2.80:80",
            "{line}"
        );
    }
}
