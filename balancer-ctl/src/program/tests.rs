//! Real programs that behave badly.

use std::{fs, os::fd::AsRawFd, path::Path};

use super::*;

const LONG: Duration = Duration::from_secs(20);

/// What a shell does with these lines.
fn shell(lines: &str) -> Program {
    Program {
        path: "/bin/sh".into(),
        arguments: vec!["-c".to_owned(), lines.to_owned()],
        environment: Vec::new(),
        input: Vec::new(),
        timeout: LONG,
        keep: KEPT_OUTPUT,
    }
}

fn text(finished: &Finished) -> &str {
    str::from_utf8(&finished.output).unwrap()
}

/// The processes of a group as `(id, parent, state)`.
fn members(group: i32) -> Vec<(i32, i32, String)> {
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path().join("stat");
        let Ok(stat) = fs::read_to_string(path) else {
            continue;
        };
        // ID (NAME) STATE PARENT GROUP …, and a name may hold anything.
        let id = stat.split(' ').next().unwrap().parse().unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        if fields[2] == group.to_string() {
            members.push((id, fields[1].parse().unwrap(), fields[0].to_owned()));
        }
    }
    members
}

/// Waits until no process of the group runs and none is left for us to reap. What another has to reap is not ours.
async fn nothing_is_left_of(group: i32) {
    let own = i32::try_from(std::process::id()).unwrap();
    for _ in 0..200 {
        let left = members(group)
            .into_iter()
            .any(|(_, parent, state)| state != "Z" || parent == own);
        if !left {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("left: {:?}", members(group));
}

/// Waits for a number that a program writes into a file.
async fn number_in(file: &Path) -> i32 {
    for _ in 0..500 {
        if let Ok(text) = fs::read_to_string(file)
            && let Some(line) = text.strip_suffix('\n')
        {
            return line.parse().unwrap();
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{} is not written", file.display());
}

#[tokio::test]
async fn every_status_comes_back() {
    for status in (0..=255).step_by(15) {
        let finished = shell(&format!("exit {status}")).run().await.unwrap();
        assert_eq!(finished.end, End::Exit(status));
        assert_eq!((finished.output, finished.is_cut), (Vec::new(), false));
    }
    let finished = shell("kill -USR1 $$").run().await.unwrap();
    assert_eq!(finished.end, End::Signal(libc::SIGUSR1));
    assert_eq!(finished.end.to_string(), "killed by SIGUSR1");
    assert_eq!(End::Exit(3).to_string(), "exit status 3");
    assert_eq!(
        End::Timeout(Duration::from_millis(1500)).to_string(),
        "not done after 1s 500ms and killed"
    );
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_an_error() {
    let mut program = shell("");
    program.path = "/nowhere/alert".into();
    let error = program.run().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    let file = tempfile::NamedTempFile::new().unwrap();
    program.path = file.path().into();
    let error = program.run().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn arguments_environment_and_input_arrive_as_they_are_and_no_others() {
    let mut program = shell(r#"printf '<%s>' "$0" "$@"; echo; env | sort; pwd; cat"#);
    program
        .arguments
        .extend(["a b", "$(id)", "", "*"].map(str::to_owned));
    program
        .environment
        .push(("NAME".to_owned(), "x y\nz=$HOME".to_owned()));
    program.input = b"in\nput".to_vec();
    let finished = program.run().await.unwrap();
    let expected = format!(
        "<a b><$(id)><><*>\nLANG=C.UTF-8\nNAME=x y\nPATH={PATH}\nPWD=/\nz=$HOME\n/\nin\nput"
    );
    // Some shells set `_`.
    let told = text(&finished).replace("_=/usr/bin/env\n", "");
    let told = told.replace("OLDPWD=/\n", "").replace("SHLVL=0\n", "");
    assert_eq!(told, expected);
    assert_eq!(finished.end, End::Exit(0));
}

#[tokio::test]
async fn without_input_there_is_none() {
    let finished = shell("readlink /proc/self/fd/0; cat").run().await.unwrap();
    assert_eq!(text(&finished), "/dev/null\n");
}

#[tokio::test]
async fn our_files_are_not_the_programs() {
    let file = fs::File::open("/etc/hostname").unwrap();
    // SAFETY: a new descriptor for a file that is open; closed below.
    let inherited = unsafe { libc::dup(file.as_raw_fd()) };
    assert!(inherited > 2);
    // The listing has the directory itself open.
    let finished = shell("ls -l /proc/self/fd").run().await.unwrap();
    let names: Vec<_> = text(&finished)
        .lines()
        .filter_map(|line| line.split_once(" -> "))
        .map(|(name, _)| name.rsplit(' ').next().unwrap())
        .collect();
    // SAFETY: it is ours and used by no one else.
    unsafe { libc::close(inherited) };
    assert_eq!(names, ["0", "1", "2", "3"], "{}", text(&finished));
}

#[tokio::test]
async fn both_outputs_are_heard_in_their_order_and_no_more_than_fits() {
    let mut program = shell("echo one; echo two >&2; echo three");
    assert_eq!(text(&program.run().await.unwrap()), "one\ntwo\nthree\n");
    program.keep = 14;
    let finished = program.run().await.unwrap();
    assert_eq!(
        (text(&finished), finished.is_cut),
        ("one\ntwo\nthree\n", false)
    );
    program.keep = 13;
    let finished = program.run().await.unwrap();
    assert_eq!(
        (text(&finished), finished.is_cut),
        ("one\ntwo\nthree", true)
    );
}

#[tokio::test]
async fn a_program_that_prints_a_megabyte_ends_and_little_is_kept() {
    let finished = shell("head -c 1048576 /dev/zero; exit 7")
        .run()
        .await
        .unwrap();
    assert_eq!(finished.end, End::Exit(7));
    assert_eq!(finished.output, vec![0; KEPT_OUTPUT]);
    assert!(finished.is_cut);
}

#[tokio::test]
async fn a_program_that_reads_nothing_of_a_megabyte_ends() {
    let mut program = shell("exit 5");
    program.input = vec![b'x'; 1 << 20];
    assert_eq!(program.run().await.unwrap().end, End::Exit(5));
    program.arguments[1] = "wc -c".to_owned();
    assert_eq!(text(&program.run().await.unwrap()), "1048576\n");
    // One that copies while it is fed keeps neither side waiting.
    program.arguments[1] = "cat; echo done >&2".to_owned();
    let finished = program.run().await.unwrap();
    assert_eq!((finished.end, finished.is_cut), (End::Exit(0), true));
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_told_to_stop() {
    let mut program =
        shell("trap 'echo told; exit 0' TERM; echo begun; while :; do sleep 0.01; done");
    program.timeout = Duration::from_millis(300);
    let finished = program.run().await.unwrap();
    assert_eq!(finished.end, End::Timeout(program.timeout));
    // The shell may say something of the sleep between the two.
    assert!(text(&finished).starts_with("begun\n"), "{finished:?}");
    assert!(text(&finished).ends_with("told\n"), "{finished:?}");
    assert!(finished.took < GRACE, "{:?}", finished.took);
}

#[tokio::test]
async fn a_program_that_will_not_stop_is_killed_with_all_its_processes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let mut program = shell(&format!(
        "trap '' TERM; echo $$ > {}; sleep 1000 & while :; do sleep 1000; done",
        file.display()
    ));
    program.timeout = Duration::from_millis(200);
    let begun = Instant::now();
    let finished = program.run().await.unwrap();
    assert_eq!(finished.end, End::Timeout(program.timeout));
    assert!(begun.elapsed() >= program.timeout + GRACE);
    assert!(begun.elapsed() < LONG);
    nothing_is_left_of(number_in(&file).await).await;
}

#[tokio::test]
async fn processes_that_outlive_the_one_that_was_told_to_stop_are_killed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    // The first process ends on the signal, the second ignores it.
    let mut program = shell(&format!(
        "echo $$ > {}; (trap '' TERM; while :; do sleep 1000; done) & wait",
        file.display()
    ));
    program.timeout = Duration::from_millis(200);
    let finished = program.run().await.unwrap();
    assert_eq!(finished.end, End::Timeout(program.timeout));
    nothing_is_left_of(number_in(&file).await).await;
}

#[tokio::test]
async fn a_daemon_that_is_left_behind_with_the_pipe_keeps_no_one_waiting_and_lives() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let program = shell(&format!(
        "sleep 1000 & echo $! > {}; echo begun",
        file.display()
    ));
    let finished = program.run().await.unwrap();
    assert_eq!(finished.end, End::Exit(0));
    assert_eq!(text(&finished), "begun\n");
    assert!(
        finished.took < Duration::from_secs(5),
        "{:?}",
        finished.took
    );
    let daemon = Pid::from_raw(number_in(&file).await);
    // It was not ours to end; now it is the test's.
    assert_eq!(nix::sys::signal::kill(daemon, Signal::SIGKILL), Ok(()));
}

#[tokio::test]
async fn a_daemon_in_a_session_of_its_own_does_not_hold_the_limit_up() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let mut program = shell(&format!(
        "setsid sh -c 'echo $$ > {}; exec sleep 1000' & sleep 1000",
        file.display()
    ));
    program.timeout = Duration::from_millis(500);
    let finished = program.run().await.unwrap();
    assert_eq!(finished.end, End::Timeout(program.timeout));
    assert!(
        finished.took < Duration::from_secs(5),
        "{:?}",
        finished.took
    );
    let daemon = Pid::from_raw(number_in(&file).await);
    assert_eq!(nix::sys::signal::kill(daemon, Signal::SIGKILL), Ok(()));
}

#[tokio::test]
async fn a_program_that_is_given_up_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let program = shell(&format!(
        "trap '' TERM; echo $$ > {}; sleep 1000 & while :; do sleep 1000; done",
        file.display()
    ));
    let group = tokio::select! {
        finished = program.run() => panic!("{finished:?}"),
        group = number_in(&file) => group,
    };
    nothing_is_left_of(group).await;
}

#[tokio::test]
async fn a_program_that_ended_is_not_left_to_be_reaped() {
    let finished = shell("echo $$").run().await.unwrap();
    let group = text(&finished).trim_end().parse().unwrap();
    assert_eq!(members(group), []);
}
