//! Checks, administrative state and backups: what is typed, what stands in the file then, and what is refused.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::{
    scene::{FILE, Scene},
    socket::{failure, request},
};

/// What the tutorial's service has in the file.
const WEB: &str = "
[[service]]
name = \"web\"
address = \"192.168.1.35:80\"
scheduler = \"rr\"

[[service.real]]
address = \"192.168.0.2:80\"

[[service.real]]
address = \"192.168.0.3:80\"
weight = 3
";

fn web() -> Scene {
    Scene::with_file(&format!("{FILE}{WEB}"))
}

/// The file with changes in what the service has.
fn file(replaced: &[(&str, &str)]) -> String {
    let mut expected = format!("{FILE}{WEB}");
    for (old, new) in replaced {
        assert_eq!(expected.matches(old).count(), 1, "{old:?}");
        expected = expected.replace(old, new);
    }
    expected
}

#[test]
fn a_service_is_added_with_all_that_health_has() {
    let scene = Scene::new();
    assert_eq!(
        scene.done(
            "add-service 192.168.1.35:8080 --name shop --check http --check {type=\"tcp\",port=22,interval=\"1s\"} \
             --on-down keep --slow-start 30s --quorum 2 --hysteresis 1 --backups all"
        ),
        ""
    );
    scene.done("add-real 192.168.0.2 --backup");
    assert_eq!(
        scene.text(),
        format!(
            "{FILE}
[[service]]
name = \"shop\"
address = \"192.168.1.35:8080\"
on-down = \"keep\"
slow-start = \"30s\"
quorum = 2
hysteresis = 1
backups = \"all\"

[[service.check]]
type = \"http\"

[[service.check]]
type = \"tcp\"
interval = \"1s\"
port = 22

[[service.real]]
address = \"192.168.0.2:8080\"
backup = true
"
        )
    );
    let listed: serde_json::Value = serde_json::from_str(&scene.done("list --json")).expect("JSON");
    let service = &listed["services"][0];
    for (key, expected) in [
        (
            "check",
            serde_json::json!([{"type": "http"}, {"type": "tcp", "interval": "1s", "port": 22}]),
        ),
        ("on_down", "keep".into()),
        ("slow_start", "30s".into()),
        ("quorum", 2.into()),
        ("hysteresis", 1.into()),
        ("backups", "all".into()),
    ] {
        assert_eq!(service[key], expected, "{key}");
    }
    assert_eq!(service["reals"][0]["backup"], true);
    let text = scene.done("list");
    assert!(text.contains("check http, check tcp\n"), "{text}");
    assert!(text.contains("  backup"), "{text}");
}

#[test]
fn checks_come_change_and_go_in_the_file() {
    let scene = web();
    let with = |check: &str| {
        file(&[(
            "scheduler = \"rr\"\n",
            &format!("scheduler = \"rr\"\n{check}"),
        )])
    };
    for (arguments, check) in [
        ("--check http", "\n[service.check]\ntype = \"http\"\n"),
        (
            "--check {type=\"http\",path=\"/health\"}",
            "\n[service.check]\ntype = \"http\"\npath = \"/health\"\n",
        ),
        (
            "--check ping --check http",
            "\n[[service.check]]\ntype = \"ping\"\n\n[[service.check]]\ntype = \"http\"\n",
        ),
        ("--no-check", ""),
    ] {
        scene.done(&format!("edit-service web {arguments}"));
        assert_eq!(scene.text(), with(check), "{arguments}");
    }
    // Not in the file, and marked.
    scene.done("edit-service web --check http --runtime");
    assert_eq!(scene.text(), file(&[]));
    let text = scene.done("list");
    assert!(text.contains("check http, runtime\n"), "{text}");
    scene.done("reload");
    let text = scene.done("list");
    assert!(!text.contains("check"), "{text}");
}

#[test]
fn administrative_state_is_written_and_taken_back() {
    let scene = web();
    let drained = file(&[(
        "address = \"192.168.0.3:80\"\nweight = 3\n",
        "address = \"192.168.0.3:80\"\nweight = 3\nstate = \"drain\"\n",
    )]);
    assert_eq!(scene.done("drain 192.168.0.3"), "");
    assert_eq!(scene.text(), drained);
    scene.done("maintenance 192.168.0.3:80 --service web");
    assert_eq!(scene.text(), drained.replace("drain", "maintenance"));
    scene.done("ready -t 192.168.1.35:80 192.168.0.3");
    assert_eq!(scene.text(), file(&[]));
    scene.done("drain 192.168.0.2 --runtime");
    assert_eq!(scene.text(), file(&[]));
    let listed: serde_json::Value = serde_json::from_str(&scene.done("list --json")).expect("JSON");
    let marked: Vec<_> = listed["services"][0]["reals"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|real| real["runtime"] == true)
        .collect();
    assert_eq!(marked, [true, false]);
}

#[test]
fn list_says_what_decides_over_each_real() {
    let scene = web();
    for arguments in [
        "add-real 192.168.0.4 --backup",
        "add-real 192.168.0.5 --runtime",
        "drain 192.168.0.2 --runtime",
        "maintenance 192.168.0.3",
    ] {
        scene.done(arguments);
    }
    assert_eq!(
        scene.done("list"),
        "\
Service                    Scheduler
  -> Real                  Forwarding  Weight  Effective  State        Active  Inactive
tcp/192.168.1.35:80 (web)  rr
  -> 192.168.0.2:80        nat              1          0  draining          0         0  runtime, by the operator
  -> 192.168.0.3:80        nat              3          0  maintenance       0         0  by the operator
  -> 192.168.0.4:80        nat              1          0  up                0         0  backup, standing by
  -> 192.168.0.5:80        nat              1          1  up                0         0  runtime
"
    );
}

#[test]
fn a_real_becomes_a_backup_and_back() {
    let scene = web();
    let backup = |backup: &str| {
        file(&[(
            "address = \"192.168.0.2:80\"\n",
            &format!("address = \"192.168.0.2:80\"\nbackup = {backup}\n"),
        )])
    };
    scene.done("edit-real 192.168.0.2 --backup");
    assert_eq!(scene.text(), backup("true"));
    scene.done("edit-real 192.168.0.2 --no-backup");
    assert_eq!(scene.text(), backup("false"));
}

#[test]
fn health_of_nothing_says_how_to_have_some() {
    let scene = web();
    let nothing = "nothing is probed: give a service a check, as in `balancer-ctl edit-service --check http`\n";
    for arguments in [
        "health",
        "health web",
        "health -t 192.168.1.35:80 --history",
    ] {
        assert_eq!(scene.done(arguments), nothing);
    }
    assert_eq!(
        scene.done("health --json"),
        format!(
            "{{\n  \"checkers\": [],\n  \"idle\": \"{}\"\n}}\n",
            nothing.trim_end()
        )
    );
    scene.refused(
        "health mail",
        1,
        "error: there is no service `mail`: `list` shows all\n",
    );
}

#[test]
fn wrong_options_are_refused_before_they_are_sent() {
    let scene = web();
    let example =
        "write a type, as in `http`, or a table, as in `{ type = \"http\", interval = \"1s\" }`";
    for (arguments, sentence) in [
        (
            "--check {type=\"http\"",
            format!("invalid value '{{type=\"http\"' for '--check <CHECK>': unclosed inline table, expected `}}`: {example}"),
        ),
        ("--check [1]", format!("invalid value '[1]' for '--check <CHECK>': {example}")),
        (
            "--on-down never",
            "invalid value 'never' for '--on-down <WHEN>': is not known: expected `keep`, `reset` or \
             `reset-after DURATION`, as in \"reset-after 30s\""
                .to_owned(),
        ),
        (
            "--slow-start 30",
            "invalid value '30' for '--slow-start <TIME>': not a duration: a number and a unit, such as 30s"
                .to_owned(),
        ),
        ("--quorum 0", "invalid value '0' for '--quorum <N>': expected a whole number from 1 to 1000000000".to_owned()),
        ("--hysteresis -1", "invalid value '-1' for '--hysteresis <N>': expected a whole number from 0 to 1000000000".to_owned()),
        ("--backups some", "invalid value 'some' for '--backups <WHICH>': expected `first` or `all`".to_owned()),
    ] {
        scene.refused(
            &format!("edit-service web {arguments}"),
            2,
            &format!("error: {sentence}\n\nFor more information, try '--help'.\n"),
        );
    }
}

#[test]
fn wrong_checks_are_refused_with_what_is_allowed() {
    let scene = web();
    for (arguments, sentence) in [
        (
            "--check htp",
            "check: type `htp` is not known: expected `tcp`, `http`, `https`, `udp`, `dns`, `ping`, `grpc`, `exec` or `agent`",
        ),
        (
            "--check {type=\"tcp\",path=\"/\"}",
            "check: `path` does not belong to a check of type `tcp`: it is for `http` or `https`",
        ),
        (
            "--check {type=\"tcp\",expect=\"a(b\"}",
            "check: expect `a(b` is no regular expression: at character 2: unclosed group",
        ),
        (
            "--check {type=\"http\",interval=\"1s\",timeout=\"2s\"}",
            "timeout 2s is longer than interval 1s: a probe must be over when the next begins",
        ),
        (
            "--check {type=\"https\",ca=\"/nonexistent/ca.pem\"}",
            "ca /nonexistent/ca.pem: No such file or directory (os error 2)",
        ),
        (
            "--check {type=\"exec\",run=[\"/nonexistent/run\"]}",
            "run /nonexistent/run: `/nonexistent` does not exist",
        ),
        (
            "--check http --check http",
            "check `http` is there twice in service tcp/192.168.1.35:80: name it once",
        ),
        (
            "--hysteresis 1",
            "hysteresis 1 is not less than quorum 1: make it less, or the quorum could never be lost",
        ),
        (
            "--slow-start 2days",
            "slow-start of 2days is out of range: 0s to 1day",
        ),
    ] {
        scene.refused(
            &format!("edit-service web {arguments}"),
            1,
            &format!("error: {sentence}\n"),
        );
    }
    // Anyone could put another program in its place.
    let folder = tempfile::tempdir_in("/tmp").expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("its mode");
    let open = folder.path().display();
    let path = folder.path().join("run");
    fs::write(&path, "#!/bin/sh\n").expect("write the program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    let shown = path.display();
    scene.refused(
        &format!("edit-service web --check {{type=\"exec\",run=[\"{shown}\"]}}"),
        1,
        &format!(
            "error: run {shown}: `{open}` can be written by others, and the program would run as root: \
             move the program to a folder that only root may write to\n"
        ),
    );
    // Nor does it help to have a shell run it, which does not ask for the right to.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("its mode");
    scene.refused(
        &format!("edit-service web --check {{type=\"exec\",run=[\"/bin/sh\",\"{shown}\"]}}"),
        1,
        &format!(
            "error: run /bin/sh: argument {shown}: `{open}` can be written by others, and the program would run as root: \
             move the program to a folder that only root may write to\n"
        ),
    );
    scene.refused(
        "edit-service web --check {type=\"exec\",run=[\"/bin/true\"],mark=7}",
        1,
        "error: check: `mark` does not belong to a check of type `exec`: it is for `tcp`, `http`, `https`, `udp`, `dns`, \
         `ping`, `grpc` or `agent`\n",
    );
    scene.done("edit-service web --check {type=\"exec\",run=[\"/bin/true\"]}");
}

#[test]
fn the_socket_takes_checks_in_the_files_keys() {
    let scene = web();
    let path = "/v1/services/web";
    for (body, check) in [
        (
            r#"{"check": {"type": "http", "status": "200"}}"#,
            "\n[service.check]\ntype = \"http\"\nstatus = \"200\"\n",
        ),
        (
            r#"{"check": [{"type": "dns", "name": "www.example.org", "port": 53}], "on_down": "reset-after 1m"}"#,
            "on-down = \"reset-after 1m\"\n\n[service.check]\ntype = \"dns\"\nport = 53\nname = \"www.example.org\"\n",
        ),
        (
            r#"{"check": [], "on_down": "reset"}"#,
            "on-down = \"reset\"\n",
        ),
    ] {
        assert_eq!(
            request(&scene, "PATCH", path, body),
            (200, "{}\n".to_owned()),
            "{body}"
        );
        let expected = file(&[(
            "scheduler = \"rr\"\n",
            &format!("scheduler = \"rr\"\n{check}"),
        )]);
        assert_eq!(scene.text(), expected, "{body}");
    }
    let before = scene.text();
    let real = "/v1/services/web/reals/192.168.0.2";
    for (path, body, status, sentence) in [
        (
            path,
            r#"{"check": "http"}"#,
            400,
            "check: check must be a table: write `[service.check]` on a line of its own",
        ),
        (
            path,
            r#"{"check": {"type": "http", "port": null}}"#,
            400,
            "check: null is no value: leave the key out",
        ),
        (
            path,
            r#"{"check": {"type": "http", "port": 1.5}}"#,
            400,
            "check: port must be a whole number",
        ),
        (
            path,
            r#"{"on_down": "never"}"#,
            400,
            "on_down `never` is not known: expected `keep`, `reset` or `reset-after DURATION`, as in \"reset-after 30s\"",
        ),
        (
            path,
            r#"{"quorum": 0}"#,
            400,
            "quorum 0 is out of range: 1..=1000000000",
        ),
        (
            real,
            r#"{"state": "draining"}"#,
            400,
            "the request's body: state: unknown variant `draining`, expected one of `ready`, `drain`, `maintenance` at line 1 column 21",
        ),
        (
            "/v1/health?service=mail",
            "",
            404,
            "there is no service `mail`: `list` shows all",
        ),
    ] {
        let method = if body.is_empty() { "GET" } else { "PATCH" };
        assert_eq!(
            request(&scene, method, path, body),
            (status, failure(sentence)),
            "{body}"
        );
    }
    assert_eq!(scene.text(), before);
    assert_eq!(
        request(
            &scene,
            "PATCH",
            real,
            r#"{"state": "drain", "backup": true}"#
        ),
        (200, "{}\n".to_owned())
    );
    assert!(
        scene.text().contains("backup = true\nstate = \"drain\"\n"),
        "{}",
        scene.text()
    );
}

#[test]
fn the_status_names_a_notify_entry_whose_service_was_deleted() {
    let notify =
        "\n[[notify]]\non = [\"real-down\"]\nrun = [\"/bin/true\"]\nservices = [\"web\"]\n";
    let scene = Scene::with_file(&format!("{FILE}{WEB}{notify}"));
    scene.done("del-service web");
    let status = scene.done("status");
    let sentence =
        "[[notify]] names service web, which is not there: add the service, or take its name out";
    assert!(status.contains(sentence), "{status}");
}
