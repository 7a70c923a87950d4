//! Random steps: packets that continue what is under way, odd ones, garbage, time, and the operator's changes.

mod frames;
mod odd;

use balancer_tests::dataplane::Side;

use crate::{
    driver::Step,
    model::{
        Model,
        states::{Connection, Flow, ORIGINAL},
    },
    random::Random,
    world::{STRANGERS_V4, STRANGERS_V6},
};

/// Makes steps, of which each one may depend on what is under way.
pub struct Generator {
    /// Where chance comes from.
    pub random: Random,
    /// Fragments that are still to come.
    pending: Vec<(Side, Vec<u8>)>,
}

/// Jiffies of the least time that passes: of all its multiples the timeouts are seconds away.
const UNIT: u64 = 22_000;

impl Generator {
    /// One that begins a sequence.
    pub const fn new(random: Random) -> Self {
        Self {
            random,
            pending: Vec::new(),
        }
    }

    /// The next step.
    pub fn step(&mut self, model: &Model) -> Step {
        match self.random.below(1_000) {
            0..20 => Step::Time(UNIT * self.random.of(&[1, 1, 1, 2, 3, 3, 6, 14, 42])),
            20..23 => Step::AgeFragments,
            23..60 => self.change(model),
            _ => {
                let (side, frame) = self.frame(model);
                Step::Frame(side, frame)
            }
        }
    }

    /// A change that the operator makes, or that a check of real servers does.
    fn change(&mut self, model: &Model) -> Step {
        let random = &mut self.random;
        let real = random.below(model.world.reals.len());
        let service = random.below(model.world.services.len());
        let plan = &model.world.services[service];
        match random.below(24) {
            22 => Step::Mtu([(); 2].map(|()| random.of(&[1_300, 1_400, 1_500]))),
            23 => {
                let is_known = !model.world.silent.is_empty() && random.percent(70);
                let address = match model.world.silent.first() {
                    Some(silent) if is_known => *silent,
                    _ => model.world.reals[real].address,
                };
                Step::Neighbour(address, is_known)
            }
            20 => self.rule(model, service),
            21 => {
                let bits = random.of(&[0, 24, 32, 32]);
                let bits = if plan.key.0.is_ipv4() { bits } else { bits * 4 };
                Step::Limit(service, 1 + random.below(6) as u64, bits.min(128))
            }
            0..5 => Step::RealState(real, random.of(&[1, 1, 1, 2, 3, 4, 5, 6])),
            // All is well again.
            5..7 => match model.world.reals.iter().position(|real| real.state != 1) {
                Some(real) => Step::RealState(real, 1),
                None => Step::RealState(real, 5),
            },
            7..10 => {
                let own: Vec<_> = (0..model.world.reals.len())
                    .filter(|id| model.world.reals[*id].service == service)
                    .collect();
                let length = random.below(4);
                let ring = (0..length).map(|_| random.of(&own)).collect();
                let mut available = own;
                while random.percent(20) && !available.is_empty() {
                    let at = random.below(available.len());
                    available.remove(at);
                }
                if random.percent(30) {
                    available.reverse();
                }
                Step::Ring(service, ring, available)
            }
            10 | 11 => Step::Rejects(service, !plan.rejects),
            12 => Step::Exists(service, false),
            13 | 14 => {
                let mut all = model.world.services.iter();
                let service = all.position(|plan| !plan.exists).unwrap_or(service);
                Step::Exists(service, true)
            }
            15 => {
                let network = if model.world.reals[real].address.is_ipv4() {
                    24
                } else {
                    64
                };
                Step::Network(real, random.of(&[0, network]))
            }
            16 => Step::AnyPort(random.percent(70)),
            17 => Step::Strays(random.percent(60)),
            18 => match random.percent(30) {
                true => Step::Exhaust(true),
                false => Step::Exhaust(false),
            },
            _ => match self.connection(model) {
                Some(connection) => {
                    let flow = connection.flows[ORIGINAL];
                    if self.random.percent(60) {
                        Step::End(flow)
                    } else {
                        Step::Delete(flow)
                    }
                }
                None => Step::Exhaust(false),
            },
        }
    }

    /// A rule about clients, of whom most are the first three of those that the world names.
    fn rule(&mut self, model: &Model, service: usize) -> Step {
        let vip = model.world.services[service].key.0;
        let (client, lengths) = if vip.is_ipv4() {
            (STRANGERS_V4[0], [32, 31, 24])
        } else {
            (STRANGERS_V6[0], [128, 127, 64])
        };
        let length = self.random.below(4);
        let prefix = lengths.get(length).map(|length| (client, *length));
        Step::Rule(service, prefix, self.random.percent(60))
    }

    /// One of the connections, the later ones more often.
    fn connection<'a>(&mut self, model: &'a Model) -> Option<&'a Connection> {
        let mut numbers: Vec<_> = model.connections.keys().copied().collect();
        if numbers.is_empty() {
            return None;
        }
        numbers.sort_unstable();
        let recent = numbers
            .len()
            .min(if self.random.percent(80) { 5 } else { 100 });
        let at = numbers.len() - 1 - self.random.below(recent);
        Some(&model.connections[&numbers[at]])
    }
}

/// The flow of the other direction.
pub const fn reversed(flow: Flow) -> Flow {
    Flow {
        source: flow.destination,
        destination: flow.source,
        protocol: flow.protocol,
    }
}
