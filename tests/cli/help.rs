//! The help: every command is there, each with an example.

use crate::scene::{program, ran};

#[test]
fn the_help_lists_what_there_is_and_nothing_else() {
    let help = ran(program("balancer-ctl").arg("--help"));
    assert_eq!((help.status, help.stderr.as_str()), (0, ""));
    let listed: Vec<_> = help
        .stdout
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        listed,
        [
            "add-service",
            "edit-service",
            "del-service",
            "add-real",
            "edit-real",
            "del-real",
            "drain",
            "maintenance",
            "ready",
            "list",
            "health",
            "connections",
            "status",
            "events",
            "check",
            "reload",
            "zero",
            "clear",
            "help",
        ]
    );
    for command in listed.iter().filter(|command| **command != "help") {
        let help = ran(program("balancer-ctl").args([command, "--help"]));
        assert_eq!(help.status, 0);
        let example = format!("Example:\n  balancer-ctl {command}");
        assert!(help.stdout.contains(&example), "{}", help.stdout);
    }
}

#[test]
fn the_version_is_the_crates() {
    for name in ["balancer-ctl", "balancerd"] {
        let ran = ran(program(name).arg("-V"));
        assert_eq!(
            (ran.status, ran.stdout),
            (0, format!("{name} {}\n", env!("CARGO_PKG_VERSION")))
        );
    }
}

#[test]
fn without_a_command_the_help_is_shown_and_nothing_is_done() {
    let help = ran(program("balancer-ctl").arg("-h")).stdout;
    assert!(
        help.contains("\nUsage: balancer-ctl [OPTIONS] <COMMAND>\n"),
        "{help}"
    );
    for arguments in [&[][..], &["--json"], &["--instance", "a"]] {
        let ran = ran(program("balancer-ctl").args(arguments));
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""));
        assert_eq!(ran.stderr, help);
    }
}
