//! What holds for any sequence of events.

use proptest::prelude::*;

use super::*;

proptest! {
    /// In any sequence of events: evaluation step by step equals evaluation at once, weight never goes to what is not up,
    /// connections are reset only where it is 0, and a service that served goes on while a real server can serve.
    #[test]
    fn any_sequence_of_events_leaves_a_consistent_state(
        steps in prop::collection::vec((1_u8..5, 0_u8..8, 0_u32..20), 1..60),
        on_down in prop_oneof![Just(OnDown::Keep), Just(OnDown::Reset), Just(OnDown::ResetAfter(5 * SECOND))],
        quorum in 1_u32..4,
        slow in 0_u32..10,
    ) {
        let policy = HealthPolicy { on_down, quorum, slow_start: slow * SECOND, hysteresis: quorum - 1, backups: Backups::First };
        let reals = vec![real(1, 1), real(2, 3), backup(3), real(4, 0)];
        let mut world = World::new(model(reals, vec![check(None)], policy));
        let mut served = false;
        for (number, what, seconds) in steps {
            let in_maintenance = world.model.services[0].reals[usize::from(number) - 1].state == AdminState::Maintenance;
            match what {
                0 | 1 if !in_maintenance => { world.find(number, up()); }
                2 | 3 if !in_maintenance => { world.find(number, down()); }
                4 => {
                    let state = &mut world.service().reals[usize::from(number) - 1].state;
                    *state = if *state == AdminState::Ready { AdminState::Maintenance } else { AdminState::Ready };
                    world.adopt();
                }
                5 => {
                    let reals = &mut world.service().reals;
                    if reals.len() > 4 { reals.pop(); } else { reals.push(real(5, 1)); }
                    world.adopt();
                }
                6 => {
                    world.service().checks[0].target.port = Some(8000 + u16::from(number));
                    world.adopt();
                }
                _ => {}
            }
            let serves = world.weights().iter().any(|weight| *weight > 0);
            let can_serve = world.status().reals.values().any(|real| real.state == RealState::Up);
            prop_assert!(serves || !(served && can_serve));
            world.wait(seconds * SECOND);
            served = world.weights().iter().any(|weight| *weight > 0);
            let backups: Vec<_> = world.status().backups_in.clone();
            for (target, real) in world.availability.desired()[0].reals.iter().zip(&world.model.services[0].reals) {
                let status = &world.status().reals[&real.address];
                prop_assert_eq!(target.weight > 0, status.weight > 0);
                prop_assert!(target.weight == 0 || status.state == RealState::Up);
                prop_assert!(target.weight == 0 || !real.backup || backups.contains(&real.address));
                prop_assert!(target.weight == 0 || target.connections == KEEP);
                prop_assert!(real.weight > 0 || target.weight == 0);
            }
            if slow > 0 {
                continue; // weights grow in steps, and between two of them the picture is a little old
            }
            // Time alone has nothing left to say now.
            let at_once = world.availability.after(&[], &world.model, &FakeCheckers::default(), world.now);
            prop_assert_eq!(at_once.desired(), world.availability.desired());
            let carried = world.availability.after(&world.present, &world.model, &FakeCheckers::default(), world.now);
            prop_assert_eq!(carried.desired(), world.availability.desired());
            prop_assert_eq!(&carried.services, &world.availability.services);
            prop_assert_eq!(&carried.check_states, &world.availability.check_states);
            prop_assert_eq!(&carried.checkers, &world.availability.checkers);
            prop_assert_eq!(&carried.dependents, &world.availability.dependents);
        }
    }
}
