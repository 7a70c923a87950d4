//! The service as a whole: quorum, backups, weights that grow.

use super::*;

#[test]
fn quorum_is_lost_and_regained_with_hysteresis() {
    let mut world = five_with_quorum_three();
    for number in 1..=5 {
        let told = world.find(number, up());
        assert_eq!(told.len(), 1, "only that it is up: {told:?}");
    }
    assert_eq!(world.find(1, down()).len(), 1);
    assert_eq!(world.find(2, down()).len(), 1);
    assert_eq!(world.find(3, down()).len(), 1, "2 is not below 3 - 1");
    assert_eq!(world.status().quorum, Some(true));
    assert_eq!(
        world.find(4, down())[1],
        "quorum-lost: live weight 1, quorum 3"
    );
    assert_eq!(world.find(4, up()).len(), 1);
    assert_eq!(world.find(3, up()).len(), 1, "3 is below 3 + 1");
    assert_eq!(world.status().quorum, Some(false));
    assert_eq!(
        world.find(2, up())[1],
        "quorum-regained: live weight 4, quorum 3"
    );
}

#[test]
fn backups_step_in_one_by_one_and_leave_when_the_others_are_up_again() {
    let reals = vec![real(1, 1), backup(2), real(3, 1), backup(4)];
    let mut world = World::new(model(reals, vec![check(None)], HealthPolicy::default()));
    world.find(2, up());
    world.find(4, up());
    assert_eq!(
        world.weights(),
        [0; 4],
        "too early: the others are not known yet"
    );
    world.find(1, up());
    world.find(3, up());
    assert_eq!(world.weights(), [1, 0, 1, 0]);
    assert_eq!(
        world.shown(2),
        (RealState::Up, Some("backup, standing by"), 0)
    );
    world.find(1, down());
    assert_eq!(world.weights(), [0, 0, 1, 0]);
    assert_eq!(
        world.find(3, down()),
        [
            "real-down 10.0.0.3: no answer within 2s, 3 of 3",
            "quorum-lost: live weight 0, quorum 1",
            "backups-in: 10.0.0.2:80"
        ]
    );
    assert_eq!(world.runs(), [(0, RESET), (1, KEEP), (0, RESET), (0, KEEP)]);
    assert_eq!(
        world.shown(2),
        (RealState::Up, Some("backup, stepped in"), 1)
    );
    assert_eq!(
        world.find(2, down())[1],
        "backups-in: 10.0.0.4:80",
        "the next in order"
    );
    assert_eq!(world.weights(), [0, 0, 0, 1]);
    assert_eq!(world.find(2, up())[1], "backups-in: 10.0.0.2:80");
    let told = world.find(1, up());
    assert_eq!(
        told[1..],
        [
            "quorum-regained: live weight 1, quorum 1",
            "backups-out: 10.0.0.2:80"
        ]
    );
    assert_eq!(world.runs(), [(1, KEEP), (0, KEEP), (0, RESET), (0, KEEP)]);
}

/// A first real server that is down, and a backup in its place.
fn with_a_backup_in() -> World {
    let reals = vec![real(1, 1), backup(2)];
    let mut world = World::new(model(reals, vec![check(None)], HealthPolicy::default()));
    world.find(1, down());
    world.find(2, up());
    assert_eq!(world.weights(), [0, 1]);
    world
}

#[test]
fn a_serving_backup_stays_while_others_are_undecided() {
    // A real server is added.
    let mut world = with_a_backup_in();
    world.service().reals.push(real(3, 1));
    assert_eq!(world.adopt(), [] as [&str; 0]);
    assert_eq!(world.weights(), [0, 1, 0]);
    assert_eq!(world.find(3, down()).len(), 1, "that it is down");
    assert_eq!(world.weights(), [0, 1, 0]);
    // One comes out of maintenance.
    world.service().reals[0].state = AdminState::Maintenance;
    world.adopt();
    world.service().reals[0].state = AdminState::Ready;
    assert_eq!(world.adopt(), [] as [&str; 0]);
    assert_eq!(world.weights(), [0, 1, 0]);
    // Another question is asked.
    let mut world = with_a_backup_in();
    world.service().checks[0].target.port = Some(81);
    assert_eq!(world.adopt(), [] as [&str; 0]);
    assert_eq!(world.weights(), [0, 1]);
    let told = world.find(1, up());
    assert_eq!(
        told[1..],
        [
            "quorum-regained: live weight 1, quorum 1",
            "backups-out: 10.0.0.2:80"
        ]
    );
    assert_eq!(world.weights(), [1, 0]);
}

#[test]
fn a_backup_steps_in_after_the_startup_wait_although_a_check_cannot_be_made() {
    let reals = vec![real(1, 1), backup(2)];
    let mut world = World::new(model(reals, vec![check(None)], HealthPolicy::default()));
    world.find(2, up());
    // An interval and a timeout.
    assert_eq!(world.wait(7 * SECOND - SECOND / 1000), [] as [&str; 0]);
    assert_eq!((world.weights(), world.status().quorum), (vec![0, 0], None));
    assert_eq!(
        world.wait(SECOND / 1000),
        [
            "quorum-lost: live weight 0, quorum 1",
            "backups-in: 10.0.0.2:80"
        ]
    );
    assert_eq!(world.weights(), [0, 1]);
    assert_eq!(world.availability.next_deadline(), None);
    let told = world.find(1, up());
    assert_eq!(
        told,
        [
            "real-up 10.0.0.1: echo reply",
            "quorum-regained: live weight 1, quorum 1",
            "backups-out: 10.0.0.2:80"
        ]
    );
    // Nor after a restart, when an earlier daemon has waited.
    let stored = FakeCheckers::default();
    let passed = RestoredState {
        check_state: up(),
        since: None,
        has_returned: false,
    };
    let of_backup = check_targets(&world.model.services[0], &backup(2))
        .next()
        .unwrap();
    stored.state().restored.insert(of_backup, passed);
    let lost = Quorum {
        holds: false,
        since: world.now,
    };
    let key = world.model.services[0].key;
    stored.state().quorums.insert(key, lost);
    world.availability = Availability::at_start(&world.model, &stored, world.now);
    assert_eq!(world.weights(), [0, 1]);
}

#[test]
fn a_second_backup_replaces_the_first_while_others_are_undecided() {
    let policy = HealthPolicy {
        quorum: 2,
        ..HealthPolicy::default()
    };
    let reals = vec![real(1, 1), real(2, 1), backup(3)];
    let mut world = World::new(model(reals, vec![check(None)], policy));
    world.find(3, up());
    world.find(1, up());
    assert_eq!(
        (world.weights(), world.status().quorum),
        (vec![1, 0, 0], None)
    );
    assert_eq!(world.find(1, down())[1], "backups-in: 10.0.0.3:80");
    assert_eq!(world.weights(), [0, 0, 1]);
    world.find(2, up());
    assert_eq!(world.weights(), [0, 1, 1], "quorum is lost");
}

#[test]
fn undecided_reals_take_nothing_from_those_that_are_up() {
    let mut world = World::new(model(
        vec![real(1, 1), backup(2)],
        vec![check(None)],
        HealthPolicy::default(),
    ));
    world.find(1, up());
    world.find(2, up());
    world.service().reals.push(real(3, 1));
    world.adopt();
    assert_eq!(world.weights(), [1, 0, 0]);
    assert_eq!(world.availability.next_deadline(), None);
    // The third may be up, but nobody knows.
    let told = world.find(1, down());
    assert_eq!(
        told[1..],
        [
            "quorum-lost: live weight 0, quorum 1",
            "backups-in: 10.0.0.2:80"
        ]
    );
    assert_eq!(world.weights(), [0, 1, 0]);
}

#[test]
fn all_backups_step_in_beside_the_reals_that_are_up_when_quorum_is_lost() {
    let policy = HealthPolicy {
        quorum: 2,
        backups: Backups::All,
        ..HealthPolicy::default()
    };
    let reals = vec![real(1, 1), real(2, 1), backup(3), backup(4)];
    let mut world = World::new(model(reals, vec![check(None)], policy));
    for number in 1..=4 {
        world.find(number, up());
    }
    assert_eq!(world.weights(), [1, 1, 0, 0]);
    let told = world.find(1, down());
    assert_eq!(
        told[1..],
        [
            "quorum-lost: live weight 1, quorum 2",
            "backups-in: 10.0.0.3:80, 10.0.0.4:80"
        ]
    );
    assert_eq!(world.weights(), [0, 1, 1, 1]);
    world.find(1, up());
    assert_eq!(world.weights(), [1, 1, 0, 0]);
}

#[test]
fn weight_grows_linearly_after_recovery_and_not_at_the_start() {
    let policy = HealthPolicy {
        slow_start: 10 * SECOND,
        ..HealthPolicy::default()
    };
    let mut world = World::new(model(
        vec![real(1, 4), real(2, 2)],
        vec![check(None)],
        policy,
    ));
    world.find(1, up());
    world.find(2, up());
    assert_eq!(world.weights(), [4, 2], "the first pass is no recovery");
    world.find(1, down());
    world.find(1, up());
    assert_eq!(world.weights(), [1, 40]);
    assert_eq!(
        world.shown(1),
        (RealState::Up, Some("slow start, 0 % of its weight"), 1)
    );
    assert_eq!(world.status().live_weight, 6);
    for (seconds, weight) in [(1, 8), (4, 40), (3, 64)] {
        world.wait(seconds * SECOND);
        assert_eq!(world.weights(), [weight, 40]);
    }
    assert_eq!(
        world.shown(1),
        (RealState::Up, Some("slow start, 80 % of its weight"), 3)
    );
    world.wait(2 * SECOND);
    assert_eq!(world.weights(), [4, 2]);
    assert_eq!(world.shown(1), (RealState::Up, None, 4));
    assert_eq!(world.availability.next_deadline(), None);
}

#[test]
fn under_rr_too_the_share_grows_whatever_the_weights() {
    let policy = HealthPolicy {
        slow_start: 10 * SECOND,
        ..HealthPolicy::default()
    };
    let mut world = World::new(model(
        vec![real(1, 9), real(2, 1)],
        vec![check(None)],
        policy,
    ));
    world.service().scheduler = Scheduler::Rr;
    world.adopt();
    world.find(1, up());
    world.find(2, up());
    world.find(1, down());
    world.find(1, up());
    world.wait(5 * SECOND);
    assert_eq!(world.weights(), [10, 20]);
    assert_eq!(world.availability.desired()[0].scheduler, Scheduler::Wrr);
    world.wait(5 * SECOND);
    assert_eq!(world.availability.desired()[0].scheduler, Scheduler::Rr);
}

#[test]
fn a_slow_start_keeps_the_scheduler_and_ramps_what_it_divides_by_weight() {
    let policy = HealthPolicy {
        slow_start: 10 * SECOND,
        ..HealthPolicy::default()
    };
    for scheduler in Scheduler::ALL.iter().copied() {
        let reals = vec![real(1, 4), real(2, 2)];
        let mut world = World::new(model(reals, vec![check(None)], policy));
        world.service().scheduler = scheduler;
        world.adopt();
        for (number, found) in [(1, up()), (2, up()), (1, down()), (1, up())] {
            world.find(number, found);
        }
        world.wait(5 * SECOND);
        let (desired, unit, weights) = match scheduler {
            Scheduler::Rr => (Scheduler::Wrr, 20, [10, 20]),
            Scheduler::Wrr | Scheduler::Wlc | Scheduler::Sed | Scheduler::Nq | Scheduler::Twos => {
                (scheduler, 20, [40, 40])
            }
            Scheduler::Lc
            | Scheduler::Sh
            | Scheduler::Dh
            | Scheduler::Mh
            | Scheduler::Fo
            | Scheduler::Ovf => (scheduler, 1, [4, 2]),
        };
        let service = &world.availability.desired()[0];
        assert_eq!((service.scheduler, service.unit), (desired, unit));
        assert_eq!(world.weights(), weights, "{scheduler:?}");
        let is_ramped = unit > 1;
        assert_eq!(world.shown(1).1.is_some(), is_ramped, "{scheduler:?}");
        assert_eq!(world.availability.next_deadline().is_some(), is_ramped);
    }
}

#[test]
fn clients_are_hashed_over_configured_weights_whatever_happens() {
    let mut reals = vec![real(1, 0), real(2, 6), real(3, 3), backup(4), backup(5)];
    reals[3].weight = 9;
    let mut world = World::new(model(reals, vec![check(None)], HealthPolicy::default()));
    world.service().scheduler = Scheduler::Mh;
    let hashed = |world: &World| -> Vec<_> {
        let reals = world.availability.desired()[0].reals.iter();
        reals.map(|real| real.hash_weight).collect()
    };
    world.adopt();
    for number in 1..=5 {
        world.find(number, up());
    }
    // A weight of 0 counts as the lightest; backups stand by.
    let usual = [3, 6, 3, 0, 0];
    assert_eq!(hashed(&world), usual);
    world.find(2, down());
    world.service().reals[2].state = AdminState::Drain;
    world.service().reals[0].state = AdminState::Maintenance;
    world.adopt();
    // The first backup has stepped in.
    assert_eq!(world.weights(), [0, 0, 0, 9, 0]);
    assert_eq!(hashed(&world), [3, 6, 3, 9, 0]);
    world.service().reals[2].state = AdminState::Ready;
    world.adopt();
    assert_eq!(hashed(&world), usual);
    world.service().reals.truncate(1);
    world.adopt();
    assert_eq!(hashed(&world), [1]);
}

#[test]
fn persistent_clients_come_back_only_to_what_drains_and_is_well() {
    let mut reals = vec![real(1, 0), real(2, 1), real(3, 1), real(4, 1), real(5, 1)];
    reals[1].state = AdminState::Drain;
    reals[2].state = AdminState::Maintenance;
    reals[3].state = AdminState::Drain;
    let mut drained_backup = backup(6);
    drained_backup.state = AdminState::Drain;
    reals.extend([drained_backup, backup(7)]);
    let mut world = World::new(model(reals, vec![check(None)], HealthPolicy::default()));
    let takes = |world: &World| -> Vec<_> {
        let reals = world.availability.desired()[0].reals.iter();
        reals.map(|real| real.takes_persistent).collect()
    };
    for number in [1, 2, 5, 6, 7] {
        world.find(number, up());
    }
    world.find(4, down());
    let none = vec![false; 7];
    assert_eq!(takes(&world), none);
    let keep = Persistence {
        drain: PersistenceDrain::Keep,
        ..Persistence::default()
    };
    world.service().persistence = Some(keep);
    world.adopt();
    let expected = [true, true, false, false, false, false, false];
    assert_eq!(takes(&world), expected);
    world.service().persistence = Some(Persistence::default());
    world.adopt();
    assert_eq!(takes(&world), none);
}
