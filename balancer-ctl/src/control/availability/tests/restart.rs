//! A daemon that starts again, on a virtual clock: what an earlier one wrote down goes on from there.

use super::*;

/// When the daemon starts again.
fn at_start() -> Timestamp {
    Timestamp {
        time: UNKNOWN_TIME.time + 1_000_000 * SECOND,
        since_boot: 1_000_000 * SECOND,
    }
}

impl World {
    /// What an earlier daemon left: this standing of each real server, who all have been down if they are up.
    fn left(&self, remembered: impl Fn(SocketAddr) -> CheckState) -> FakeCheckers {
        let checkers = FakeCheckers::default();
        for CheckStart { watched, .. } in self.availability.checkers() {
            let standing = remembered(watched.target);
            let ago = at_start().since_boot.checked_sub(standing.since.since_boot);
            let since = (standing.since != UNKNOWN_TIME).then(|| self.now - ago.unwrap());
            let recalled = RestoredState {
                since,
                has_returned: standing.up,
                standing,
            };
            checkers
                .state()
                .remembered
                .insert(CheckTarget::clone(&watched), recalled);
        }
        checkers
    }

    /// Another daemon takes over from what that left.
    fn take_over(&mut self, left: &FakeCheckers) {
        self.availability = Availability::at_start(&self.model, left, self.now);
    }

    pub(super) fn restart(&mut self, remembered: impl Fn(SocketAddr) -> CheckState) {
        self.adopt();
        let left = self.left(remembered);
        self.take_over(&left);
    }

    /// The troubles that the other daemon takes up, each with its age in seconds, and what it tells.
    fn taken_up(&self, left: &FakeCheckers) -> (Vec<(String, u64)>, Vec<String>) {
        let taken = self.availability.takeover(&self.model, left, self.now);
        let troubles = taken.conditions.into_iter().map(|(trouble, began)| {
            let what = told(vec![trouble]).remove(0);
            (what, (self.now - began).as_secs())
        });
        (troubles.collect(), told(taken.events))
    }
}

fn since(since: Timestamp, standing: CheckState) -> CheckState {
    CheckState { since, ..standing }
}

fn ago(time: Duration, standing: CheckState) -> CheckState {
    let start = at_start();
    let moment = Timestamp {
        time: start.time - time,
        since_boot: start.since_boot - time,
    };
    since(moment, standing)
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
fn a_real_that_has_been_down_for_long_is_reset_at_once_and_another_when_its_time_is_over() {
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
fn a_weight_that_grew_goes_on_where_it_was() {
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
        standing if target == address(1) => ago(10 * SECOND, standing),
        standing => standing,
    });
    assert_eq!(world.weights(), [4, 2]);
}

#[test]
fn a_real_that_was_down_over_the_restart_grows_when_it_comes_back() {
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
fn a_first_pass_is_no_return_whatever_the_restart() {
    let mut world = slow_start(10 * SECOND);
    let left = world.left(|_| ago(4 * SECOND, up()));
    for recalled in left.state().remembered.values_mut() {
        recalled.has_returned = recalled.standing.up && recalled.standing.reason.is_empty();
    }
    world.take_over(&left);
    assert_eq!(world.weights(), [4, 2]);
    assert_eq!(world.shown(1), (RealState::Up, None, 4));
}

#[test]
fn a_real_that_its_agent_calls_down_is_out_since_then() {
    let mut world = reset_after(30 * SECOND);
    world.service().checks[0].probe = Probe::Agent(crate::model::check::AgentProbe::default());
    let stopped = AgentReply {
        down: Some("stopped".to_owned()),
        ..AgentReply::default()
    };
    world.restart(|_| ago(10 * SECOND, advising(stopped.clone())));
    let left = FakeCheckers::default();
    let (troubles, _) = world.taken_up(&left);
    let trouble = "real-down 10.0.0.1: its agent says stopped".to_owned();
    assert_eq!(troubles, [(trouble, 10)]);
    world.wait(19 * SECOND);
    assert_eq!(world.runs(), [(0, KEEP)]);
    world.wait(SECOND);
    assert_eq!(world.runs(), [(0, RESET)]);
}

/// Quorum 3, which is lost below 2 and regained at 4; the first so many of the real servers are up.
fn quorum_of_three(up_there: u8, before: bool) -> (World, FakeCheckers) {
    let mut world = five_with_quorum_three();
    let left = world.left(
        |target| match (1..=up_there).any(|number| target == address(number)) {
            true => ago(900 * SECOND, up()),
            false => ago(20 * SECOND, down()),
        },
    );
    let quorum = Quorum {
        holds: before,
        since: world.now - 70 * SECOND,
    };
    left.state()
        .quorums
        .insert(world.model.services[0].key, quorum);
    world.take_over(&left);
    (world, left)
}

#[test]
fn quorum_with_hysteresis_goes_on_as_it_was() {
    for (up_there, before, after) in [
        (2, true, true),
        (3, true, true),
        (3, false, false),
        (2, false, false),
    ] {
        let (world, left) = quorum_of_three(up_there, before);
        assert_eq!(world.status().quorum, Some(after), "{up_there} {before}");
        assert_eq!(world.taken_up(&left).1, [] as [&str; 0]);
        let kept = &world.availability.to_persist(&world.model)[0];
        let reals: Vec<_> = (1..=5).map(address).collect();
        assert_eq!(
            (kept.key, &kept.reals),
            (world.model.services[0].key, &reals)
        );
        assert_eq!(kept.quorum, Some(left.state().quorums[&kept.key]));
    }
}

#[test]
fn a_quorum_that_is_another_after_the_restart_is_told() {
    let (world, left) = quorum_of_three(1, true);
    let (troubles, told) = world.taken_up(&left);
    assert_eq!(troubles.len(), 4, "the real servers' alone: {troubles:?}");
    assert_eq!(told, ["quorum-lost: live weight 1, quorum 3"]);
    let kept = world.availability.to_persist(&world.model)[0].quorum;
    let lost = Quorum {
        holds: false,
        since: world.now,
    };
    assert_eq!(kept, Some(lost));
    // Whoever was told that it is lost is told the end.
    let (world, left) = quorum_of_three(4, false);
    let (troubles, told) = world.taken_up(&left);
    let lost = ("quorum-lost: live weight 4, quorum 3".to_owned(), 70);
    assert_eq!(troubles[1], lost);
    assert_eq!(told, ["quorum-regained: live weight 4, quorum 3"]);
}

#[test]
fn quorum_that_maintenance_took_is_lost_since_then() {
    let (mut world, left) = quorum_of_three(5, false);
    for real in &mut world.service().reals[1..] {
        real.state = AdminState::Maintenance;
    }
    world.take_over(&left);
    let (troubles, told) = world.taken_up(&left);
    let lost = "quorum-lost: live weight 1, quorum 3".to_owned();
    assert_eq!(troubles, [(lost, 70)]);
    assert_eq!(told, [] as [&str; 0]);
}

#[test]
fn it_is_said_when_a_quorum_is_new() {
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
fn what_is_not_known_begins_anew() {
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
fn troubles_that_stand_are_known_with_the_time_since_when() {
    let reals = vec![real(1, 1), real(2, 1), real(3, 1), backup(4)];
    let mut world = World::new(model(reals, vec![check(None)], HealthPolicy::default()));
    let left = world.left(|target| match target {
        target if target == address(1) => ago(900 * SECOND, up()),
        target if target == address(2) => ago(100 * SECOND, down()),
        target if target == address(3) => ago(300 * SECOND, down()),
        _ => ago(500 * SECOND, down()),
    });
    world.take_over(&left);
    let down = |number| format!("real-down 10.0.0.{number}: no answer within 2s, 3 of 3");
    assert_eq!(
        world.taken_up(&left).0,
        [(down(2), 100), (down(3), 300), (down(4), 500)]
    );
}
