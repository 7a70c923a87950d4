//! Health while the model changes.

use super::*;

#[test]
fn health_outlives_changes_of_the_model() {
    let mut world = World::new(model(
        vec![real(1, 1), real(2, 1)],
        vec![check(None)],
        HealthPolicy::default(),
    ));
    world.find(1, up());
    world.find(2, down());
    // Another weight, another name, one more real server, then another check: nobody flaps.
    world.service().name = None;
    world.service().reals[0].weight = 5;
    world.service().reals.push(real(3, 1));
    assert_eq!(world.adopt(), Vec::<String>::new());
    assert_eq!(world.runs(), [(5, KEEP), (0, RESET), (0, KEEP)]);
    world.service().checks[0].timing.interval = 9 * SECOND;
    assert_eq!(world.adopt(), Vec::<String>::new());
    assert_eq!(world.runs(), [(5, KEEP), (0, RESET), (0, KEEP)]);
    let begun: Vec<_> = world.availability.checkers();
    let from = |number| {
        begun
            .iter()
            .find(|begin| begin.target.target == address(number))
            .unwrap()
            .from
            .as_ref()
    };
    assert_eq!(from(1).map(|check_state| check_state.up), Some(true));
    assert_eq!(from(2).map(|check_state| check_state.up), Some(false));
    assert_eq!(from(3), None);
}

#[test]
fn a_changed_probe_keeps_reals_up_and_lets_down_ones_come_up_with_the_first_pass() {
    let mut world = World::new(model(
        vec![real(1, 1), real(2, 1)],
        vec![check(None)],
        HealthPolicy::default(),
    ));
    world.find(1, up());
    world.find(2, down());
    world.service().checks[0].target.port = Some(81);
    assert_eq!(world.adopt(), Vec::<String>::new());
    assert_eq!(world.weights(), [1, 0]);
    let decided: Vec<_> = world
        .availability
        .checkers()
        .into_iter()
        .map(|begin| (begin.target.target.ip(), begin.from.is_some()))
        .collect();
    assert!(decided.contains(&(address(1).ip(), true)), "{decided:?}");
    assert!(decided.contains(&(address(2).ip(), false)), "{decided:?}");
    assert_eq!(world.find(2, up()), ["real-up 10.0.0.2: echo reply"]);
    assert_eq!(world.weights(), [1, 1]);
}

#[test]
fn a_check_keeps_its_state_when_only_its_timing_or_other_checks_change() {
    let mut world = World::new(model(
        vec![real(1, 4)],
        vec![agent(), check(None)],
        HealthPolicy::default(),
    ));
    let stopped = AgentReply {
        down: Some("down: disk".to_owned()),
        ..AgentReply::default()
    };
    world.find_by(1, 1, up());
    world.find_by(0, 1, up_with(stopped));
    world.service().checks[0].timing.interval = 9 * SECOND;
    world.service().checks[1].timing.interval = 9 * SECOND;
    assert_eq!(world.adopt(), Vec::<String>::new());
    assert_eq!(
        world.shown(1),
        (RealState::Down, Some("its agent says down: disk"), 0)
    );
    let half = AgentReply {
        weight: Some(RequestedWeight::Percent(50)),
        ..AgentReply::default()
    };
    world.find_by(0, 1, up_with(half));
    world.service().checks[0].timing.interval = 8 * SECOND;
    world.adopt();
    assert_eq!(world.weights(), [2]);
}

#[test]
fn an_added_check_starts_up_for_reals_that_are_up_and_restored_states_win() {
    let mut world = World::new(model(vec![real(1, 1)], vec![], HealthPolicy::default()));
    world.service().checks.push(check(None));
    assert_eq!(world.adopt(), Vec::<String>::new());
    assert_eq!(world.weights(), [1]);
    // A daemon that starts again.
    world.restart(|_| down());
    let again = &world.availability;
    assert_eq!(again.desired()[0].reals[0].weight, 0);
    assert_eq!(again.desired()[0].reals[0].connections, RESET);
}

#[test]
fn equal_checks_of_two_services_are_one_checker() {
    let mut both = model(
        vec![real(1, 1)],
        vec![check(Some(9))],
        HealthPolicy::default(),
    );
    let mut other = both.services[0].clone();
    other.key.address.set_port(443);
    both.services.push(other);
    let mut availability =
        Availability::at_start(&both, &FakeCheckers::default(), crate::os::clock::now());
    assert_eq!(availability.checkers().len(), 1);
    let target = CheckTarget::clone(&availability.checkers()[0].target);
    let events = availability.update(
        &both,
        vec![CheckUpdate {
            target,
            check_state: up(),
        }],
        crate::os::clock::now(),
    );
    assert_eq!(events.len(), 2);
    assert_eq!(
        availability
            .desired()
            .iter()
            .map(|service| service.reals[0].weight)
            .collect::<Vec<_>>(),
        [1, 1]
    );
}

#[test]
fn updates_of_a_removed_checker_are_ignored() {
    let mut world = World::new(model(
        vec![real(1, 1)],
        vec![check(None)],
        HealthPolicy::default(),
    ));
    let stranger = CheckTarget {
        target: address(77),
        check: check(None),
    };
    let update = CheckUpdate {
        target: stranger,
        check_state: up(),
    };
    assert!(
        world
            .availability
            .update(&world.model, vec![update], world.now)
            .is_empty()
    );
}
