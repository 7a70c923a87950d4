//! A state that is continued, its history, and what is shown of both.

use super::*;

#[test]
fn it_continues_from_the_given_state() {
    let earlier = CheckState {
        up: true,
        decided: true,
        reason: "http 200, 2 of 2".to_owned(),
        agent_reply: AgentReply::default(),
        since: at(0),
    };
    let check = check(2, 3, Initial::Down);
    let mut checker = Checker::new(&check, Some(earlier.clone()), Vec::new(), &at(60_000));
    assert_eq!(checker.check_state(), earlier);
    finish(&mut checker, failed(), 61_000);
    finish(&mut checker, failed(), 62_000);
    assert_eq!(
        checker.check_state(),
        earlier,
        "it takes `fall` failures, as ever"
    );
    finish(&mut checker, failed(), 63_000);
    let lasted: Vec<Option<u64>> = checker
        .view_history()
        .iter()
        .map(|change| change.lasted_ms)
        .collect();
    assert_eq!(lasted, [None, Some(63_000)], "its past is counted too");

    let undecided = CheckState {
        decided: false,
        ..earlier
    };
    let checker = Checker::new(&check, Some(undecided), Vec::new(), &at(60_000));
    assert_eq!(checker.machine, MachineState::Undecided);
}

#[test]
fn a_history_that_ends_with_the_current_state_is_continued() {
    let past = vec![
        HistoryEntry {
            at: at(0),
            up: true,
            reason: "http 200, first probe".to_owned(),
        },
        HistoryEntry {
            at: at(5000),
            up: false,
            reason: "refused, 3 of 3".to_owned(),
        },
    ];
    let earlier = CheckState {
        up: false,
        decided: true,
        reason: "refused, 3 of 3".to_owned(),
        agent_reply: AgentReply::default(),
        since: at(5000),
    };
    let check = check(1, 3, Initial::Down);
    let mut checker = Checker::new(&check, Some(earlier), past, &at(9000));
    finish(&mut checker, passed(), 12_000);
    let shown: Vec<_> = checker
        .view_history()
        .into_iter()
        .map(|change| (change.state, change.lasted_ms, change.reason))
        .collect();
    assert_eq!(
        shown,
        [
            ("up".to_owned(), None, "http 200, 1 of 1".to_owned()),
            ("down".to_owned(), Some(7000), "refused, 3 of 3".to_owned()),
            (
                "up".to_owned(),
                Some(5000),
                "http 200, first probe".to_owned()
            ),
        ]
    );
}

#[test]
fn setting_the_clock_does_not_change_how_long_a_state_lasted() {
    let mut checker = begin(&check(1, 1, Initial::Down));
    finish(&mut checker, passed(), 1000);
    let mut later = at(4000);
    later.time = SystemTime::UNIX_EPOCH;
    let done = FinishedProbe {
        began: later,
        latency: Duration::ZERO,
        outcome: failed(),
    };
    checker.record(done, &later);
    assert_eq!(checker.view_history()[1].lasted_ms, Some(3000));
}

#[test]
fn the_view_shows_the_whole_checker() {
    let check = check(2, 1, Initial::Down);
    let mut checker = begin(&check);
    run(&mut checker, &[passed(), failed()]);
    let check_target = CheckTarget {
        target: "192.168.0.2:80".parse().unwrap(),
        check,
    };
    assert_eq!(
        checker.view(&check_target),
        view::Checker {
            target: check_target.target,
            kind: "tcp".to_owned(),
            check: serde_json::json!({ "type": "tcp", "fall": 1 }),
            used_by: Vec::new(),
            state: "down".to_owned(),
            since: "2023-11-14T22:13:22.000Z".to_owned(),
            reason: "http 503, wanted 200-299, 1 of 1".to_owned(),
            last: Some(view::LastProbe {
                time: "2023-11-14T22:13:21.993Z".to_owned(),
                passed: false,
                message: "http 503, wanted 200-299".to_owned(),
                latency_us: 7000,
                in_a_row: 1,
            }),
            obstacle: None,
            history: vec![
                view::HealthChange {
                    time: "2023-11-14T22:13:22.000Z".to_owned(),
                    state: "down".to_owned(),
                    reason: "http 503, wanted 200-299, 1 of 1".to_owned(),
                    lasted_ms: None,
                },
                view::HealthChange {
                    time: "2023-11-14T22:13:21.000Z".to_owned(),
                    state: "up".to_owned(),
                    reason: "http 200, first probe".to_owned(),
                    lasted_ms: Some(1000),
                },
            ],
        }
    );
}
