//! `balancerd` with the packet program in a network namespace: signals, and what stays when it goes.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use balancer_tests::{
    daemon::Daemon,
    privileged,
    topology::{Arms, Topology, run},
};
use nix::sys::signal::Signal;
use xtask::lab::wait_until;

const WEB: &str = "
[[service]]
name = \"web\"
address = \"192.0.2.80:80\"

[[service.real]]
address = \"192.168.0.2:80\"
";

fn weights(daemon: &Daemon) -> Vec<u64> {
    let services = daemon.json("list");
    let reals = services["services"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|service| {
            service["reals"]
                .as_array()
                .expect("reals")
                .iter()
                .map(|real| real["weight"].as_u64().expect("a weight"))
        });
    reals.collect()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_until(what, Duration::from_secs(10), || Ok(condition()))
        .unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn sighup_loads_the_file_again_and_a_bad_one_changes_nothing() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::One, 1);
    let mut daemon = Daemon::start(&topology, WEB);
    assert_eq!(weights(&daemon), [1]);

    daemon.write(&format!("{}weight = 7\n", daemon.read()));
    daemon.process().signal(Signal::SIGHUP).expect("it runs");
    until("the new weight", || weights(&daemon) == [7]);

    let good = daemon.read();
    daemon.write(&good.replace("weight = 7", "weight = 70000\nwheight = 1"));
    daemon.process().signal(Signal::SIGHUP).expect("it runs");
    let place = daemon.config.display().to_string();
    let line = good
        .lines()
        .position(|line| line == "weight = 7")
        .expect("the line")
        + 1;
    until("both errors in the log", || {
        let log = daemon.log();
        log.contains(&format!(
            "{place}:{line}:10: weight 70000 of real 192.168.0.2:80 is out of range: 0..=65535"
        )) && log.contains(&format!(
            "{place}:{}:1: unknown key `wheight` in `real`",
            line + 1
        ))
    });
    assert_eq!(weights(&daemon), [7]);
    assert_eq!(daemon.process().ended().expect("asked"), None);
}

#[test]
fn an_account_that_can_write_the_file_gets_no_program_run() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::One, 1);
    let mut daemon = Daemon::start(&topology, WEB);
    let file = daemon.config.clone();
    let folder = file.parent().expect("a folder");
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
    };
    set(folder, 0o755);
    set(&file, 0o646);
    let proof = folder.join("proof");
    let run = format!(
        "run = [\"/bin/sh\", \"-c\", \"echo >> {}\"]",
        proof.display()
    );
    let check = format!("[[service.check]]\ntype = \"exec\"\n{run}\ninterval = \"100ms\"\n");
    let mut attack = Command::new("sh");
    attack.args(["-c", "printf '%s' \"$1\" >> \"$2\"", "sh", &check]);
    attack.arg(&file).uid(65534).gid(65534);
    assert!(attack.status().expect("it runs").success());
    let path = file.display();
    let warning = format!(
        "programs that {path} names are not run, and checks that run one keep their state: `{path}` can be written by \
         others: `chmod o-w {path}`, see what it says, then `balancer-ctl reload`"
    );
    daemon.process().signal(Signal::SIGHUP).expect("it runs");
    until("the warning", || daemon.log().contains(&warning));
    let reasons = daemon.json("status")["reasons"].clone();
    let reasons: Vec<String> = serde_json::from_value(reasons).expect("sentences");
    assert!(reasons.contains(&warning), "{reasons:?}");
    thread::sleep(Duration::from_millis(500));
    assert!(!proof.exists(), "it has run");
    // Nor after a restart.
    daemon.stop();
    daemon.restart();
    thread::sleep(Duration::from_millis(500));
    assert!(!proof.exists(), "it has run");
    // Root takes it over.
    set(&file, 0o644);
    daemon.ctl("reload");
    until("the program", || proof.exists());
    let reasons = daemon.json("status")["reasons"].to_string();
    assert!(!reasons.contains("programs"), "{reasons}");
}

#[test]
fn a_killed_daemons_socket_is_replaced_and_a_stopped_ones_is_gone() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::One, 1);
    let mut daemon = Daemon::start(&topology, WEB);
    let socket = format!("/run/balancer/{}/control.sock", daemon.instance);
    daemon.ctl("add-real 192.168.0.3 --runtime");
    daemon.process().signal(Signal::SIGKILL).expect("it runs");
    daemon
        .process()
        .wait(Duration::from_secs(10))
        .expect("it ends");
    assert!(UnixStream::connect(&socket).is_err(), "no one answers");
    assert!(
        fs::symlink_metadata(&socket).is_ok(),
        "its file is still there"
    );

    daemon.restart();
    assert_eq!(
        weights(&daemon),
        [1],
        "what the file does not say is forgotten"
    );
    daemon.stop();
    assert!(fs::symlink_metadata(&socket).is_err(), "its file is gone");
    let output = run(daemon.command("balancer-ctl").arg("list"));
    assert_eq!(output.status.code(), Some(3));
    daemon.detach();
    assert!(!daemon.pins().exists(), "nothing is pinned any more");
}

#[test]
fn without_a_file_nothing_is_written_and_the_status_says_so() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::One, 1);
    let daemon = Daemon::prepare(&topology, "");
    let mut command = daemon.command("balancerd");
    command
        .args(["--interface", "inside"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let process = xtask::lab::Process::spawn("balancerd", &mut command).expect("start");
    until("an answer", || {
        run(daemon.command("balancer-ctl").arg("status"))
            .status
            .success()
    });
    daemon.ctl("add-service 192.0.2.80:80");
    daemon.ctl("add-real 192.168.0.2");
    assert!(
        daemon
            .ctl("list")
            .lines()
            .skip(2)
            .all(|line| line.ends_with("  runtime")),
        "{}",
        daemon.ctl("list")
    );
    let status = daemon.ctl("status");
    let line = "config       none: every change is forgotten when the daemon stops";
    assert!(status.lines().any(|found| found == line), "{status}");
    assert_eq!(daemon.read(), "");
    drop(process);
    daemon.detach();
}

#[test]
fn a_start_without_a_socket_touches_nothing() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::One, 1);
    let daemon = Daemon::prepare(
        &topology,
        &format!("[dataplane]\ninterfaces = [\"inside\"]\n{WEB}"),
    );
    let socket = daemon.folder().join("control.sock");
    fs::write(&socket, "a file").expect("write");
    let output = run(daemon
        .command("balancerd")
        .arg("--config")
        .arg(&daemon.config)
        .arg("--socket")
        .arg(&socket));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!(
            "error: {} is there and is no socket: remove it or choose another with --socket\n",
            socket.display()
        )
    );
    assert!(!daemon.pins().exists());
    let note = Path::new("/var/lib/balancer").join(&daemon.instance);
    assert!(!note.exists());
    let link = topology
        .balancer
        .output("ip", &["link"])
        .expect("the links");
    assert!(!link.contains("xdp"), "{link}");
}

/// A failed start: what goes before the daemon's command line, what follows it, and what it says.
struct FailedStart {
    shell: &'static str,
    arguments: Vec<String>,
    says: String,
}

#[test]
fn a_failed_start_leaves_nothing_behind() {
    if privileged::skipped() {
        return;
    }
    let topology = Topology::new(Arms::One, 1);
    let dataplane = |interfaces: &str| format!("[dataplane]\ninterfaces = {interfaces}\n{WEB}");
    let daemon = Daemon::prepare(&topology, &dataplane("[\"inside\"]"));
    let config = daemon.config.display().to_string();
    let lost = daemon.folder().join("lost.toml").display().to_string();
    fs::write(&lost, dataplane("[\"inside\", \"nowhere0\"]")).expect("write");
    let loopback = daemon.folder().join("lo.toml").display().to_string();
    fs::write(&loopback, dataplane("[\"inside\", \"lo\"]")).expect("write");
    let state = Path::new("/var/lib/balancer").join(&daemon.instance);
    let run_folder = Path::new("/run/balancer").join(&daemon.instance);
    let host = || {
        let output = |program, arguments: &[&str]| {
            let output = topology.balancer.output(program, arguments);
            output.expect("it runs")
        };
        (
            output("ip", &["-details", "link"]),
            output("sysctl", &["-a", "-r", "^net\\.ipv[46]\\.conf"]),
        )
    };
    let before = host();
    let with = |config: &str| vec!["--config".to_owned(), config.to_owned()];
    let starts = [
        FailedStart {
            shell: "",
            arguments: with(&lost),
            says: format!(
                "{lost}:2:25: the interface nowhere0 does not exist: see `ip link` for the names there are"
            ),
        },
        FailedStart {
            shell: "",
            arguments: with(&loopback),
            says: format!("{loopback}:2:25: "),
        },
        FailedStart {
            shell: "",
            arguments: [
                with(&config),
                vec!["--socket".into(), "/proc/none/a.sock".into()],
            ]
            .concat(),
            says: "cannot make the directory /proc/none: ".to_owned(),
        },
        FailedStart {
            // Longer than the address of a socket may be.
            shell: "",
            arguments: [
                with(&config),
                vec![
                    "--socket".into(),
                    format!("{}/new/{}", daemon.folder().display(), "x".repeat(100)),
                ],
            ]
            .concat(),
            says: "cannot bind the control socket ".to_owned(),
        },
        FailedStart {
            shell: "mount -t tmpfs none /sys/fs",
            arguments: with(&config),
            says: "/sys/fs/bpf is not there: this kernel was built without bpf(2)".to_owned(),
        },
        FailedStart {
            // A file stands where the instance's folder would be.
            shell: "mount -t tmpfs none /var/lib && mkdir /var/lib/balancer && touch /var/lib/balancer/$INSTANCE",
            arguments: with(&config),
            says: format!("{}", state.display()),
        },
        FailedStart {
            shell: "mkdir -p /var/lib/balancer && mount -t tmpfs -o ro none /var/lib/balancer",
            arguments: with(&config),
            says: "Read-only file system (os error 30)".to_owned(),
        },
    ];
    for FailedStart {
        shell,
        arguments,
        says,
    } in starts
    {
        let command = daemon.command("balancerd");
        let script = format!(
            "{}; exec timeout 20 \"$@\"",
            if shell.is_empty() { ":" } else { shell }
        );
        let output = run(Command::new("unshare")
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .args(["--log", "off"])
            .args(&arguments)
            .env("INSTANCE", &daemon.instance));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let error = said.lines().find(|line| line.starts_with("error: "));
        assert!(error.is_some_and(|error| error.contains(&says)), "{said}");
        assert_eq!(host(), before, "{said}");
        for path in [&daemon.pins(), &run_folder, &state] {
            assert!(!path.exists(), "{} is left: {said}", path.display());
        }
        assert!(!daemon.folder().join("new").exists());
    }
}
