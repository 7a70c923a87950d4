//! A daemon that starts again, on a virtual clock: it continues from the stored states of an earlier one.

use super::*;

/// When the daemon starts again.
fn at_start() -> Timestamp {
    Timestamp {
        time: UNKNOWN_TIME.time + 1_000_000 * SECOND,
        since_boot: 1_000_000 * SECOND,
    }
}

impl World {
    /// Stored states of an earlier daemon: one for each checker, each down before if it is up.
    fn stored(&self, state_of: impl Fn(SocketAddr) -> CheckState) -> FakeCheckers {
        let checkers = FakeCheckers::default();
        for CheckStart { target, .. } in self.availability.checkers() {
            let check_state = state_of(target.target);
            let ago = at_start()
                .since_boot
                .checked_sub(check_state.since.since_boot);
            let since = (check_state.since != UNKNOWN_TIME).then(|| self.now - ago.unwrap());
            let restored = RestoredState {
                since,
                has_returned: check_state.up,
                check_state,
            };
            checkers
                .state()
                .restored
                .insert(CheckTarget::clone(&target), restored);
        }
        checkers
    }

    /// Starts a daemon from these stored states.
    fn take_over(&mut self, stored: &FakeCheckers) {
        self.availability = Availability::at_start(&self.model, stored, self.now);
    }

    pub(super) fn restart(&mut self, state_of: impl Fn(SocketAddr) -> CheckState) {
        self.adopt();
        let stored = self.stored(state_of);
        self.take_over(&stored);
    }

    /// The conditions that the new daemon takes over, each with its age in seconds, and the events that it reports.
    fn takeover(&self, stored: &FakeCheckers) -> (Vec<(String, u64)>, Vec<String>) {
        let takeover = self.availability.takeover(&self.model, stored, self.now);
        let conditions = takeover.conditions.into_iter().map(|(event, began)| {
            let what = event_texts(vec![event]).remove(0);
            (what, (self.now - began).as_secs())
        });
        (conditions.collect(), event_texts(takeover.events))
    }
}

fn since(since: Timestamp, check_state: CheckState) -> CheckState {
    CheckState {
        since,
        ..check_state
    }
}

fn ago(time: Duration, check_state: CheckState) -> CheckState {
    let start = at_start();
    let moment = Timestamp {
        time: start.time - time,
        since_boot: start.since_boot - time,
    };
    since(moment, check_state)
}

fn reset_after(delay: Duration) -> World {
    let policy = HealthPolicy {
        on_down: OnDown::ResetAfter(delay),
        ..HealthPolicy::default()
    };
    World::new(model(vec![real(1, 1)], vec![check(None)], policy))
}

fn slow_start(time: Duration) -> World {
    let policy = HealthPolicy {
        slow_start: time,
        ..HealthPolicy::default()
    };
    let reals = vec![real(1, 4), real(2, 2)];
    World::new(model(reals, vec![check(None)], policy))
}

#[test]
fn after_a_restart_reset_after_counts_from_when_the_real_went_down() {
    let mut world = reset_after(30 * SECOND);
    world.restart(|_| ago(40 * SECOND, down()));
    assert_eq!(world.runs(), [(0, RESET)]);
    assert_eq!(world.availability.next_deadline(), None);

    world.restart(|_| ago(10 * SECOND, down()));
    assert_eq!(world.runs(), [(0, KEEP)]);
    world.wait(19 * SECOND);
    assert_eq!(world.runs(), [(0, KEEP)]);
    world.wait(SECOND);
    assert_eq!(world.runs(), [(0, RESET)]);
}

#[test]
fn a_real_is_down_since_its_first_check_failed() {
    let mut world = reset_after(30 * SECOND);
    world.service().checks.push(check(Some(9)));
    world.service().checks.push(check(Some(10)));
    world.restart(|target| match target.port() {
        9 => ago(25 * SECOND, down()),
        10 => ago(5 * SECOND, down()),
        _ => ago(3600 * SECOND, up()),
    });
    world.wait(4 * SECOND);
    assert_eq!(world.runs(), [(0, KEEP)]);
    world.wait(SECOND);
    assert_eq!(world.runs(), [(0, RESET)]);
}

#[test]
fn a_slow_start_continues_after_a_restart() {
    let mut world = slow_start(10 * SECOND);
    let of = |target| match target == address(1) {
        true => ago(4 * SECOND, up()),
        false => ago(3600 * SECOND, up()),
    };
    world.restart(of);
    assert_eq!(world.weights(), [32, 40]);
    assert_eq!(
        world.shown(1),
        (RealState::Up, Some("slow start, 40 % of its weight"), 1)
    );
    world.wait(3 * SECOND);
    assert_eq!(world.weights(), [56, 40]);
    world.wait(3 * SECOND);
    assert_eq!(world.weights(), [4, 2]);
    assert_eq!(world.availability.next_deadline(), None);
    // Once it is over, a restart does not begin it again.
    world.restart(|target| match of(target) {
        check_state if target == address(1) => ago(10 * SECOND, check_state),
        check_state => check_state,
    });
    assert_eq!(world.weights(), [4, 2]);
}

#[test]
fn a_real_that_was_down_over_the_restart_starts_slowly_when_it_comes_back() {
    let mut world = slow_start(10 * SECOND);
    world.restart(|target| match target == address(1) {
        true => ago(40 * SECOND, down()),
        false => ago(3600 * SECOND, up()),
    });
    assert_eq!(world.runs(), [(0, RESET), (2, KEEP)]);
    world.find(1, up());
    assert_eq!(world.weights(), [1, 40]);
}

#[test]
fn a_real_that_was_never_down_has_no_slow_start_after_a_restart() {
    let mut world = slow_start(10 * SECOND);
    let stored = world.stored(|_| ago(4 * SECOND, up()));
    for restored in stored.state().restored.values_mut() {
        restored.has_returned = restored.check_state.up && restored.check_state.reason.is_empty();
    }
    world.take_over(&stored);
    assert_eq!(world.weights(), [4, 2]);
    assert_eq!(world.shown(1), (RealState::Up, None, 4));
}

#[test]
fn a_real_is_down_since_its_agent_reported_it_down() {
    let mut world = reset_after(30 * SECOND);
    world.service().checks[0].probe = Probe::Agent(crate::model::check::AgentProbe::default());
    let stopped = AgentReply {
        down: Some("stopped".to_owned()),
        ..AgentReply::default()
    };
    world.restart(|_| ago(10 * SECOND, up_with(stopped.clone())));
    let stored = FakeCheckers::default();
    let (conditions, _) = world.takeover(&stored);
    let event = "real-down 10.0.0.1: its agent says stopped".to_owned();
    assert_eq!(conditions, [(event, 10)]);
    world.wait(19 * SECOND);
    assert_eq!(world.runs(), [(0, KEEP)]);
    world.wait(SECOND);
    assert_eq!(world.runs(), [(0, RESET)]);
}

/// Quorum 3, which is lost below 2 and regained at 4; the first so many of the real servers are up.
fn quorum_of_three(up_there: u8, before: bool) -> (World, FakeCheckers) {
    let mut world = five_with_quorum_three();
    let stored =
        world.stored(
            |target| match (1..=up_there).any(|number| target == address(number)) {
                true => ago(900 * SECOND, up()),
                false => ago(20 * SECOND, down()),
            },
        );
    let quorum = Quorum {
        holds: before,
        since: world.now - 70 * SECOND,
    };
    stored
        .state()
        .quorums
        .insert(world.model.services[0].key, quorum);
    world.take_over(&stored);
    (world, stored)
}

#[test]
fn quorum_with_hysteresis_is_restored() {
    for (up_there, before, after) in [
        (2, true, true),
        (3, true, true),
        (3, false, false),
        (2, false, false),
    ] {
        let (world, stored) = quorum_of_three(up_there, before);
        assert_eq!(world.status().quorum, Some(after), "{up_there} {before}");
        assert_eq!(world.takeover(&stored).1, [] as [&str; 0]);
        let kept = &world.availability.to_persist(&world.model)[0];
        let reals: Vec<_> = (1..=5).map(address).collect();
        assert_eq!(
            (kept.key, &kept.reals),
            (world.model.services[0].key, &reals)
        );
        assert_eq!(kept.quorum, Some(stored.state().quorums[&kept.key]));
    }
}

#[test]
fn a_quorum_that_changed_over_the_restart_is_an_event() {
    let (world, stored) = quorum_of_three(1, true);
    let (conditions, events) = world.takeover(&stored);
    assert_eq!(
        conditions.len(),
        4,
        "the real servers' alone: {conditions:?}"
    );
    assert_eq!(events, ["quorum-lost: live weight 1, quorum 3"]);
    let kept = world.availability.to_persist(&world.model)[0].quorum;
    let lost = Quorum {
        holds: false,
        since: world.now,
    };
    assert_eq!(kept, Some(lost));
    // The end of a lost quorum is reported too.
    let (world, stored) = quorum_of_three(4, false);
    let (conditions, events) = world.takeover(&stored);
    let lost = ("quorum-lost: live weight 4, quorum 3".to_owned(), 70);
    assert_eq!(conditions[1], lost);
    assert_eq!(events, ["quorum-regained: live weight 4, quorum 3"]);
}

#[test]
fn a_quorum_lost_to_maintenance_is_restored_with_its_beginning() {
    let (mut world, stored) = quorum_of_three(5, false);
    for real in &mut world.service().reals[1..] {
        real.state = AdminState::Maintenance;
    }
    world.take_over(&stored);
    let (conditions, events) = world.takeover(&stored);
    let lost = "quorum-lost: live weight 1, quorum 3".to_owned();
    assert_eq!(conditions, [(lost, 70)]);
    assert_eq!(events, [] as [&str; 0]);
}

#[test]
fn take_new_quorum_reports_each_change_once() {
    let mut world = World::new(model(
        vec![real(1, 1)],
        vec![check(None)],
        HealthPolicy::default(),
    ));
    assert!(!world.availability.take_new_quorum());
    world.find(1, up());
    assert!(world.availability.take_new_quorum());
    assert!(!world.availability.take_new_quorum());
    world.find(1, down());
    assert!(world.availability.take_new_quorum());
}

#[test]
fn a_state_of_unknown_beginning_begins_at_the_restart() {
    let mut world = reset_after(30 * SECOND);
    world.restart(|_| since(UNKNOWN_TIME, down()));
    assert_eq!(world.runs(), [(0, KEEP)]);
    world.wait(30 * SECOND);
    assert_eq!(world.runs(), [(0, RESET)]);
    let mut world = slow_start(10 * SECOND);
    world.restart(|_| since(UNKNOWN_TIME, up()));
    assert_eq!(world.weights(), [4, 2]);
}

#[test]
fn conditions_that_last_are_known_with_their_beginning() {
    let reals = vec![real(1, 1), real(2, 1), real(3, 1), backup(4)];
    let mut world = World::new(model(reals, vec![check(None)], HealthPolicy::default()));
    let stored = world.stored(|target| match target {
        target if target == address(1) => ago(900 * SECOND, up()),
        target if target == address(2) => ago(100 * SECOND, down()),
        target if target == address(3) => ago(300 * SECOND, down()),
        _ => ago(500 * SECOND, down()),
    });
    world.take_over(&stored);
    let down = |number| format!("real-down 10.0.0.{number}: no answer within 2s, 3 of 3");
    assert_eq!(
        world.takeover(&stored).0,
        [(down(2), 100), (down(3), 300), (down(4), 500)]
    );
}
