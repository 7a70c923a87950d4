//! The four truths against each other, on a virtual clock: each test compares all that the packet program is to run, what
//! `list` shows, and the events.

mod changes;
mod properties;
mod restart;
mod service;
mod truths;

use std::time::Duration;

use super::*;
use crate::{
    dataplane::Connections,
    health::{RequestedWeight, RestoredState, Timestamp, fake::FakeCheckers},
    model::{
        Backups, HealthPolicy, OnDown, Persistence, PersistenceDrain, Protocol, Scheduler,
        check::{Probe, Source, Target, Timing},
        names::Named as _,
    },
};

const SECOND: Duration = Duration::from_secs(1);

fn check(port: Option<u16>) -> Check {
    Check {
        probe: Probe::Ping,
        target: Target {
            address: None,
            port,
        },
        source: Source::default(),
        timing: Timing::default(),
    }
}

/// An agent at a port of its own.
fn agent() -> Check {
    Check {
        probe: Probe::Agent(crate::model::check::AgentProbe::default()),
        ..check(Some(9999))
    }
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 80))
}

fn real(number: u8, weight: u32) -> RealServer {
    RealServer {
        weight,
        ..RealServer::new(address(number))
    }
}

fn backup(number: u8) -> RealServer {
    RealServer {
        backup: true,
        ..real(number, 1)
    }
}

fn model(reals: Vec<RealServer>, checks: Vec<Check>, health: HealthPolicy) -> Model {
    let mut model = crate::model::change::tests::model("");
    let key = ServiceKey {
        protocol: Protocol::Tcp,
        address: SocketAddr::from(([192, 0, 2, 80], 80)),
    };
    model.services.push(VirtualService {
        name: Some("web".to_owned()),
        checks,
        health,
        reals,
        ..VirtualService::new(key)
    });
    model
}

/// Five real servers, of which quorum wants three, is lost below two and regained at four.
fn five_with_quorum_three() -> World {
    let policy = HealthPolicy {
        quorum: 3,
        hysteresis: 1,
        ..HealthPolicy::default()
    };
    let reals = (1..=5).map(|number| real(number, 1)).collect();
    World::new(model(reals, vec![check(None)], policy))
}

/// A model, what stands, and a clock that a test moves.
struct World {
    model: Model,
    /// The services that `availability` is of.
    present: Vec<VirtualService>,
    availability: Availability,
    now: Instant,
}

impl World {
    fn new(model: Model) -> Self {
        let now = crate::os::clock::now();
        let availability = Availability::at_start(&model, &FakeCheckers::default(), now);
        Self {
            present: model.services.clone(),
            model,
            availability,
            now,
        }
    }

    fn service(&mut self) -> &mut VirtualService {
        &mut self.model.services[0]
    }

    /// The model was edited.
    fn adopt(&mut self) -> Vec<String> {
        let next = self.availability.after(
            &self.present,
            &self.model,
            &FakeCheckers::default(),
            self.now,
        );
        self.present.clone_from(&self.model.services);
        let events = next.since(&self.availability, &self.model);
        self.availability = next;
        event_texts(events)
    }

    fn find(&mut self, number: u8, check_state: CheckState) -> Vec<String> {
        self.find_by(0, number, check_state)
    }

    /// The n-th check of the real server found this.
    fn find_by(&mut self, check: usize, number: u8, check_state: CheckState) -> Vec<String> {
        let service = &self.model.services[0];
        let real = service
            .reals
            .iter()
            .find(|real| real.address == address(number))
            .unwrap();
        let target = check_targets(service, real).nth(check).unwrap();
        event_texts(self.availability.update(
            &self.model,
            vec![CheckUpdate {
                target,
                check_state,
            }],
            self.now,
        ))
    }

    fn wait(&mut self, time: Duration) -> Vec<String> {
        let end = self.now + time;
        let mut events = Vec::new();
        while let Some(deadline) = self
            .availability
            .next_deadline()
            .filter(|deadline| *deadline <= end)
        {
            assert!(
                deadline > self.now || events.is_empty(),
                "time stands still"
            );
            self.now = deadline;
            events.extend(event_texts(
                self.availability.advance(&self.model, self.now),
            ));
        }
        self.now = end;
        events
    }

    /// Weight and fate of connections of each real server, as the packet program is to run them.
    fn runs(&self) -> Vec<(u32, Connections)> {
        self.availability.desired()[0]
            .reals
            .iter()
            .map(|real| (real.weight, real.connections))
            .collect()
    }

    fn weights(&self) -> Vec<u32> {
        self.runs().into_iter().map(|(weight, _)| weight).collect()
    }

    /// State, reason and effective weight as `list` shows them.
    fn shown(&self, number: u8) -> (RealState, Option<&str>, u32) {
        let status = self
            .availability
            .real(&self.model.services[0].key, address(number))
            .unwrap();
        (status.state, status.reason.as_deref(), status.weight)
    }

    fn status(&self) -> &ServiceStatus {
        self.availability
            .service(&self.model.services[0].key)
            .unwrap()
    }
}

fn event_texts(events: Vec<Event>) -> Vec<String> {
    let one = |event: Event| {
        let real = event
            .real
            .map_or_else(String::new, |real| format!(" {}", real.ip()));
        format!("{}{real}: {}", event.kind.name(), event.message)
    };
    events.into_iter().map(one).collect()
}

fn check_state(up: bool, reason: &str) -> CheckState {
    CheckState {
        up,
        decided: true,
        reason: reason.to_owned(),
        agent_reply: AgentReply::default(),
        since: UNKNOWN_TIME,
    }
}

fn up() -> CheckState {
    check_state(true, "echo reply")
}

fn down() -> CheckState {
    check_state(false, "no answer within 2s, 3 of 3")
}

fn up_with(agent_reply: AgentReply) -> CheckState {
    CheckState {
        agent_reply,
        ..up()
    }
}

const KEEP: Connections = Connections::Keep;
const RESET: Connections = Connections::Reset;

#[test]
fn without_checks_reals_are_up_at_once_and_no_event_is_reported() {
    let mut world = World::new(model(
        vec![real(1, 3), real(2, 0)],
        vec![],
        HealthPolicy::default(),
    ));
    assert_eq!(world.runs(), [(3, KEEP), (0, KEEP)]);
    assert_eq!(world.shown(1), (RealState::Up, None, 3));
    assert_eq!(world.shown(2), (RealState::Draining, Some("weight 0"), 0));
    assert_eq!(
        (world.status().live_weight, world.status().quorum),
        (3, Some(true))
    );
    assert_eq!(world.adopt(), Vec::<String>::new());
}

#[test]
fn a_real_is_down_until_its_first_pass_and_keeps_its_connections() {
    let mut world = World::new(model(
        vec![real(1, 2)],
        vec![check(None)],
        HealthPolicy::default(),
    ));
    assert_eq!(world.runs(), [(0, KEEP)]);
    assert_eq!(world.shown(1), (RealState::Down, Some("not probed yet"), 0));
    assert_eq!(world.status().quorum, None);
    assert_eq!(world.find(1, up()), ["real-up 10.0.0.1: echo reply"]);
    assert_eq!(world.runs(), [(2, KEEP)]);
    assert_eq!(world.shown(1), (RealState::Up, None, 2));
    assert_eq!(world.status().quorum, Some(true));
}

#[test]
fn a_real_that_goes_down_leaves_the_ring_and_its_connections_are_reset() {
    let mut world = World::new(model(
        vec![real(1, 1), real(2, 1)],
        vec![check(None)],
        HealthPolicy::default(),
    ));
    world.find(1, up());
    world.find(2, up());
    assert_eq!(
        world.find(1, down()),
        ["real-down 10.0.0.1: no answer within 2s, 3 of 3"]
    );
    assert_eq!(world.runs(), [(0, RESET), (1, KEEP)]);
    assert_eq!(
        world.shown(1),
        (RealState::Down, Some("no answer within 2s, 3 of 3"), 0)
    );
    assert_eq!(
        world.find(2, down()),
        [
            "real-down 10.0.0.2: no answer within 2s, 3 of 3",
            "quorum-lost: live weight 0, quorum 1"
        ]
    );
    assert_eq!(
        world.find(1, up()),
        [
            "real-up 10.0.0.1: echo reply",
            "quorum-regained: live weight 1, quorum 1"
        ]
    );
    assert_eq!(world.runs(), [(1, KEEP), (0, RESET)]);
}

#[test]
fn on_down_keeps_connections_or_resets_them_later() {
    let policy = |on_down| HealthPolicy {
        on_down,
        ..HealthPolicy::default()
    };
    let mut world = World::new(model(
        vec![real(1, 1)],
        vec![check(None)],
        policy(OnDown::Keep),
    ));
    world.find(1, up());
    world.find(1, down());
    assert_eq!(world.runs(), [(0, KEEP)]);

    let mut world = World::new(model(
        vec![real(1, 1)],
        vec![check(None)],
        policy(OnDown::ResetAfter(30 * SECOND)),
    ));
    world.find(1, up());
    world.find(1, down());
    world.wait(29 * SECOND);
    assert_eq!(world.runs(), [(0, KEEP)]);
    world.find(1, down()); // a second word does not begin the time anew
    assert_eq!(world.wait(SECOND), Vec::<String>::new());
    assert_eq!(world.runs(), [(0, RESET)]);
    assert_eq!(world.availability.next_deadline(), None);
    world.find(1, up());
    assert_eq!(world.runs(), [(1, KEEP)]);
}

#[test]
fn a_real_in_maintenance_is_not_probed_and_comes_up_with_its_first_pass_after_it() {
    let mut world = World::new(model(
        vec![real(1, 1), real(2, 1)],
        vec![check(None)],
        HealthPolicy::default(),
    ));
    world.find(1, up());
    world.find(2, up());
    world.service().reals[0].state = AdminState::Maintenance;
    assert_eq!(world.adopt(), Vec::<String>::new());
    assert_eq!(
        world.shown(1),
        (RealState::Maintenance, Some("by the operator"), 0)
    );
    assert_eq!(world.runs(), [(0, RESET), (1, KEEP)]);
    let asked: Vec<_> = world
        .availability
        .checkers()
        .iter()
        .map(|begin| begin.target.target)
        .collect();
    assert_eq!(asked, [address(2)]);
    world.service().reals[0].state = AdminState::Ready;
    world.adopt();
    assert_eq!(world.shown(1), (RealState::Down, Some("not probed yet"), 0));
    assert_eq!(world.runs(), [(0, KEEP), (1, KEEP)]);
    assert_eq!(world.find(1, up()), ["real-up 10.0.0.1: echo reply"]);
    assert_eq!(world.weights(), [1, 1]);
}

#[test]
fn all_checks_must_pass() {
    let mut world = World::new(model(
        vec![real(1, 1)],
        vec![check(None), check(Some(9))],
        HealthPolicy::default(),
    ));
    assert_eq!(world.find_by(0, 1, up()), Vec::<String>::new());
    assert_eq!(world.shown(1), (RealState::Down, Some("not probed yet"), 0));
    assert_eq!(world.find_by(1, 1, up()), ["real-up 10.0.0.1: echo reply"]);
    assert_eq!(
        world.find_by(1, 1, check_state(false, "connection refused, 3 of 3")),
        [
            "real-down 10.0.0.1: connection refused, 3 of 3",
            "quorum-lost: live weight 0, quorum 1"
        ]
    );
    assert_eq!(
        world.find_by(0, 1, down()),
        Vec::<String>::new(),
        "it is down already"
    );
    assert_eq!(
        world.find_by(1, 1, up()),
        Vec::<String>::new(),
        "the other is down still"
    );
}

#[test]
fn an_agent_does_not_affect_health_unless_it_reports_down() {
    let mut world = World::new(model(
        vec![real(1, 4)],
        vec![agent(), check(None)],
        HealthPolicy::default(),
    ));
    world.find_by(1, 1, up());
    assert_eq!(
        world.shown(1),
        (RealState::Up, None, 4),
        "an agent that was not heard yet"
    );
    world.find_by(0, 1, check_state(false, "connection refused"));
    assert_eq!(
        world.shown(1),
        (RealState::Up, None, 4),
        "an agent that cannot be reached"
    );
    let half = AgentReply {
        weight: Some(RequestedWeight::Percent(50)),
        ..AgentReply::default()
    };
    world.find_by(
        0,
        1,
        CheckState {
            up: false,
            ..up_with(half)
        },
    );
    assert_eq!(
        world.shown(1),
        (RealState::Up, Some("50 % of its weight by its agent"), 2),
        "its last word stands"
    );
    let stopped = AgentReply {
        down: Some("stopped".to_owned()),
        ..AgentReply::default()
    };
    assert_eq!(
        world.find_by(0, 1, up_with(stopped)),
        [
            "real-down 10.0.0.1: its agent says stopped",
            "quorum-lost: live weight 0, quorum 1"
        ]
    );
}
