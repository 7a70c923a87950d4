//! An interface has come up, behind a port of a switch that may block at first.

use super::*;

const LINK_UP: Input = Input::LinkUp { member: 0 };
const FORWARDS: Input = Input::LinkForwards { member: 0 };

/// A Backup node whose link has just come up.
fn returned(failback: Failback) -> Node {
    let mut node = Node::in_state(State::Initialize, failback);
    node.handle(LINK_UP);
    assert_eq!(
        node.handle(tracked(100)),
        [Output::Entered(State::Backup, Cause::Listening)]
    );
    node
}

#[test]
fn a_node_whose_link_has_come_up_listens_for_longer_and_asks() {
    let mut node = returned(Failback::Never);
    let asked = (2..10).map(|second| (second * 1000, Output::Probe));
    assert_eq!(node.run(SECOND * 99 / 10), asked.collect::<Vec<_>>());
    assert!(
        !node.machine.is_late(),
        "who answers may advertise, unheard"
    );
    node.run_until_due();
    assert_eq!((node.state(), node.elapsed()), (State::Active, 10 * SECOND));
    // The usual time is the longer one.
    let mut short = settings(1, 1, Failback::Never);
    short.members[0].link_up_delay = SECOND;
    let mut node = Node::new(&short);
    node.handle(LINK_UP);
    node.handle(tracked(100));
    node.run_until_due();
    assert_eq!(node.elapsed().as_millis(), 3609);
    // It comes up while it is Backup: the daemon missed that it was down.
    let mut node = Node::in_state(State::Backup, Failback::Never);
    node.run(SECOND);
    node.handle(LINK_UP);
    node.run_until_due();
    assert_eq!(node.elapsed(), 11 * SECOND);
}

#[test]
fn once_a_port_forwards_silence_counts() {
    let mut node = returned(Failback::Never);
    node.run(5 * SECOND);
    node.handle(FORWARDS);
    node.handle(FORWARDS);
    node.run_until_due();
    assert_eq!(node.elapsed().as_millis(), 5000 + 3609);
    // So it does before the group can be Active.
    let mut node = Node::in_state(State::Initialize, Failback::Never);
    node.handle(LINK_UP);
    node.handle(FORWARDS);
    let started = [Output::Entered(State::Backup, Cause::Started)];
    assert_eq!(node.handle(tracked(100)), started);
    node.run_until_due();
    assert_eq!(node.elapsed().as_millis(), 3609);
    // Another node's farewell says as much.
    let mut node = returned(Failback::Never);
    node.run(5 * SECOND);
    node.handle(heard(2, 0));
    node.run_until_due();
    assert_eq!(node.elapsed().as_millis(), 5000 + 609);
    // Of a group, each virtual router has a link of its own.
    let mut node = Node::new(&settings(2, 1, Failback::Never));
    node.handle(Input::LinkUp { member: 1 });
    node.handle(tracked(100));
    node.handle(FORWARDS);
    node.run_until_due();
    assert_eq!(node.elapsed(), 10 * SECOND);
}

#[test]
fn who_is_heard_after_the_link_came_up_stays_active() {
    for (failback, milliseconds) in [(Failback::Never, None), (Failback::Immediate, Some(10_000))] {
        let mut node = returned(failback);
        node.run(9 * SECOND);
        for _ in 0..20 {
            if node.state() == State::Backup {
                node.handle(heard(2, 50));
            }
            node.run(SECOND);
        }
        let active = (node.state() == State::Active).then(|| {
            let since = node.machine.state().2;
            since.duration_since(node.start).as_millis()
        });
        assert_eq!(active, milliseconds, "{failback:?}");
    }
}

#[test]
fn a_port_that_blocked_for_longer_does_not_make_a_node_win() {
    let yields = |last, priority| {
        [
            Output::Release,
            advertise(0),
            Output::Entered(State::Backup, other(last, priority)),
        ]
    };
    let answers = [advertise(100), Output::Announce];
    let returned = |failback| {
        let mut node = returned(failback);
        node.run_until_due();
        assert_eq!(node.state(), State::Active);
        node.run(5 * SECOND);
        node
    };
    // Neither a priority nor an address is a reason where failback is none.
    for (last, priority) in [(2, 50), (0, 100)] {
        let mut node = returned(Failback::Never);
        assert_eq!(node.handle(heard(last, priority)), yields(last, priority));
        for _ in 0..10 {
            node.run(SECOND);
            assert_eq!(node.handle(heard(last, priority)), []);
        }
        assert_eq!(node.state(), State::Backup);
        // Once: where the other one stepped back at the same time and does not come back, this one does.
        node.run_until_due();
        assert_eq!(node.state(), State::Active);
        assert_eq!(node.handle(heard(2, 50)), answers);
    }
    // However long it listens.
    let mut long = settings(1, 1, Failback::Never);
    long.members[0].link_up_delay = 300 * SECOND;
    let mut node = Node::new(&long);
    node.handle(LINK_UP);
    node.handle(tracked(100));
    node.run_until_due();
    assert_eq!(
        (node.state(), node.elapsed()),
        (State::Active, 300 * SECOND)
    );
    node.run(29 * SECOND);
    assert_eq!(node.handle(heard(2, 50)), yields(2, 50));
    // Failback is one.
    let mut node = returned(Failback::Immediate);
    assert_eq!(node.handle(heard(2, 50)), answers);
    // Later it is this node that was Active before.
    let mut node = returned(Failback::Never);
    node.run(60 * SECOND);
    assert_eq!(node.handle(heard(2, 50)), answers);
    // So it is when it had heard another one in time, which then fell silent.
    let mut node = Node::in_state(State::Initialize, Failback::Never);
    node.handle(LINK_UP);
    node.handle(tracked(100));
    node.handle(heard(2, 50));
    node.run_until_due();
    assert_eq!(node.handle(heard(2, 50)), answers);
}
