use std::net::Ipv4Addr;

use super::*;

mod groups;
mod leaving;
mod link;
mod network;

const SECOND: Duration = Duration::from_secs(1);

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn interval(milliseconds: u64) -> Interval {
    Interval::from_duration(Duration::from_millis(milliseconds)).unwrap()
}

/// Settings of `members` virtual routers with an interval of a second; this node's address ends in `last`.
fn settings(members: usize, last: u8, failback: Failback) -> Settings {
    let member = MemberSettings {
        interval: interval(1000),
        source: address(last),
        link_up_delay: 10 * SECOND,
    };
    Settings {
        members: vec![member; members],
        priority: 100,
        failback,
        relieve_after: 3 * SECOND,
        announce_interval: 60 * SECOND,
    }
}

const fn tracked(priority: u8) -> Input {
    Input::Tracked {
        fault: None,
        priority,
    }
}

fn fault(sentence: &str) -> Input {
    Input::Tracked {
        fault: Some(sentence.to_owned()),
        priority: 100,
    }
}

fn heard(last: u8, priority: u8) -> Input {
    heard_on(0, last, priority)
}

fn heard_on(member: usize, last: u8, priority: u8) -> Input {
    Input::Advertisement {
        member,
        source: address(last),
        priority,
        interval: interval(1000),
    }
}

const fn advertise(priority: u8) -> Output {
    Output::Advertise {
        member: 0,
        priority,
    }
}

const fn other(last: u8, priority: u8) -> Cause {
    Cause::Other {
        source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)),
        priority,
    }
}

/// A machine with its clock.
struct Node {
    machine: Machine,
    start: Instant,
    now: Instant,
}

impl Node {
    fn new(settings: &Settings) -> Self {
        let now = Instant::now();
        Self {
            machine: Machine::new(settings, VecDeque::new(), now),
            start: now,
            now,
        }
    }

    /// A node of one virtual router with address 192.0.2.1 and priority 100 that was driven to `state`.
    fn in_state(state: State, failback: Failback) -> Self {
        let mut node = Self::new(&settings(1, 1, failback));
        if state == State::Initialize {
            node.handle(fault("no link"));
            return node;
        }
        node.handle(tracked(100));
        if state != State::Backup {
            node.run_until_due();
        }
        if state == State::Leaving {
            node.handle(Input::GiveUp);
        }
        assert_eq!(node.state(), state);
        node
    }

    fn state(&self) -> State {
        self.machine.state().0
    }

    fn handle(&mut self, input: Input) -> Vec<Output> {
        self.machine.handle(input, self.now)
    }

    /// Lets time pass without giving the machine a chance to run.
    fn sleep(&mut self, time: Duration) {
        self.now += time;
    }

    /// Runs until the state changes; returns what was done then.
    fn run_until_due(&mut self) -> Vec<Output> {
        let before = self.state();
        for _ in 0..1000 {
            self.now = self.now.max(self.machine.next_deadline().unwrap());
            let outputs = self.handle(Input::Timeout);
            if self.state() != before {
                return outputs;
            }
        }
        panic!("nothing changes");
    }

    /// Runs for a time; returns what was done, with the milliseconds since now.
    fn run(&mut self, time: Duration) -> Vec<(u128, Output)> {
        let (from, until) = (self.now, self.now + time);
        let mut done = Vec::new();
        while let Some(due) = self.machine.next_deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            let after = self.now.duration_since(from).as_millis();
            done.extend(
                self.handle(Input::Timeout)
                    .into_iter()
                    .map(|output| (after, output)),
            );
        }
        self.now = until;
        done
    }

    fn elapsed(&self) -> Duration {
        self.now.duration_since(self.start)
    }
}

/// The state after each input in each state, and all outputs. Priority 100, address 192.0.2.1, failback `never` but where it is said.
#[test]
fn every_input_in_every_state() {
    use Output::{Acquire, Announce, Entered, NobodyTookOver, Release};
    use State::{Active, Backup, Initialize, Leaving};
    let all = [Initialize, Backup, Active, Leaving];
    let check = |from: &[State], input: &Input, to: Option<State>, outputs: &[Output]| {
        for from in from {
            let mut node = Node::in_state(*from, Failback::Never);
            assert_eq!(node.handle(input.clone()), outputs, "{from:?}, {input:?}");
            assert_eq!(node.state(), to.unwrap_or(*from), "{from:?}, {input:?}");
        }
    };
    let quiet = |from: &[State], input: &Input| check(from, input, None, &[]);

    // Nothing is due at once.
    quiet(&all, &Input::Timeout);

    for input in [
        Input::LinkUp { member: 0 },
        Input::LinkForwards { member: 0 },
    ] {
        quiet(&all, &input);
    }
    quiet(&[Initialize, Backup], &heard(2, 101));
    quiet(&[Initialize, Backup], &heard(2, 100));
    quiet(&[Initialize, Backup], &heard(2, 99));
    quiet(&[Initialize, Backup, Leaving], &heard(2, 0));
    check(
        &[Active],
        &heard(2, 101),
        Some(Backup),
        &[Release, Entered(Backup, other(2, 101))],
    );
    // The greater address decides between equals, and only among Active nodes.
    check(
        &[Active],
        &heard(2, 100),
        Some(Backup),
        &[Release, Entered(Backup, other(2, 100))],
    );
    check(&[Active], &heard(0, 100), None, &[advertise(100), Announce]);
    check(&[Active], &heard(2, 99), None, &[advertise(100), Announce]);
    check(&[Active], &heard(2, 0), None, &[advertise(100)]);
    for priority in [1, 99, 100, 101, 255] {
        check(
            &[Leaving],
            &heard(2, priority),
            Some(Backup),
            &[Release, Entered(Backup, Cause::Relieved(address(2)))],
        );
    }

    quiet(&[Backup, Leaving], &tracked(90));
    quiet(&[Active], &tracked(100));
    check(&[Active], &tracked(90), None, &[advertise(90)]);
    check(
        &[Initialize],
        &tracked(100),
        Some(Backup),
        &[Entered(Backup, Cause::Started)],
    );
    for from in [Initialize, Backup] {
        let owner = [
            advertise(255),
            Acquire,
            Announce,
            Entered(Active, Cause::Owner),
        ];
        check(&[from], &tracked(255), Some(Active), &owner);
    }
    let broken = || Entered(Initialize, Cause::Fault("a cable".to_owned()));
    check(
        &[Initialize, Backup],
        &fault("a cable"),
        Some(Initialize),
        &[broken()],
    );
    quiet(&[Initialize], &fault("no link"));
    check(
        &[Active, Leaving],
        &fault("a cable"),
        Some(Initialize),
        &[Release, advertise(0), broken()],
    );

    quiet(&[Initialize, Backup, Leaving], &Input::GiveUp);
    let leaves = [Entered(Leaving, Cause::Leaving), advertise(0)];
    check(&[Active], &Input::GiveUp, Some(Leaving), &leaves);
    quiet(&all, &Input::Succeed);

    let off = || Entered(Initialize, Cause::Maintenance);
    check(
        &[Initialize, Backup],
        &Input::Maintenance(true),
        Some(Initialize),
        &[off()],
    );
    check(&[Active], &Input::Maintenance(true), Some(Leaving), &leaves);
    quiet(&[Leaving], &Input::Maintenance(true));
    quiet(&all, &Input::Maintenance(false));

    quiet(&[Initialize, Leaving], &Input::Stop);
    check(
        &[Backup],
        &Input::Stop,
        Some(Initialize),
        &[Entered(Initialize, Cause::Stopped)],
    );
    check(&[Active], &Input::Stop, Some(Leaving), &leaves);

    quiet(&[Initialize, Backup], &Input::Announce);
    check(&[Active, Leaving], &Input::Announce, None, &[Announce]);

    // What is due.
    let mut node = Node::in_state(Leaving, Failback::Never);
    let returns = [
        Entered(Active, Cause::Alone),
        advertise(100),
        Announce,
        NobodyTookOver,
    ];
    assert_eq!(node.run_until_due(), returns);
    let mut node = Node::in_state(Backup, Failback::Never);
    let takes = [
        advertise(100),
        Acquire,
        Announce,
        Entered(Active, Cause::Silence),
    ];
    assert_eq!(node.run_until_due(), takes);
}

#[test]
fn a_backup_node_waits_three_intervals_and_its_skew_time() {
    for (priority, milliseconds) in [(100_u8, 3609), (200, 3218), (254, 3007), (1, 3996)] {
        let mut node = Node::new(&settings(1, 1, Failback::Never));
        node.handle(tracked(priority));
        node.run_until_due();
        assert_eq!(node.elapsed().as_millis(), milliseconds, "{priority}");
    }
}

#[test]
fn a_node_that_leaves_is_followed_after_the_skew_time_alone() {
    let mut node = Node::in_state(State::Backup, Failback::Never);
    node.sleep(SECOND);
    node.handle(heard(2, 200));
    node.sleep(SECOND / 2);
    node.handle(heard(2, 0));
    node.run_until_due();
    assert_eq!(node.elapsed().as_millis(), 1500 + 609);
}

#[test]
fn a_successor_follows_at_once() {
    let mut node = Node::in_state(State::Backup, Failback::Never);
    node.handle(heard(2, 200));
    node.handle(Input::Succeed);
    node.sleep(SECOND);
    let takes = [
        advertise(100),
        Output::Acquire,
        Output::Announce,
        Output::Entered(State::Active, Cause::Silence),
    ];
    assert_eq!(node.handle(heard(2, 0)), takes);
    // Not for ever.
    let mut node = Node::in_state(State::Backup, Failback::Never);
    node.handle(heard(2, 200));
    node.handle(Input::Succeed);
    for _ in 0..5 {
        node.sleep(SECOND);
        node.handle(heard(2, 200));
    }
    assert_eq!(node.handle(heard(2, 0)), []);
}

#[test]
fn a_backup_node_adopts_the_active_nodes_interval() {
    let mut node = Node::in_state(State::Backup, Failback::Never);
    let adopted = interval(200);
    let slow = Input::Advertisement {
        member: 0,
        source: address(2),
        priority: 200,
        interval: adopted,
    };
    let adopts = [Output::Adopted {
        member: 0,
        interval: adopted,
    }];
    assert_eq!(node.handle(slow.clone()), adopts);
    assert_eq!(node.handle(slow), []);
    let before = node.elapsed();
    node.run_until_due();
    assert_eq!((node.elapsed() - before).as_millis(), 600 + 121);
    // As Active it has its own again.
    let sent = node.run(2 * SECOND);
    let sent: Vec<_> = sent
        .iter()
        .filter(|(_, output)| *output == advertise(100))
        .collect();
    assert_eq!(sent, [&(1000, advertise(100)), &(2000, advertise(100))]);
}

#[test]
fn announcements_are_a_burst_and_then_rare() {
    let mut node = Node::in_state(State::Active, Failback::Never);
    let done = node.run(180 * SECOND);
    let announced: Vec<_> = done
        .iter()
        .filter(|(_, output)| *output == Output::Announce)
        .map(|(after, _)| *after)
        .collect();
    assert_eq!(announced, [5, 50, 250, 1000, 5000, 20_000, 80_000, 140_000]);
    let advertised = done
        .iter()
        .filter(|(_, output)| *output == advertise(100))
        .count();
    assert_eq!(advertised, 180);
}

#[test]
fn a_flood_of_lower_priorities_is_answered_once_per_half_an_interval() {
    let mut node = Node::in_state(State::Active, Failback::Never);
    let mut answers = 0;
    for _ in 0..1000 {
        answers += node.handle(heard(2, 50)).len();
        node.sleep(SECOND / 1000);
    }
    assert_eq!(answers, 2 * 2, "an advertisement and an announcement each");
}

#[test]
fn failback_decides_whether_a_lower_priority_stays_active() {
    for (failback, after) in [
        (Failback::Never, None),
        (Failback::Immediate, Some(3609)),
        (Failback::After(10 * SECOND), Some(9500 + 3609)),
        (Failback::WhenStable, Some(59_500 + 3609)),
    ] {
        let mut node = Node::in_state(State::Backup, failback);
        let mut taken = None;
        // The other node's advertisements come in the middle of each second.
        for half in 0..200 {
            if half % 2 == 1 {
                node.handle(heard(2, 50));
            }
            node.run(SECOND / 2);
            if node.state() == State::Active {
                taken = Some(
                    node.machine
                        .state()
                        .2
                        .duration_since(node.start)
                        .as_millis(),
                );
                break;
            }
        }
        assert_eq!(taken, after, "{failback:?}");
    }
}

#[test]
fn each_failure_doubles_the_time_until_a_node_counts_as_stable() {
    let mut node = Node::in_state(State::Backup, Failback::WhenStable);
    for failures in 0..3 {
        let able = node.now;
        while node.state() == State::Backup {
            node.handle(heard(2, 50));
            node.run(SECOND);
        }
        let waited = node.now.duration_since(able).as_secs();
        assert_eq!(waited, (60 << failures) + 3, "after {failures} failures");
        node.handle(fault("no link"));
        node.sleep(SECOND);
        node.handle(tracked(100));
    }
    assert_eq!(node.machine.failures().len(), 3);
    // An hour later they are forgotten.
    node.handle(fault("no link"));
    node.sleep(3601 * SECOND);
    node.handle(tracked(100));
    let able = node.now;
    while node.state() == State::Backup {
        node.handle(heard(2, 50));
        node.run(SECOND);
    }
    assert_eq!(node.now.duration_since(able).as_secs(), 63);
}

#[test]
fn a_drop_of_the_active_nodes_priority_is_its_wish_to_be_relieved() {
    let mut node = Node::in_state(State::Backup, Failback::Never);
    node.handle(heard(2, 150));
    node.run(SECOND);
    // As long as it may be this node that has not noticed yet, nothing happens.
    for _ in 0..3 {
        assert_eq!(node.handle(heard(2, 90)), []);
        node.run(SECOND);
    }
    assert_eq!(node.handle(heard(2, 90)), []);
    assert_eq!(node.state(), State::Backup);
    let before = node.elapsed();
    node.run_until_due();
    assert_eq!((node.elapsed() - before).as_millis(), 609);
    // Back at its old priority, the other one comes back by failback only: it is Backup now.
    let mut node = Node::in_state(State::Backup, Failback::Never);
    for priority in [150, 90, 90, 150, 90, 90, 150, 90, 90] {
        node.handle(heard(2, priority));
        node.run(SECOND);
    }
    assert_eq!(node.state(), State::Backup, "it recovered in time");
    // One that never had more is no reason.
    let mut node = Node::in_state(State::Backup, Failback::Never);
    for _ in 0..10 {
        node.handle(heard(2, 90));
        node.run(SECOND);
    }
    assert_eq!(node.state(), State::Backup);
    // Nor is one that drops on both nodes, also if this one is left with more.
    let mut node = Node::in_state(State::Backup, Failback::Never);
    node.handle(heard(2, 80));
    node.handle(tracked(40));
    for _ in 0..10 {
        node.handle(heard(2, 20));
        node.run(SECOND);
    }
    assert_eq!(node.state(), State::Backup);
    let mut node = Node::in_state(State::Backup, Failback::Never);
    node.handle(heard(2, 150));
    node.handle(tracked(40));
    for _ in 0..10 {
        node.handle(heard(2, 90));
        node.run(SECOND);
    }
    assert_eq!(node.state(), State::Backup);
}

#[test]
fn a_shorter_interval_counts_at_once() {
    let mut node = Node::in_state(State::Active, Failback::Never);
    let mut shorter = settings(1, 1, Failback::Never);
    shorter.members[0].interval = interval(100);
    node.machine.set(&shorter, node.now);
    assert_eq!(node.machine.lease().as_millis(), 300);
    let sent = node.run(SECOND);
    let sent = sent.iter().filter(|(_, output)| *output == advertise(100));
    assert_eq!(sent.count(), 10);
}

#[test]
fn a_late_active_node_is_asked_for() {
    let mut node = Node::in_state(State::Backup, Failback::Never);
    assert_eq!(node.run(3 * SECOND), [(2000, Output::Probe)]);
}
