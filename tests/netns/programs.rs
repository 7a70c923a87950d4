//! Programs run as root, and what happens when others come to be able to change them while the daemon runs; or as another user.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, page},
};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use xtask::lab::wait_until;

use crate::{
    health::{self, CHECKED, url},
    shares,
};

/// Within what a change of [`CHECKED`] is told: two intervals, as `rise` and `fall` are two, and a second for a busy
/// machine.
const PROMISED: Duration = Duration::from_millis(2 * 200 + 1000);

struct Place(tempfile::TempDir);

impl Place {
    /// Where nobody else may look.
    fn new() -> Self {
        Self::below("/root")
    }

    /// Where everybody may read and run what is root's.
    fn public() -> Self {
        let place = Self::below("/tmp");
        set_mode(place.0.path(), 0o755);
        place
    }

    fn below(folder: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("balancer-tests-")
            .tempdir_in(folder);
        Self(folder.expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, lines: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(
            &path,
            format!("#!/bin/sh\ncd {}\n{lines}\n", self.0.path().display()),
        )
        .expect("write a program");
        set_mode(&path, 0o755);
        path
    }

    fn lines(&self, name: &str) -> usize {
        let text = fs::read_to_string(self.path(name));
        text.unwrap_or_default().lines().count()
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
}

/// Waits until the check that runs this program is so.
#[track_caller]
fn wait_for(daemon: &Daemon, program: &Path, state: &str, obstacle: Option<&str>) {
    let mut last = serde_json::Value::Null;
    wait_until("the check", Duration::from_secs(15), || {
        let report = daemon.json("health");
        let mut checkers = report["checkers"].as_array().into_iter().flatten();
        let found =
            checkers.find(|checker| checker["check"]["run"][0].as_str() == program.to_str());
        last = found.cloned().unwrap_or_default();
        Ok(last["state"] == state && last["obstacle"].as_str() == obstacle)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last:#}\n{}", daemon.log()));
}

#[track_caller]
fn wait_for_log(daemon: &Daemon, line: &str) {
    wait_until("the log", Duration::from_secs(15), || {
        Ok(daemon.log().contains(line))
    })
    .unwrap_or_else(|error| panic!("{error:#}: no `{line}` in\n{}", daemon.log()));
}

#[test]
fn a_program_that_others_can_change_by_now_is_not_run_until_they_cannot() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 1);
    let place = Place::new();
    let check = place.program("check", "echo >> asked; [ ! -e fail ]");
    let clock = place.program("clock", "echo >> ticks");
    let alert = place.program("alert", "echo >> told");
    let (checked, alerted) = (check.display(), alert.display());
    let daemon = Daemon::start(
        &topology,
        &format!(
            "[[notify]]\non = [\"real-down\", \"real-up\"]\nrun = [\"{alerted}\"]\n\
             [[service]]\nname = \"web\"\naddress = \"192.0.2.80:80\"\n\
             [[service.check]]\ntype = \"exec\"\nrun = [\"{checked}\"]\ninterval = \"200ms\"\nrise = 1\nfall = 1\n\
             [[service.check]]\ntype = \"exec\"\nrun = [\"{}\"]\ninterval = \"200ms\"\n\
             [[service.real]]\naddress = \"192.168.0.2:80\"\n",
            clock.display()
        ),
    );
    wait_for(&daemon, &check, "up", None);
    fs::write(place.path("fail"), "").expect("a file");
    wait_for(&daemon, &check, "down", None);
    wait_until("the program to be told", Duration::from_secs(5), || {
        Ok(place.lines("told") > 0)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
    let told = place.lines("told");

    set_mode(&alert, 0o757);
    set_mode(&check, 0o775);
    let sentence = |path: &Path, others: &str, mend: &str| {
        let path = path.display();
        format!(
            "`{path}` can be written by {others}, and the program would run as root: `chmod {mend} {path}`, or move \
             the program elsewhere"
        )
    };
    let obstacle = format!(
        "cannot run {checked}: {}",
        sentence(&check, "its group", "g-w")
    );
    wait_for(&daemon, &check, "down", Some(&obstacle));
    let limited =
        format!("check exec of 192.168.0.2:80 cannot be made and counts for nothing: {obstacle}");
    let reasons = daemon.json("status")["reasons"].to_string();
    assert!(
        reasons.contains("check exec of 192.168.0.2:80"),
        "{reasons}"
    );
    wait_for_log(&daemon, &limited);
    // It would pass again, if it ran.
    fs::remove_file(place.path("fail")).expect("remove it");
    let asked = place.lines("asked");
    // The other check, at the same interval, shows that it would have been run again by now.
    let ticks = place.lines("ticks") + 5;
    wait_until("the other check", Duration::from_secs(15), || {
        Ok(place.lines("ticks") >= ticks)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
    wait_for(&daemon, &check, "down", Some(&obstacle));
    assert_eq!(place.lines("asked"), asked);

    set_mode(&check, 0o755);
    wait_for(&daemon, &check, "up", None);
    wait_for_log(
        &daemon,
        &format!(
            "notify programs could not be run: run {alerted}: {}",
            sentence(&alert, "others", "o-w")
        ),
    );
    assert_eq!(place.lines("told"), told);
}

#[test]
fn a_notify_program_that_hangs_is_in_nobodys_way() {
    if privileged::skipped() {
        return;
    }
    let mut topology = Topology::with_web(Arms::Two, 2);
    let place = Place::new();
    let hangs = place.program("hangs", "echo $$ >> pids\nexec sleep 1000");
    let tells = place.program("tells", "echo \"$MON_ALERTTYPE\" >> told");
    let mut config = String::new();
    for program in [hangs, tells] {
        config += &format!(
            "[[notify]]\non = [\"real-down\", \"real-up\"]\nrun = [\"{}\"]\ntimeout = \"1h\"\n",
            program.display()
        );
    }
    let daemon = Daemon::start(&topology, &(config + CHECKED));
    health::wait_for(&daemon, &["up", "up"]);
    let both = [("real1", 5), ("real2", 5)].into();
    assert_eq!(shares(&topology.curl(&url(), 10)), both);
    let mut events = daemon.follow_events();
    let mut hung = None;
    // Later rounds have a program that hangs from their beginning on, and more and more to tell it.
    for round in 0..3 {
        let start = Instant::now();
        topology.reals[0].stop_programs();
        let (came, event) = events.next_with("real-down");
        assert!(event.contains("192.168.0.2:80"), "{event}");
        assert!(
            came - start <= PROMISED,
            "round {round}: {:?}",
            came - start
        );
        let answers = topology.curl(&url(), 10);
        assert_eq!(shares(&answers), [("real2", 10)].into(), "round {round}");

        let start = Instant::now();
        topology.reals[0].start_nginx(&format!("listen 80; {}", page(1)));
        let (came, event) = events.next_with("real-up");
        assert!(event.contains("192.168.0.2:80"), "{event}");
        assert!(
            came - start <= PROMISED,
            "round {round}: {:?}",
            came - start
        );
        assert_eq!(shares(&topology.curl(&url(), 10)), both, "round {round}");

        // It was begun with the first event, hangs since, and the next one waits for it.
        wait_until("the program", Duration::from_secs(5), || {
            Ok(place.lines("pids") > 0)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
        let pids = fs::read_to_string(place.path("pids")).expect("a file");
        assert_eq!(*hung.get_or_insert(pids.clone()), pids, "round {round}");
        let process = Path::new("/proc").join(pids.trim()).join("comm");
        let name = fs::read_to_string(process).unwrap_or_default();
        assert_eq!(name, "sleep\n", "round {round}");
    }
    // What the other program is told does not wait for it either. ("up" is mon's word for real-up.)
    wait_until("the other program", Duration::from_secs(5), || {
        Ok(place.lines("told") >= 6)
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
    let told = fs::read_to_string(place.path("told")).expect("a file");
    assert_eq!(told, "failure\nup\n".repeat(3));
}

/// A user of each Debian as whom nothing runs: its user id is 5 and its group's id is 60.
const USER: &str = "games";

#[test]
fn a_program_runs_as_its_user_with_nothing_of_roots() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 1);
    let place = Place::public();
    let output = place.path("output");
    fs::write(&output, "").expect("a file");
    std::os::unix::fs::chown(&output, Some(5), None).expect("its owner");
    let who = "$(id -u) $(id -g) $(id -G) $(ls /proc/self/fd | tr -d '\\n') \
               $(sed -n 's/^SigIgn:.*\\(....\\)$/\\1/p; s/^CapEff:.//p' /proc/self/status | tr '\\n' ' ') $(ulimit -l)";
    let check = place.program(
        "check",
        &format!("echo \"{who} $*\" > /dev/stdout; echo > /dev/stderr || exit 1"),
    );
    let alert = place.program(
        "alert",
        &format!(
            "echo \"{who} $(head -c 9 /dev/stdin)\" >> {}",
            output.display()
        ),
    );
    let secret = place.program("secret", "exit 0");
    set_mode(&secret, 0o700);
    let daemon = Daemon::start(
        &topology,
        &format!(
            "[[notify]]\non = [\"service-added\", \"reloaded\"]\nrun = [\"{}\"]\nuser = \"{USER}\"\n\
             [[service]]\nname = \"web\"\naddress = \"192.0.2.80:80\"\n\
             [[service.check]]\ntype = \"exec\"\nrun = [\"{}\", \"a b\"]\nuser = \"{USER}\"\ninterval = \"200ms\"\n\
             [[service.check]]\ntype = \"exec\"\nrun = [\"{}\"]\nuser = \"{USER}\"\ninterval = \"200ms\"\n\
             [[service.real]]\naddress = \"192.168.0.2:80\"\n",
            alert.display(),
            check.display(),
            secret.display(),
        ),
    );
    wait_for(&daemon, &check, "up", None);
    let report = daemon.json("health");
    let checkers = report["checkers"].as_array().expect("checkers");
    let of = |program: &Path| {
        checkers
            .iter()
            .find(|checker| checker["check"]["run"][0].as_str() == program.to_str())
            .expect("its check")
    };
    // `ls` has the folder that it reads as its fourth file. Of the ignored signals those with names, of the capabilities all.
    // Memory that may be locked is limited as for this process.
    let (locked, _) = getrlimit(Resource::RLIMIT_MEMLOCK).expect("a limit");
    let locked = match locked {
        RLIM_INFINITY => "unlimited".to_owned(),
        bytes => (bytes / 1024).to_string(),
    };
    let nothing = format!("0123 0000 0000000000000000  {locked}");
    assert_eq!(
        of(&check)["last"]["message"],
        format!("5 60 60 {nothing} a b 192.168.0.2"),
        "{report:#}"
    );
    assert_eq!(of(&check)["check"]["user"], USER);
    let obstacle = format!(
        "cannot run {}: user `{USER}` may not execute it",
        secret.display()
    );
    wait_for(&daemon, &secret, "unknown", Some(&obstacle));
    daemon.ctl("reload");
    wait_until("the program to be told", Duration::from_secs(5), || {
        Ok(fs::read_to_string(&output)?.contains("60 60"))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log()));
    let text = fs::read_to_string(&output).expect("what it was told");
    assert_eq!(
        text.lines().next().expect("a line"),
        format!("5 60 60 {nothing} {{\"summary")
    );
}

#[test]
fn a_user_who_stops_all_its_processes_stops_nothing_else() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::with_web(Arms::Two, 2);
    let (public, place) = (Place::public(), Place::new());
    let theirs = public.program("theirs", "exit 0");
    let own = place.program("own", "echo >> asked");
    let daemon = Daemon::start(
        &topology,
        &format!(
            "[[service]]\nname = \"web\"\naddress = \"192.0.2.80:80\"\n\
             [[service.check]]\ntype = \"exec\"\nrun = [\"{}\"]\nuser = \"{USER}\"\ninterval = \"50ms\"\n\
             timeout = \"50ms\"\n\
             [[service.real]]\naddress = \"192.168.0.2:80\"\n\
             [[service]]\nname = \"other\"\naddress = \"192.0.2.80:81\"\n\
             [[service.check]]\ntype = \"exec\"\nrun = [\"{}\"]\ninterval = \"200ms\"\n\
             [[service.real]]\naddress = \"192.168.0.2:80\"\n",
            theirs.display(),
            own.display(),
        ),
    );
    wait_for(&daemon, &own, "up", None);
    let attack = Attack::start();
    wait_for(&daemon, &theirs, "down", None);
    let asked = place.lines("asked");
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        let _ = daemon.json("status");
        slowest = slowest.max(asked.elapsed());
    }
    let asked = place.lines("asked") - asked;
    drop(attack);
    assert!(asked >= 8, "{asked} of 15, {slowest:?}\n{}", daemon.log());
    wait_for(&daemon, &theirs, "up", None);
}

/// A process of [`USER`] that stops all others which it may stop, until this is dropped.
struct Attack(std::process::Child);

impl Attack {
    fn start() -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "while :; do kill -STOP -1; done 2> /dev/null"]);
        Self(shell.uid(5).gid(60).spawn().expect("the attack"))
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
