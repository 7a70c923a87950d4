//! Nodes on a network that loses, delays, repeats and reorders, and heals.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The interval of all nodes.
const INTERVAL: Duration = SECOND;
/// How long the network misbehaves.
const STORM: Duration = Duration::from_secs(60);
/// How long it is watched afterwards.
const CALM: Duration = Duration::from_secs(60);
/// How long a delayed packet is on its way at most.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// What may go wrong, in percent of the packets, and how often a node stops, stands still or is told something, in percent of its
/// turns.
#[derive(Clone, Debug)]
struct Troubles {
    lost: u64,
    delayed: u64,
    repeated: u64,
    one_way: u64,
    upset: u64,
}

/// A generator of numbers (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    to: usize,
    member: usize,
    from: usize,
    priority: u8,
}

struct Network {
    machines: Vec<Machine>,
    settings: Vec<(Settings, u8)>,
    /// Until when a node stands still.
    asleep: Vec<Instant>,
    packets: BTreeMap<(Instant, usize), Packet>,
    sent: usize,
    numbers: Numbers,
    troubles: Troubles,
    start: Instant,
    now: Instant,
    /// This many members, from the first on, hear nobody, also when all else flows.
    deaf: usize,
    /// Pairs of sender and receiver between which nothing gets through.
    cut: Vec<(usize, usize)>,
    is_calm: bool,
}

impl Network {
    fn new(nodes: &[(u8, Failback)], members: usize, troubles: Troubles, seed: u64) -> Self {
        let start = Instant::now();
        let settings: Vec<_> = nodes
            .iter()
            .enumerate()
            .map(|(number, (priority, failback))| {
                let last = u8::try_from(number).unwrap() + 1;
                let mut settings = settings(members, last, *failback);
                // Who has the greater address differs from family to family.
                for member in settings.members.iter_mut().skip(1) {
                    member.source = address(100 - last);
                }
                (settings, *priority)
            })
            .collect();
        let mut network = Self {
            machines: Vec::new(),
            asleep: vec![start; nodes.len()],
            settings,
            packets: BTreeMap::new(),
            sent: 0,
            numbers: Numbers(seed | 1),
            troubles,
            start,
            now: start,
            deaf: 0,
            cut: Vec::new(),
            is_calm: false,
        };
        for number in 0..nodes.len() {
            let machine = network.booted(number);
            network.machines.push(machine);
        }
        for number in 0..nodes.len() {
            network.boot(number);
        }
        network
    }

    fn booted(&self, number: usize) -> Machine {
        Machine::new(&self.settings[number].0, VecDeque::new(), self.now)
    }

    fn boot(&mut self, number: usize) {
        self.machines[number] = self.booted(number);
        let priority = self.settings[number].1;
        self.handle(number, tracked(priority));
    }

    fn handle(&mut self, number: usize, input: Input) {
        for output in self.machines[number].handle(input, self.now) {
            if let Output::Advertise { member, priority } = output {
                self.send(number, member, priority);
            }
        }
    }

    fn percent(&mut self, percent: u64) -> bool {
        !self.is_calm && self.numbers.below(100) < percent
    }

    fn send(&mut self, from: usize, member: usize, priority: u8) {
        for to in (0..self.machines.len()).filter(|to| *to != from) {
            let is_cut = !self.is_calm && self.cut.contains(&(from, to));
            if is_cut || member < self.deaf || self.percent(self.troubles.lost) {
                continue;
            }
            let copies = 1 + u64::from(self.percent(self.troubles.repeated));
            for _ in 0..copies {
                let most = match self.percent(self.troubles.delayed) {
                    true => MAX_DELAY.as_millis() as u64,
                    false => 2,
                };
                let delay = Duration::from_millis(1 + self.numbers.below(most));
                self.sent += 1;
                let packet = Packet {
                    to,
                    member,
                    from,
                    priority,
                };
                self.packets.insert((self.now + delay, self.sent), packet);
            }
        }
    }

    fn receive(&mut self, packet: Packet) {
        let input = Input::Advertisement {
            member: packet.member,
            source: self.settings[packet.from].0.members[packet.member].source,
            priority: packet.priority,
            interval: interval(1000),
        };
        self.handle(packet.to, input);
    }

    /// Does something to a node.
    fn upset(&mut self, number: usize) {
        match self.numbers.below(7) {
            // It crashes and starts again at once.
            0 => self.boot(number),
            1 => {
                let rest = Duration::from_millis(self.numbers.below(10_000));
                self.asleep[number] = self.now + rest;
            }
            2 => self.handle(number, Input::GiveUp),
            kind @ (3 | 4) => {
                self.handle(number, fault("a cable"));
                for member in (0..self.settings[number].0.members.len()).filter(|_| kind == 4) {
                    self.handle(number, Input::LinkUp { member });
                }
                let priority = self.settings[number].1;
                self.handle(number, tracked(priority));
            }
            5 => self.handle(number, Input::Maintenance(true)),
            _ => self.handle(number, Input::Maintenance(false)),
        }
    }

    fn active(&self) -> Vec<usize> {
        let machines = self.machines.iter().enumerate();
        machines
            .filter(|(_, machine)| matches!(machine.state().0, State::Active | State::Leaving))
            .map(|(number, _)| number)
            .collect()
    }

    /// When a node next has something to do.
    fn next_turn(&self, number: usize) -> Option<Instant> {
        let due = self.machines[number].next_deadline()?;
        Some(due.max(self.asleep[number]))
    }

    /// Goes to the next thing that happens; returns whether that is before `until`.
    fn step(&mut self, until: Instant) -> bool {
        let turn = (0..self.machines.len())
            .filter_map(|number| Some((self.next_turn(number)?, number)))
            .min();
        let packet = self.packets.first_key_value().map(|((at, _), packet)| {
            // Who stands still finds it when it goes on.
            (*at).max(self.asleep[packet.to])
        });
        let next = [turn.map(|(at, _)| at), packet].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next < until) else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        if packet == Some(next) {
            let (_, packet) = self.packets.pop_first().unwrap();
            self.receive(packet);
        } else if let Some((_, number)) = turn {
            self.handle(number, Input::Timeout);
            if self.percent(self.troubles.upset) {
                self.upset(number);
            }
            if self.percent(self.troubles.one_way) {
                let to = self.numbers.below(self.machines.len() as u64) as usize;
                self.cut.push((number, to));
            }
            if self.percent(20) {
                self.cut.clear();
            }
        }
        true
    }

    fn heal(&mut self) {
        self.is_calm = true;
        self.asleep.fill(self.now);
        for number in 0..self.machines.len() {
            self.handle(number, Input::Maintenance(false));
        }
        // What is still on its way was sent before.
        let end = self.now + MAX_DELAY;
        while self.step(end) {}
    }

    /// Watches the healed network: at most one node is Active but for an interval at a time, and in the end one is.
    fn watch(&mut self) {
        let end = self.now + CALM;
        let mut two_since = None;
        while self.step(end) {
            let active = self.active();
            if active.len() < 2 {
                two_since = None;
                continue;
            }
            let since = *two_since.get_or_insert(self.now);
            let lasted = self.now.duration_since(since);
            let at = self.now.duration_since(self.start);
            assert!(
                lasted <= INTERVAL,
                "{active:?} are Active for {lasted:?} at {at:?}"
            );
        }
        assert_eq!(self.active().len(), 1, "nodes are Active in the end");
    }
}

fn failback() -> impl Strategy<Value = Failback> {
    prop_oneof![
        Just(Failback::Never),
        Just(Failback::Immediate),
        Just(Failback::After(7 * SECOND)),
        Just(Failback::WhenStable),
    ]
}

fn troubles() -> impl Strategy<Value = Troubles> {
    (0..100_u64, 0..50_u64, 0..50_u64, 0..10_u64, 0..20_u64).prop_map(
        |(lost, delayed, repeated, one_way, upset)| Troubles {
            lost,
            delayed,
            repeated,
            one_way,
            upset,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn once_packets_flow_there_is_one_active_node(
        nodes in proptest::collection::vec((prop_oneof![1..=254_u8, Just(100)], failback()), 2..5),
        members in 1..4_usize,
        troubles in troubles(),
        seed in any::<u64>(),
    ) {
        let mut network = Network::new(&nodes, members, troubles, seed);
        let end = network.now + STORM;
        while network.step(end) {}
        network.heal();
        network.watch();
    }
}

const QUIET: Troubles = Troubles {
    lost: 0,
    delayed: 0,
    repeated: 0,
    one_way: 0,
    upset: 0,
};

#[test]
fn equal_nodes_agree_after_a_split_by_whichever_member_they_hear_each_other() {
    for (nodes, members, deaf) in [(2, 2, 1), (2, 3, 2), (4, 2, 1), (3, 1, 0)] {
        let nodes = vec![(100, Failback::Never); nodes];
        let mut network = Network::new(&nodes, members, QUIET, 1);
        let pairs = |one| (0..nodes.len()).map(move |other| (one, other));
        let cuts: Vec<_> = (0..nodes.len()).flat_map(pairs).collect();
        network.cut.clone_from(&cuts);
        let end = network.now + 20 * SECOND;
        while network.step(end) {
            // Nothing heals by itself.
            network.cut.clone_from(&cuts);
        }
        assert_eq!(network.active().len(), nodes.len());
        network.deaf = deaf;
        network.heal();
        let end = network.now + 5 * SECOND;
        while network.step(end) {}
        network.watch();
    }
}

#[test]
fn nodes_that_start_together_agree_without_a_second_active_one() {
    for priorities in [[100, 100], [150, 100], [1, 254]] {
        let nodes = priorities.map(|priority| (priority, Failback::Never));
        let mut network = Network::new(&nodes, 2, QUIET, 1);
        network.heal();
        network.watch();
    }
}
