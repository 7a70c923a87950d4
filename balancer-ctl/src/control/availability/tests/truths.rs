//! Each of the four truths against the others.

use super::*;

#[test]
fn admin_state_health_agent_and_weight_are_combined() {
    use AdminState::{Drain, Maintenance, Ready};
    let percent = |percent| AgentReply {
        weight: Some(RequestedWeight::Percent(percent)),
        ..AgentReply::default()
    };
    let absolute = |weight| AgentReply {
        weight: Some(RequestedWeight::Absolute(weight)),
        ..AgentReply::default()
    };
    let state = |state| AgentReply {
        state: Some(state),
        ..AgentReply::default()
    };
    let agent_down = AgentReply {
        down: Some("down: backup runs".to_owned()),
        ..AgentReply::default()
    };
    // Operator, weight, what was found → state, why, effective weight, connections.
    let cases = [
        (Ready, 4, up(), (RealState::Up, None, 4), KEEP),
        (
            Ready,
            0,
            up(),
            (RealState::Draining, Some("weight 0"), 0),
            KEEP,
        ),
        (
            Ready,
            4,
            down(),
            (RealState::Down, Some("no answer within 2s, 3 of 3"), 0),
            RESET,
        ),
        (
            Ready,
            0,
            down(),
            (RealState::Down, Some("no answer within 2s, 3 of 3"), 0),
            RESET,
        ),
        (
            Drain,
            4,
            up(),
            (RealState::Draining, Some("by the operator"), 0),
            KEEP,
        ),
        (
            Drain,
            4,
            down(),
            (
                RealState::Down,
                Some("no answer within 2s, 3 of 3; drained by the operator"),
                0,
            ),
            RESET,
        ),
        (
            Ready,
            4,
            up_with(percent(50)),
            (RealState::Up, Some("50 % of its weight by its agent"), 2),
            KEEP,
        ),
        (
            Ready,
            4,
            up_with(percent(1)),
            (RealState::Up, Some("1 % of its weight by its agent"), 1),
            KEEP,
        ),
        (
            Ready,
            4,
            up_with(percent(100)),
            (RealState::Up, None, 4),
            KEEP,
        ),
        (
            Ready,
            4,
            up_with(percent(0)),
            (
                RealState::Draining,
                Some("0 % of its weight by its agent"),
                0,
            ),
            KEEP,
        ),
        (
            Ready,
            4,
            up_with(absolute(7)),
            (RealState::Up, Some("weight 7 by its answer"), 7),
            KEEP,
        ),
        (
            Ready,
            4,
            up_with(absolute(0)),
            (RealState::Draining, Some("weight 0 by its answer"), 0),
            KEEP,
        ),
        (
            Ready,
            0,
            up_with(absolute(7)),
            (RealState::Draining, Some("weight 0"), 0),
            KEEP,
        ),
        (
            Ready,
            4,
            up_with(state(Drain)),
            (RealState::Draining, Some("by its agent"), 0),
            KEEP,
        ),
        (
            Ready,
            4,
            up_with(state(Maintenance)),
            (RealState::Maintenance, Some("by its agent"), 0),
            RESET,
        ),
        (
            Drain,
            4,
            up_with(state(Ready)),
            (RealState::Draining, Some("by the operator"), 0),
            KEEP,
        ),
        (
            Drain,
            4,
            up_with(state(Maintenance)),
            (RealState::Maintenance, Some("by its agent"), 0),
            RESET,
        ),
        (
            Ready,
            4,
            up_with(agent_down.clone()),
            (RealState::Down, Some("its agent says down: backup runs"), 0),
            RESET,
        ),
        (
            Drain,
            4,
            up_with(agent_down),
            (
                RealState::Down,
                Some("its agent says down: backup runs; drained by the operator"),
                0,
            ),
            RESET,
        ),
    ];
    for (admin, weight, found, shown, connections) in cases {
        let mut world = World::new(model(
            vec![real(1, weight)],
            vec![check(None)],
            HealthPolicy::default(),
        ));
        world.service().reals[0].state = admin;
        world.adopt();
        world.find(1, found.clone());
        assert_eq!(world.shown(1), shown, "{admin:?} {weight} {found:?}");
        assert_eq!(
            world.runs(),
            [(shown.2, connections)],
            "{admin:?} {weight} {found:?}"
        );
        let live = if shown.0 == RealState::Up {
            u64::from(shown.2)
        } else {
            0
        };
        assert_eq!(world.status().live_weight, live);
    }
}

/// Real servers that their agents and pings speak for.
fn with_an_agent(reals: Vec<RealServer>) -> World {
    World::new(model(
        reals,
        vec![agent(), check(None)],
        HealthPolicy::default(),
    ))
}

#[test]
fn an_agents_request_is_an_event_and_is_shown_apart() {
    let mut world = with_an_agent(vec![real(1, 4)]);
    world.find_by(1, 1, up());
    let asks = |state, weight| {
        up_with(AgentReply {
            state,
            weight,
            down: None,
        })
    };
    let half = Some(RequestedWeight::Percent(50));
    assert_eq!(
        world.find_by(0, 1, asks(Some(AdminState::Drain), half)),
        [
            "real-changed 10.0.0.1: by its check: state ready -> drain",
            "quorum-lost: live weight 0, quorum 1"
        ]
    );
    let drain = AgentRequest {
        state: Some(AdminState::Drain),
        weight: half,
    };
    assert_eq!(world.status().reals[&address(1)].requested, drain);
    // It is the operator's word too, and it fails.
    world.service().reals[0].state = AdminState::Drain;
    world.adopt();
    assert_eq!(world.find_by(1, 1, down()).len(), 1);
    assert_eq!(
        world.shown(1).1,
        Some("no answer within 2s, 3 of 3; drained by the operator")
    );
    world.service().reals[0].state = AdminState::Ready;
    world.adopt();
    assert_eq!(
        world.shown(1).1,
        Some("no answer within 2s, 3 of 3; drained by its agent")
    );
}

#[test]
fn in_maintenance_by_its_agent_no_health_event_is_reported() {
    let mut world = with_an_agent(vec![real(1, 1)]);
    world.find_by(1, 1, up());
    let asks = |state, down: Option<&str>| {
        up_with(AgentReply {
            state: Some(state),
            weight: None,
            down: down.map(str::to_owned),
        })
    };
    let told = world.find_by(0, 1, asks(AdminState::Maintenance, None));
    assert_eq!(
        told,
        [
            "real-changed 10.0.0.1: by its check: state ready -> maintenance",
            "quorum-lost: live weight 0, quorum 1"
        ]
    );
    let quiet = [] as [&str; 0];
    assert_eq!(
        world.find_by(0, 1, asks(AdminState::Maintenance, Some("stopped"))),
        quiet
    );
    assert_eq!(world.find_by(1, 1, down()), quiet);
    assert_eq!(world.find_by(1, 1, up()), quiet);
    assert_eq!(
        world.find_by(0, 1, asks(AdminState::Maintenance, None)),
        quiet
    );
    assert_eq!(world.runs(), [(0, RESET)]);
    let told = world.find_by(0, 1, asks(AdminState::Ready, None));
    assert_eq!(
        told,
        [
            "real-changed 10.0.0.1: by its check: state maintenance -> ready",
            "real-up 10.0.0.1: echo reply",
            "quorum-regained: live weight 1, quorum 1"
        ]
    );
}

#[test]
fn with_an_agent_check_alone_a_real_is_up_until_the_agent_reports_it_down() {
    let mut world = World::new(model(
        vec![real(1, 1)],
        vec![agent()],
        HealthPolicy::default(),
    ));
    let says = |down: Option<&str>| {
        up_with(AgentReply {
            down: down.map(str::to_owned),
            ..AgentReply::default()
        })
    };
    world.find(1, says(Some("stopped")));
    assert_eq!(
        world.find(1, says(None))[0],
        "real-up 10.0.0.1: its agent does not call it down"
    );
}

#[test]
fn only_weight_zero_is_an_event_and_none_is_reported_in_maintenance() {
    let mut world = with_an_agent(vec![real(1, 4)]);
    world.find_by(1, 1, up());
    let asks = |percent, state| {
        up_with(AgentReply {
            weight: Some(RequestedWeight::Percent(percent)),
            state,
            down: None,
        })
    };
    let quiet = [] as [&str; 0];
    assert_eq!(world.find_by(0, 1, asks(73, None)), quiet);
    assert_eq!(world.find_by(0, 1, asks(71, None)), quiet);
    assert_eq!(
        world.find_by(0, 1, asks(0, None))[0],
        "real-changed 10.0.0.1: by its check: weight 71 % -> 0 %"
    );
    assert_eq!(
        world.find_by(0, 1, asks(50, Some(AdminState::Drain)))[0],
        "real-changed 10.0.0.1: by its check: state ready -> drain, weight 0 % -> 50 %"
    );
    world.service().reals[0].state = AdminState::Maintenance;
    assert_eq!(world.adopt(), quiet);
}

#[test]
fn an_agents_request_holds_until_its_next_reply_also_at_another_address() {
    let mut world = with_an_agent(vec![real(1, 4)]);
    world.find_by(1, 1, up());
    let drained = up_with(AgentReply {
        state: Some(AdminState::Drain),
        ..AgentReply::default()
    });
    world.find_by(0, 1, drained);
    world.service().checks[0].target.port = Some(9998);
    assert_eq!(world.adopt(), [] as [&str; 0]);
    assert_eq!(
        world.shown(1),
        (RealState::Draining, Some("by its agent"), 0)
    );
}

#[test]
fn the_notify_policy_sees_maintenance_by_an_agent_as_by_the_operator() {
    let mut world = with_an_agent(vec![real(1, 1), real(2, 1)]);
    world.find_by(1, 1, up());
    world.find_by(1, 2, down());
    let states = |world: &World| -> Vec<_> {
        let told = world.availability.as_reported(&world.model);
        told.services[0]
            .reals
            .iter()
            .map(|real| real.state)
            .collect()
    };
    assert!(!world.availability.take_new_maintenance());
    assert_eq!(states(&world), [AdminState::Ready; 2]);
    let asks = |state| {
        up_with(AgentReply {
            state: Some(state),
            ..AgentReply::default()
        })
    };
    // What it finds is still known, and shown.
    world.find_by(0, 2, asks(AdminState::Maintenance));
    assert!(world.availability.take_new_maintenance());
    assert!(!world.availability.take_new_maintenance());
    assert_eq!(states(&world), [AdminState::Ready, AdminState::Maintenance]);
    assert_eq!(world.status().reals[&address(2)].healthy, Some(false));
    let told = world.find_by(0, 2, asks(AdminState::Ready));
    assert_eq!(
        told,
        [
            "real-changed 10.0.0.2: by its check: state maintenance -> ready",
            "real-down 10.0.0.2: no answer within 2s, 3 of 3"
        ]
    );
    assert!(world.availability.take_new_maintenance());
    assert_eq!(states(&world), [AdminState::Ready; 2]);
}
