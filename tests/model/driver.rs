//! Steps through the real program and the model side by side, and what they must agree in.

mod compare;
mod loose;
pub mod network;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use balancer_common::{service, verdict::Discard};
use balancer_tests::{
    dataplane::{Dataplane, Side, Verdict},
    services::ServiceHandle,
};

use crate::{
    model::{Model, Outcome, Traffic, states::Flow},
    wire::hex,
    world::{Surroundings, World},
};

/// One step of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A frame comes in.
    Frame(Side, Vec<u8>),
    /// So many jiffies pass for connections.
    Time(u64),
    /// Half a minute passes for fragments.
    AgeFragments,
    /// A real server comes to another state.
    RealState(usize, u32),
    /// A service has this ring, and these real servers are compared.
    Ring(usize, Vec<usize>, Vec<usize>),
    /// Whether a service rejects.
    Rejects(usize, bool),
    /// A service lets in the clients of a prefix, or of none, or it does not.
    Rule(usize, Option<(IpAddr, u32)>, bool),
    /// A service's clients, of which those are one that have so many leading bits in common, may open so many connections.
    Limit(usize, u64, u32),
    /// A service is added, or removed.
    Exists(usize, bool),
    /// A real server is in the balancer's network, given by leading bits.
    Network(usize, u32),
    /// The MTU of both ways out changes.
    Mtu([usize; 2]),
    /// The host comes to know a real server's MAC address, or forgets it.
    Neighbour(IpAddr, bool),
    /// Whether services on every port are looked for.
    AnyPort(bool),
    /// Whether real servers' packets of no connection are answered.
    Strays(bool),
    /// Whether all answers are used up.
    Exhaust(bool),
    /// The operator ends a connection.
    End(Flow),
    /// The operator deletes a connection.
    Delete(Flow),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(side, frame) => write!(f, "{side:?} {}", hex(frame)),
            other => write!(f, "{other:?}"),
        }
    }
}

/// By how many jiffies the kernel's clock may go on during a sequence.
const DRIFT: u64 = 6_000;

/// The program with its maps, beside a model.
pub struct Bench<'a> {
    lb: &'a mut Dataplane,
    around: Surroundings,
    services: Vec<ServiceHandle>,
    /// What the sequence began with.
    discards: Vec<u64>,
    traffic: Vec<Traffic>,
    model: Model,
    mistake: Option<fn(&mut Model)>,
    /// How often each outcome came.
    pub seen: Seen,
}

/// How often each verdict and each reason came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// By verdict's name.
    pub verdicts: BTreeMap<String, u64>,
    /// By reason's name.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Connections by their state, as sequences left them.
    pub states: BTreeMap<&'static str, u64>,
    /// Frames.
    pub frames: u64,
}

impl Seen {
    /// Notes a frame that got a verdict.
    fn note(&mut self, verdict: Verdict) {
        self.frames += 1;
        let count = self.verdicts.entry(format!("{verdict:?}"));
        *count.or_default() += 1;
    }

    /// Adds what another one has seen.
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        for (name, count) in &other.verdicts {
            *self.verdicts.entry(name.clone()).or_default() += count;
        }
        for (mine, others) in [
            (&mut self.reasons, &other.reasons),
            (&mut self.states, &other.states),
        ] {
            for (name, count) in others {
                *mine.entry(*name).or_default() += count;
            }
        }
    }
}

impl<'a> Bench<'a> {
    /// Prepares a fresh data plane.
    pub fn new(lb: &'a mut Dataplane, around: Surroundings) -> Self {
        let world = World::new(around);
        for real in &world.reals {
            lb.add_real(real.address, real.port);
        }
        let handle = |(id, service): (usize, &crate::world::Service)| {
            let (vip, port, protocol) = service.key;
            let ring: Vec<_> = service.ring.iter().map(|id| *id as u32).collect();
            let handle = lb.add_service(protocol, vip, port, &ring);
            assert_eq!(handle.id as usize, id);
            handle
        };
        let services = world.services.iter().enumerate().map(handle).collect();
        Self {
            services,
            around,
            discards: Vec::new(),
            traffic: Vec::new(),
            model: Model::new(world),
            mistake: None,
            seen: Seen::default(),
            lb,
        }
    }

    /// The model, as far as the sequence has gone.
    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// Begins a sequence.
    pub fn reset(&mut self) {
        network::restore(self.lb, self.around, &self.model.world);
        let world = World::new(self.around);
        self.lb.forget();
        for (id, real) in (0..).zip(&world.reals) {
            self.lb.set_real(id, real.address, real.port, real.state);
        }
        for (id, service) in world.services.iter().enumerate() {
            self.write_ring(id, &service.ring, &service.available);
            self.lb
                .update_service(self.services[id], |value| value.flags = 0);
        }
        self.lb.forget_filters();
        self.settings(&world);
        self.lb.exhaust_answers(false);
        self.discards = Discard::ALL
            .iter()
            .map(|reason| self.lb.discarded(*reason))
            .collect();
        self.traffic = (0..world.reals.len())
            .map(|id| self.traffic_of(id))
            .collect();
        self.model = Model::new(world);
        if let Some(mistake) = self.mistake {
            mistake(&mut self.model);
        }
    }

    /// Each sequence begins with this mistake in the model, of which the program knows nothing.
    pub const fn begin_with(&mut self, mistake: fn(&mut Model)) {
        self.mistake = Some(mistake);
    }

    fn settings(&mut self, world: &World) {
        let (any_port, strays) = (world.any_port, world.answers_strays);
        self.lb.change_settings(|settings| {
            settings.any_port = u32::from(any_port);
            settings.answer_stray_replies = u32::from(strays);
        });
    }

    fn write_ring(&mut self, id: usize, ring: &[usize], available: &[usize]) {
        let ids = |reals: &[usize]| -> Vec<u32> { reals.iter().map(|id| *id as u32).collect() };
        self.lb
            .set_slots(self.services[id], &ids(ring), &ids(available));
    }

    /// Takes one step on both sides; what they differ in is the error.
    pub fn take(&mut self, step: &Step) -> Result<(), String> {
        let world = &mut self.model.world;
        match step {
            Step::Frame(side, frame) => return self.take_frame(*side, frame),
            Step::Time(jiffies) => {
                self.lb.age(*jiffies as u32);
                self.model.now += jiffies;
            }
            Step::AgeFragments => {
                self.lb.age_fragments();
                self.model.age_fragments();
            }
            Step::RealState(id, state) => {
                world.reals[*id].state = *state;
                self.lb.set_real_state(*id as u32, *state);
            }
            Step::Ring(id, ring, available) if world.services[*id].exists => {
                world.services[*id].ring.clone_from(ring);
                world.services[*id].available.clone_from(available);
                self.write_ring(*id, ring, available);
            }
            Step::Rejects(id, rejects) if world.services[*id].exists => {
                world.services[*id].rejects = *rejects;
                self.lb.update_service(self.services[*id], |value| {
                    value.flags &= !service::REJECT;
                    value.flags |= if *rejects { service::REJECT } else { 0 };
                });
            }
            Step::Rule(id, prefix, lets_in) if world.services[*id].exists => {
                self.model.filters.add_rule(*id, *prefix, *lets_in);
                self.lb.add_rule(self.services[*id], *prefix, *lets_in);
            }
            Step::Limit(id, connections, bits) if world.services[*id].exists => {
                self.model.filters.set_limit(*id, *connections, *bits);
                self.lb.set_limit(self.services[*id], *connections, *bits);
            }
            Step::Ring(..) | Step::Rejects(..) | Step::Rule(..) | Step::Limit(..) => {}
            Step::Exists(id, true) => {
                let service = &mut world.services[*id];
                service.exists = true;
                service.rejects = false;
                self.model.filters.switch_off(*id);
                let (ring, available) = (service.ring.clone(), service.available.clone());
                self.write_ring(*id, &ring, &available);
                self.lb
                    .update_service(self.services[*id], |value| value.flags = 0);
            }
            Step::Exists(id, false) => {
                world.services[*id].exists = false;
                self.lb.remove_service(self.services[*id]);
            }
            Step::Network(id, bits) => {
                world.reals[*id].network = *bits;
                self.lb.set_network(*id as u32, *bits);
            }
            Step::Mtu(mtu) => {
                world.around.mtu = *mtu;
                network::set_mtu(self.lb, *mtu);
            }
            Step::Neighbour(address, is_known) => {
                let is_new = world.silent.contains(address) == *is_known;
                world.silent.retain(|other| other != address);
                if !is_known {
                    world.silent.push(*address);
                }
                if is_new {
                    network::set_neighbour(self.lb, *address, *is_known);
                }
            }
            Step::AnyPort(any_port) => {
                world.any_port = *any_port;
                let world = world.clone();
                self.settings(&world);
            }
            Step::Strays(answers) => {
                world.answers_strays = *answers;
                let world = world.clone();
                self.settings(&world);
            }
            Step::Exhaust(is_exhausted) => {
                self.model.is_exhausted = *is_exhausted;
                self.lb.exhaust_answers(*is_exhausted);
            }
            Step::End(flow) => {
                self.model.end_connection(flow);
                self.lb
                    .end_plain(flow.source, flow.destination, flow.protocol);
            }
            Step::Delete(flow) => {
                self.model.delete(flow);
                self.lb
                    .delete_plain(flow.source, flow.destination, flow.protocol);
            }
        }
        Ok(())
    }

    fn take_frame(&mut self, side: Side, frame: &[u8]) -> Result<(), String> {
        let expected = self.model.take(side, frame);
        let (verdict, out) = self.lb.send(side, frame);
        self.seen.note(verdict);
        let other = expected.or.iter().copied();
        let other = other.filter(|_| verdict == Verdict::Drop && expected.verdict != verdict);
        let other = other.into_iter().find(|reason| self.has_counted(*reason));
        if other.is_none() && !is_right(&expected, verdict, &out) {
            return Err(format!(
                "found {verdict:?} {}\nexpected {:?} {:?} {}\n{}",
                hex(&out),
                expected.verdict,
                expected.reason,
                hex(expected.frame.as_deref().unwrap_or(&[])),
                self.counted(),
            ));
        }
        let reason = other.or(expected.reason);
        if let Some(reason) = reason {
            *self.seen.reasons.entry(reason.name()).or_default() += 1;
            self.discards[reason as usize] += 1;
            if self.has_counted(reason) {
                self.discards[reason as usize] -= 1;
                return Err(format!(
                    "{verdict:?} as expected, but the reason is not {reason:?}\n{}",
                    self.counted()
                ));
            }
        }
        Ok(())
    }

    /// Whether a reason was counted more often than it was expected to be.
    fn has_counted(&self, reason: Discard) -> bool {
        self.lb.discarded(reason) != self.discards[reason as usize]
    }

    /// Which reasons were counted more often than they were expected to be.
    fn counted(&self) -> String {
        let all = Discard::ALL.iter();
        let more = all.filter(|reason| self.has_counted(**reason));
        format!(
            "counted beyond what was expected: {:?}",
            more.collect::<Vec<_>>()
        )
    }

    fn traffic_of(&self, id: usize) -> Traffic {
        let stats = self.lb.traffic_of(id as u32);
        Traffic {
            directions: stats
                .directions
                .map(|direction| [direction.packets, direction.bytes]),
            connections: stats.connections,
        }
    }

    /// Notes in which states the sequence leaves connections.
    pub fn note_states(&mut self) {
        for connection in self.model.connections.values() {
            *self.seen.states.entry(connection.state.name()).or_default() += 1;
        }
    }
}

fn is_right(expected: &Outcome, verdict: Verdict, out: &[u8]) -> bool {
    verdict == expected.verdict && expected.frame.as_ref().is_none_or(|frame| out == frame)
}
