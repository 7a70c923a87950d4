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
            "trace",
            "persistence",
            "status",
            "failover",
            "node",
            "diff",
            "push",
            "events",
            "check",
            "reload",
            "zero",
            "clear",
            "save",
            "restore",
            "completions",
            "man",
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

/// The words of a command's help from a line on, up to the next empty one.
fn block(help: &str, first: &str) -> String {
    let lines = help.lines().skip_while(|line| *line != first).skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let words = lines.flat_map(str::split_whitespace);
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_command_shows_its_own_options_first_and_what_it_needs() {
    let service = "`[tcp/|udp/]ADDRESS:PORT`, or a name";
    let real = "The real server: `ADDRESS[:PORT]`";
    for (command, argument, about) in [
        ("add-service", "<SERVICE>", service),
        ("edit-service", "[SERVICE]", service),
        ("del-service", "<SERVICE>", service),
        ("add-real", "<REAL>", real),
        ("drain", "<REAL>", real),
    ] {
        let help = ran(program("balancer-ctl").args([command, "-h"])).stdout;
        let usage = format!("Usage: balancer-ctl {command} [OPTIONS] {argument}");
        assert_eq!(help.lines().nth(2), Some(usage.as_str()), "{help}");
        assert_eq!(block(&help, "Arguments:"), format!("{argument} {about}"));
        assert_eq!(
            block(&help, "Global options:"),
            "--socket <PATH> The daemon's control socket [default: /run/balancer/control.sock] [env: BALANCER_SOCKET] \
             --instance <NAME> Which of several daemons on this host \
             --json Print one JSON document \
             -h, --help Print help; --help prints more where there is more"
        );
        let own = help.find("\nOptions:\n").expect("options of its own");
        let global = help.find("\nGlobal options:\n").expect("global ones");
        assert!(own < global, "{help}");
        let page = ran(program("balancer-ctl").args(["man", command])).stdout;
        assert!(page.contains(".SH \"GLOBAL OPTIONS\""), "{page}");
    }
    let page = ran(program("balancer-ctl").args(["man", "del-service"])).stdout;
    assert!(page.contains("<\\fISERVICE\\fR>"), "{page}");
    let help = ran(program("balancer-ctl").args(["help", "del-service"])).stdout;
    assert_eq!(
        help,
        ran(program("balancer-ctl").args(["del-service", "--help"])).stdout
    );
    // Also where the usage is shown because of a mistake.
    let wrong = ran(program("balancer-ctl").args(["del-service", "--what"])).stderr;
    let usage = "\nUsage: balancer-ctl del-service [OPTIONS] <SERVICE>\n";
    assert!(wrong.contains(usage), "{wrong}");
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

#[test]
fn each_shell_completes_what_the_help_lists() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let completions = ran(program("balancer-ctl").args(["completions", shell]));
        assert_eq!((completions.status, completions.stderr.as_str()), (0, ""));
        let text = completions.stdout;
        for name in [
            "add-service",
            "slow-start",
            "drain",
            "history",
            "instance",
            "restore",
        ] {
            assert!(text.contains(name), "{shell} lacks {name}");
        }
        // Of later versions.
        assert!(!text.contains("doctor"), "{shell}");
    }
    let refused = ran(program("balancer-ctl").args(["completions", "tcsh"]));
    assert_eq!(
        (
            refused.status,
            refused.stdout.as_str(),
            refused.stderr.as_str()
        ),
        (
            2,
            "",
            "error: invalid value 'tcsh' for '<SHELL>': expected `bash`, `elvish`, `fish`, `powershell` or `zsh`\n\n\
             For more information, try '--help'.\n"
        )
    );
}

#[test]
fn bash_completes_commands_and_what_stands_behind_them() {
    let script = r#"
        source <("$1" completions bash)
        complete=$(complete -p balancer-ctl | sed 's/.*-F \([^ ]*\) .*/\1/')
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        $complete balancer-ctl "${@: -1}" "${@:$#-1:1}"
        echo "${COMPREPLY[*]}"
    "#;
    for (typed, completed) in [
        ("li", "list"),
        ("list --st", "--stats"),
        ("add-real --wei", "--weight"),
        ("edit-service --slow", "--slow-start"),
        ("health --hi", "--history"),
        ("completions --js", "--json"),
    ] {
        let balancer_ctl = program("balancer-ctl");
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", script, "bash"])
            .arg(balancer_ctl.get_program());
        bash.arg("balancer-ctl").args(typed.split(' '));
        let ran = ran(&mut bash);
        assert_eq!(
            (ran.stdout.trim(), ran.stderr.as_str()),
            (completed, ""),
            "{typed}"
        );
    }
}

#[test]
fn each_command_has_a_page_in_the_manual() {
    let page = |arguments: &[&str]| {
        let page = ran(program("balancer-ctl").arg("man").args(arguments));
        assert_eq!(
            (page.status, page.stderr.as_str()),
            (0, ""),
            "{arguments:?}"
        );
        page.stdout
    };
    let whole = page(&[]);
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        whole.contains(&format!(".TH balancer-ctl 8  \"balancer {version}\"")),
        "{whole}"
    );
    let names = whole.lines().filter_map(|line| {
        let name = line.strip_suffix("(8)")?.replace('\\', "");
        Some(name.strip_prefix("balancer-ctl-")?.to_owned())
    });
    let names: Vec<_> = names.filter(|name| name != "help").collect();
    assert_eq!(names.len(), 28, "{names:?}");
    for name in names {
        let title = format!(".TH balancer-ctl-{name} 8  \"balancer {version}\"");
        let text = page(&[&name]);
        assert!(text.contains(&title), "{text}");
    }
    for (name, title) in [
        ("balancerd", "balancerd 8"),
        ("balancer.toml", "balancer.toml 5"),
    ] {
        let text = page(&[name]);
        assert!(
            text.contains(&format!(".TH {title}  \"balancer {version}\"")),
            "{text}"
        );
    }
    let refused = ran(program("balancer-ctl").args(["man", "doctor"]));
    assert_eq!(
        (refused.status, refused.stderr.as_str()),
        (
            2,
            "error: there is no command `doctor`: `balancer-ctl --help` shows all\n"
        )
    );
}
