//! What programs see, word for word.

use super::*;

fn sender() -> Sender<'static> {
    Sender {
        node: "lb1",
        state: Path::new("/var/lib/balancer"),
    }
}

fn notify(run: &[&str]) -> Notify {
    Notify {
        user: None,
        on: Vec::new(),
        services: Vec::new(),
        run: run.iter().map(ToString::to_string).collect(),
        timeout: Duration::from_secs(7),
        alert_after: Duration::ZERO,
        alert_every: Some(Duration::from_millis(90_500)),
        always_up: false,
        stdin: Stdin::Json,
    }
}

fn notification_event(
    event: EventKind,
    service: Option<&str>,
    real: Option<&str>,
    message: &str,
) -> NotificationEvent {
    NotificationEvent {
        record: EventRecord {
            time: "2026-01-02T03:04:05.678Z".to_owned(),
            event,
            service: service.map(str::to_owned),
            real: real.map(|real| real.parse().unwrap()),
            peer: None,
            message: message.to_owned(),
        },
        name: None,
        hosts: Vec::new(),
        repeats: 0,
        is_unknown: false,
        past: ConditionHistory::default(),
    }
}

fn down() -> NotificationEvent {
    let at = |seconds: u64| Some(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 1));
    NotificationEvent {
        name: Some("web".to_owned()),
        repeats: 2,
        past: ConditionHistory {
            first_failure: at(1_767_323_045),
            last_failure: at(1_767_323_050),
            last_success: None,
        },
        ..notification_event(
            EventKind::RealDown,
            Some("tcp/192.0.2.80:80"),
            Some("10.0.0.2:8080"),
            "http 503, wanted 200-299, 3 of 3",
        )
    }
}

fn lines(program: &Program) -> Vec<String> {
    let variables = program.environment.iter();
    variables
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

#[test]
fn a_real_server_that_is_down() {
    let notify = notify(&["/usr/local/bin/alert", "ops@example.org", "two words"]);
    let program = invocation(&down(), &notify, sender());
    assert_eq!(program.path, Path::new("/usr/local/bin/alert"));
    assert_eq!(program.timeout, Some(Duration::from_secs(7)));
    assert_eq!(
        program.arguments,
        [
            "-s",
            "web",
            "-g",
            "web",
            "-h",
            "10.0.0.2",
            "-l",
            "90",
            "-t",
            "1767323045",
            "ops@example.org",
            "two words"
        ]
    );
    assert_eq!(
        lines(&program),
        [
            "BALANCER_EVENT=real-down",
            "BALANCER_SERVICE=web",
            "BALANCER_ADDRESS=tcp/192.0.2.80:80",
            "BALANCER_REAL=10.0.0.2:8080",
            "BALANCER_MESSAGE=http 503, wanted 200-299, 3 of 3",
            "BALANCER_SUMMARY=10.0.0.2:8080 real down: http 503, wanted 200-299, 3 of 3",
            "BALANCER_TIME=2026-01-02T03:04:05.678Z",
            "BALANCER_NODE=lb1",
            "BALANCER_AGAIN=2",
            "MON_SERVICE=web",
            "MON_GROUP=web",
            "MON_DESCRIPTION=virtual service web on lb1",
            "MON_LAST_SUMMARY=10.0.0.2:8080 real down: http 503, wanted 200-299, 3 of 3",
            "MON_LAST_OUTPUT=10.0.0.2:8080 real down: http 503, wanted 200-299, 3 of 3\n\
             http 503, wanted 200-299, 3 of 3",
            "MON_ALERTTYPE=failure",
            "MON_OPSTATUS=0",
            "MON_RETVAL=1",
            "MON_LOGDIR=/var/log",
            "MON_STATEDIR=/var/lib/balancer",
            "MON_FIRST_FAILURE=1767323045",
            "MON_LAST_FAILURE=1767323050",
        ]
    );
    assert_eq!(
        str::from_utf8(&program.input).unwrap(),
        concat!(
            r#"{"summary":"10.0.0.2:8080 real down: http 503, wanted 200-299, 3 of 3","#,
            r#""time":"2026-01-02T03:04:05.678Z","event":"real-down","service":"tcp/192.0.2.80:80","#,
            r#""real":"10.0.0.2:8080","message":"http 503, wanted 200-299, 3 of 3","name":"web","node":"lb1","#,
            r#""again":2,"first_failure":"2026-01-02T03:04:05.001Z","#,
            r#""last_failure":"2026-01-02T03:04:10.001Z","last_success":null}"#,
            "\n"
        )
    );
}

#[test]
fn what_an_alert_program_of_mon_reads() {
    let mut notify = notify(&["/a"]);
    notify.stdin = Stdin::Mon;
    let read = |event: &NotificationEvent| {
        let input = invocation(event, &notify, sender()).input;
        String::from_utf8(input).unwrap()
    };
    assert_eq!(
        read(&down()),
        "10.0.0.2:8080 real down: http 503, wanted 200-299, 3 of 3\n\
         http 503, wanted 200-299, 3 of 3\n\
         service: web\n\
         address: tcp/192.0.2.80:80\n\
         real: 10.0.0.2:8080\n"
    );
    let reloaded = notification_event(EventKind::Reloaded, None, None, "");
    assert_eq!(read(&reloaded), "configuration loaded again\n");
    let failed = notification_event(
        EventKind::ReloadFailed,
        None,
        None,
        "a:1:1: wrong\n\n \na:2:1: too",
    );
    assert_eq!(
        read(&failed),
        "configuration not loaded, what ran goes on running: a:1:1: wrong    a:2:1: too\na:1:1: wrong\na:2:1: too\n"
    );
}

#[test]
fn the_end_of_monitoring_is_not_called_a_recovery() {
    let event = NotificationEvent {
        is_unknown: true,
        ..notification_event(
            EventKind::RealUp,
            Some("tcp/192.0.2.80:80"),
            Some("10.0.0.2:8080"),
            "no longer watched: in maintenance",
        )
    };
    let program = invocation(&event, &notify(&["/a"]), sender());
    let summary = "BALANCER_SUMMARY=10.0.0.2:8080 no longer watched: in maintenance";
    assert!(lines(&program).contains(&summary.to_owned()));
    assert_eq!(
        program.arguments.last().unwrap(),
        "-u",
        "it ends all the same"
    );
}

#[test]
fn programs_read_the_event_as_the_event_stream_has_it() {
    let event = down();
    let read: serde_json::Value =
        serde_json::from_slice(&invocation(&event, &notify(&["/a"]), sender()).input).unwrap();
    let record: EventRecord = serde_json::from_value(read).unwrap();
    assert_eq!(record, event.record);
}

#[test]
fn the_end_of_a_condition_is_an_up_alert() {
    let mut up = down();
    up.record.event = EventKind::RealUp;
    up.record.message = String::new();
    up.past.last_success = Some(UNIX_EPOCH + Duration::from_secs(1_767_323_060));
    let program = invocation(&up, &notify(&["/a", "x"]), sender());
    assert_eq!(program.arguments[10..], ["-u", "x"]);
    let lines = lines(&program);
    for line in [
        "MON_ALERTTYPE=up",
        "MON_OPSTATUS=1",
        "MON_RETVAL=0",
        "MON_LAST_SUCCESS=1767323060",
        "MON_LAST_SUMMARY=10.0.0.2:8080 real up",
        "BALANCER_MESSAGE=",
    ] {
        assert!(lines.iter().any(|other| other == line), "{line}: {lines:?}");
    }
}

#[test]
fn an_event_of_a_service_names_its_hosts() {
    let mut lost = notification_event(
        EventKind::QuorumLost,
        Some("udp/[2001:db8::80]:53"),
        None,
        "live weight 1 of 2",
    );
    lost.hosts = ["2001:db8::2", "2001:db8::3"]
        .map(|host| host.parse().unwrap())
        .to_vec();
    let program = invocation(&lost, &notify(&["/a"]), sender());
    assert_eq!(
        program.arguments[..6],
        [
            "-s",
            "udp/[2001:db8::80]:53",
            "-g",
            "udp/[2001:db8::80]:53",
            "-h",
            "2001:db8::2 2001:db8::3"
        ]
    );
    assert!(lines(&program).contains(
        &"MON_LAST_SUMMARY=udp/[2001:db8::80]:53 quorum lost: live weight 1 of 2".to_owned()
    ));
}

#[test]
fn an_event_of_the_node_has_its_name() {
    let full = notification_event(EventKind::TableFull, None, None, "8 of 8 connections");
    let mut notify = notify(&["/a"]);
    notify.alert_every = None;
    let program = invocation(&full, &notify, sender());
    assert_eq!(
        program.arguments,
        [
            "-s",
            "balancer",
            "-g",
            "lb1",
            "-h",
            "",
            "-l",
            "0",
            "-t",
            "1767323045"
        ]
    );
    let lines = lines(&program);
    for line in [
        "BALANCER_SERVICE=",
        "BALANCER_REAL=",
        "MON_DESCRIPTION=balancer on lb1",
        "MON_LAST_SUMMARY=connection table full, new connections are refused: 8 of 8 connections",
    ] {
        assert!(lines.iter().any(|other| other == line), "{line}: {lines:?}");
    }
}

#[test]
fn an_event_of_no_condition_is_neither_failure_nor_up() {
    let reloaded = notification_event(EventKind::Reloaded, None, None, "");
    let program = invocation(&reloaded, &notify(&["/a"]), sender());
    assert!(!program.arguments.contains(&"-u".to_owned()));
    assert!(lines(&program).contains(&"MON_ALERTTYPE=startup".to_owned()));
    assert!(lines(&program).contains(&"MON_OPSTATUS=1".to_owned()));
}

#[test]
fn placeholders_in_arguments_are_replaced_once() {
    let mut event = down();
    event.record.message = "says {node} {{ }".to_owned();
    let arguments = [
        "{event}",
        "--at={service}/{real}",
        "{message}",
        "{address} {time}",
        "{node}{node}",
        "{what} {{event}} {",
        "}{event",
    ];
    let mut run = vec!["/a"];
    run.extend(arguments);
    let program = invocation(&event, &notify(&run), sender());
    assert_eq!(
        program.arguments[10..],
        [
            "real-down",
            "--at=web/10.0.0.2:8080",
            "says {node} {{ }",
            "tcp/192.0.2.80:80 2026-01-02T03:04:05.678Z",
            "lb1lb1",
            "{what} {real-down} {",
            "}{event",
        ]
    );
}

#[test]
fn long_texts_are_cut_in_arguments_and_whole_in_the_input() {
    let mut failed = notification_event(EventKind::ReloadFailed, None, None, "");
    failed.record.message = format!("a\0b\n{}", "ß".repeat(100_000));
    failed.hosts = vec!["2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(); 10_000];
    let program = invocation(&failed, &notify(&["/a", "{message}"]), sender());
    let all = program
        .arguments
        .iter()
        .chain(program.environment.iter().map(|(_, value)| value));
    let mut total = 0;
    for text in all {
        assert!(!text.contains('\0'));
        total += text.len();
    }
    assert!(total < 8 * MAX_TEXT_BYTES, "{total}");
    let message = program.arguments.last().unwrap();
    assert!(message.starts_with("ab\nßß") && message.ends_with("ß…"));
    assert!(message.len() <= MAX_TEXT_BYTES);
    let summary = lines(&program)
        .into_iter()
        .find(|line| line.starts_with("MON_LAST_SUMMARY="))
        .unwrap();
    assert!(!summary.contains('\n'));
    let hosts = &program.arguments[5];
    assert!(hosts.ends_with(" 2001:db8:1111:2222:3333:4444:5555:6666"));
    assert!(hosts.len() <= MAX_TEXT_BYTES);
    let event: EventRecord = serde_json::from_slice(&program.input).unwrap();
    assert_eq!(event, failed.record);
}
