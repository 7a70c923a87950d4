//! Runs the state machines of all groups: gives them what arrives and what changes, and does what they say.

mod ports;

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use self::ports::{Port, PortKey, Ports};
use super::{
    fsm::{Input, LEAVING, Machine, Output, State},
    group::{self, Group, GroupKey, destinations},
    guard::{Answer, Farewell, Guard, HeldAddress, Holding},
    interfaces::Interfaces,
    packet::{Advertisement, Endpoints, Family, Malformed},
    report::{Change, Report, RouterReport, Update, sentence, shown},
};
use crate::{
    model::{
        limits::OWNER,
        vrrp::{VirtualRouter, VirtualRouterState},
    },
    os::log_rate_limit::{LogRateLimit, MAX_BY_STRANGERS},
};

/// The most packets that are read from one socket at a time.
const MAX_PACKETS: usize = 64;
/// A claim of somebody else to a VIP counts for this long.
const CLAIM: Duration = Duration::from_secs(90);
/// A claim counts against an Active node when it has been Active for this many of its leases: until then others may not have heard.
const SETTLED: u32 = 2;

/// An Active node answers claims of others not more often than this.
const DEFENCE_INTERVAL: Duration = Duration::from_secs(1);

/// What the rest of the daemon tracks for a virtual router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// Why it cannot be Active.
    pub fault: Option<String>,
    /// By how much its priority is lower than configured.
    pub penalty: u8,
}

/// All groups.
pub struct Engine {
    groups: Vec<Running>,
    ports: Ports,
    /// `None` until they are known.
    interfaces: Option<Interfaces>,
    tracked: BTreeMap<String, Tracked>,
    in_maintenance: bool,
    guard: Guard,
    updates: mpsc::Sender<Update>,
    /// The number of the next group.
    next_number: u64,
}

/// A group that runs.
struct Running {
    /// What the guard knows it by.
    number: u64,
    group: Group,
    machine: Machine,
    members: Vec<Member>,
    /// What its machine was last told.
    told: Option<(Option<String>, u8)>,
    /// What the guard holds for it.
    held: Option<Holding>,
    /// It is no longer configured, so that nobody is told of its end.
    is_gone: bool,
    /// When somebody else's claim to a VIP was last answered.
    answered: Option<Instant>,
    /// What was last told of its state.
    shown: Option<Change>,
    /// What the guard could not do.
    problems: Vec<String>,
    /// Who else claims a VIP, and when that was heard.
    claims: BTreeMap<IpAddr, ([u8; 6], Instant)>,
    /// Another node claims to own the addresses, too.
    second_owner: Option<IpAddr>,
}

/// A virtual router that runs.
#[derive(Default)]
struct Member {
    /// Its interface's index and MAC address.
    link: Option<(u32, [u8; 6])>,
    source: Option<IpAddr>,
    /// Whose advertisements name other addresses, and which.
    differs: Option<(IpAddr, Vec<IpAddr>)>,
    sent: u64,
    received: u64,
    refused: BTreeMap<&'static str, u64>,
    log: LogRateLimit,
}

impl Engine {
    /// Without groups.
    #[must_use]
    pub fn new(updates: mpsc::Sender<Update>) -> Self {
        Self {
            groups: Vec::new(),
            ports: Ports::default(),
            interfaces: None,
            tracked: BTreeMap::new(),
            in_maintenance: false,
            guard: Guard::start(),
            updates,
            next_number: 0,
        }
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
        let settings = group.settings(|_| None);
        let mut machine = Machine::new(&settings, VecDeque::new(), now);
        if self.in_maintenance {
            machine.handle(Input::Maintenance(true), now);
        }
        Running {
            number: self.next_number,
            members: group.routers.iter().map(|_| Member::default()).collect(),
            machine,
            group,
            told: None,
            held: None,
            is_gone: false,
            answered: None,
            shown: None,
            problems: Vec::new(),
            claims: BTreeMap::new(),
            second_owner: None,
        }
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
        let settings = group.settings(|router| sources.get(&router.name).copied().flatten());
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

    /// Takes the interfaces as they are now.
    pub fn set_interfaces(&mut self, interfaces: Interfaces, now: Instant) {
        self.interfaces = Some(interfaces);
        self.assign(now);
    }

    /// Takes what is tracked for the virtual routers, by their names.
    pub fn set_tracked(&mut self, tracked: BTreeMap<String, Tracked>, now: Instant) {
        self.tracked = tracked;
        self.assign(now);
    }

    /// Gives each virtual router its interface, source address and socket, and tells the machines what has changed.
    fn assign(&mut self, now: Instant) {
        let Some(interfaces) = self.interfaces.clone() else {
            return;
        };
        let mut groups = std::mem::take(&mut self.groups);
        let wanted: HashSet<PortKey> = groups
            .iter()
            .flat_map(|running| &running.group.routers)
            .filter_map(|router| self.port_key(router))
            .collect();
        self.ports.open(&wanted);
        for running in &mut groups {
            let vips = running.group.vips();
            let mut fault = None;
            for (number, router) in running.group.routers.iter().enumerate() {
                let key = self.port_key(router);
                let link = interfaces.named(&router.interface);
                let member = &mut running.members[number];
                member.link = link.map(|link| (link.index, link.mac.unwrap_or_default()));
                let family = group::family(router);
                let source = link.and_then(|link| interfaces.source(link.index, family, &vips));
                if source.is_some() && source != member.source {
                    member.source = source;
                    running
                        .machine
                        .set_source(number, source.unwrap_or(router.addresses[0].address));
                }
                fault = fault.or_else(|| self.fault(router, &interfaces, key.as_ref(), source));
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
        let link = self.interfaces.as_ref()?.named(&router.interface)?;
        Some(PortKey {
            interface: router.interface.clone(),
            index: link.index,
            family: group::family(router),
        })
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
    pub const fn ports(&self) -> &Ports {
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

    /// Has a line logged, by the daemon: a log that is not read must not stop this thread.
    fn warn(&self, sentence: String) {
        let _ = self.updates.try_send(Update::Warning(sentence));
    }

    /// Reads what has arrived at a socket; returns whether more may be there.
    pub fn receive(&mut self, number: usize, now: Instant) -> bool {
        let mut buffer = [0; 2048];
        for _ in 0..MAX_PACKETS {
            let Some(port) = self.ports.get(number) else {
                return false;
            };
            let key = port.key().clone();
            let received = match port.receive(&mut buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return false,
                Err(error) => {
                    self.warn_of(port, "receive advertisements", &error, now);
                    return false;
                }
            };
            let Some(message) = buffer.get(received.message.clone()) else {
                continue;
            };
            let endpoints = Endpoints {
                source: received.source,
                destination: received.destination,
            };
            let decoded = Advertisement::decode(message, endpoints, received.hop_limit);
            // Which virtual router it is for, even if it is malformed.
            let id = message.get(1).copied();
            self.hear(&key, id, received.source, decoded, now);
        }
        true
    }

    fn hear(
        &mut self,
        key: &PortKey,
        id: Option<u8>,
        source: IpAddr,
        decoded: Result<Advertisement, Malformed>,
        now: Instant,
    ) {
        // Malformed in any case: the first counts it.
        let is_nobodys = id.is_none_or(|id| id == 0);
        let mut groups = std::mem::take(&mut self.groups);
        'all: for running in &mut groups {
            for number in 0..running.members.len() {
                let router = &running.group.routers[number];
                let is_it = (is_nobodys || Some(router.router_id) == id)
                    && router.interface == key.interface
                    && group::family(router) == key.family;
                if is_it {
                    self.hear_as(running, number, source, decoded, now);
                    break 'all;
                }
            }
        }
        self.groups = groups;
    }

    fn hear_as(
        &mut self,
        running: &mut Running,
        number: usize,
        source: IpAddr,
        decoded: Result<Advertisement, Malformed>,
        now: Instant,
    ) {
        let router = &running.group.routers[number];
        let member = &mut running.members[number];
        let advertisement = match decoded {
            Ok(advertisement) => advertisement,
            Err(malformed) => {
                let warning = member.refuse(
                    router,
                    source,
                    malformed.name(),
                    &malformed.to_string(),
                    now,
                );
                self.warn_if(warning);
                return;
            }
        };
        if member.source == Some(source) {
            let sentence = "it has this node's own address as its source: another node has this address, or the network \
                            sends back what this node sends";
            let warning = member.refuse(router, source, "own-address", sentence, now);
            self.warn_if(warning);
            return;
        }
        if !router.unicast_peers.is_empty() && !router.unicast_peers.contains(&source) {
            let sentence = "its source is none of unicast-peers";
            let warning = member.refuse(router, source, "unknown-peer", sentence, now);
            self.warn_if(warning);
            return;
        }
        member.received += 1;
        // Who answered for the VIPs meanwhile was the Active node.
        if !running.machine.is_active() {
            running.claims.clear();
        }
        let warning = member.compare(router, source, &advertisement, now);
        self.warn_if(warning);
        let input = Input::Advertisement {
            member: number,
            source,
            priority: advertisement.priority,
            interval: advertisement.interval,
        };
        self.handle(running, input, now);
    }

    /// Somebody else on an interface says that it has an address.
    pub fn claimed(&mut self, index: u32, address: IpAddr, mac: [u8; 6], now: Instant) {
        let mut groups = std::mem::take(&mut self.groups);
        for running in &mut groups {
            let routers = running.group.routers.iter().zip(&running.members);
            let is_claimed = routers.into_iter().any(|(router, member)| {
                member
                    .link
                    .is_some_and(|link| link.0 == index && link.1 != mac)
                    && router.addresses.iter().any(|one| one.address == address)
            });
            if !is_claimed {
                continue;
            }
            let (state, _, since) = running.machine.state();
            let settled = SETTLED * running.machine.lease();
            let is_active =
                state == State::Active && now.saturating_duration_since(since) >= settled;
            // A Backup node that hears nobody asks before it takes over.
            if !is_active && !running.machine.is_late() {
                continue;
            }
            if running.claims.insert(address, (mac, now)).is_none() {
                let group = running.group.key.name();
                let mac = shown_mac(mac);
                self.warn(format!(
                    "{group}: another machine, {mac}, answers for {address}"
                ));
            }
            let is_recent = |at: Instant| now.saturating_duration_since(at) < DEFENCE_INTERVAL;
            if is_active && !running.answered.is_some_and(is_recent) {
                running.answered = Some(now);
                self.handle(running, Input::Announce, now);
            }
        }
        self.groups = groups;
    }

    /// Gives each group of these names, or all, a command.
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

    fn handle(&mut self, running: &mut Running, input: Input, now: Instant) {
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
                Output::Announce => self.announce(running, now),
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
                        // A reader that is so late asks for a report.
                        let _ = self.updates.try_send(Update::Changed(change));
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
                Output::SecondOwner(source) => running.second_owner = Some(source),
            }
        }
        // Also after answers to another node, which take the place of those that are due.
        if has_advertised && running.has_addresses() {
            self.guard.renew();
        }
    }

    /// Has the guard hold a group's addresses.
    fn hold(&mut self, running: &mut Running) {
        let holding = running.holding();
        self.guard.hold(holding.clone());
        running.held = Some(holding);
    }

    fn advertise(&self, running: &mut Running, number: usize, priority: u8, now: Instant) {
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

    fn announce(&self, running: &Running, now: Instant) {
        for (router, member) in running.group.routers.iter().zip(&running.members) {
            let (Some(port), Some((_, mac))) = (self.port(router), member.link) else {
                continue;
            };
            for one in &router.addresses {
                if let Err(error) = port.announce(one.address, mac) {
                    self.warn_of(port, "announce a VIP", &error, now);
                }
            }
        }
    }

    fn probe(&self, running: &Running, now: Instant) {
        for (router, member) in running.group.routers.iter().zip(&running.members) {
            let (Some(port), Some((_, mac))) = (self.port(router), member.link) else {
                continue;
            };
            for one in &router.addresses {
                if let Err(error) = port.probe(one.address, mac) {
                    self.warn_of(port, "ask for a VIP", &error, now);
                }
            }
        }
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

impl Running {
    /// Whether a group is this one with other settings: the same virtual routers.
    fn is_same(&self, group: &Group) -> bool {
        let identity = |group: &Group| -> (GroupKey, Vec<(String, u8, Option<bool>)>) {
            let routers = group.routers.iter();
            let routers = routers.map(|one| (one.interface.clone(), one.router_id, one.is_ipv4()));
            (group.key.clone(), routers.collect())
        };
        identity(&self.group) == identity(group)
    }

    const fn has_addresses(&self) -> bool {
        matches!(self.machine.state().0, State::Active | State::Leaving)
    }

    /// What the guard is to hold while this group is Active.
    fn holding(&self) -> Holding {
        let mut holding = Holding {
            group: self.number,
            lease: self.machine.lease(),
            addresses: Vec::new(),
            farewells: Vec::new(),
        };
        for (router, member) in self.group.routers.iter().zip(&self.members) {
            let Some((index, _)) = member.link else {
                continue;
            };
            holding
                .addresses
                .extend(router.addresses.iter().map(|one| HeldAddress {
                    index,
                    interface: router.interface.clone(),
                    address: one.address,
                    length: one.length,
                }));
            let Some(source) = member.source else {
                continue;
            };
            let farewells = destinations(router)
                .into_iter()
                .map(|destination| Farewell {
                    interface: router.interface.clone(),
                    index,
                    source,
                    destination,
                    message: encoded(router, LEAVING, source, destination),
                });
            holding.farewells.extend(farewells);
        }
        holding
    }

    fn report(&self, interfaces: Option<&Interfaces>, now: Instant, report: &mut Report) {
        let (state, cause, since) = self.machine.state();
        let name = self.group.key.name();
        for (router, member) in self.group.routers.iter().zip(&self.members) {
            report.routers.push(RouterReport {
                name: router.name.clone(),
                group: router.group.clone(),
                interface: router.interface.clone(),
                router_id: router.router_id,
                state: shown(state, cause),
                reason: sentence(cause),
                since,
                priority: self.machine.priority(),
                configured_priority: router.priority,
                addresses: router.addresses.clone(),
                active_node: self.machine.active_node(),
                sent: member.sent,
                received: member.received,
                refused: member.refused.clone(),
            });
            if let Some((source, addresses)) = &member.differs {
                let listed: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                report.problems.push(format!(
                    "{source} advertises other addresses for {} than are configured here ({}): give all nodes the same \
                     addresses in the same order",
                    router.name,
                    listed.join(", ")
                ));
            }
            let Some((index, _)) = member.link else {
                continue;
            };
            for one in &router.addresses {
                let is_foreign = interfaces.is_some_and(|all| all.is_foreign(index, one.address));
                if is_foreign && router.priority != OWNER {
                    report.problems.push(format!(
                        "interface {} has {} already, not from balancerd, so that it stays there while another node is \
                         Active: remove it with `ip address del {one} dev {}`",
                        router.interface, one.address, router.interface
                    ));
                }
            }
        }
        for number in self.machine.silent_members() {
            report.problems.push(format!(
                "{} hears no Active node, though others of group {name} do",
                self.group.routers[number].name
            ));
        }
        for (address, (mac, heard)) in self.claims.iter().filter(|_| self.has_addresses()) {
            if now.saturating_duration_since(*heard) < CLAIM {
                report.problems.push(format!(
                    "another machine, {}, answers for {address}, which this node has: take the address from it",
                    shown_mac(*mac)
                ));
            }
        }
        if let Some(source) = self.second_owner {
            report.problems.push(format!(
                "{source} has priority 255 for {name}, as this node has: only one node can own the addresses"
            ));
        }
        report.problems.extend(self.problems.iter().cloned());
    }
}

impl Member {
    /// Counts what is not taken; returns a line to log, now and then.
    fn refuse(
        &mut self,
        router: &VirtualRouter,
        source: IpAddr,
        name: &'static str,
        sentence: &str,
        now: Instant,
    ) -> Option<String> {
        *self.refused.entry(name).or_default() += 1;
        let said = || {
            format!(
                "{}: an advertisement of {source} was ignored: {sentence}",
                router.name
            )
        };
        self.log.allows(MAX_BY_STRANGERS, now).then(said)
    }

    /// Notes whether another node advertises other addresses; returns a line to log if that is new.
    fn compare(
        &mut self,
        router: &VirtualRouter,
        source: IpAddr,
        advertisement: &Advertisement,
        now: Instant,
    ) -> Option<String> {
        let own: Vec<_> = router.addresses.iter().map(|one| one.address).collect();
        if own == advertisement.addresses {
            self.differs.take_if(|(who, _)| *who == source);
            return None;
        }
        let differs = (source, advertisement.addresses.clone());
        if self.differs.as_ref() == Some(&differs) {
            return None;
        }
        let is_new = self.differs.is_none();
        self.differs = Some(differs);
        (is_new && self.log.allows(MAX_BY_STRANGERS, now)).then(|| {
            format!(
                "{}: {source} advertises other addresses than are configured here",
                router.name
            )
        })
    }
}

/// A virtual router's advertisement.
fn encoded(router: &VirtualRouter, priority: u8, source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let advertisement = Advertisement {
        router_id: router.router_id,
        priority,
        interval: group::interval(router),
        addresses: router.addresses.iter().map(|one| one.address).collect(),
    };
    let endpoints = Endpoints {
        source,
        destination,
    };
    advertisement.encode(endpoints, router.checksum)
}

fn shown_mac(mac: [u8; 6]) -> String {
    let bytes: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}
