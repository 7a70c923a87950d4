//! Runs the state machines of all groups: gives them what arrives and what changes, and does what they say.

mod hearing;
mod outputs;
mod running;
mod updates;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use self::{running::Running, updates::Updates};
use super::{
    fsm::{Input, Machine, State},
    group::{self, Group},
    guard::{Answer, Guard},
    interfaces::Interfaces,
    packet::Family,
    ports::{Port, PortKey, Sockets},
    report::{Report, Update, sentence},
};
use crate::model::{limits::OWNER, vrrp::VirtualRouter};

/// The most packets that are read from one socket at a time.
const MAX_PACKETS: usize = 64;
/// An Active node answers claims of others not more often than this.
const DEFENCE_INTERVAL: Duration = Duration::from_secs(1);

/// What the rest of the daemon tracks for a virtual router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// Why it cannot be Active.
    pub fault: Option<String>,
    /// By how much its priority is lower than configured.
    pub penalty: u8,
    /// How long after another node this one may notice what both track, and that it is over.
    pub noticed_within: Duration,
}

/// All groups.
pub struct Engine {
    groups: Vec<Running>,
    ports: Sockets,
    /// `None` until they are known.
    interfaces: Option<Interfaces>,
    tracked: BTreeMap<String, Tracked>,
    in_maintenance: bool,
    guard: Guard,
    updates: Updates,
    /// When groups failed of late, by name; those of an earlier daemon, too.
    failures: BTreeMap<String, Vec<Instant>>,
    /// The number of the next group.
    next_number: u64,
    /// Until when a link that is seen for the first time counts as just come up, since the host has just booted.
    boots_until: Option<Instant>,
}

impl Engine {
    /// Without groups.
    #[must_use]
    pub fn new(updates: mpsc::Sender<Update>) -> Self {
        Self {
            groups: Vec::new(),
            ports: Sockets::default(),
            interfaces: None,
            tracked: BTreeMap::new(),
            in_maintenance: false,
            guard: Guard::start(),
            updates: Updates::new(updates),
            failures: BTreeMap::new(),
            next_number: 0,
            boots_until: None,
        }
    }

    /// The host has just booted, which counts until `until`: nobody has seen its links come up, and the switch's ports may still block.
    pub const fn set_booting(&mut self, until: Instant) {
        self.boots_until = Some(until);
    }

    /// Takes when groups failed before they are configured, by name, the latest last.
    pub fn remember(&mut self, failures: BTreeMap<String, Vec<Instant>>) {
        self.failures = failures;
    }

    /// Runs exactly these virtual routers.
    pub fn configure(&mut self, routers: &[VirtualRouter], now: Instant) {
        let wanted = group::groups(routers);
        let mut present = std::mem::take(&mut self.groups);
        for group in wanted {
            let same = present.iter().position(|running| running.is_same(&group));
            let running = match same {
                Some(index) => self.changed(present.swap_remove(index), group, now),
                None => self.started(group, now),
            };
            self.groups.push(running);
        }
        for mut gone in present {
            gone.is_gone = true;
            let input = Input::Tracked {
                fault: Some("it is no longer configured".to_owned()),
                priority: 1,
            };
            self.handle(&mut gone, input, now);
        }
        self.assign(now);
    }

    fn started(&mut self, group: Group, now: Instant) -> Running {
        self.next_number += 1;
        let settings = group.settings(|_| None, self.noticed_within(&group));
        let failures = self.failures.get(group.key.name());
        let failures: VecDeque<_> = failures.into_iter().flatten().copied().collect();
        let mut machine = Machine::new(&settings, failures, now);
        if self.in_maintenance {
            machine.handle(Input::Maintenance(true), now);
        }
        Running::new(self.next_number, group, machine)
    }

    /// A group that goes on with other settings.
    fn changed(&mut self, mut running: Running, group: Group, now: Instant) -> Running {
        if running.group == group {
            return running;
        }
        let has_other_addresses = running.group.vips() != group.vips();
        running.group = group;
        let Running { group, members, .. } = &running;
        let sources: BTreeMap<_, _> = group
            .routers
            .iter()
            .zip(members)
            .map(|(router, member)| (router.name.clone(), member.source))
            .collect();
        let source = |router: &VirtualRouter| sources.get(&router.name).copied().flatten();
        let settings = group.settings(source, self.noticed_within(group));
        running.machine.set(&settings, now);
        if running.has_addresses() {
            // What it says when the daemon dies may have changed, too.
            self.hold(&mut running);
            if has_other_addresses {
                self.announce(&running, now);
            }
        }
        running
    }

    /// How long after another node this one may notice what both track for a group.
    fn noticed_within(&self, group: &Group) -> Duration {
        let routers = group.routers.iter();
        let tracked = routers.filter_map(|router| self.tracked.get(&router.name));
        let longest = tracked.map(|tracked| tracked.noticed_within).max();
        longest.unwrap_or_default()
    }

    /// Takes the interfaces as they are now, with the sockets that are open there.
    pub fn set_interfaces(&mut self, interfaces: Interfaces, sockets: Sockets, now: Instant) {
        self.ports = sockets;
        self.interfaces = Some(interfaces);
        self.assign(now);
    }

    /// Takes what is tracked for the virtual routers, by their names.
    pub fn set_tracked(&mut self, tracked: BTreeMap<String, Tracked>, now: Instant) {
        self.tracked = tracked;
        let mut groups = std::mem::take(&mut self.groups);
        for running in &mut groups {
            let noticed_within = self.noticed_within(&running.group);
            running
                .machine
                .set_relieve_after(running.group.relieve_after(noticed_within));
        }
        self.groups = groups;
        self.assign(now);
    }

    /// Gives each virtual router its interface, source address and socket, and tells the machines what has changed.
    fn assign(&mut self, now: Instant) {
        let Some(interfaces) = self.interfaces.clone() else {
            return;
        };
        let boots = self.boots_until.is_some_and(|until| now < until);
        let mut groups = std::mem::take(&mut self.groups);
        for running in &mut groups {
            let vips = running.group.vips();
            let mut fault = None;
            let mut came_up = Vec::new();
            for (number, router) in running.group.routers.iter().enumerate() {
                let key = self.port_key(router);
                let link = interfaces.named(&router.interface);
                let member = &mut running.members[number];
                let is_up = link.is_some_and(|link| link.running);
                let was_down = !member.is_up.replace(is_up).unwrap_or(!boots);
                member.link = link.map(|link| (link.index, link.mac.unwrap_or_default()));
                let family = group::family(router);
                let source = link.and_then(|link| interfaces.source(link.index, family, &vips));
                if source.is_some() && source != member.source {
                    member.source = source;
                    running
                        .machine
                        .set_source(number, source.unwrap_or(router.addresses[0].address));
                }
                came_up.extend(Some(number).filter(|_| is_up && was_down));
                fault = fault.or_else(|| self.fault(router, &interfaces, key.as_ref(), source));
            }
            for member in came_up {
                self.handle(running, Input::LinkUp { member }, now);
            }
            let penalty: u32 = running
                .group
                .routers
                .iter()
                .filter_map(|router| self.tracked.get(&router.name))
                .map(|tracked| u32::from(tracked.penalty))
                .sum();
            let priority = match running.group.priority() {
                OWNER => OWNER,
                configured => {
                    let left = u32::from(configured).saturating_sub(penalty).max(1);
                    u8::try_from(left).unwrap_or(configured)
                }
            };
            let told = (fault, priority);
            // Its sockets are being opened, and if nothing else is wrong, it begins then.
            let keys = running
                .group
                .routers
                .iter()
                .map(|router| self.port_key(router));
            if told.0.is_none() && keys.flatten().any(|key| self.ports.awaits(&key)) {
                continue;
            }
            if running.told.as_ref() != Some(&told) {
                running.told = Some(told.clone());
                let (fault, priority) = told;
                self.handle(running, Input::Tracked { fault, priority }, now);
            }
            // An address, an interface or a priority has changed: what is held, for how long, and what is said at the end.
            if running.has_addresses() && running.held.as_ref() != Some(&running.holding()) {
                self.hold(running);
                self.announce(running, now);
            }
        }
        self.groups = groups;
    }

    fn port_key(&self, router: &VirtualRouter) -> Option<PortKey> {
        PortKey::of(router, self.interfaces.as_ref()?)
    }

    /// Why a virtual router cannot be Active.
    fn fault(
        &self,
        router: &VirtualRouter,
        interfaces: &Interfaces,
        port: Option<&PortKey>,
        source: Option<IpAddr>,
    ) -> Option<String> {
        let mut needed = [&router.interface]
            .into_iter()
            .chain(&router.track_interfaces);
        if let Some(fault) = needed.find_map(|name| interfaces.fault(name)) {
            return Some(fault);
        }
        if source.is_none() {
            let what = match group::family(router) {
                Family::Ipv4 => "IPv4 address of its own",
                Family::Ipv6 => "link-local IPv6 address",
            };
            return Some(format!(
                "interface {} has no {what} that advertisements could come from",
                router.interface
            ));
        }
        if let Some(problem) = port.and_then(|key| self.ports.problem(key)) {
            return Some(problem);
        }
        self.tracked.get(&router.name)?.fault.clone()
    }

    /// The sockets to wait for, and the guard's.
    #[must_use]
    pub const fn ports(&self) -> &Sockets {
        &self.ports
    }

    /// The guard.
    #[must_use]
    pub const fn guard(&self) -> &Guard {
        &self.guard
    }

    /// When [`Self::run`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let machines = self.groups.iter();
        machines
            .filter_map(|running| running.machine.next_deadline())
            .min()
    }

    /// Does what is due.
    pub fn run(&mut self, now: Instant) {
        let mut groups = std::mem::take(&mut self.groups);
        for running in &mut groups {
            if running
                .machine
                .next_deadline()
                .is_some_and(|due| due <= now)
            {
                self.handle(running, Input::Timeout, now);
            }
        }
        self.groups = groups;
        self.guard.revive();
        self.updates.flush();
    }

    /// Takes the guard's answers.
    pub fn hear_guard(&mut self, now: Instant) {
        let mut groups = std::mem::take(&mut self.groups);
        for answer in self.guard.answers() {
            let (Answer::Set { group, .. } | Answer::Ended { group }) = &answer;
            let running = groups.iter_mut().find(|running| running.number == *group);
            let Some(running) = running else { continue };
            match answer {
                Answer::Set { problems, .. } => {
                    for problem in &problems {
                        if !running.problems.contains(problem) {
                            self.warn(problem.clone());
                        }
                    }
                    running.problems = problems;
                }
                Answer::Ended { .. } => {
                    // The machine sees first whether it was this node that stood still.
                    self.handle(running, Input::Timeout, now);
                    if running.has_addresses() {
                        let priority = running.machine.stated_priority();
                        for number in 0..running.members.len() {
                            self.advertise(running, number, priority, now);
                        }
                        self.hold(running);
                        self.announce(running, now);
                    }
                }
            }
        }
        self.groups = groups;
    }

    fn warn_if(&self, sentence: Option<String>) {
        if let Some(sentence) = sentence {
            self.warn(sentence);
        }
    }

    /// Has an error of a socket logged, now and then.
    fn warn_of(&self, port: &Port, what: &str, error: &io::Error, now: Instant) {
        if port.may_log(now) {
            let interface = &port.key().interface;
            self.warn(format!("cannot {what} on interface {interface}: {error}"));
        }
    }

    fn warn(&self, sentence: String) {
        self.updates.warn(sentence);
    }

    /// Gives each group a command.
    pub fn command(&mut self, input: &Input, now: Instant) {
        if let Input::Maintenance(on) = input {
            self.in_maintenance = *on;
        }
        let mut groups = std::mem::take(&mut self.groups);
        for running in &mut groups {
            self.handle(running, input.clone(), now);
        }
        self.groups = groups;
    }

    /// Whether all groups have given their addresses up.
    #[must_use]
    pub fn is_free(&self) -> bool {
        !self.groups.iter().any(Running::has_addresses)
    }

    /// The groups in this state: their numbers.
    #[must_use]
    pub fn in_state(&self, state: State) -> Vec<u64> {
        let groups = self.groups.iter();
        let found = groups.filter(|running| running.machine.state().0 == state);
        found.map(|running| running.number).collect()
    }

    /// A sentence for each of these groups: where its addresses are now.
    pub fn outcome(&self, numbers: &[u64]) -> Result<Vec<String>, Vec<String>> {
        let mut said = Vec::new();
        let mut is_left = true;
        for running in &self.groups {
            if !numbers.contains(&running.number) {
                continue;
            }
            let (state, cause, _) = running.machine.state();
            is_left &= !matches!(state, State::Active | State::Leaving);
            said.push(format!("{}: {}", running.group.key.name(), sentence(cause)));
        }
        if is_left { Ok(said) } else { Err(said) }
    }

    /// All that is known.
    #[must_use]
    pub fn report(&self, now: Instant) -> Report {
        let mut report = Report::default();
        report
            .problems
            .extend(self.guard.problem().map(str::to_owned));
        for running in &self.groups {
            running.report(self.interfaces.as_ref(), now, &mut report);
        }
        report
    }
}
