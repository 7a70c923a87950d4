//! Does what the state machines say.

use std::{io, net::IpAddr, time::Instant};

use super::{
    Engine,
    running::{Running, encoded},
};
use crate::{
    model::vrrp::{VirtualRouter, VirtualRouterState},
    os::log_rate_limit::MAX_BY_STRANGERS,
    vrrp::{
        fsm::{Input, Output},
        group::{self, destinations},
        ports::Port,
        report::{Change, sentence, shown},
    },
};

impl Engine {
    pub(super) fn handle(&mut self, running: &mut Running, input: Input, now: Instant) {
        let mut has_advertised = false;
        for output in running.machine.handle(input, now) {
            match output {
                Output::Advertise { member, priority } => {
                    has_advertised = true;
                    self.advertise(running, member, priority, now);
                }
                Output::Acquire => self.hold(running),
                Output::Release => {
                    self.guard.free(running.number);
                    running.held = None;
                    running.claims.clear();
                    running.problems.clear();
                }
                Output::Announce => {
                    self.announce(running, now);
                    // Linux does not answer an announcement of what it has itself. Where somebody answers, this node announces and
                    // asks again, each second: so it is known for how long.
                    if running.is_settled(now) {
                        self.probe(running, now);
                    }
                }
                Output::Probe => self.probe(running, now),
                Output::Entered(state, cause) => {
                    let change = Change {
                        group: running.group.key.name().to_owned(),
                        state: shown(state, &cause),
                        reason: sentence(&cause),
                    };
                    let is_new =
                        running.shown.as_ref().map(|shown| shown.state) != Some(change.state);
                    let is_fault = change.state == VirtualRouterState::Fault;
                    let is_told = is_new || is_fault && running.shown.as_ref() != Some(&change);
                    if is_told && !running.is_gone {
                        running.shown = Some(change.clone());
                        self.updates.change(change);
                    }
                }
                Output::Adopted { member, interval } => {
                    if !running.members[member].log.allows(MAX_BY_STRANGERS, now) {
                        continue;
                    }
                    let router = &running.group.routers[member];
                    self.warn(format!(
                        "{}: the Active node advertises every {interval}, and not every {}: give all nodes the same \
                         advertisement-interval",
                        router.name,
                        group::interval(router)
                    ));
                }
                Output::NobodyTookOver => self.warn(format!(
                    "{}: no other node took over",
                    running.group.key.name()
                )),
            }
        }
        let failures = running.machine.failures();
        // What is no longer configured has not failed.
        if running.failed != failures.back().copied() && !running.is_gone {
            running.failed = failures.back().copied();
            let failures: Vec<_> = failures.iter().copied().collect();
            let name = running.group.key.name().to_owned();
            self.failures.insert(name.clone(), failures.clone());
            self.updates.fail(name, failures);
        }
        // Also after answers to another node, which take the place of those that are due.
        if has_advertised && running.has_addresses() {
            self.guard.renew();
        }
    }

    /// Has the guard hold a group's addresses.
    pub(super) fn hold(&mut self, running: &mut Running) {
        let holding = running.holding();
        self.guard.hold(holding.clone());
        running.held = Some(holding);
    }

    pub(super) fn advertise(
        &self,
        running: &mut Running,
        number: usize,
        priority: u8,
        now: Instant,
    ) {
        let router = &running.group.routers[number];
        let member = &mut running.members[number];
        let (Some(source), Some(port)) = (member.source, self.port(router)) else {
            return;
        };
        for destination in destinations(router) {
            let message = encoded(router, priority, source, destination);
            match port.send(&message, source, destination) {
                Ok(()) => member.sent += 1,
                Err(error) => self.warn_of(port, "send an advertisement", &error, now),
            }
        }
    }

    fn port(&self, router: &VirtualRouter) -> Option<&Port> {
        self.ports.of(&self.port_key(router)?)
    }

    pub(super) fn announce(&self, running: &Running, now: Instant) {
        self.speak_of_vips(running, "announce a VIP", Port::announce, now);
    }

    fn probe(&self, running: &Running, now: Instant) {
        self.speak_of_vips(running, "ask for a VIP", Port::probe, now);
    }

    /// Sends something about each VIP from its interface, whose MAC address it names.
    fn speak_of_vips(
        &self,
        running: &Running,
        what: &str,
        send: impl Fn(&Port, IpAddr, [u8; 6]) -> io::Result<()>,
        now: Instant,
    ) {
        for (router, member) in running.group.routers.iter().zip(&running.members) {
            let (Some(port), Some((_, mac))) = (self.port(router), member.link) else {
                continue;
            };
            for one in &router.addresses {
                if let Err(error) = send(port, one.address, mac) {
                    self.warn_of(port, what, &error, now);
                }
            }
        }
    }
}
