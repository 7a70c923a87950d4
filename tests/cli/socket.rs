//! The control socket spoken to by hand: requests that are cut, endless, or plainly wrong harm nobody.

use std::{
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use balancer_ctl::{
    api::listen::{ControlSocket, Lock},
    os::paths::Instance,
};
use nix::sys::stat::{Mode, umask};

use crate::scene::Scene;

/// Sends bytes, then reads until the daemon closes; a daemon that closes while being written to is no error.
pub fn exchange(scene: &Scene, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(scene.socket()).expect("connect");
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("text")
}

pub fn request(scene: &Scene, method: &str, path: &str, body: &str) -> (u16, String) {
    let answer = exchange(
        scene,
        format!(
            "{method} {path} HTTP/1.1\r\nhost: balancer\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    (status, body.to_owned())
}

pub fn failure(sentence: &str) -> String {
    format!("{}\n", serde_json::json!({ "error": sentence }))
}

#[test]
fn only_its_owner_may_use_it() {
    let scene = Scene::new();
    let mode = std::fs::metadata(scene.socket())
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn at_no_time_is_it_open_to_others_whatever_the_umask() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control.sock");
    let ended = AtomicBool::new(false);
    // The tests of this program run one after the other, so that this umask is of no other.
    let before = umask(Mode::empty());
    let seen = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut modes = std::collections::BTreeSet::new();
            while !ended.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir(folder.path()).expect("a list").flatten() {
                    if let Ok(metadata) = std::fs::symlink_metadata(entry.path()) {
                        modes.insert(metadata.permissions().mode() & 0o7777);
                    }
                }
            }
            modes
        });
        for _ in 0..500 {
            drop(ControlSocket::bind(&path).expect("it is bound"));
        }
        ended.store(true, Ordering::Relaxed);
        watcher.join().expect("modes")
    });
    umask(before);
    assert_eq!(seen, [0o600].into());
}

#[test]
fn only_root_can_hold_the_lock_also_where_an_earlier_version_left_its_file_open() {
    struct Remove(std::path::PathBuf);
    impl Drop for Remove {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    let name = format!("lock-{}", std::process::id());
    let instance: Instance = name.parse().unwrap();
    let _remove = Remove(instance.directory());
    let mode = || {
        std::fs::metadata(instance.lock())
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    let lock = Lock::take(&instance).unwrap();
    assert_eq!(mode(), 0o600);
    drop(lock);
    assert!(!instance.directory().exists());
    std::fs::create_dir(instance.directory()).unwrap();
    std::fs::write(instance.lock(), "1\n").unwrap();
    std::fs::set_permissions(instance.lock(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let lock = Lock::take(&instance).unwrap();
    assert_eq!(mode(), 0o600);
    drop(lock);
    // Its folder was there before.
    assert_eq!(std::fs::read_dir(instance.directory()).unwrap().count(), 0);
}

#[test]
fn it_speaks_http_and_json() {
    let scene = Scene::new();
    let service = "tcp%2F192.168.1.35%3A80";
    for (method, path, body, expected) in [
        (
            "POST",
            "/v1/services".to_owned(),
            r#"{"address":"192.168.1.35:80","scheduler":"rr"}"#,
            "{}\n",
        ),
        (
            "POST",
            format!("/v1/services/{service}/reals"),
            r#"{"address":"192.168.0.2","weight":3}"#,
            "{}\n",
        ),
        (
            "PATCH",
            format!("/v1/services/{service}/reals/192.168.0.2"),
            r#"{"weight":4}"#,
            "{}\n",
        ),
        (
            "PATCH",
            format!("/v1/services/{service}?runtime=true"),
            r#"{"name":"web"}"#,
            "{}\n",
        ),
        (
            "PUT",
            "/v1/services".to_owned(),
            r#"{"services":[{"service":{"address":"192.168.1.35:80","check":[{"type":"ping"}]},"reals":[{"address":"192.168.0.2"}]}]}"#,
            r#"{"notes":["service-changed tcp/192.168.1.35:80 check added: ping every 5s"]}
"#,
        ),
        ("POST", "/v1/services/web/zero".to_owned(), "", "{}\n"),
        ("POST", "/v1/zero".to_owned(), "", "{}\n"),
        ("GET", "/healthz".to_owned(), "", "ok\n"),
        ("GET", "/readyz".to_owned(), "", "ok\n"),
    ] {
        assert_eq!(
            request(&scene, method, &path, body),
            (200, expected.to_owned()),
            "{method} {path}"
        );
    }
    let (status, body) = request(&scene, "GET", "/v1/services/web", "");
    assert_eq!(status, 200);
    let one: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let all: serde_json::Value = serde_json::from_str(&scene.done("list --json")).expect("JSON");
    assert_eq!(one, all);
    assert_eq!(one["services"][0]["reals"][0]["weight"], 4);
    for path in [
        format!("/v1/services/{service}/reals/192.168.0.2:80?purge=true"),
        format!("/v1/services/{service}"),
    ] {
        assert_eq!(request(&scene, "DELETE", &path, "").0, 200, "{path}");
    }
    assert_eq!(scene.dataplane.state().services, []);
}

#[test]
fn wrong_requests_are_answered_with_a_sentence() {
    let scene = Scene::tutorial();
    let before = scene.text();
    let services = "/v1/services";
    let reals = "/v1/services/web/reals";
    for (method, path, body, status, sentence) in [
        (
            "GET",
            "/v2/services",
            "",
            404,
            "there is nothing at this path",
        ),
        ("PUT", reals, "", 405, "this path does not take this method"),
        (
            "PUT",
            services,
            r#"{"services":[{"service":{"address":"192.168.1.36:80"},"reals":[],"checks":[]}]}"#,
            400,
            "the request's body: services[0].checks: unknown field `checks`, expected `service` or `reals` at line 1 \
             column 73",
        ),
        (
            "PUT",
            services,
            r#"{"services":[{"service":{"address":"192.168.1.36:80"},"reals":[{"address":"192.168.0.2"},{"address":"192.168.0.2:80"}]}]}"#,
            400,
            "real 192.168.0.2:80 of service tcp/192.168.1.36:80 is named twice",
        ),
        (
            "PUT",
            "/v1/services?dry=true",
            r#"{"services":[]}"#,
            400,
            "the request's query: Failed to deserialize query string: dry: unknown field `dry`, expected `runtime` or \
             `dry_run`",
        ),
        (
            "GET",
            "/v1/services/mail",
            "",
            404,
            "there is no service `mail`: `list` shows all",
        ),
        (
            "GET",
            "/v1/services/192.168.1.35",
            "",
            400,
            "`192.168.1.35` has no port: write `192.168.1.35:80` (port 0 stands for every port)",
        ),
        (
            "POST",
            services,
            "",
            400,
            "the request's body: EOF while parsing a value at line 1 column 0",
        ),
        (
            "POST",
            services,
            r#"{"address":"192.168.1.36:80","group":"shop"}"#,
            400,
            "the request's body: group: unknown field `group`, expected one of `address`, `protocol`, `name`, `scheduler`, \
             `hash`, `persistence`, `no_real`, `forwarding`, `hairpin`, `on_down`, `slow_start`, `quorum`, `hysteresis`, `backups`, `allow`, `deny`, `rate`, `check` at line 1 \
             column 36",
        ),
        (
            "POST",
            services,
            r#"{"address":"192.168.1.36:80","persistence":{"netmask":24}}"#,
            400,
            "netmask without persistence: give service tcp/192.168.1.36:80 a timeout too, as in `--persistent 300`",
        ),
        (
            "POST",
            services,
            r#"{"address":"192.168.1.36:80","persistence":{"mask":24}}"#,
            400,
            "the request's body: persistence.mask: unknown field `mask`, expected one of `timeout`, `netmask`, `group`, \
             `drain` at line 1 column 50",
        ),
        (
            "POST",
            services,
            r#"{"address":"192.168.1.36:80","persistence":{"netmask":"255.0.255.0"}}"#,
            400,
            "persistence.netmask `255.0.255.0` is no netmask: a prefix length, as in 24, or for IPv4 a mask as in \
             255.255.255.0",
        ),
        (
            "POST",
            services,
            r#"{"address":"192.168.1.36:80","scheduler":"lblc"}"#,
            400,
            "scheduler `lblc` is not offered, as it chooses a cache for each of many destinations, and a \
             virtual service has one: expected `rr`, `wrr`, `lc`, `wlc`, `sed`, `nq`, `sh`, `dh`, `mh`, `fo`, `ovf` or \
             `twos`",
        ),
        (
            "POST",
            services,
            r#"{"address":"192.168.1.36"}"#,
            400,
            "`192.168.1.36` has no port: write `192.168.1.36:80` (port 0 stands for every port)",
        ),
        (
            "POST",
            services,
            r#"{"address":"192.168.1.35:80"}"#,
            409,
            "service tcp/192.168.1.35:80 exists already: change it with `edit-service`",
        ),
        (
            "POST",
            reals,
            r#"{"address":"192.168.0.4","weight":65536}"#,
            400,
            "weight 65536 of real 192.168.0.4:80 is out of range: 0..=65535",
        ),
        (
            "POST",
            reals,
            r#"{"address":"192.168.0.4","weight":-1}"#,
            400,
            "the request's body: weight: -1 is out of range: 0..=65535 at line 1 column 37",
        ),
        (
            "DELETE",
            "/v1/services/web?runtim=true",
            "",
            400,
            "the request's query: Failed to deserialize query string: runtim: unknown field `runtim`, expected \
             `runtime`",
        ),
        (
            "DELETE",
            "/v1/services/web?purge=true",
            "",
            400,
            "the request's query: Failed to deserialize query string: purge: unknown field `purge`, expected `runtime`",
        ),
        (
            "GET",
            "/v1/connections?limit=-1",
            "",
            400,
            "the request's query: Failed to deserialize query string: limit: `-1` is not a whole number from 0 (for \
             all) on",
        ),
        (
            "GET",
            "/v1/services/%ff",
            "",
            400,
            "the request's path: Invalid URL: Invalid UTF-8 in `service`",
        ),
        (
            "DELETE",
            "/v1/services/web/reals/%ff",
            "",
            400,
            "the request's path: Invalid URL: Invalid UTF-8 in `real`",
        ),
        (
            "PATCH",
            "/v1/services/web/reals/192.168.0.2",
            r#"{"weight":"1"}"#,
            400,
            "the request's body: weight: invalid type: string \"1\", expected i64 at line 1 column 13",
        ),
        (
            "GET",
            "/v1/connections?state=open",
            "",
            400,
            "state `open` is not known: expected `syn-sent`, `syn-received`, `established`, `fin-client`, `fin-real`, \
             `closing`, `closed`, `udp`, `udp-unreplied`, `udp-unconfirmed`, `closed-client`, `time-wait` or `picked-up`",
        ),
    ] {
        assert_eq!(
            request(&scene, method, path, body),
            (status, failure(sentence)),
            "{method} {path} {body}"
        );
    }
    assert_eq!(scene.text(), before);
}

#[test]
fn a_request_that_is_cut_in_the_middle_changes_nothing() {
    let scene = Scene::tutorial();
    let before = (scene.text(), scene.dataplane.state().reconciled);
    let whole = "DELETE /v1/services HTTP/1.1\r\nhost: balancer\r\ncontent-length: 20\r\n\r\n{\"some\":\"body\"}12345";
    for length in 0..whole.len() {
        let mut stream = UnixStream::connect(scene.socket()).expect("connect");
        stream
            .write_all(&whole.as_bytes()[..length])
            .expect("write");
        drop(stream);
    }
    assert_eq!(
        scene.done("list").lines().count(),
        7,
        "it answers as before"
    );
    assert_eq!((scene.text(), scene.dataplane.state().reconciled), before);
}

#[test]
fn a_request_that_does_not_go_on_is_given_up_and_holds_no_one_up() {
    let scene = Scene::tutorial();
    let began = Instant::now();
    let mut streams = [
        "",
        "GET /v1/serv",
        "POST /v1/reload HTTP/1.1\r\nhost: b\r\ncontent-length: 5\r\n\r\n{",
    ]
    .map(|part| {
        let mut stream = UnixStream::connect(scene.socket()).expect("connect");
        stream.write_all(part.as_bytes()).expect("write");
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("a timeout");
        stream
    });
    scene.done("list");
    let waited = began.elapsed();
    assert!(
        waited < Duration::from_secs(8),
        "others are answered meanwhile: {waited:?}"
    );
    let [idle, cut, half] = streams.each_mut().map(|stream| {
        let mut answer = String::new();
        let ended = stream.read_to_string(&mut answer);
        ended.unwrap_or_else(|error| panic!("it is not given up: {error}"));
        answer
    });
    assert!(!idle.contains("200") && !cut.contains("200"), "{idle}{cut}");
    let sentence = failure("the request's body did not come within 10 s");
    assert!(half.contains(&sentence), "{half}");
}

#[test]
fn a_client_too_many_is_refused() {
    let scene = Scene::new();
    let idle: Vec<_> = (0..256)
        .map(|_| UnixStream::connect(scene.socket()).expect("connect"))
        .collect();
    let busy = "balancerd has 256 clients already: try again in a few seconds";
    assert_eq!(
        request(&scene, "GET", "/v1/status", ""),
        (503, failure(busy))
    );
    drop(idle);
    let began = Instant::now();
    while request(&scene, "GET", "/healthz", "").0 != 200 {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "there is room again"
        );
    }
}

#[test]
fn a_request_of_a_gigabyte_is_refused_without_being_read() {
    let scene = Scene::tutorial();
    let sentence = failure("a request's body is at most 1048576 bytes");
    let before = memory();

    // Announced: refused at once.
    let head = "POST /v1/services HTTP/1.1\r\nhost: balancer\r\ncontent-length: 1073741824\r\n\r\n";
    let answer = exchange(&scene, head.as_bytes());
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.ends_with(&sentence),
        "{answer}"
    );

    // Not announced: refused when it is too long. The daemon stops reading, so writing fails soon.
    let mut stream = UnixStream::connect(scene.socket()).expect("connect");
    let head = "POST /v1/services HTTP/1.1\r\nhost: balancer\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("write");
    let chunk = [b"100000\r\n".as_slice(), &[b' '; 1 << 20], b"\r\n"].concat();
    let sent = (0..1024)
        .take_while(|_| stream.write_all(&chunk).is_ok())
        .count();
    assert!(sent < 16, "{sent} MiB were taken");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.ends_with(&sentence),
        "{answer}"
    );

    // A header without end.
    let mut stream = UnixStream::connect(scene.socket()).expect("connect");
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: ")
        .expect("write");
    let sent = (0..1024)
        .take_while(|_| stream.write_all(&[b'a'; 1 << 20]).is_ok())
        .count();
    assert!(sent < 16, "{sent} MiB were taken");

    assert!(
        memory().saturating_sub(before) < 64 << 20,
        "it was kept in memory"
    );
    assert_eq!(
        scene.done("list").lines().count(),
        7,
        "it answers as before"
    );
}

/// Memory that this process, in which the daemon runs, takes.
fn memory() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("statm");
    pages
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok())
        .expect("pages")
        * 4096
}

#[test]
fn a_follower_that_does_not_read_delays_nobody_and_is_told_what_it_lost() {
    let scene = Scene::tutorial();
    let mut stream = UnixStream::connect(scene.socket()).expect("connect");
    stream
        .write_all(b"GET /v1/events HTTP/1.1\r\nhost: balancer\r\n\r\n")
        .expect("write");
    // It follows when it is answered.
    let mut begun = [0; 12];
    stream.read_exact(&mut begun).expect("the answer begins");
    assert_eq!(&begun, b"HTTP/1.1 200");
    let mut other = UnixStream::connect(scene.socket()).expect("connect");
    let mut answer = [0; 4096];
    // Far more events than the socket's buffer and the daemon's memory hold.
    for index in 0..4_000 {
        let body = format!("{{\"weight\":{}}}", 1 + index % 2);
        let request = format!(
            "PATCH /v1/services/web/reals/192.168.0.2?runtime=true HTTP/1.1\r\nhost: b\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        other.write_all(request.as_bytes()).expect("write");
        let length = other.read(&mut answer).expect("read");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200 "));
    }
    let mut events = String::new();
    stream.read_to_string(&mut events).expect("read to the end");
    let last = events
        .lines()
        .rfind(|line| line.starts_with("data: "))
        .expect("an event");
    assert!(last.contains("\"event\":\"lost\""), "{last}");
}
