//! Agent checks.

use super::*;

#[test]
fn each_agent_reply_counts_and_failures_do_not() {
    let mut checker = begin(&agent());
    assert!(checker.check_state().up && checker.check_state().decided);
    assert_eq!(
        run(&mut checker, &vec![failed(); 10]),
        vec![CheckerOutput::Nothing; 10]
    );
    let half = AgentReply {
        weight: Some(RequestedWeight::Percent(50)),
        ..AgentReply::default()
    };
    let down = AgentReply {
        state: Some(AdminState::Drain),
        down: Some("failed: disk full".to_owned()),
        ..half.clone()
    };
    let outputs = run(
        &mut checker,
        &[
            passed_with(half.clone()),
            passed_with(half.clone()),
            passed_with(down.clone()),
            failed(),
            failed(),
            failed(),
        ],
    );
    let mut expected = [CheckerOutput::Nothing; 6];
    expected[0] = CheckerOutput::RequestChanged;
    expected[2] = CheckerOutput::RequestChanged;
    assert_eq!(outputs, expected);
    assert_eq!(checker.check_state().agent_reply, down);
    assert!(checker.check_state().up);
    assert_eq!(
        finish(&mut checker, passed_with(half.clone()), 20_000),
        CheckerOutput::RequestChanged
    );
    assert_eq!(checker.check_state().agent_reply, half);
}

#[test]
fn an_agent_checks_state_begins_when_the_down_report_appears_or_ends() {
    let check = agent();
    let mut checker = Checker::new(&check, None, Vec::new(), &at(0));
    let says = |down: bool, weight: u32| Outcome::Passed {
        note: String::new(),
        agent_reply: AgentReply {
            down: down.then(|| format!("stopped {weight}")),
            weight: Some(RequestedWeight::Absolute(weight)),
            state: None,
        },
    };
    let since = [
        (10, false, 5),
        (20, true, 5),
        (30, true, 6),
        (40, false, 6),
        (50, false, 7),
    ]
    .map(|(time, down, weight)| {
        let done = FinishedProbe {
            began: at(time),
            latency: Duration::ZERO,
            outcome: says(down, weight),
        };
        checker.record(done, &at(time));
        checker.check_state().since
    });
    assert_eq!(since, [at(10), at(20), at(20), at(40), at(40)]);
}

#[test]
fn an_agents_down_report_is_its_checks_state_and_history() {
    let check = agent();
    let mut checker = Checker::new(&check, None, Vec::new(), &at(0));
    let check_target = CheckTarget {
        target: "10.0.0.2:9001".parse().unwrap(),
        check: check.clone(),
    };
    let shown = |checker: &Checker| {
        let view = checker.view(&check_target);
        (view.state, view.reason)
    };
    assert_eq!(shown(&checker), ("unknown".into(), "not probed yet".into()));
    let say = |checker: &mut Checker, time, word: &str| {
        let outcome = Outcome::Passed {
            note: format!("agent: {word}"),
            agent_reply: AgentReply {
                down: (word == "stopped").then(|| word.to_owned()),
                ..AgentReply::default()
            },
        };
        let done = FinishedProbe {
            began: at(time),
            latency: Duration::ZERO,
            outcome,
        };
        checker.record(done, &at(time));
    };
    say(&mut checker, 10, "ready");
    assert_eq!(shown(&checker), ("up".into(), "agent: ready".into()));
    for (time, word) in [(20, "stopped"), (30, "stopped"), (50, "up")] {
        say(&mut checker, time, word);
    }
    assert_eq!(shown(&checker), ("up".into(), "agent: up".into()));
    let past = |checker: &Checker| {
        let history = checker.view(&check_target).history;
        let one = |change: view::HealthChange| (change.state, change.reason, change.lasted_ms);
        history.into_iter().map(one).collect::<Vec<_>>()
    };
    let expected = [
        ("up", "agent: up", None),
        ("down", "agent: stopped", Some(30)),
        ("up", "agent: ready", Some(10)),
    ];
    let expected = expected.map(|(state, reason, lasted)| (state.into(), reason.into(), lasted));
    assert_eq!(past(&checker), expected);
    // Another daemon goes on there.
    say(&mut checker, 60, "stopped");
    let history = checker.history().iter().cloned().collect();
    let again = Checker::new(&check, Some(checker.check_state()), history, &at(90));
    assert_eq!(shown(&again), ("down".into(), "agent: stopped".into()));
    assert_eq!(past(&again), past(&checker));
}
