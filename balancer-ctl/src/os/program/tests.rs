//! Runs real programs, misbehaving ones among them.

use std::{
    fs,
    os::{fd::AsRawFd, unix::fs::PermissionsExt as _},
    path::Path,
};

use nix::unistd::Pid;
use tokio::time::sleep;

use super::*;
use crate::os::open_files;

const LONG_TIMEOUT: Duration = Duration::from_secs(20);
const RETAINED_BYTES: usize = 16 * 1024;

/// A shell that runs these lines.
fn shell(lines: &str) -> Program {
    Program {
        path: "/bin/sh".into(),
        arguments: vec!["-c".to_owned(), lines.to_owned()],
        user: None,
        check_timeout: LONG_TIMEOUT,
        environment: Vec::new(),
        input: Vec::new(),
        timeout: Some(LONG_TIMEOUT),
        keep: RETAINED_BYTES,
        errors: StderrMode::WithOutput,
        left: Leftovers::LeaveRunning,
    }
}

/// A check that allows the program.
const fn allowed(_: &Account) -> Result<(), String> {
    Ok(())
}

fn text(finished: &Finished) -> &str {
    str::from_utf8(&finished.output.bytes).unwrap()
}

/// The processes of a group as (id, id of the parent, state).
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

/// Waits until no process of the group runs and this process has none of them to reap. Others may have zombies to reap.
async fn wait_until_group_is_gone(group: i32) {
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

/// Waits until a program has written a number to a file.
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
        let finished = shell(&format!("exit {status}")).run(allowed).await.unwrap();
        assert_eq!(finished.end, ExitReason::Exit(status));
        assert_eq!(finished.output, Output::default());
    }
    let finished = shell("kill -USR1 $$").run(allowed).await.unwrap();
    assert_eq!(finished.end, ExitReason::Signal(libc::SIGUSR1));
    assert_eq!(finished.end.to_string(), "killed by SIGUSR1");
    assert_eq!(ExitReason::Exit(3).to_string(), "exit status 3");
    assert_eq!(
        ExitReason::Timeout(Duration::from_millis(1500)).to_string(),
        "not done after 1s 500ms and killed"
    );
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_an_error() {
    let mut program = shell("");
    program.path = "/nowhere/alert".into();
    let error = program.run(allowed).await.unwrap_err();
    assert_eq!(error.to_string(), "no such file or directory");
    let file = tempfile::NamedTempFile::new().unwrap();
    program.path = file.path().into();
    let error = program.run(allowed).await.unwrap_err();
    assert_eq!(error.to_string(), "permission denied");
    // The kernel reports these as a missing script.
    let folder = tempfile::tempdir().unwrap();
    for (text, sentence) in [
        (
            "#!/nowhere/sh\n",
            "the interpreter that its `#!` line names, or its loader, does not exist",
        ),
        (
            "echo\n",
            "it is neither a program for this host nor a script that begins with `#!`",
        ),
    ] {
        program.path = folder.path().join("script");
        fs::write(&program.path, text).unwrap();
        fs::set_permissions(&program.path, fs::Permissions::from_mode(0o755)).unwrap();
        let error = program.run(allowed).await.unwrap_err();
        assert!(matches!(&error, ProgramError::Missing(_)), "{error:?}");
        assert_eq!(error.to_string(), sentence);
    }
    let mut program = shell("");
    program.arguments.push("a\0b".to_owned());
    let error = program.run(allowed).await.unwrap_err();
    assert!(matches!(error, ProgramError::System(_)), "{error}");
}

#[tokio::test]
async fn a_program_is_checked_at_each_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ran");
    let program = shell(&format!("echo >> {}", file.display()));
    program.run(allowed).await.unwrap();
    let error = program
        .run(|_| Err::<(), _>("no more".to_owned()))
        .await
        .unwrap_err();
    assert!(matches!(&error, ProgramError::Refused(_)), "{error:?}");
    assert_eq!(error.to_string(), "no more");
    assert_eq!(fs::read_to_string(file).unwrap(), "\n");
}

#[tokio::test]
async fn a_program_leads_a_session_without_a_terminal() {
    let program = shell(
        "read -r _ _ _ _ group session _ < /proc/$$/stat
         echo $((group - $$)) $((session - $$))
         cat < /dev/tty",
    );
    let finished = program.run(allowed).await.unwrap();
    let (ids, terminal) = text(&finished).split_once('\n').unwrap();
    assert_eq!(ids, "0 0");
    assert!(terminal.contains("No such device or address"), "{terminal}");
}

#[tokio::test]
async fn a_check_that_takes_too_long_ends_the_start() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let program = Program {
        check_timeout: Duration::from_millis(50),
        ..shell("exit 7")
    };
    let error = program.run(move |_| wait.recv().map_err(|error| error.to_string()));
    let error = error.await.unwrap_err();
    assert!(matches!(&error, ProgramError::Refused(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "it could not be checked within 50ms: its files, or the user database, do not answer"
    );
    go.send(()).unwrap();
}

#[tokio::test]
async fn a_check_that_blocks_does_not_block_the_runtime() {
    let (go, wait) = std::sync::mpsc::channel();
    let program = shell("exit 7");
    let run = program.run(move |_| wait.recv().map_err(|error| error.to_string()));
    let (ran, ()) = tokio::join!(run, async { go.send(()).unwrap() });
    assert_eq!(ran.unwrap().end, ExitReason::Exit(7));
}

#[tokio::test]
async fn what_the_check_returns_is_kept_until_the_program_is_reaped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own");
    let program = shell(&format!("echo $$ > {}; sleep 1000", file.display()));
    let (kept, mut given_back) = tokio::sync::mpsc::channel::<()>(1);
    let mut run = Box::pin(program.run(|_| Ok(kept)));
    let process = tokio::select! {
        ended = &mut run => panic!("{ended:?}"),
        process = number_in(&file) => process,
    };
    drop(run);
    let back = given_back.try_recv();
    assert_eq!(back, Err(tokio::sync::mpsc::error::TryRecvError::Empty));
    assert_eq!(given_back.recv().await, None);
    assert!(!Path::new("/proc").join(process.to_string()).exists());
}

#[tokio::test]
async fn a_program_does_not_inherit_signals_and_limits() {
    use nix::sys::signal::{SigHandler, SigSet, signal};
    // As if a shell had started this process in the background.
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGUSR2, SigHandler::SigIgn) }.unwrap();
    SigSet::from(Signal::SIGUSR1).thread_block().unwrap();
    let before = SigSet::thread_get_mask().unwrap();
    let raised = open_files::raise(u64::MAX).unwrap();
    let limit = open_files::started_with().unwrap();
    assert_eq!(raised, limit.hard);
    let program = shell("ulimit -Sn; ulimit -Hn; exec grep -E '^Sig(Blk|Ign)' /proc/self/status");
    let finished = program.run(allowed).await.unwrap();
    // Signals 32 and 33 are the C library's own: it lets none set them, and leaves them ignored in what it starts.
    let own = 0b11 << 31;
    let set = |name: &str| {
        let mut lines = text(&finished).lines();
        let set = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(set.trim(), 16).unwrap() & !own
    };
    assert_eq!((set("SigBlk:"), set("SigIgn:")), (0, 0));
    let limits: Vec<_> = text(&finished).lines().take(2).collect();
    assert_eq!(limits, [limit.soft.to_string(), limit.hard.to_string()]);
    // Those of this process are unchanged.
    assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    assert_eq!(open_files::raise(0), Some(raised));
    // SAFETY: no handler is installed.
    let own = unsafe { signal(Signal::SIGUSR2, SigHandler::SigDfl) }.unwrap();
    assert!(matches!(own, SigHandler::SigIgn), "{own:?}");
}

#[tokio::test]
async fn leftover_processes_are_killed_if_configured() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let mut program = shell(&format!(
        "echo $$ > {}; sleep 1000 & echo begun",
        file.display()
    ));
    program.left = Leftovers::Kill;
    let finished = program.run(allowed).await.unwrap();
    assert_eq!(
        (finished.end, text(&finished)),
        (ExitReason::Exit(0), "begun\n")
    );
    wait_until_group_is_gone(number_in(&file).await).await;
}

#[tokio::test]
async fn standard_error_is_kept_apart_up_to_the_limit() {
    let mut program = shell("echo one; echo two >&2; echo three");
    program.errors = StderrMode::Apart;
    program.keep = 4;
    let finished = program.run(allowed).await.unwrap();
    let output = |bytes: &[u8], is_cut| Output {
        bytes: bytes.to_vec(),
        is_cut,
    };
    assert_eq!(finished.output, output(b"one\n", true));
    assert_eq!(finished.errors, output(b"two\n", false));
}

#[tokio::test]
async fn without_a_limit_a_program_runs_until_it_ends() {
    let mut program = shell("sleep 0.05; echo done");
    program.timeout = None;
    assert_eq!(text(&program.run(allowed).await.unwrap()), "done\n");
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
    let finished = program.run(allowed).await.unwrap();
    let expected = format!(
        "<a b><$(id)><><*>\nLANG=C.UTF-8\nNAME=x y\nPATH={PATH}\nPWD=/\nz=$HOME\n/\nin\nput"
    );
    // Some shells set `_`.
    let environment = text(&finished).replace("_=/usr/bin/env\n", "");
    let environment = environment
        .replace("OLDPWD=/\n", "")
        .replace("SHLVL=0\n", "");
    assert_eq!(environment, expected);
    assert_eq!(finished.end, ExitReason::Exit(0));
}

#[tokio::test]
async fn without_input_there_is_none() {
    let finished = shell("readlink /proc/self/fd/0; cat")
        .run(allowed)
        .await
        .unwrap();
    assert_eq!(text(&finished), "/dev/null\n");
}

#[tokio::test]
async fn a_program_does_not_inherit_files() {
    let file = File::open("/etc/hostname").unwrap();
    // SAFETY: a new descriptor for a file that is open; closed below.
    let inherited = unsafe { libc::dup(file.as_raw_fd()) };
    assert!(inherited > 2);
    // 3 is the directory that `ls` reads.
    let finished = shell("ls -l /proc/self/fd").run(allowed).await.unwrap();
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
async fn both_outputs_are_kept_in_order_up_to_the_limit() {
    let mut program = shell("echo one; echo two >&2; echo three");
    assert_eq!(
        text(&program.run(allowed).await.unwrap()),
        "one\ntwo\nthree\n"
    );
    program.keep = 14;
    let finished = program.run(allowed).await.unwrap();
    assert_eq!(
        (text(&finished), finished.output.is_cut),
        ("one\ntwo\nthree\n", false)
    );
    program.keep = 13;
    let finished = program.run(allowed).await.unwrap();
    assert_eq!(
        (text(&finished), finished.output.is_cut),
        ("one\ntwo\nthree", true)
    );
}

#[tokio::test]
async fn a_program_that_prints_a_megabyte_ends_and_little_is_kept() {
    let finished = shell("head -c 1048576 /dev/zero; exit 7")
        .run(allowed)
        .await
        .unwrap();
    assert_eq!(finished.end, ExitReason::Exit(7));
    assert_eq!(finished.output.bytes, vec![0; RETAINED_BYTES]);
    assert!(finished.output.is_cut);
}

#[tokio::test]
async fn a_program_that_reads_nothing_of_a_megabyte_ends() {
    let mut program = shell("exit 5");
    program.input = vec![b'x'; 1 << 20];
    assert_eq!(program.run(allowed).await.unwrap().end, ExitReason::Exit(5));
    program.arguments[1] = "wc -c".to_owned();
    assert_eq!(text(&program.run(allowed).await.unwrap()), "1048576\n");
    // A program that writes while it reads blocks neither side.
    program.arguments[1] = "cat; echo done >&2".to_owned();
    let finished = program.run(allowed).await.unwrap();
    assert_eq!(
        (finished.end, finished.output.is_cut),
        (ExitReason::Exit(0), true)
    );
}

#[tokio::test]
async fn a_program_that_takes_too_long_gets_sigterm() {
    let mut program =
        shell("trap 'echo stopped; exit 0' TERM; echo begun; while :; do sleep 0.01; done");
    program.timeout = Some(Duration::from_millis(300));
    let finished = program.run(allowed).await.unwrap();
    assert_eq!(finished.end, ExitReason::Timeout(program.timeout.unwrap()));
    // The shell may say something of the sleep between the two.
    assert!(text(&finished).starts_with("begun\n"), "{finished:?}");
    assert!(text(&finished).ends_with("stopped\n"), "{finished:?}");
    assert!(finished.took < STOP_GRACE, "{:?}", finished.took);
}

#[tokio::test]
async fn a_program_that_will_not_stop_is_killed_with_all_its_processes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let mut program = shell(&format!(
        "trap '' TERM; echo $$ > {}; sleep 1000 & while :; do sleep 1000; done",
        file.display()
    ));
    program.timeout = Some(Duration::from_millis(200));
    let begun = Instant::now();
    let finished = program.run(allowed).await.unwrap();
    assert_eq!(finished.end, ExitReason::Timeout(program.timeout.unwrap()));
    assert!(begun.elapsed() >= program.timeout.unwrap() + STOP_GRACE);
    assert!(begun.elapsed() < LONG_TIMEOUT);
    wait_until_group_is_gone(number_in(&file).await).await;
}

#[tokio::test]
async fn processes_that_outlive_the_stopped_program_are_killed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    // The first process ends on SIGTERM, the second ignores it.
    let mut program = shell(&format!(
        "echo $$ > {}; (trap '' TERM; while :; do sleep 1000; done) & wait",
        file.display()
    ));
    program.timeout = Some(Duration::from_millis(200));
    let finished = program.run(allowed).await.unwrap();
    assert_eq!(finished.end, ExitReason::Timeout(program.timeout.unwrap()));
    wait_until_group_is_gone(number_in(&file).await).await;
}

#[tokio::test]
async fn a_daemon_that_is_left_behind_with_the_pipe_keeps_no_one_waiting_and_lives() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let program = shell(&format!(
        "sleep 1000 & echo $! > {}; echo begun",
        file.display()
    ));
    let finished = program.run(allowed).await.unwrap();
    assert_eq!(finished.end, ExitReason::Exit(0));
    assert_eq!(text(&finished), "begun\n");
    assert!(
        finished.took < Duration::from_secs(5),
        "{:?}",
        finished.took
    );
    let daemon = Pid::from_raw(number_in(&file).await);
    // The program was to leave it running; the test ends it.
    assert_eq!(nix::sys::signal::kill(daemon, Signal::SIGKILL), Ok(()));
}

#[tokio::test]
async fn a_daemon_in_a_session_of_its_own_does_not_delay_the_timeout() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let mut program = shell(&format!(
        "setsid sh -c 'echo $$ > {}; exec sleep 1000' & sleep 1000",
        file.display()
    ));
    program.timeout = Some(Duration::from_millis(500));
    let finished = program.run(allowed).await.unwrap();
    assert_eq!(finished.end, ExitReason::Timeout(program.timeout.unwrap()));
    assert!(
        finished.took < Duration::from_secs(5),
        "{:?}",
        finished.took
    );
    let daemon = Pid::from_raw(number_in(&file).await);
    assert_eq!(nix::sys::signal::kill(daemon, Signal::SIGKILL), Ok(()));
}

#[tokio::test]
async fn a_dropped_program_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("id");
    let program = shell(&format!(
        "trap '' TERM; echo $$ > {}; sleep 1000 & while :; do sleep 1000; done",
        file.display()
    ));
    let group = tokio::select! {
        finished = program.run(allowed) => panic!("{finished:?}"),
        group = number_in(&file) => group,
    };
    wait_until_group_is_gone(group).await;
}

#[tokio::test]
async fn a_program_that_ended_is_reaped() {
    let finished = shell("echo $$").run(allowed).await.unwrap();
    let group = text(&finished).trim_end().parse().unwrap();
    assert_eq!(members(group), []);
}
