//! `events`: what happens, as it happens.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    os::unix::net::UnixStream,
    process::{Child, ChildStdout, Stdio},
};

use crate::{
    scene::{FILE, Scene},
    socket::{failure, request},
};

/// Starts a command that follows the events, and returns when none is missed any more.
fn follow(scene: &Scene, arguments: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    follow_saying(scene, arguments, "events from now on (Ctrl-C ends)")
}

/// As [`follow`], where the command says this when it begins.
fn follow_saying(
    scene: &Scene,
    arguments: &str,
    said_first: &str,
) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = scene
        .command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let line = said.next().expect("a line").expect("text");
    assert_eq!(line, said_first);
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
    scene.done("add-service 192.168.1.35:81");
    scene.done("reload");
    assert_eq!(
        next(),
        serde_json::json!({"event": "real-changed", "service": "tcp/192.168.1.35:80", "real": "192.168.0.2:80", "message": "weight 1 -> 5"})
    );
    assert_eq!(
        next(),
        serde_json::json!({"event": "service-added", "service": "tcp/192.168.1.35:81", "message": "scheduler wrr"})
    );
    assert_eq!(next(), serde_json::json!({"event": "reloaded"}));
    scene.stop();
    assert_eq!(
        next(),
        serde_json::json!({"event": "stopping", "message": "forwarding goes on"})
    );
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

/// The events that a command printed, without their times.
fn kinds(stdout: &str) -> Vec<String> {
    let events = stdout.lines().map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        event["event"].as_str().expect("a kind").to_owned()
    });
    events.collect()
}

#[test]
fn what_has_happened_is_told_first_and_then_what_happens() {
    let mut scene = Scene::new();
    // As JSON, its time is that of the daemon's start.
    let began = scene.run("events --since 1h --no-follow --json");
    assert_eq!(kinds(&began.stdout), ["forgotten"]);
    let forgotten: serde_json::Value = serde_json::from_str(&began.stdout).expect("JSON");
    let start = forgotten["time"].as_str().expect("a time").to_owned();
    assert_eq!(
        scene.done("events --since 1h --no-follow"),
        format!("{start}  forgotten  events before {start} are gone: balancerd started then\n")
    );
    assert_eq!(
        scene.done(&format!("events --since {start} --no-follow")),
        ""
    );
    scene.done("add-service 192.168.1.35:80");
    scene.done("add-real 192.168.0.2");
    let since = format!("events --since {start} --json");
    assert_eq!(
        kinds(&scene.done(&format!("{since} --no-follow"))),
        ["service-added", "real-added"]
    );
    assert_eq!(scene.done("events --since 0s --no-follow"), "");
    assert_eq!(scene.done("events --since 2100-01-01 --no-follow"), "");

    let said = format!("events since {start}, then from now on (Ctrl-C ends)");
    let (mut child, lines) = follow_saying(&scene, &since, &said);
    scene.done("edit-real 192.168.0.2 -w 5");
    scene.stop();
    let all: Vec<_> = lines.map(|line| line.expect("text") + "\n").collect();
    assert_eq!(
        kinds(&all.concat()),
        ["service-added", "real-added", "real-changed", "stopping"]
    );
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn no_more_events_are_remembered_than_there_is_room_for() {
    let scene = Scene::tutorial();
    for index in 0..4_200 {
        let body = format!("{{\"weight\":{}}}", 1 + index % 2);
        let path = "/v1/services/web/reals/192.168.0.2?runtime=true";
        assert_eq!(request(&scene, "PATCH", path, &body).0, 200);
    }
    let text = scene.done("events --since 1h --no-follow --json");
    let kinds = kinds(&text);
    assert_eq!(kinds.len(), 4_097);
    assert_eq!((&*kinds[0], &*kinds[1]), ("forgotten", "real-changed"));
    let oldest: Vec<serde_json::Value> = text
        .lines()
        .take(2)
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let time = oldest[1]["time"].as_str().expect("a time");
    assert_eq!(
        oldest[0],
        serde_json::json!({"time": time, "event": "forgotten",
            "message": format!("events before {time} are gone: balancerd remembers the last 4096")})
    );
}

#[test]
fn a_wrong_time_is_refused() {
    let scene = Scene::new();
    let wrong = "`yesterday` is neither a duration nor a time: write `10m`, `2026-11-22` or `2026-11-22T03:14:08Z` (UTC)";
    scene.refused(
        "events --since yesterday",
        2,
        &format!(
            "error: invalid value 'yesterday' for '--since <SINCE>': {wrong}\n\nFor more information, try '--help'.\n"
        ),
    );
    assert_eq!(scene.run("events --no-follow").status, 2);
    for (query, sentence) in [
        ("since=yesterday", wrong),
        (
            "follow=false",
            "follow=false needs since: say from when on events are wanted, as in since=10m",
        ),
    ] {
        let answered = request(&scene, "GET", &format!("/v1/events?{query}"), "");
        assert_eq!(answered, (400, failure(sentence)));
    }
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
