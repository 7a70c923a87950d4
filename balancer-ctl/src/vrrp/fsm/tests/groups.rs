//! Virtual routers that are Active together, and nodes of the same priority.

use super::*;

/// A node that has become Active in a group of two.
fn active_with_two_members() -> Node {
    let mut node = Node::new(&settings(2, 1, Failback::Never));
    node.handle(tracked(100));
    node.run_until_due();
    node
}

#[test]
fn a_group_is_active_when_no_member_hears_another_active_node() {
    let mut node = Node::new(&settings(2, 1, Failback::Never));
    node.handle(tracked(100));
    for _ in 0..10 {
        node.handle(heard_on(1, 2, 150));
        node.run(SECOND);
    }
    assert_eq!(node.state(), State::Backup);
    assert_eq!(node.machine.silent_members().collect::<Vec<_>>(), [0]);
    let takes = [
        advertise(100),
        Output::Advertise {
            member: 1,
            priority: 100,
        },
        Output::Acquire,
        Output::Announce,
        Output::Entered(State::Active, Cause::Silence),
    ];
    assert_eq!(node.run_until_due(), takes);
    // And it is Backup as soon as one hears a better one.
    node.handle(heard_on(1, 2, 150));
    assert_eq!(node.state(), State::Backup);
    assert_eq!(node.machine.active_node(), Some((address(2), 150)));
}

#[test]
fn between_equals_the_first_member_decides_for_the_group() {
    let mut node = active_with_two_members();
    let answer = [
        Output::Advertise {
            member: 1,
            priority: 100,
        },
        Output::Announce,
    ];
    assert_eq!(node.handle(heard_on(1, 2, 100)), answer);
    assert_eq!(node.state(), State::Active);
    node.handle(heard_on(0, 2, 100));
    assert_eq!(node.state(), State::Backup);
}

#[test]
fn between_equals_that_hear_each_other_by_another_member_that_one_decides() {
    let mut node = active_with_two_members();
    for _ in 0..3 {
        node.handle(heard_on(1, 2, 100));
        assert_eq!(node.state(), State::Active, "the first may hear it yet");
        node.run(SECOND);
    }
    node.handle(heard_on(1, 2, 100));
    assert_eq!(node.state(), State::Backup);
    // As long as the first member hears the other node, too, only that one decides.
    let mut node = active_with_two_members();
    for _ in 0..10 {
        node.handle(heard_on(0, 0, 100));
        node.handle(heard_on(1, 2, 100));
        node.run(SECOND);
    }
    assert_eq!(node.state(), State::Active);
    // It does no more: three seconds later the other one decides.
    for second in 0..2 {
        node.handle(heard_on(1, 2, 100));
        assert_eq!(node.state(), State::Active, "{second}");
        node.run(SECOND);
    }
    node.handle(heard_on(1, 2, 100));
    assert_eq!(node.state(), State::Backup);
    // What was heard now and then counts from its last silence on.
    let mut node = active_with_two_members();
    for _ in 0..5 {
        node.handle(heard_on(1, 2, 100));
        assert_eq!(node.state(), State::Active);
        node.run(4 * SECOND);
    }
}

#[test]
fn of_two_owners_the_one_with_the_lower_address_steps_back() {
    let mut node = Node::new(&settings(1, 1, Failback::Never));
    node.handle(tracked(255));
    let second = [
        Output::Release,
        Output::Entered(State::Backup, other(2, 255)),
    ];
    assert_eq!(node.handle(heard(2, 255)), second);
    assert_eq!(node.handle(heard(2, 255)), []);
}
