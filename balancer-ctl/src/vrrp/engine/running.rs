//! A group that runs: its machine, and what is known of it beside. Pure.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    model::{limits::OWNER, vrrp::VirtualRouter},
    os::log_rate_limit::{LogRateLimit, MAX_BY_STRANGERS},
    vrrp::{
        fsm::{LEAVING, Machine, State},
        group::{self, Group, GroupKey, destinations},
        guard::{Farewell, HeldAddress, Holding},
        interfaces::Interfaces,
        packet::{Advertisement, Endpoints},
        report::{Change, Report, RouterReport, sentence, shown},
    },
};

/// What somebody else claims or advertises counts for this long.
const CLAIM: Duration = Duration::from_secs(90);
/// A claim counts against an Active node when it has been Active for this many of its leases: until then others may not have heard.
const SETTLED: u32 = 2;
/// How many addresses of another node are named.
const FEW: usize = 8;

/// A group that runs.
pub(super) struct Running {
    /// What the guard knows it by.
    pub(super) number: u64,
    pub(super) group: Group,
    pub(super) machine: Machine,
    pub(super) members: Vec<Member>,
    /// Its latest failure that the daemon was told.
    pub(super) failed: Option<Instant>,
    /// What its machine was last told.
    pub(super) told: Option<(Option<String>, u8)>,
    /// What the guard holds for it.
    pub(super) held: Option<Holding>,
    /// It is no longer configured, so that nobody is told of its end.
    pub(super) is_gone: bool,
    /// When somebody else's claim to a VIP was last answered.
    pub(super) answered: Option<Instant>,
    /// What was last told of its state.
    pub(super) shown: Option<Change>,
    /// What the guard could not do.
    pub(super) problems: Vec<String>,
    /// Who else claims a VIP, and when that was heard.
    pub(super) claims: BTreeMap<IpAddr, ([u8; 6], Instant)>,
    /// Another node claims to own the addresses, too: who, and when that was heard.
    pub(super) second_owner: Option<(IpAddr, Instant)>,
}

/// The node that advertises itself as Active.
#[derive(Clone, Copy)]
pub(super) struct Heard {
    pub(super) source: IpAddr,
    pub(super) priority: u8,
    /// When it counts as silent.
    pub(super) until: Instant,
}

/// A virtual router that runs.
#[derive(Default)]
pub(super) struct Member {
    /// Its interface's index and MAC address.
    pub(super) link: Option<(u32, [u8; 6])>,
    pub(super) source: Option<IpAddr>,
    /// Whether its interface has a link; `None` = that is not known yet.
    pub(super) is_up: Option<bool>,
    /// Who was heard last, in whatever state this node is.
    pub(super) heard: Option<Heard>,
    /// Whose advertisements name other addresses, which, and when that was heard.
    pub(super) differs: Option<(IpAddr, Vec<IpAddr>, Instant)>,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) refused: BTreeMap<&'static str, u64>,
    pub(super) log: LogRateLimit,
}

impl Running {
    /// Without an interface for any virtual router.
    pub(super) fn new(number: u64, group: Group, machine: Machine) -> Self {
        Self {
            number,
            members: group.routers.iter().map(|_| Member::default()).collect(),
            failed: machine.failures().back().copied(),
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

    /// Whether a group is this one with other settings: the same virtual routers.
    pub(super) fn is_same(&self, group: &Group) -> bool {
        let identity = |group: &Group| -> (GroupKey, Vec<(String, u8, Option<bool>)>) {
            let routers = group.routers.iter();
            let routers = routers.map(|one| (one.interface.clone(), one.router_id, one.is_ipv4()));
            (group.key.clone(), routers.collect())
        };
        identity(&self.group) == identity(group)
    }

    pub(super) const fn has_addresses(&self) -> bool {
        self.machine.is_active()
    }

    /// Whether it has been Active for so long that another node would know.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        let (state, _, since) = self.machine.state();
        let settled = SETTLED * self.machine.lease();
        state == State::Active && now.saturating_duration_since(since) >= settled
    }

    /// The Active node that is heard: its address and priority.
    fn active_node(&self, now: Instant) -> Option<(IpAddr, u8)> {
        if self.has_addresses() {
            return None;
        }
        let heard = self.members.iter().filter_map(|member| member.heard);
        let mut heard = heard.filter(|heard| now < heard.until);
        let node = heard.next().map(|heard| (heard.source, heard.priority));
        self.machine.active_node().or(node)
    }

    /// What the guard is to hold while this group is Active.
    pub(super) fn holding(&self) -> Holding {
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

    pub(super) fn report(
        &self,
        interfaces: Option<&Interfaces>,
        now: Instant,
        report: &mut Report,
    ) {
        let (state, cause, since) = self.machine.state();
        let name = self.group.key.name();
        let counts = |heard: Instant| now.saturating_duration_since(heard) < CLAIM;
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
                probes: router.probes,
                active_node: self.active_node(now),
                sent: member.sent,
                received: member.received,
                refused: member.refused.clone(),
            });
            if let Some((source, addresses, heard)) = &member.differs
                && counts(*heard)
            {
                let own: Vec<_> = router.addresses.iter().map(|one| one.address).collect();
                report.problems.push(format!(
                    "{source} advertises other addresses for {} ({}) than this node has ({}): give all nodes the same addresses \
                     in the same order",
                    router.name,
                    listed(addresses),
                    listed(&own)
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
            if counts(*heard) {
                report.problems.push(format!(
                    "another machine, {}, answers for {address}, which this node has: take the address from it",
                    shown_mac(*mac)
                ));
            }
        }
        if let Some((source, heard)) = self.second_owner
            && counts(heard)
            && self.group.priority() == OWNER
        {
            report.problems.push(format!(
                "{source} has priority 255 for {name}, as this node has: only one node can own the addresses"
            ));
        }
        report.problems.extend(self.problems.iter().cloned());
    }
}

impl Member {
    /// Counts what is not taken; returns a line to log, now and then.
    pub(super) fn refuse(
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
    pub(super) fn compare(
        &mut self,
        router: &VirtualRouter,
        source: IpAddr,
        advertisement: &Advertisement,
        now: Instant,
    ) -> Option<String> {
        let own: Vec<_> = router.addresses.iter().map(|one| one.address).collect();
        if own == advertisement.addresses {
            self.differs.take_if(|(who, ..)| *who == source);
            return None;
        }
        let is_new = self.differs.is_none();
        self.differs = Some((source, advertisement.addresses.clone(), now));
        (is_new && self.log.allows(MAX_BY_STRANGERS, now)).then(|| {
            format!(
                "{}: {source} advertises other addresses than are configured here",
                router.name
            )
        })
    }
}

/// A virtual router's advertisement.
pub(super) fn encoded(
    router: &VirtualRouter,
    priority: u8,
    source: IpAddr,
    destination: IpAddr,
) -> Vec<u8> {
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

/// The first few addresses, and the number of the others.
fn listed(addresses: &[IpAddr]) -> String {
    let mut named: Vec<_> = addresses
        .iter()
        .take(FEW)
        .map(ToString::to_string)
        .collect();
    if addresses.len() > FEW {
        named.push(format!("{} more", addresses.len() - FEW));
    }
    named.join(", ")
}

pub(super) fn shown_mac(mac: [u8; 6]) -> String {
    let bytes: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::{model::vrrp::Failback, os::clock};

    const SECOND: Duration = Duration::from_secs(1);

    fn router(priority: u8) -> VirtualRouter {
        VirtualRouter {
            addresses: vec!["192.0.2.80/24".parse().unwrap()],
            priority,
            failback: Failback::Never,
            ..VirtualRouter::new("outside", "eth0", 51)
        }
    }

    fn running(priority: u8, now: Instant) -> Running {
        let group = group::groups(&[router(priority)]).remove(0);
        let settings = group.settings(|_| None, Duration::ZERO);
        let machine = Machine::new(&settings, VecDeque::new(), now);
        Running::new(1, group, machine)
    }

    fn reported(running: &Running, now: Instant) -> Report {
        let mut report = Report::default();
        running.report(None, now, &mut report);
        report
    }

    fn compare(running: &mut Running, addresses: &[&str], now: Instant) {
        let advertisement = Advertisement {
            router_id: 51,
            priority: 20,
            interval: group::interval(&running.group.routers[0]),
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
        };
        let router = running.group.routers[0].clone();
        running.members[0].compare(&router, "192.0.2.9".parse().unwrap(), &advertisement, now);
    }

    #[test]
    fn another_list_of_addresses_is_a_problem_while_it_is_advertised() {
        let now = clock::now();
        let mut running = running(100, now);
        compare(&mut running, &["10.9.9.9"; 10], now);
        let few = ["10.9.9.9"; 8].join(", ");
        let problem = format!(
            "192.0.2.9 advertises other addresses for outside ({few}, 2 more) than this node has (192.0.2.80): give all nodes the \
             same addresses in the same order"
        );
        assert_eq!(reported(&running, now + 89 * SECOND).problems, [problem]);
        assert_eq!(reported(&running, now + 90 * SECOND).problems, [""; 0]);
        compare(&mut running, &["10.9.9.9"], now);
        compare(&mut running, &["192.0.2.80"], now);
        assert_eq!(reported(&running, now).problems, [""; 0]);
    }

    #[test]
    fn a_second_owner_is_a_problem_while_it_is_heard_and_this_node_is_one() {
        let now = clock::now();
        let mut owner = running(OWNER, now);
        owner.second_owner = Some(("192.0.2.9".parse().unwrap(), now));
        assert_eq!(
            reported(&owner, now + 89 * SECOND).problems,
            [
                "192.0.2.9 has priority 255 for outside, as this node has: only one node can own the addresses"
            ]
        );
        assert_eq!(reported(&owner, now + 90 * SECOND).problems, [""; 0]);
        owner.group = group::groups(&[router(150)]).remove(0);
        assert_eq!(reported(&owner, now).problems, [""; 0]);
    }

    #[test]
    fn the_active_node_is_known_also_where_this_one_cannot_be_active() {
        let now = clock::now();
        let mut running = running(100, now);
        let source = "192.0.2.9".parse().unwrap();
        running.members[0].heard = Some(Heard {
            source,
            priority: 150,
            until: now + 4 * SECOND,
        });
        let known = |now: Instant| reported(&running, now).routers[0].active_node;
        assert_eq!(known(now + 3 * SECOND), Some((source, 150)));
        assert_eq!(known(now + 4 * SECOND), None);
    }
}
