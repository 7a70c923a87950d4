//! Checking a configuration file without a daemon: `balancer-ctl check` and `balancerd --check`.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::Command,
};

use balancer_tests::privileged;
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
         {at}:7:1: unknown key `scheduller` in `service`: expected `name`, `address`, `protocol`, `scheduler`, `hash`, `persistence`, `no-real`, `forwarding`, `hairpin`, `check`, `on-down`, `slow-start`, `quorum`, `hysteresis`, `backups`, `allow`, `deny`, `rate` or `real`\n\
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

const PROGRAMS: &str = "[dataplane]
interfaces = [\"eth0\"]
[[service]]
address = \"192.168.1.35:80\"
check = { type = \"exec\", run = [\"/bin/true\"] }
[[notify]]
on = [\"real-down\"]
run = [\"/bin/true\"]
[[vrrp]]
name = \"outside\"
interface = \"eth0\"
router-id = 51
addresses = [\"192.168.1.35/24\"]
track-exec = [{ run = [\"/bin/true\"] }]
";

#[test]
fn programs_in_a_file_that_others_may_write_are_errors() {
    let (_folder, path) = written(PROGRAMS);
    for mut check in checks(&path) {
        assert_eq!(ran(&mut check).status, 0);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).expect("its mode");
    let at = path.display();
    let said = format!(
        "run /bin/true: it is not run, since `{at}` can be written by others: `chmod o-w {at}`"
    );
    let stderr = format!("{at}:5:32: {said}\n{at}:8:7: {said}\n{at}:14:23: {said}\n");
    for mut check in checks(&path) {
        let ran = ran(&mut check);
        assert_eq!((ran.status, ran.stderr), (1, stderr.clone()));
    }
}

#[test]
fn a_file_without_programs_that_others_may_write_is_good_with_a_warning() {
    let (folder, path) = written("dataplane.interfaces = [\"eth0\"]\n");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("its mode");
    let stderr = format!(
        "warning: programs that {} comes to name are not run: `{}` can be written by others: let only root write to it, or \
         move the file to a folder that only root may write to, see what it says, then `balancer-ctl reload`\n",
        path.display(),
        folder.path().display()
    );
    for mut check in checks(&path) {
        let ran = ran(&mut check);
        assert_eq!((ran.status, ran.stderr), (0, stderr.clone()));
    }
}

#[test]
fn an_account_that_can_put_another_file_in_its_place_gets_no_program_run() {
    if privileged::skipped() {
        return;
    }
    // What an account without root would try: a file of its own, behind a link of its own, in folders that are open to it.
    let folder = tempfile::tempdir().expect("a folder");
    for mode in [0o777, 0o1777] {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("its mode");
        let path = folder.path().join("mine.toml");
        let link = folder.path().join("link.toml");
        let script = "printf '%s' \"$1\" > \"$2\" && chmod 600 \"$2\" && ln -s \"$2\" \"$3\"";
        let mut attack = Command::new("sh");
        attack.args(["-c", script, "sh", PROGRAMS]);
        attack.args([&path, &link]).uid(65534).gid(65534);
        assert!(attack.status().expect("it runs").success());
        // The kernel itself may refuse to follow a link of another account's in a sticky folder.
        let named: &[_] = if mode == 0o777 {
            &[&path, &link]
        } else {
            &[&path]
        };
        for path in named {
            let line = format!(
                "{}:8:7: run /bin/true: it is not run, since `{}` can be written by others: ",
                path.display(),
                folder.path().display()
            );
            for mut check in checks(path) {
                let Ran { status, stderr, .. } = ran(&mut check);
                assert!(status == 1 && stderr.contains(&line), "{stderr}");
            }
        }
        fs::remove_file(&path).expect("remove it");
        fs::remove_file(&link).expect("remove it");
    }
}

#[test]
fn what_is_quoted_from_a_file_or_a_command_line_cannot_steer_or_hide() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a\u{202e}b\u{1b}[2J.toml");
    fs::write(
        &path,
        "\"dat\u{200b}a\u{2066}\u{e0041}\" = 1\n[dataplane]\ninterfaces = [\"eth0\"]\n",
    )
    .expect("a file");
    let shown = format!("{}/a\\u{{202e}}b\\u{{1b}}[2J.toml", folder.path().display());
    let stderr = format!(
        "{shown}:1:1: unknown key `dat\\u{{200b}}a\\u{{2066}}\\u{{e0041}}`: expected `node`, `dataplane`, `timeouts`, \
         `service`, `notify`, `vrrp` or `peers`\n"
    );
    for mut check in checks(&path) {
        let ran = ran(&mut check);
        assert_eq!((ran.status, ran.stderr), (1, stderr.clone()));
    }
    let mut json = program("balancer-ctl");
    json.args(["--json", "check"]).arg(&path);
    let document = ran(&mut json).stdout;
    assert!(document.contains(r"a\u202eb\u001b[2J.toml"), "{document}");
    let mut wrong = program("balancer-ctl");
    wrong.args(["add-real", "x\u{202e}y\u{1b}[8mz"]);
    let ran = ran(&mut wrong);
    let quoted = r"invalid value 'x\u{202e}y";
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains(quoted), "{}", ran.stderr);
    assert!(
        !ran.stderr.contains(['\u{1b}', '\u{202e}']),
        "{:?}",
        ran.stderr
    );
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

/// What the README and the manual have in TOML, and the left half of what stands beside lines of keepalived.conf.
fn examples() -> Vec<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut texts = vec![format!("{root}/README.md")];
    let pages = fs::read_dir(format!("{root}/balancer-ctl/manual")).expect("the manual");
    texts.extend(pages.map(|page| page.expect("a page").path().display().to_string()));
    let mut examples = Vec::new();
    for text in texts {
        let text = fs::read_to_string(text).expect("a text");
        let blocks = text.split("\n```").skip(1).step_by(2);
        for block in blocks {
            if let Some(toml) = block.strip_prefix("toml\n") {
                examples.push(toml.to_owned());
            } else if block.contains("vrrp_instance") {
                let left = block.lines().skip(1);
                let left = left.map(|line| line.get(..50).unwrap_or(line).to_owned() + "\n");
                examples.push(left.collect());
            }
        }
    }
    examples
}

#[test]
fn the_examples_of_readme_and_manual_are_good() {
    let examples = examples();
    assert_eq!(examples.len(), 5);
    for example in examples {
        // What they leave to the reader.
        let example = example.replace("/usr/local/sbin/alert", "/bin/true");
        let text = format!("[dataplane]\ninterfaces = [\"eth0\"]\n{example}");
        let (_folder, path) = written(&text);
        for mut check in checks(&path) {
            let ran = ran(&mut check);
            assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{example}");
        }
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
