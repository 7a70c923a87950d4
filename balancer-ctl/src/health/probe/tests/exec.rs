//! Exec checks with well-behaved and misbehaving programs.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Instant};

use super::*;
use crate::{health::RequestedWeight, model::check::ExecProbe, os::program::open_folder};

const TARGET: &str = "192.0.2.1:8080";

fn shell(script: &str) -> Probe {
    Probe::Exec(ExecProbe {
        user: None,
        is_monitor: true,
        run: ["/bin/sh", "-c", script, "monitor", "one"]
            .map(str::to_owned)
            .to_vec(),
    })
}

async fn answer(script: &str) -> Outcome {
    ask(TARGET.parse().unwrap(), shell(script)).await
}

fn weighted(note: &str, weight: u32) -> Outcome {
    Outcome::Passed {
        note: note.into(),
        agent_reply: AgentReply {
            weight: Some(RequestedWeight::Absolute(weight)),
            ..AgentReply::default()
        },
    }
}

#[test]
fn the_exit_status_decides_and_the_first_line_says_why() {
    run(async {
        assert_eq!(answer("exit 0").await, pass("exit status 0"));
        assert_eq!(answer("echo all well; echo more").await, pass("all well"));
        assert_eq!(answer("exit 1").await, fail("exit status 1"));
        assert_eq!(
            answer("echo; echo 192.0.2.1 is slow; exit 1").await,
            fail("192.0.2.1 is slow")
        );
        assert_eq!(answer("exit 2").await, weighted("exit status 2", 0));
        assert_eq!(answer("echo half; exit 52").await, weighted("half", 50));
        assert_eq!(answer("exit 255").await, weighted("exit status 255", 253));
        assert_eq!(answer("kill -SEGV $$").await, fail("killed by SIGSEGV"));
        // A warning on standard error does not replace the summary.
        assert_eq!(
            answer("echo locale >&2; echo down; exit 1").await,
            fail("down")
        );
        assert_eq!(answer("echo wrong >&2; exit 1").await, fail("wrong"));
    });
}

#[test]
fn a_tracked_program_gets_its_own_arguments_and_only_status_0_is_a_success() {
    run(async {
        let tracked = |script: &str| {
            let run = ["/bin/sh", "-c", script, "tracked", "one"];
            let probe = Probe::Exec(ExecProbe {
                user: None,
                is_monitor: false,
                run: run.map(str::to_owned).to_vec(),
            });
            ask(TARGET.parse().unwrap(), probe)
        };
        let script = r#"echo "$@, $BALANCER_REAL_ADDRESS""#;
        assert_eq!(tracked(script).await, pass("one,"));
        assert_eq!(tracked("exit 1").await, fail("exit status 1"));
        assert_eq!(tracked("exit 2").await, fail("exit status 2"));
        assert_eq!(tracked("exit 255").await, fail("exit status 255"));
    });
}

#[test]
fn a_program_gets_its_target_like_mons_monitors() {
    run(async {
        let script = r#"echo "$@ $BALANCER_REAL_ADDRESS $BALANCER_REAL_PORT $BALANCER_TIMEOUT $(pwd) $(env | wc -l)"; [ -t 0 ] || cat"#;
        // Six variables are set by the check; the shell adds up to three.
        let Outcome::Passed { note, .. } = answer(script).await else {
            panic!("it failed");
        };
        let words: Vec<_> = note.split(' ').collect();
        assert_eq!(
            words[..6],
            ["one", "192.0.2.1", "192.0.2.1", "8080", "0.3", "/"]
        );
        assert!(words[6].parse::<u32>().unwrap() <= 9, "{note}");
    });
}

#[test]
fn a_program_that_must_not_be_run_says_nothing_of_its_target_and_one_that_is_gone_fails() {
    run(async {
        let probe = |path: &str| {
            Probe::Exec(ExecProbe {
                user: None,
                is_monitor: true,
                run: vec![path.into()],
            })
        };
        let inconclusive = |reason: String| Outcome::Inconclusive {
            obstacle: Some(reason),
        };
        let target = TARGET.parse().unwrap();
        assert_eq!(
            ask(target, probe("/nowhere/at/all")).await,
            fail("cannot run /nowhere/at/all: `/nowhere` does not exist")
        );
        // Everybody may replace the program.
        let (folder, open) = open_folder();
        let (path, mark) = (folder.path().join("run"), folder.path().join("ran"));
        fs::write(&path, format!("#!/bin/sh\necho > {}\n", mark.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(
            ask(target, probe(path)).await,
            inconclusive(format!("cannot run {path}: {open}"))
        );
        assert!(!mark.exists());
        let none = Probe::Exec(ExecProbe {
            user: None,
            is_monitor: true,
            run: Vec::new(),
        });
        assert_eq!(
            make_prober(&check_target(target, none)).unwrap_err(),
            "`run` names no program"
        );
    });
}

#[test]
fn a_megabyte_of_output_neither_blocks_nor_stays() {
    run(async {
        let script = "echo first; head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 1";
        assert_eq!(answer(script).await, fail("first"));
    });
}

/// Whether a process exists and is not a zombie.
fn runs(process: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(process).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits until a file contains a process id.
async fn number(file: &Path) -> String {
    loop {
        match fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn is_gone(process: &str) -> bool {
    let begun = Instant::now();
    while runs(process) {
        if begun.elapsed() > Duration::from_secs(5) {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

#[test]
fn a_program_that_ignores_sigterm_is_killed_with_its_children_when_time_is_up() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (own, child) = (folder.path().join("own"), folder.path().join("child"));
        let script = format!(
            "trap '' TERM; sleep 1000 & echo $! > {}; echo $$ > {}; while :; do sleep 1000; done",
            child.display(),
            own.display()
        );
        times_out(TARGET.parse().unwrap(), shell(&script)).await;
        for file in [own, child] {
            let process = number(&file).await;
            assert!(is_gone(&process).await, "process {process} is still there");
        }
    });
}

#[test]
fn what_a_program_leaves_behind_is_killed_and_not_waited_for() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let child = folder.path().join("child");
        // The sleeping process keeps the pipe open.
        let script = format!("sleep 1000 & echo $! > {}; echo done", child.display());
        let begun = Instant::now();
        assert_eq!(answer(&script).await, pass("done"));
        assert!(begun.elapsed() < Duration::from_secs(5));
        let process = number(&child).await;
        assert!(is_gone(&process).await, "process {process} is still there");
    });
}

#[test]
fn killed_programs_are_reaped() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        let script = format!("echo $$ > {}; sleep 1000", own.display());
        times_out(TARGET.parse().unwrap(), shell(&script)).await;
        let process = number(&own).await;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if !Path::new("/proc").join(&process).exists() {
                return;
            }
        }
        panic!("process {process} is still there");
    });
}
