//! What the help says can be typed.

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_arguments_are_consistent() {
    Arguments::command().debug_assert();
}

/// Each command that is listed, with what its help ends with.
fn examples() -> Vec<(String, String)> {
    let root = Arguments::command();
    let listed = root
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    let examples = listed.map(|command| {
        let help = command.get_after_help().map(ToString::to_string);
        (command.get_name().to_owned(), help.unwrap_or_default())
    });
    examples.collect()
}

#[test]
fn every_command_that_is_listed_has_an_example() {
    for (name, help) in examples() {
        let example = format!("Example:\n  balancer-ctl {}", name);
        assert!(help.starts_with(&example), "{}: {help}", name);
    }
}

#[test]
fn every_example_can_be_typed() {
    for (_, help) in examples() {
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
