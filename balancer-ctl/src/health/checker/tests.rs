mod agent;
mod history;

use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::{
    health::{CheckTarget, RequestedWeight},
    model::{
        AdminState,
        check::{AgentProbe, Exchange, Probe, Source, Target, Timing},
    },
};

const UP: MachineState = MachineState::Up { failures: 0 };
const DOWN: MachineState = MachineState::Down { passes: 0 };

fn check(rise: u32, fall: u32, initial: Initial) -> Check {
    Check {
        probe: Probe::Tcp(Exchange::default()),
        target: Target::default(),
        source: Source::default(),
        timing: Timing {
            rise,
            fall,
            initial,
            ..Timing::default()
        },
    }
}

fn agent() -> Check {
    Check {
        probe: Probe::Agent(AgentProbe::default()),
        ..check(2, 3, Initial::Down)
    }
}

fn at(milliseconds: u64) -> Timestamp {
    let since = Duration::from_millis(milliseconds);
    Timestamp {
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + since,
        since_boot: Duration::from_secs(1000) + since,
    }
}

fn passed() -> Outcome {
    passed_with(AgentReply::default())
}

fn passed_with(agent_reply: AgentReply) -> Outcome {
    Outcome::Passed {
        note: "http 200".to_owned(),
        agent_reply,
    }
}

fn failed() -> Outcome {
    Outcome::Failed {
        reason: "http 503, wanted 200-299".to_owned(),
    }
}

/// This process was stalled during the probe.
fn stalled() -> Outcome {
    Outcome::Inconclusive { obstacle: None }
}

fn finish(checker: &mut Checker, outcome: Outcome, milliseconds: u64) -> CheckerOutput {
    let done = FinishedProbe {
        began: at(milliseconds - 7),
        latency: Duration::from_millis(7),
        outcome,
    };
    checker.record(done, &at(milliseconds))
}

/// Gives results at 1 s, 2 s, ... and returns what came out.
fn run(checker: &mut Checker, results: &[Outcome]) -> Vec<CheckerOutput> {
    (1..)
        .zip(results)
        .map(|(second, outcome)| finish(checker, outcome.clone(), second * 1000))
        .collect()
}

fn begin(check: &Check) -> Checker {
    Checker::new(check, None, Vec::new(), &at(0))
}

#[test]
fn every_state_and_input_follows_the_diagram() {
    use MachineState::{Down, Undecided, Up};
    let (passed, failed, stalled) = (&passed(), &failed(), &stalled());
    let thresholds = Thresholds {
        rise: 2,
        fall: Some(3),
    };
    let table = [
        (Undecided, passed, UP, Transition::First),
        (Undecided, failed, DOWN, Transition::First),
        (Undecided, stalled, Undecided, Transition::No),
        (UP, passed, UP, Transition::No),
        (UP, failed, Up { failures: 1 }, Transition::No),
        (UP, stalled, UP, Transition::No),
        (Up { failures: 1 }, passed, UP, Transition::No),
        (
            Up { failures: 1 },
            failed,
            Up { failures: 2 },
            Transition::No,
        ),
        (
            Up { failures: 1 },
            stalled,
            Up { failures: 1 },
            Transition::No,
        ),
        (Up { failures: 2 }, passed, UP, Transition::No),
        (Up { failures: 2 }, failed, DOWN, Transition::InARow(3)),
        (
            Up { failures: 2 },
            stalled,
            Up { failures: 2 },
            Transition::No,
        ),
        (DOWN, passed, Down { passes: 1 }, Transition::No),
        (DOWN, failed, DOWN, Transition::No),
        (DOWN, stalled, DOWN, Transition::No),
        (Down { passes: 1 }, passed, UP, Transition::InARow(2)),
        (Down { passes: 1 }, failed, DOWN, Transition::No),
        (
            Down { passes: 1 },
            stalled,
            Down { passes: 1 },
            Transition::No,
        ),
    ];
    for (state, outcome, after, transition) in table {
        assert_eq!(
            next(state, outcome, thresholds),
            (after, transition),
            "{state:?} {outcome:?}"
        );
    }
}

#[test]
fn with_rise_and_fall_of_one_every_contrary_result_changes_the_state() {
    let thresholds = Thresholds {
        rise: 1,
        fall: Some(1),
    };
    let table = [
        (MachineState::Undecided, passed(), UP, Transition::First),
        (MachineState::Undecided, failed(), DOWN, Transition::First),
        (UP, passed(), UP, Transition::No),
        (UP, failed(), DOWN, Transition::InARow(1)),
        (DOWN, passed(), UP, Transition::InARow(1)),
        (DOWN, failed(), DOWN, Transition::No),
    ];
    for (state, outcome, after, transition) in table {
        assert_eq!(
            next(state, &outcome, thresholds),
            (after, transition),
            "{state:?} {outcome:?}"
        );
    }
}

#[test]
fn an_agents_failures_change_no_state() {
    let thresholds = Thresholds {
        rise: 2,
        fall: None,
    };
    for state in [MachineState::Undecided, UP, DOWN] {
        assert_eq!(next(state, &failed(), thresholds), (state, Transition::No));
    }
}

#[test]
fn the_first_result_decides_and_says_so() {
    let mut checker = begin(&check(2, 3, Initial::Down));
    let check_state = CheckState {
        up: false,
        decided: false,
        reason: "not probed yet".to_owned(),
        agent_reply: AgentReply::default(),
        since: at(0),
    };
    assert_eq!(checker.check_state(), check_state);
    assert_eq!(
        finish(&mut checker, passed(), 40),
        CheckerOutput::StateChanged
    );
    let check_state = CheckState {
        up: true,
        decided: true,
        reason: "http 200, first probe".to_owned(),
        since: at(40),
        ..check_state
    };
    assert_eq!(checker.check_state(), check_state);
}

#[test]
fn with_initial_up_it_is_up_until_fall_probes_failed() {
    let mut checker = begin(&check(2, 3, Initial::Up));
    assert!(checker.check_state().up && checker.check_state().decided);
    assert_eq!(
        run(&mut checker, &[failed(), failed(), failed()]),
        [
            CheckerOutput::Nothing,
            CheckerOutput::Nothing,
            CheckerOutput::StateChanged
        ]
    );
    assert_eq!(
        checker.check_state().reason,
        "http 503, wanted 200-299, 3 of 3"
    );
}

#[test]
fn a_flapping_server_keeps_its_state_while_no_row_is_long_enough() {
    let mut checker = begin(&check(2, 3, Initial::Down));
    finish(&mut checker, passed(), 100);
    let flapping: Vec<Outcome> = [failed(), failed(), passed()]
        .into_iter()
        .cycle()
        .take(300)
        .collect();
    assert!(
        run(&mut checker, &flapping)
            .iter()
            .all(|output| *output == CheckerOutput::Nothing)
    );
    assert!(checker.check_state().up);

    let mut checker = begin(&check(2, 3, Initial::Down));
    finish(&mut checker, failed(), 100);
    let flapping: Vec<Outcome> = [passed(), failed()].into_iter().cycle().take(300).collect();
    assert!(
        run(&mut checker, &flapping)
            .iter()
            .all(|output| *output == CheckerOutput::Nothing)
    );
    assert!(!checker.check_state().up);
}

#[test]
fn inconclusive_results_neither_count_nor_end_a_row() {
    let mut checker = begin(&check(2, 2, Initial::Up));
    let results = [failed(), stalled(), stalled(), failed()];
    let outputs = run(&mut checker, &results);
    assert_eq!(outputs.last(), Some(&CheckerOutput::StateChanged));
    let last = checker.last.clone().unwrap();
    assert_eq!((last.passed, last.in_a_row), (false, 2));
    assert_eq!(
        finish(&mut checker, stalled(), 9000),
        CheckerOutput::Nothing
    );
    assert_eq!(checker.last, Some(last));
}

#[test]
fn it_is_changing_while_results_disagree_with_the_state() {
    let mut checker = begin(&check(2, 2, Initial::Down));
    let mut changing = vec![checker.is_changing()];
    for (second, outcome) in (1..).zip([
        passed(),
        failed(),
        passed(),
        failed(),
        failed(),
        passed(),
        passed(),
    ]) {
        finish(&mut checker, outcome, second * 1000);
        changing.push(checker.is_changing());
    }
    assert_eq!(
        changing,
        [false, false, true, false, true, false, true, false]
    );
}

#[test]
fn the_last_result_counts_equal_results_in_a_row() {
    let mut checker = begin(&check(2, 3, Initial::Down));
    run(&mut checker, &[passed(), passed(), failed(), failed()]);
    assert_eq!(
        checker.last,
        Some(LastResult {
            began: at(3993),
            latency: Duration::from_millis(7),
            passed: false,
            message: "http 503, wanted 200-299".to_owned(),
            in_a_row: 2,
        })
    );
}

/// The rise/fall rule computed from the whole list: whether it is up after each result (`None` = undecided).
fn naive(initial: Option<bool>, rise: usize, fall: usize, results: &[bool]) -> Vec<Option<bool>> {
    let mut states = Vec::new();
    let mut state = initial;
    for count in 1..=results.len() {
        let seen = &results[..count];
        state = match state {
            None => seen.last().copied(),
            Some(true) => Some(!(count >= fall && seen[count - fall..].iter().all(|up| !up))),
            Some(false) => Some(count >= rise && seen[count - rise..].iter().all(|up| *up)),
        };
        states.push(state);
    }
    states
}

proptest! {
    #[test]
    fn it_equals_the_naive_reading_of_the_rule(
        rise in 1_u32..5,
        fall in 1_u32..5,
        up in any::<bool>(),
        results in prop::collection::vec((any::<bool>(), 0_u32..3), 0..400),
    ) {
        let initial = if up { Initial::Up } else { Initial::Down };
        let mut checker = begin(&check(rise, fall, initial));
        let plain: Vec<bool> = results.iter().map(|(passed, _)| *passed).collect();
        let expected = naive(up.then_some(true), rise as usize, fall as usize, &plain);
        let mut now = 1000;
        let mut turns = 0;
        for ((pass, voids), expected) in results.into_iter().zip(expected) {
            for _ in 0..voids {
                now += 1000;
                prop_assert_eq!(finish(&mut checker, stalled(), now), CheckerOutput::Nothing);
            }
            now += 1000;
            let before = checker.check_state();
            let output = finish(&mut checker, if pass { passed() } else { failed() }, now);
            let after = checker.check_state();
            prop_assert_eq!(after.decided.then_some(after.up), expected);
            let turned = (before.up, before.decided) != (after.up, after.decided);
            prop_assert_eq!(output == CheckerOutput::StateChanged, turned);
            turns += usize::from(turned);
            // The history: never longer than it may be, in turns, in order, and its end is the state.
            prop_assert_eq!(checker.history().len(), turns.min(MAX_HISTORY));
            if let Some(latest) = checker.history().back() {
                prop_assert_eq!(latest.up, after.up);
                prop_assert_eq!(latest.at, after.since);
                prop_assert_eq!(&latest.reason, &after.reason);
            }
            for pair in checker.history().iter().zip(checker.history().iter().skip(1)) {
                prop_assert_ne!(pair.0.up, pair.1.up);
                prop_assert!(pair.0.at.since_boot < pair.1.at.since_boot);
            }
        }
    }
}
