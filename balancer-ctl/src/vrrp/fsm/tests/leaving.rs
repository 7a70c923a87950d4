//! A node gives up: on purpose, for maintenance, at its end, or because it stood still.

use super::*;

#[test]
fn who_gave_up_on_purpose_does_not_come_back_by_itself() {
    let mut node = Node::in_state(State::Leaving, Failback::Immediate);
    node.handle(heard(2, 50));
    for _ in 0..100 {
        node.handle(heard(2, 50));
        node.run(SECOND);
    }
    assert_eq!(node.state(), State::Backup);
    // But when the other one is gone.
    node.run_until_due();
    assert_eq!(node.state(), State::Active);
}

#[test]
fn maintenance_hands_over_and_lasts_until_it_is_ended() {
    let mut node = Node::in_state(State::Active, Failback::Immediate);
    node.handle(Input::Maintenance(true));
    let gone = [
        Output::Release,
        Output::Entered(State::Initialize, Cause::Maintenance),
    ];
    assert_eq!(node.handle(heard(2, 50)), gone);
    assert_eq!(node.machine.next_deadline(), None);
    assert_eq!(node.handle(tracked(100)), []);
    assert_eq!(
        node.handle(Input::Maintenance(false)),
        [Output::Entered(State::Backup, Cause::Started)]
    );
    // With nobody to take over, the addresses go all the same, which is said.
    let mut node = Node::in_state(State::Active, Failback::Immediate);
    node.handle(Input::Maintenance(true));
    let outputs = node.run_until_due();
    assert_eq!(outputs[0], Output::NobodyTookOver);
    assert_eq!(outputs[1..], gone);
}

#[test]
fn a_node_that_stops_keeps_the_addresses_until_another_one_speaks() {
    let stopped = [
        Output::Release,
        Output::Entered(State::Initialize, Cause::Stopped),
    ];
    let mut node = Node::in_state(State::Active, Failback::Never);
    node.handle(Input::Stop);
    node.run(SECOND / 2);
    assert_eq!(node.handle(heard(2, 50)), stopped);
    let mut node = Node::in_state(State::Active, Failback::Never);
    let before = node.elapsed();
    node.handle(Input::Stop);
    assert_eq!(node.run_until_due(), stopped);
    assert_eq!((node.elapsed() - before).as_millis(), 1062);
    assert_eq!(node.handle(tracked(100)), [], "a stopped node stays");
}

#[test]
fn a_node_that_stood_still_steps_back_first() {
    // Its timers are late, but nobody can have taken over.
    let mut node = Node::in_state(State::Active, Failback::Never);
    node.sleep(SECOND * 29 / 10);
    node.handle(Input::Timeout);
    assert_eq!(node.state(), State::Active);
    // Somebody may have: what it heard meanwhile counts.
    let stalled = |seconds: u32| {
        [
            Output::Release,
            Output::Entered(State::Backup, Cause::Stalled(seconds * SECOND)),
        ]
    };
    let mut node = Node::in_state(State::Active, Failback::Never);
    node.sleep(10 * SECOND);
    assert_eq!(node.handle(heard(2, 50)), stalled(10));
    node.run(3 * SECOND);
    assert_eq!(node.state(), State::Backup);
    assert_eq!(node.machine.failures().len(), 1);
    // Nobody has: it is Active again soon.
    let mut node = Node::in_state(State::Active, Failback::Never);
    node.sleep(10 * SECOND);
    assert_eq!(node.handle(Input::Timeout), stalled(10));
    let before = node.elapsed();
    node.run_until_due();
    assert_eq!(
        (node.state(), (node.elapsed() - before).as_millis()),
        (State::Active, 1609)
    );
}

#[test]
fn a_node_that_stood_still_has_to_be_stable_again() {
    let mut node = Node::in_state(State::Active, Failback::After(10 * SECOND));
    node.run(60 * SECOND);
    node.sleep(10 * SECOND);
    node.handle(heard(2, 50));
    let stalled = node.now;
    while node.state() == State::Backup {
        node.handle(heard(2, 50));
        node.run(SECOND);
    }
    assert_eq!(node.now.duration_since(stalled).as_secs(), 13);
}

#[test]
fn an_owner_that_did_not_run_sets_its_addresses_again() {
    let mut node = Node::new(&settings(1, 1, Failback::Never));
    node.handle(tracked(255));
    node.sleep(10 * SECOND);
    let again = [advertise(255), Output::Acquire, Output::Announce];
    assert_eq!(node.handle(Input::Timeout)[..3], again);
    assert_eq!(node.state(), State::Active);
    node.run(3 * SECOND);
    assert_eq!(node.state(), State::Active);
}
