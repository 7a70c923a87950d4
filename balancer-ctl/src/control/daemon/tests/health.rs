//! Health as the daemon carries it: from what checkers found to the data plane, the lists and the events.

use super::*;
use crate::{
    health::{
        AgentReply, CheckStart, CheckState, CheckTarget, CheckUpdate, Quorum, RestoredState,
        UNKNOWN_TIME,
    },
    model::{AdminState, check::keys},
};

const CHECKED: &str = r#"
[dataplane]
interfaces = ["eth0"]

[[service]]
name = "web"
address = "192.0.2.80:80"
check = { type = "tcp" }

[[service.real]]
address = "10.0.0.2:80"

[[service.real]]
address = "10.0.0.3:80"
"#;

fn scene() -> Scene {
    Scene::with_file(CHECKED)
}

fn check_state(up: bool, reason: &str) -> CheckState {
    CheckState {
        up,
        decided: true,
        reason: reason.to_owned(),
        agent_reply: AgentReply::default(),
        since: UNKNOWN_TIME,
    }
}

impl Scene {
    fn wanted(&self) -> Vec<CheckStart> {
        let mut target = self.checkers.state().wanted.clone();
        target.sort_by_key(|begin| begin.target.target);
        target
    }

    /// The n-th checker found this.
    fn find(&mut self, number: usize, check_state: CheckState) {
        let target = CheckTarget::clone(&self.wanted()[number].target);
        self.daemon.answer(Message::Found(vec![CheckUpdate {
            target,
            check_state,
        }]));
    }

    fn runs(&self) -> Vec<u32> {
        self.dataplane.state().services[0]
            .reals
            .iter()
            .map(|real| real.weight)
            .collect()
    }

    fn status(&mut self) -> view::Status {
        self.ask(Message::Status).unwrap()
    }
}

#[test]
fn check_results_reach_the_data_plane_the_lists_and_the_events() {
    let mut scene = scene();
    assert_eq!(scene.runs(), [0, 0]);
    let status = scene.status();
    assert_eq!(status.overall, view::Overall::Down);
    assert_eq!(
        status.reasons,
        ["service web waits for the first probes of its real servers"]
    );
    scene.find(0, check_state(true, "connected"));
    scene.find(1, check_state(true, "connected"));
    assert_eq!(scene.runs(), [1, 1]);
    assert_eq!(
        scene.events(),
        [
            "real-up 10.0.0.2:80 connected",
            "real-up 10.0.0.3:80 connected"
        ]
    );
    assert_eq!(scene.status().overall, view::Overall::Running);

    scene.find(0, check_state(false, "connection refused, 3 of 3"));
    assert_eq!(scene.runs(), [0, 1]);
    assert_eq!(
        scene.events(),
        ["real-down 10.0.0.2:80 connection refused, 3 of 3"]
    );
    let services = scene.ask(|reply| Message::Services(None, reply)).unwrap();
    let real = &services.services[0].reals[0];
    assert_eq!(
        (real.state, real.reason.as_deref()),
        (view::RealState::Down, Some("connection refused, 3 of 3"))
    );
    let status = scene.status();
    assert_eq!(status.overall, view::Overall::Limited);
    assert_eq!(
        status.reasons,
        ["real 10.0.0.2:80 of service web is down: connection refused, 3 of 3"]
    );
    assert_eq!(
        (
            status.services[0].reals_up,
            status.services[0].live_weight,
            status.services[0].quorum
        ),
        (1, 1, Some(true))
    );
}

#[test]
fn an_agents_request_is_in_the_status() {
    let mut scene = Scene::with_file(&CHECKED.replace(
        "check = { type = \"tcp\" }",
        "check = [{ type = \"tcp\" }, { type = \"agent\", port = 9 }]",
    ));
    let say = |scene: &mut Scene, up: &str, agent_reply: AgentReply| {
        for begin in scene.wanted() {
            let is_agent = begin.target.target.port() == 9;
            let mut check_state = check_state(up.is_empty(), up);
            if is_agent && begin.target.target.ip().to_string() == "10.0.0.2" {
                check_state.agent_reply = agent_reply.clone();
            } else if begin.target.target.ip().to_string() != "10.0.0.2" {
                check_state.up = true;
            }
            let target = CheckTarget::clone(&begin.target);
            scene.daemon.answer(Message::Found(vec![CheckUpdate {
                target,
                check_state,
            }]));
        }
        scene.status().reasons
    };
    let down = |words: &str| AgentReply {
        down: Some(words.to_owned()),
        ..AgentReply::default()
    };
    let state = |state| AgentReply {
        state: Some(state),
        ..AgentReply::default()
    };
    assert_eq!(
        say(&mut scene, "", down("stopped: disk full")),
        ["real 10.0.0.2:80 of service web is down: its agent says stopped: disk full"]
    );
    let refused = "connection refused, 3 of 3";
    assert_eq!(
        say(&mut scene, refused, state(AdminState::Drain)),
        [
            "real 10.0.0.2:80 of service web is down: connection refused, 3 of 3; drained by its agent"
        ]
    );
    // On purpose, whatever its checks say.
    assert_eq!(
        say(&mut scene, refused, state(AdminState::Maintenance)),
        [] as [&str; 0]
    );
    assert_eq!(
        say(&mut scene, "", state(AdminState::Drain)),
        [] as [&str; 0]
    );
}

#[test]
fn maintenance_takes_a_real_out_and_stands_in_the_file() {
    let mut scene = scene();
    scene.find(0, check_state(true, "connected"));
    scene.find(1, check_state(true, "connected"));
    scene.events();
    let settings = RealSettings {
        state: Some(AdminState::Maintenance),
        ..Default::default()
    };
    scene
        .change(
            Request::EditReal(ServiceRef::Only, real("10.0.0.2"), settings),
            Scope::File,
        )
        .unwrap();
    assert_eq!(scene.runs(), [0, 1]);
    assert_eq!(scene.wanted().len(), 1);
    assert!(
        scene.text().contains("state = \"maintenance\""),
        "{}",
        scene.text()
    );
    assert_eq!(
        scene.events(),
        ["real-changed 10.0.0.2:80 state ready -> maintenance"]
    );
}

#[test]
fn a_check_may_ask_another_address_and_port_than_the_reals() {
    let targets = |check: &str| -> Vec<String> {
        let scene = Scene::with_file(&CHECKED.replace("{ type = \"tcp\" }", check));
        let target = scene.wanted().into_iter();
        target
            .map(|begin| begin.target.target.to_string())
            .collect()
    };
    for (check, expected) in [
        ("{ type = \"tcp\" }", &["10.0.0.2:80", "10.0.0.3:80"][..]),
        (
            "{ type = \"tcp\", port = 8080 }",
            &["10.0.0.2:8080", "10.0.0.3:8080"],
        ),
        // What is asked is the same for both then, and asked once.
        (
            "{ type = \"tcp\", address = \"10.9.9.9\" }",
            &["10.9.9.9:80"],
        ),
        (
            "{ type = \"tcp\", address = \"2001:db8::9\", port = 8080 }",
            &["[2001:db8::9]:8080"],
        ),
    ] {
        assert_eq!(targets(check), expected, "{check}");
    }
}

#[test]
fn what_another_address_answers_decides_over_all_who_ask_it() {
    let check = "{ type = \"tcp\", address = \"10.9.9.9\", port = 9 }";
    let mut scene = Scene::with_file(&CHECKED.replace("{ type = \"tcp\" }", check));
    scene.find(0, check_state(true, "connected"));
    assert_eq!(scene.runs(), [1, 1]);
    scene.events();
    scene.find(0, check_state(false, "connection refused, 3 of 3"));
    assert_eq!(scene.runs(), [0, 0]);
    assert_eq!(
        scene.events(),
        [
            "real-down 10.0.0.2:80 connection refused, 3 of 3",
            "real-down 10.0.0.3:80 connection refused, 3 of 3",
            "quorum-lost live weight 0, quorum 1"
        ]
    );
}

#[test]
fn the_ring_changes_before_the_event() {
    let mut scene = scene();
    for check_state in [
        check_state(true, "connected"),
        check_state(false, "connection refused, 3 of 3"),
    ] {
        let events = scene.events.resubscribe();
        let (sender, when_applied) = std::sync::mpsc::channel();
        scene.dataplane.state().during_reconcile = Some(Box::new(move || {
            sender.send(events.len()).unwrap();
        }));
        scene.find(0, check_state);
        assert_eq!(
            when_applied.try_recv(),
            Ok(0),
            "the event came before the change of the ring"
        );
        assert!(scene.events()[0].starts_with("real-"));
    }
}

#[test]
fn a_change_that_fails_leaves_health_as_it_was() {
    let mut scene = scene();
    scene.find(0, check_state(true, "connected"));
    scene.dataplane.state().reconcile_failures = 1;
    scene.change(add_real("10.0.0.4"), Scope::File).unwrap_err();
    assert_eq!(scene.runs(), [1, 0]);
    assert_eq!(scene.wanted().len(), 2);
}

#[test]
fn a_data_plane_that_refused_an_update_is_updated_again() {
    let mut scene = scene();
    scene.dataplane.state().reconcile_failures = 3;
    scene.find(0, check_state(true, "connected"));
    scene.daemon.tick();
    scene.find(0, check_state(true, "connected"));
    let reconciled = scene.dataplane.state().reconciled;
    let behind = "the data plane is out of sync, the change is tried again each second: the kernel refused a call";
    assert!(scene.status().reasons.contains(&behind.to_owned()));
    scene.daemon.tick();
    assert!(!scene.status().reasons.contains(&behind.to_owned()));
    assert_eq!(scene.dataplane.state().reconciled, reconciled + 1);
    scene.daemon.tick();
    assert_eq!(
        scene.dataplane.state().reconciled,
        reconciled + 1,
        "once it follows, no more"
    );
    assert_eq!(
        scene.events(),
        [
            "dataplane-out-of-sync the kernel refused a call",
            "real-up 10.0.0.2:80 connected",
            "dataplane-in-sync"
        ]
    );
}

/// A daemon that starts with what another left, with quorum: weights, events, and the checkers.
fn restarted(restored: [CheckState; 2]) -> (Vec<u32>, Vec<String>, FakeCheckers) {
    let mut scene = scene();
    let file = load(&scene.path(), "lb1").unwrap();
    let model = file.model().clone();
    let checkers = FakeCheckers::default();
    checkers.state().restored = scene
        .wanted()
        .into_iter()
        .zip(restored)
        .map(|(begin, check_state)| {
            let restored = RestoredState {
                check_state,
                since: None,
                has_returned: false,
            };
            (CheckTarget::clone(&begin.target), restored)
        })
        .collect();
    let quorum = Quorum {
        holds: true,
        since: clock::now(),
    };
    let key = model.services[0].key;
    checkers.state().quorums.insert(key, quorum);
    let dataplane = FakeDataplane::default();
    let events = EventLog::default();
    let receiver = events.follow();
    let daemon = Daemon::start(DaemonConfig {
        dataplane: Box::new(dataplane.clone()),
        checkers: Box::new(checkers.clone()),
        notifier: None,
        file: Some(file),
        availability: at_start(&model, &checkers),
        model,
        events,
        interfaces,
        vrrp: no_vrrp(),
        nodes: no_nodes(scene.folder.path()),
    });
    daemon.unwrap();
    scene.dataplane = dataplane;
    scene.events = receiver;
    (scene.runs(), scene.events(), checkers)
}

#[test]
fn a_restart_begins_with_what_was_remembered() {
    let (weights, events, checkers) = restarted([
        check_state(true, "connected"),
        check_state(false, "connection refused, 3 of 3"),
    ]);
    assert_eq!(weights, [1, 0]);
    assert_eq!(events, [] as [&str; 0], "nothing happened");
    assert!(
        checkers
            .state()
            .wanted
            .iter()
            .all(|begin| begin.from.is_some())
    );
}

#[test]
fn a_quorum_that_changed_over_a_restart_is_an_event_and_stored() {
    let refused = check_state(false, "connection refused, 3 of 3");
    let (_, events, checkers) = restarted([refused.clone(), refused]);
    assert_eq!(events, ["quorum-lost live weight 0, quorum 1"]);
    let kept = checkers.state().persisted.remove(0).quorum.unwrap();
    assert!(!kept.holds);
}

#[test]
fn a_quorum_is_kept_when_it_changes() {
    let mut scene = scene();
    let kept = |scene: &Scene| {
        scene.checkers.state().persisted[0]
            .quorum
            .map(|quorum| quorum.holds)
    };
    assert_eq!(kept(&scene), None);
    scene.find(0, check_state(true, "connected"));
    assert_eq!(kept(&scene), Some(true));
    scene.find(0, check_state(false, "connection refused, 3 of 3"));
    scene.find(1, check_state(false, "connection refused, 3 of 3"));
    assert_eq!(kept(&scene), Some(false));
}

#[tokio::test]
async fn checkers_are_reported_with_those_who_use_them() {
    let mut scene = scene();
    let checker = |target: &str| view::Checker {
        target: target.parse().unwrap(),
        kind: "tcp".to_owned(),
        check: keys::json(&scene.wanted()[0].target.check),
        used_by: Vec::new(),
        state: "up".to_owned(),
        since: String::new(),
        reason: String::new(),
        last: None,
        obstacle: None,
        history: Vec::new(),
    };
    let report = vec![
        checker("10.0.0.3:80"),
        checker("10.0.0.2:80"),
        checker("10.0.0.9:80"),
    ];
    scene.checkers.state().report = report;
    let report = scene
        .ask(|reply| Message::Health(Some(named("web")), reply))
        .unwrap();
    let health = report.finished().await.unwrap();
    let shown: Vec<_> = health
        .checkers
        .into_iter()
        .map(|checker| (checker.target.to_string(), checker.used_by))
        .collect();
    let expected =
        ["10.0.0.2:80", "10.0.0.3:80"].map(|real| (real.to_owned(), vec![format!("web {real}")]));
    assert_eq!(
        shown, expected,
        "those of others, and of nobody, are left out"
    );
}

#[tokio::test]
async fn where_nothing_is_probed_it_is_said_why() {
    let maintenance = CHECKED
        .replace("10.0.0.2:80\"", "10.0.0.2:80\"\nstate = \"maintenance\"")
        .replace("10.0.0.3:80\"", "10.0.0.3:80\"\nstate = \"maintenance\"");
    let empty = &CHECKED[..CHECKED.find("[[service.real]]").unwrap()];
    let none = &CHECKED[..CHECKED.find("[[service]]").unwrap()];
    for (file, expected) in [
        (
            maintenance.as_str(),
            "nothing is probed: all real servers are in maintenance: `balancer-ctl ready REAL` ends that",
        ),
        (
            empty,
            "nothing is probed: there is no real server: add one with `balancer-ctl add-real`",
        ),
        (
            FILE,
            "nothing is probed: give a service a check, as in `balancer-ctl edit-service --check http`",
        ),
        (
            &format!("{FILE}[[service]]\nname = \"mail\"\naddress = \"192.0.2.80:25\"\n"),
            "nothing is probed: give a service a check, as in `balancer-ctl edit-service web --check http`",
        ),
        (
            none,
            "nothing is probed: there is no service: add one with `balancer-ctl add-service`",
        ),
    ] {
        let mut scene = Scene::with_file(file);
        let report = scene.ask(|reply| Message::Health(None, reply)).unwrap();
        let health = report.finished().await.unwrap();
        assert_eq!(
            (health.checkers, health.idle.as_deref()),
            (vec![], Some(expected))
        );
    }
}

#[test]
fn checkers_that_stand_still_limit_and_are_not_hidden_from_systemd() {
    let mut scene = scene();
    scene.find(0, check_state(true, "connected"));
    scene.find(1, check_state(true, "connected"));
    scene.events();
    let stalled = format!("checks-stalled {CHECKS_STALLED}");
    for (is_stalled, overall, reasons, events) in [
        (false, view::Overall::Running, &[][..], &[][..]),
        (
            true,
            view::Overall::Limited,
            &[CHECKS_STALLED],
            &[&*stalled],
        ),
        (false, view::Overall::Running, &[], &["checks-resumed"]),
    ] {
        scene.checkers.state().is_stalled = is_stalled;
        scene.daemon.tick();
        let status = scene.status();
        assert_eq!(status.overall, overall);
        assert_eq!(status.reasons, reasons);
        scene.daemon.tick();
        assert_eq!(scene.events(), events, "once");
    }
}
