//! Filters of services: set, shown, refused and left out.

use balancer_ctl::{
    dataplane::ServiceSnapshot,
    model::{
        address::service_key,
        filter::{FilterRule, Prefixes},
    },
};
use serde_json::json;

use crate::{
    scene::{FILE, Scene, ran},
    socket::request,
};

/// The tutorial's services, the first with a filter that has been at work.
fn filtered() -> Scene {
    let scene = Scene::tutorial();
    scene.done("edit-service web --allow 10.0.0.0/8,192.0.2.7 --deny 10.9.0.0/16 --rate 100/s");
    let prefix = |text: &str| FilterRule::Prefix(text.parse().expect("a prefix"));
    let counted = [
        (prefix("10.0.0.0/8"), 1_234),
        (prefix("192.0.2.7"), 1),
        (prefix("10.9.0.0/16"), 17),
        (FilterRule::Others, 2_000),
        (FilterRule::Rate, 3),
    ];
    let snapshot = ServiceSnapshot {
        filtered: counted.into(),
        ..ServiceSnapshot::default()
    };
    let web = service_key("192.168.1.35:80").expect("a service");
    let mut state = scene.dataplane.state();
    state.snapshot.services.insert(web, snapshot);
    drop(state);
    scene
}

#[test]
fn filters_are_written_and_ended() {
    let scene = Scene::new();
    let mut command = scene.command("add-service 192.168.1.35:80 --deny 198.51.100.0/24 --rate");
    assert_eq!(ran(command.arg("7/s per /24")).stderr, "");
    let block = "\n[[service]]\naddress = \"192.168.1.35:80\"\n";
    assert_eq!(
        scene.text(),
        format!("{FILE}{block}deny = [\"198.51.100.0/24\"]\nrate = \"7/s per /24\"\n")
    );
    let filter = || scene.dataplane.state().services[0].filter.clone();
    assert_eq!(
        filter().deny,
        Prefixes::from_argument("198.51.100.0/24").expect("a prefix")
    );
    // What is not named keeps its value.
    scene.done("edit-service --allow 198.51.100.7");
    assert_eq!(filter().rate.map(|rate| rate.per_second), Some(7));
    scene.done("edit-service --allow none --deny none --rate none");
    assert!(filter().is_off());
    assert_eq!(scene.text(), format!("{FILE}{block}"));
    // For now only.
    scene.done("edit-service --deny 198.51.100.7 --runtime");
    assert!(!filter().is_off());
    assert_eq!(scene.text(), format!("{FILE}{block}"));
    scene.done("reload");
    assert!(filter().is_off());
}

#[test]
fn filters_are_shown_with_what_they_have_counted() {
    let scene = filtered();
    assert_eq!(
        scene.done("list web"),
        "\
Service                    Scheduler
  -> Real                  Forwarding  Weight  Effective  State  Active  Inactive
tcp/192.168.1.35:80 (web)  rr                                                      allow 2 prefixes, deny 10.9.0.0/16, rate 100/s per /32, 2.02K packets refused
  -> 192.168.0.2:80        nat              1          1  up          0         0
  -> 192.168.0.3:80        nat              3          3  up          0         0
"
    );
    assert_eq!(
        scene.done("list --filters"),
        "\
Service                        Packets
  Rule
tcp/192.168.1.35:80 (web)
  allow 10.0.0.0/8               1.23K
  allow 192.0.2.7                    1
  deny 10.9.0.0/16                  17
  deny all others                2.00K
  rate 100/s per /32, refused        3
"
    );
    assert_eq!(
        Scene::tutorial().done("list --filters"),
        "no service has a filter: `edit-service` sets one with --allow, --deny or --rate\n"
    );
    let listed: serde_json::Value = serde_json::from_str(&scene.done("list --json")).expect("JSON");
    let [web, dns] = [0, 1].map(|index| listed["services"][index].clone());
    assert_eq!(
        (
            &web["allow"],
            &web["deny"],
            &web["not_allowed"],
            &web["rate"]
        ),
        (
            &json!([{"prefix": "10.0.0.0/8", "packets": 1234}, {"prefix": "192.0.2.7", "packets": 1}]),
            &json!([{"prefix": "10.9.0.0/16", "packets": 17}]),
            &json!(2000),
            &json!({"limit": "100/s per /32", "refused": 3})
        )
    );
    assert_eq!((&dns["allow"], &dns["rate"]), (&json!([]), &json!(null)));
    assert!(dns.get("not_allowed").is_none());
}

#[test]
fn trace_names_the_rule() {
    let scene = filtered();
    for (client, said) in [
        (
            "10.1.2.3:5",
            "gets 192.168.0.2:80\n  let in by allow 10.0.0.0/8\n  its turn comes next: slot 0 of 1 of rr\n",
        ),
        (
            "10.9.2.3:5",
            "gets no real server\n  the service's `allow` and `deny` do not let the client open connections: deny 10.9.0.0/16\n",
        ),
        (
            "192.0.2.8:5",
            "gets no real server\n  the service's `allow` and `deny` do not let the client open connections: not in allow\n",
        ),
    ] {
        assert_eq!(
            scene.done(&format!("trace --client {client} web")),
            format!("{client} to tcp/192.168.1.35:80 {said}")
        );
    }
    let answer = scene.done("trace --json --client 10.9.2.3:5 web");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["rule"], "deny 10.9.0.0/16");
}

#[test]
fn the_lines_of_ipvsadm_have_no_place_for_filters() {
    let scene = filtered();
    let saved = scene.run("save");
    assert_eq!(
        saved.stderr.lines().next(),
        Some("# service tcp/192.168.1.35:80: these lines do not hold allow, deny, name, rate")
    );
    assert_eq!(saved.status, 0);
}

#[test]
fn what_is_no_filter_is_refused() {
    let scene = Scene::tutorial();
    let usage =
        |sentence: &str| format!("error: {sentence}\n\nFor more information, try '--help'.\n");
    for (arguments, sentence) in [
        (
            "edit-service web --deny 198.51.100.7/24",
            "invalid value '198.51.100.7/24' for '--deny <PREFIX,...>': `198.51.100.7/24` has bits behind its prefix: write \
             `198.51.100.0/24`",
        ),
        (
            "edit-service web --rate fast",
            "invalid value 'fast' for '--rate <RATE>': `fast` is no limit of connections: write `100/s`, or `100/s per /24` for \
             networks that count as one client; `none` ends it",
        ),
    ] {
        scene.refused(arguments, 2, &usage(sentence));
    }
    for (arguments, sentence) in [
        (
            "edit-service web --allow 2001:db8::/32",
            "allow 2001:db8::/32 is not of the family of service tcp/192.168.1.35:80: both must be IPv4 or both IPv6",
        ),
        (
            "edit-service web --allow 10.0.0.0/8 --deny 10.0.0.0/8",
            "deny 10.0.0.0/8 is in allow, too: leave it in one of them",
        ),
        (
            "edit-service web --rate 1000001/s",
            "rate `1000001/s` is out of range: 1/s to 1000000/s",
        ),
    ] {
        scene.refused(arguments, 1, &format!("error: {sentence}\n"));
    }
    let mut command = scene.command("edit-service web --rate");
    assert_eq!(
        ran(command.arg("5/s per /33")).stderr,
        "error: rate `5/s per /33` of service tcp/192.168.1.35:80 is per too long a prefix: /0 to /32\n"
    );
}

#[test]
fn the_socket_takes_lists_and_null() {
    let scene = Scene::tutorial();
    let patch = |body: &str| {
        let target = "/v1/services/web?runtime=true";
        request(&scene, "PATCH", target, body)
    };
    let filter = || scene.dataplane.state().services[0].filter.clone();
    assert_eq!(patch(r#"{"deny":["198.51.100.0/24"],"rate":"5/s"}"#).0, 200);
    assert_eq!(filter().deny.len(), 1);
    assert_eq!(patch(r#"{"deny":null,"rate":null}"#).0, 200);
    assert!(filter().is_off());
    for (body, sentence) in [
        (
            r#"{"deny":["web"]}"#,
            "`web` is neither an address nor a prefix",
        ),
        (r#"{"deny":"198.51.100.7"}"#, "invalid type: string"),
        (r#"{"rate":100}"#, "invalid type: integer `100`"),
        (r#"{"rate":"100"}"#, "rate `100` is no limit of connections"),
    ] {
        let (status, answer) = patch(body);
        assert!(
            status == 400 && answer.contains(sentence),
            "{status} {answer}"
        );
    }
}
