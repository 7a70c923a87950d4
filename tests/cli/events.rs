//! `events`: what happens, as it happens.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    os::unix::net::UnixStream,
    process::{Child, ChildStdout, Stdio},
};

use crate::scene::{FILE, Scene};

/// Starts a command that follows the events, and returns when none is missed any more.
fn follow(scene: &Scene, arguments: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = scene
        .command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let line = said.next().expect("a line").expect("text");
    assert_eq!(line, "events from now on (Ctrl-C ends)");
    let events = BufReader::new(child.stdout.take().expect("a pipe"));
    (child, events.lines())
}

#[test]
fn events_are_followed_as_they_happen() {
    let mut scene = Scene::tutorial();
    let (mut child, mut lines) = follow(&scene, "events --json");
    let mut next = || {
        let line = lines.next().expect("a line").expect("text");
        let mut event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let time = event
            .as_object_mut()
            .expect("an object")
            .remove("time")
            .expect("a time");
        assert_eq!(
            time.as_str().map(str::len),
            Some("2026-11-22T03:14:08.123Z".len()),
            "{time}"
        );
        event
    };
    scene.done("edit-real 192.168.0.2 -w 5 --service web");
    scene.done("add-service 192.0.2.1:80");
    scene.done("reload");
    assert_eq!(
        next(),
        serde_json::json!({"event": "real-changed", "service": "tcp/192.168.1.35:80", "real": "192.168.0.2:80", "message": "weight 1 -> 5"})
    );
    assert_eq!(
        next(),
        serde_json::json!({"event": "service-added", "service": "tcp/192.0.2.1:80", "message": "scheduler wrr"})
    );
    assert_eq!(next(), serde_json::json!({"event": "reloaded"}));
    scene.stop();
    assert_eq!(
        next(),
        serde_json::json!({"event": "stopping", "message": "forwarding goes on"})
    );
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn an_event_line_for_people() {
    let scene = Scene::tutorial();
    let (mut child, mut lines) = follow(&scene, "events");
    scene.done("edit-real 192.168.0.2 -w 5 --service web");
    let line = lines.next().expect("a line").expect("text");
    let (_, told) = line.split_once("  ").expect("a time, then what happened");
    assert_eq!(
        told,
        "real-changed  tcp/192.168.1.35:80 -> 192.168.0.2:80  weight 1 -> 5"
    );
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn the_socket_sends_events_as_they_happen() {
    let scene = Scene::with_file(&format!(
        "{FILE}
[[service]]
name = \"web\"
address = \"192.168.1.35:80\"
check = {{ type = \"http\", initial = \"up\" }}

[[service.real]]
address = \"192.168.0.2:80\"
"
    ));
    let mut stream = UnixStream::connect(scene.socket()).expect("connect");
    // Of HTTP/1.0, so that the answer comes without chunks.
    stream
        .write_all(b"GET /v1/events HTTP/1.0\r\nhost: balancer\r\n\r\n")
        .expect("write");
    let mut lines = BufReader::new(stream)
        .lines()
        .map(|line| line.expect("text"));
    let head: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert_eq!(head[0], "HTTP/1.0 200 OK");
    let kind = "content-type: text/event-stream".to_owned();
    assert!(head.contains(&kind), "{head:?}");

    let reason = "http 503, wanted 200-299, 3 of 3";
    scene.find(false, reason);
    let mut next = || {
        let frame: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let [event, data] = frame.try_into().expect("two lines");
        let data = data.strip_prefix("data: ").expect("data");
        let mut data: serde_json::Value = serde_json::from_str(data).expect("JSON");
        data.as_object_mut()
            .and_then(|data| data.remove("time"))
            .expect("a time");
        (event, data)
    };
    let service = "tcp/192.168.1.35:80";
    assert_eq!(
        [next(), next()],
        [
            (
                "event: real-down".to_owned(),
                serde_json::json!({"event": "real-down", "service": service, "real": "192.168.0.2:80", "message": reason})
            ),
            (
                "event: quorum-lost".to_owned(),
                serde_json::json!({"event": "quorum-lost", "service": service, "message": "live weight 0, quorum 1"})
            )
        ]
    );
}

#[test]
fn a_follower_too_many_is_refused() {
    let scene = Scene::new();
    let idle: Vec<_> = (0..256)
        .map(|_| UnixStream::connect(scene.socket()).expect("connect"))
        .collect();
    let busy = "error: balancerd has 256 clients already: try again in a few seconds\n";
    scene.refused("events", 1, busy);
    drop(idle);
}
