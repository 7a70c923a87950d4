//! A daemon that starts again, on a virtual clock: what an earlier one wrote down goes on from there.

use super::*;

/// The time of day at which the daemon starts again.
fn at_start() -> SystemTime {
    UNKNOWN + 1_000_000 * SECOND
}

impl World {
    /// Another daemon takes over: it finds this standing of each real server.
    fn restart(&mut self, remembered: impl Fn(SocketAddr) -> Standing) {
        let recall = |watched: &Watched| {
            Some(Recalled::new(
                remembered(watched.target),
                self.now,
                at_start(),
            ))
        };
        self.availability = Availability::default().after(&self.model, recall, self.now);
    }
}

fn since(time: SystemTime, standing: Standing) -> Standing {
    Standing {
        since: time,
        ..standing
    }
}

fn ago(time: Duration, standing: Standing) -> Standing {
    since(at_start() - time, standing)
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
        standing if target == address(1) => since(standing.since - 6 * SECOND, standing),
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
fn a_clock_that_jumped_makes_times_begin_anew_or_be_over() {
    // Set back: what was written down lies ahead.
    let mut world = reset_after(30 * SECOND);
    world.restart(|_| since(at_start() + 3600 * SECOND, down()));
    world.wait(29 * SECOND);
    assert_eq!(world.runs(), [(0, KEEP)]);
    world.wait(SECOND);
    assert_eq!(world.runs(), [(0, RESET)]);
    let mut world = slow_start(10 * SECOND);
    world.restart(|_| since(at_start() + 3600 * SECOND, up()));
    assert_eq!(world.weights(), [1, 1]);
    world.wait(10 * SECOND);
    assert_eq!(world.weights(), [4, 2]);
    // Set forward: it lies long ago, before this host started.
    let mut world = reset_after(30 * SECOND);
    world.restart(|_| since(UNKNOWN + SECOND, down()));
    assert_eq!(world.runs(), [(0, RESET)]);
    let mut world = slow_start(10 * SECOND);
    world.restart(|_| since(UNKNOWN + SECOND, up()));
    assert_eq!(world.weights(), [4, 2]);
}

#[test]
fn what_is_not_known_begins_anew() {
    let mut world = reset_after(30 * SECOND);
    world.restart(|_| since(UNKNOWN, down()));
    assert_eq!(world.runs(), [(0, KEEP)]);
    world.wait(30 * SECOND);
    assert_eq!(world.runs(), [(0, RESET)]);
    let mut world = slow_start(10 * SECOND);
    world.restart(|_| since(UNKNOWN, up()));
    assert_eq!(world.weights(), [4, 2]);
}

#[test]
fn troubles_that_stand_are_known_with_the_time_since_when() {
    let policy = HealthPolicy {
        quorum: 3,
        hysteresis: 1,
        ..HealthPolicy::default()
    };
    let reals = vec![real(1, 1), real(2, 1), real(3, 1), real(4, 1), backup(5)];
    let mut world = World::new(model(reals, vec![check(None)], policy));
    world.restart(|target| match target {
        target if target == address(1) => ago(900 * SECOND, up()),
        target if target == address(2) => ago(100 * SECOND, down()),
        target if target == address(3) => ago(300 * SECOND, down()),
        target if target == address(4) => ago(20 * SECOND, down()),
        _ => ago(500 * SECOND, down()),
    });
    let troubles: Vec<_> = world
        .availability
        .troubles(&world.model, world.now)
        .into_iter()
        .map(|(trouble, began)| {
            let what = format!("{} {:?}", trouble.kind.name(), trouble.real);
            (what, (world.now - began).as_secs())
        })
        .collect();
    let real = |number| format!("real-down {:?}", Some(address(number)));
    assert_eq!(
        troubles,
        [
            (real(2), 100),
            (real(3), 300),
            (real(4), 20),
            (real(5), 500),
            // With the third of four, whose weight 1 is below 3 - 1.
            ("quorum-lost None".to_owned(), 20),
        ]
    );
}
