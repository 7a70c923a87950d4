//! `balancerd` as far as it gets without a packet program: what it refuses, and in which words.

use std::{fs, os::unix::process::CommandExt as _};

use balancer_ctl::{api::listen::Lock, os::paths::Instance};

use crate::scene::{FILE, Ran, program, ran};

fn refused(stderr: &str) -> Ran {
    Ran {
        status: 1,
        stdout: String::new(),
        stderr: stderr.to_owned(),
    }
}

#[test]
fn without_root_it_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("balancerd");
    // Where nobody may run it.
    fs::copy(program("balancerd").get_program(), &path).expect("copy");
    fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("open the folder");
    for arguments in [&["--interface", "eth0"][..], &["--detach"]] {
        let mut command = std::process::Command::new(&path);
        let ran = ran(command.args(arguments).env_clear().uid(65_534).gid(65_534));
        assert_eq!(
            ran,
            refused(
                "error: balancerd must run as root: the packet program is loaded into the kernel\n"
            )
        );
    }
}

#[test]
fn a_second_daemon_on_the_same_instance_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("balancer.toml");
    fs::write(&config, FILE).expect("write the file");
    let name = format!("cli-second-{}", std::process::id());
    let instance: Instance = name.parse().expect("a name");
    let lock = Lock::take(&instance).expect("the first");
    for detach in [false, true] {
        let mut second = program("balancerd");
        second
            .args(["--log", "off", "--instance", &name, "--config"])
            .arg(&config);
        if detach {
            second.arg("--detach");
        }
        let sentence = format!(
            "error: another balancerd is already running on this instance (pid {}): stop it first\n",
            std::process::id()
        );
        assert_eq!(ran(&mut second), refused(&sentence));
    }
    drop(lock);
    Lock::take(&instance).expect("the first has gone");
    assert!(!instance.directory().exists());
}

#[test]
fn taking_down_what_is_not_there_is_refused() {
    let name = format!("cli-nothing-{}", std::process::id());
    let ran = ran(program("balancerd").args(["--instance", &name, "--detach"]));
    let sentence = format!("error: there is no data plane of instance `{name}` to take down\n");
    assert_eq!(ran, refused(&sentence));
    let instance: Instance = name.parse().expect("a name");
    assert!(!instance.directory().exists());
}

#[test]
fn a_wrong_or_missing_file_is_refused_before_anything_is_touched() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("balancer.toml");
    let start = |arguments: &[&str]| {
        let name = format!("cli-wrong-{}", std::process::id());
        ran(program("balancerd")
            .args(["--log", "off", "--instance", &name])
            .args(arguments))
    };
    let path = config.to_str().expect("text");
    assert_eq!(
        start(&["--config", path]),
        refused(&format!(
            "error: configuration file {path}: No such file or directory (os error 2)\n"
        ))
    );
    fs::write(
        &config,
        "[dataplane]\ninterfaces = [\"eth0\"]\nmode = \"fast\"\n",
    )
    .expect("write the file");
    assert_eq!(
        start(&["--config", path]),
        refused(&format!(
            "{path}:3:8: mode `fast` is not known: expected `auto`, `native` or `generic`\n"
        ))
    );
    assert_eq!(
        start(&["--interface", "a name"]),
        refused("error: `a name` is no interface name: 1 to 15 bytes without space or `/`\n")
    );
    assert_eq!(
        start(&["--interface", "eth0", "--config", path]),
        refused(&format!(
            "error: --interface runs without a configuration file: leave it out, or leave {path} out\n"
        ))
    );
    if !std::path::Path::new("/etc/balancer/balancer.toml").exists() {
        assert_eq!(
            start(&[]),
            refused(
                "error: there is no /etc/balancer/balancer.toml: write one, name another with --config FILE, or run \
                 without one with --interface NAME\n"
            )
        );
    }
}

#[test]
fn a_kernel_that_is_too_old_is_reported_by_the_check_and_refused_at_a_start() {
    // A program under this takes any kernel for Linux 2.6.
    let old = |program: &std::process::Command| {
        let mut command = std::process::Command::new("setarch");
        command
            .arg("--uname-2.6")
            .arg(program.get_program())
            .args(program.get_args());
        command
    };
    let release = ran(&mut old(std::process::Command::new("uname").arg("-r"))).stdout;
    let sentence = format!(
        "error: this kernel ({}) is too old: the packet program needs Linux 6.1 or newer, and was not tested on older ones\n",
        release.trim()
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("balancer.toml");
    fs::write(&config, FILE).expect("write the file");
    let path = config.to_str().expect("text").to_owned();
    let check = || {
        let mut command = program("balancerd");
        command.args(["--check", "--config", &path]);
        command
    };
    assert_eq!(ran(&mut check()).status, 0);
    assert_eq!(ran(&mut old(&check())), refused(&sentence));

    let name = format!("cli-old-{}", std::process::id());
    let mut start = program("balancerd");
    start.args(["--log", "off", "--instance", &name, "--config", &path]);
    assert_eq!(ran(&mut old(&start)), refused(&sentence));
    let instance: Instance = name.parse().expect("a name");
    assert!(!instance.directory().exists());

    // What is wrong with the file is told, too.
    fs::write(
        &config,
        "[dataplane]\ninterfaces = [\"eth0\"]\nmode = \"fast\"\n",
    )
    .expect("write the file");
    let wrong =
        format!("{path}:3:8: mode `fast` is not known: expected `auto`, `native` or `generic`\n");
    assert_eq!(ran(&mut check()), refused(&wrong));
    assert_eq!(
        ran(&mut old(&check())),
        refused(&format!("{sentence}{wrong}"))
    );
}
