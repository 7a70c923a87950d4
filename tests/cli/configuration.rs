//! Checking a configuration file without a daemon: `balancer-ctl check` and `balancerd --check`.

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

use crate::scene::{Ran, program, ran};

fn written(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("balancer.toml");
    fs::write(&path, text).expect("write the file");
    (folder, path)
}

fn checks(path: &PathBuf) -> [Command; 2] {
    let mut ctl = program("balancer-ctl");
    ctl.arg("check").arg(path);
    let mut daemon = program("balancerd");
    daemon.arg("--check").arg("--config").arg(path);
    [ctl, daemon]
}

#[test]
fn a_good_file_is_reported_as_good() {
    let (_folder, path) = written(
        "[dataplane]\ninterfaces = [\"eth0\"]\n[[service]]\naddress = \"192.168.1.35:80\"\n\
         [[service.real]]\naddress = \"192.168.0.2\"\n[[service.real]]\naddress = \"192.168.0.3\"\n",
    );
    let [mut ctl, mut daemon] = checks(&path);
    let stdout = format!("{}: good, 1 service and 2 real servers\n", path.display());
    assert_eq!(
        ran(&mut ctl),
        Ran {
            status: 0,
            stdout,
            stderr: String::new()
        }
    );
    assert_eq!(
        ran(&mut daemon),
        Ran {
            status: 0,
            stdout: String::new(),
            stderr: String::new()
        }
    );
}

#[test]
fn every_error_is_a_line_with_its_place() {
    let (_folder, path) = written(
        "[dataplane]\ninterfaces = [\"eth0\"]\nmasquerade = true\n\n[[service]]\naddress = \"192.168.1.35:80\"\n\
         scheduller = \"rr\"\n\n  [[service.real]]\n  address = \"2001:db8::2\"\n  weight = 70000\n",
    );
    let at = path.display();
    let stderr = format!(
        "{at}:3:14: this version does not have `masquerade` yet: set it to false\n\
         {at}:7:1: unknown key `scheduller` in `service`: expected `name`, `address`, `protocol`, `scheduler`, `hash`, `persistence`, `no-real`, `check`, `on-down`, `slow-start`, `quorum`, `hysteresis`, `backups` or `real`\n\
         {at}:10:13: real [2001:db8::2]:80 is not of the family of service tcp/192.168.1.35:80: both must be IPv4 or both IPv6\n\
         {at}:11:12: weight 70000 of real [2001:db8::2]:80 is out of range: 0..=65535\n"
    );
    for mut check in checks(&path) {
        assert_eq!(
            ran(&mut check),
            Ran {
                status: 1,
                stdout: String::new(),
                stderr: stderr.clone()
            }
        );
    }
}

#[test]
fn a_half_written_file_is_reported_where_it_ends() {
    let (_folder, path) = written("[dataplane]\ninterfaces = [\"eth0\", \n");
    let stderr = format!("{}:2:22: unclosed array, expected `]`\n", path.display());
    for mut check in checks(&path) {
        assert_eq!(
            ran(&mut check),
            Ran {
                status: 1,
                stdout: String::new(),
                stderr: stderr.clone()
            }
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("absent.toml");
    let stderr = format!(
        "error: configuration file {}: No such file or directory (os error 2)\n",
        path.display()
    );
    for mut check in checks(&path) {
        assert_eq!(
            ran(&mut check),
            Ran {
                status: 1,
                stdout: String::new(),
                stderr: stderr.clone()
            }
        );
    }
}

#[test]
fn the_example_in_the_package_is_good() {
    let path = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../balancer-ctl/balancer.toml.example"
    ));
    for mut check in checks(&path) {
        let ran = ran(&mut check);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    }
}

#[test]
fn with_json_errors_of_a_file_are_json_too() {
    let (folder, path) = written("colour = 1\n");
    let json = |arguments: &[&str]| {
        let Ran {
            status,
            stdout,
            stderr,
        } = ran(program("balancer-ctl").arg("--json").args(arguments));
        assert_eq!(stderr, "");
        let document: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
        (status, document)
    };
    let path = path.to_str().expect("text");
    let (status, document) = json(&["check", path]);
    assert_eq!((status, &document["file"]), (1, &path.into()));
    let expected = serde_json::json!({
        "line": 1, "column": 1,
        "message": "unknown key `colour`: expected `node`, `dataplane`, `timeouts`, `service`, `notify`, `vrrp` or `peers`"
    });
    assert_eq!(document["errors"][0], expected);
    let socket = folder.path().join("none.sock").display().to_string();
    let sentence = format!(
        "no balancerd answers on {socket}: start it, or name its socket with --socket or --instance"
    );
    assert_eq!(
        json(&["--socket", &socket, "status", "--check"]),
        (
            3,
            serde_json::json!({"overall": "unknown", "reasons": [sentence]})
        )
    );
}
