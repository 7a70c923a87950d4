//! What the help says can be typed.

use clap::CommandFactory as _;

use super::*;
use crate::model::ForwardMethod;

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
            // What a shell does with input and output, and other programs in a pipe, are not the tool's.
            let mut ours = line
                .split('|')
                .filter(|part| part.trim().starts_with("balancer-ctl"));
            let typed = ours.next().expect(line).split_whitespace();
            let typed = typed.take_while(|word| !matches!(*word, ">" | "<"));
            Arguments::try_parse_from(typed).unwrap_or_else(|error| panic!("{line}: {error}"));
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
        let Some(Command::AddReal(arguments)) = Arguments::try_parse_from(words).unwrap().command
        else {
            panic!("{line}");
        };
        assert_eq!(
            arguments.service.or_only().unwrap().to_string(),
            "tcp/192.0.2.80:80",
            "{line}"
        );
    }
}

#[test]
fn options_without_a_value_set_the_real_servers_settings() {
    for (options, forwarding, backup, no_backup) in [
        ("", None, None, false),
        ("-m", Some(ForwardMethod::Nat), None, false),
        (
            "--nat --backup",
            Some(ForwardMethod::Nat),
            Some(true),
            false,
        ),
        ("--no-backup", None, None, true),
    ] {
        let words = ["balancer-ctl", "edit-real"].into_iter();
        // Behind such an option stands the real server, not its value.
        let words = words.chain(options.split_whitespace()).chain(["10.0.0.2"]);
        let Some(Command::EditReal(arguments)) = Arguments::try_parse_from(words).unwrap().command
        else {
            panic!("{options}");
        };
        let expected = RealSettings {
            forwarding,
            backup,
            ..RealSettings::default()
        };
        assert_eq!(
            (arguments.settings, arguments.no_backup),
            (expected, no_backup)
        );
    }
}

#[test]
fn persistence_is_spelt_as_in_ipvsadm() {
    for (line, persistence) in [
        ("add-service 192.0.2.80:80 -s wlc -p", r#"{"timeout":"5m"}"#),
        (
            "add-service 192.0.2.80:80 -p -M 24",
            r#"{"timeout":"5m","netmask":24}"#,
        ),
        (
            "add-service -p 600 -M 255.255.255.0 -t 192.0.2.80:80",
            r#"{"timeout":"10m","netmask":"255.255.255.0"}"#,
        ),
        (
            "edit-service web --persistent 90s --group shop --persistence-drain keep",
            r#"{"timeout":"1m30s","group":"shop","drain":"keep"}"#,
        ),
        ("edit-service web -p 0", r#"{"timeout":"0s"}"#),
        ("edit-service web --group=", r#"{"group":""}"#),
        ("edit-service web -s sh --hash client-port", "null"),
    ] {
        let words = std::iter::once("balancer-ctl").chain(line.split(' '));
        let (Some(Command::AddService(arguments)) | Some(Command::EditService(arguments))) =
            Arguments::try_parse_from(words).unwrap().command
        else {
            panic!("{line}");
        };
        let given = serde_json::to_string(&arguments.settings.persistence).unwrap();
        assert_eq!(given, persistence, "{line}");
    }
    let persistent = "for '--persistent [<SECONDS>]': expected a number of seconds, or one with its unit as in 5m; with neither, write -p last";
    for value in ["-1", "192.0.2.80:80", "5 apples", ""] {
        assert_eq!(
            said(&["add-service", "-p", value]),
            format!("error: invalid value '{value}' {persistent}")
        );
    }
    let netmask = "for '--netmask <PREFIX>': ";
    assert_eq!(
        said(&["edit-service", "-M", "0"]),
        format!(
            "error: invalid value '0' {netmask}0 is out of range: 1..=32 for IPv4, 1..=128 for IPv6"
        )
    );
    assert_eq!(
        said(&["edit-service", "-s", "lblcr"]),
        "error: invalid value 'lblcr' for '--scheduler <SCHEDULER>': not offered, as it chooses caches for each of many \
         destinations, and a virtual service has one: expected `rr`, `wrr`, `lc`, `wlc`, `sed`, `nq`, `sh`, `dh`, `mh`, \
         `fo`, `ovf` or `twos`"
    );
}

/// What is said of a value, behind its name.
fn said(words: &[&str]) -> String {
    let words = std::iter::once(&"balancer-ctl").chain(words);
    let error = Arguments::try_parse_from(words).unwrap_err().to_string();
    error.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_wrong_number_or_duration_is_refused_with_what_is_allowed() {
    let weight = "for '--weight <N>': expected a whole number from 0 to 65535";
    for value in ["1.5", "", "65536", "-1", "99999999999999999999"] {
        assert_eq!(
            said(&["add-real", "10.0.0.2", "-w", value]),
            format!("error: invalid value '{value}' {weight}")
        );
    }
    for (option, value, sentence) in [
        (
            "--quorum",
            "0",
            "for '--quorum <N>': expected a whole number from 1 to 1000000000",
        ),
        (
            "--hysteresis",
            "x",
            "for '--hysteresis <N>': expected a whole number from 0 to 1000000000",
        ),
        (
            "--slow-start",
            "-5s",
            "for '--slow-start <TIME>': not a duration: a number and a unit, such as 30s",
        ),
        (
            "--slow-start",
            "5",
            "for '--slow-start <TIME>': not a duration: a number and a unit, such as 30s",
        ),
    ] {
        assert_eq!(
            said(&["edit-service", option, value]),
            format!("error: invalid value '{value}' {sentence}")
        );
    }
    assert_eq!(
        said(&["connections", "--limit", "-1"]),
        "error: invalid value '-1' for '--limit <N>': expected a whole number, 0 or more"
    );
}

#[test]
fn backup_and_no_backup_exclude_each_other() {
    assert_eq!(
        said(&["edit-real", "10.0.0.2", "--backup", "--no-backup"]),
        "error: the argument '--backup' cannot be used with '--no-backup'"
    );
}

#[test]
fn the_help_says_that_checks_are_replaced_and_how_long_a_runtime_change_lasts() {
    let mut root = Arguments::command();
    let help = root.find_subcommand_mut("edit-service").unwrap();
    let help = help.render_long_help().to_string();
    let words: Vec<_> = help.split_whitespace().collect();
    let help = words.join(" ");
    for sentence in [
        "With --check, the checks given replace all that the service had",
        "The checks given are all that the service has then: those it had are replaced, and what is not named of one \
         has its default",
        "it lasts until `reload` or a restart of the daemon",
    ] {
        assert!(help.contains(sentence), "{help}");
    }
}
