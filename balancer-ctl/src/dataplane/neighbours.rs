//! How packets reach real servers: their next hops are kept resolved, and real servers that packets cannot reach are
//! reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{interfaces::Interfaces, last_result::LastResult};
use crate::{
    model::prefix::Prefix,
    netlink::{
        Netlink,
        monitor::RouteChanges,
        neighbour_manager::{self, NeighbourManager},
        route::RouteTarget,
    },
    os::clock,
};

/// The loopback interface's index, the same in every network namespace.
const LOOPBACK: u32 = 1;

/// When the next round of neighbour maintenance is due.
#[derive(Clone, Copy, Debug)]
pub struct RoundSchedule {
    last: Instant,
    due: Instant,
}

impl RoundSchedule {
    /// The first round is due now.
    pub const fn begin(now: Instant) -> Self {
        Self {
            last: now,
            due: now,
        }
    }

    /// When the next round is due.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// A round has ended, and the next is due after `pause`.
    fn finish_round(&mut self, now: Instant, pause: Duration) {
        *self = Self {
            last: now,
            due: now + pause,
        };
    }

    /// Makes the next round due at `now`, if it is not due earlier.
    pub fn bring_forward(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// Makes the next round due a second after the last one: a neighbour has changed, perhaps because it answered.
    fn schedule_soon(&mut self) {
        self.due = self.due.min(self.last + neighbour_manager::BUSY_INTERVAL);
    }
}

/// The next hops of all real servers and gateways.
#[derive(Debug)]
pub struct Neighbours {
    manager: NeighbourManager,
    rounds: RoundSchedule,
    last_round: LastResult,
    /// Why packets to a real server cannot leave, by its address.
    obstacles: Arc<BTreeMap<IpAddr, String>>,
}

impl Neighbours {
    /// Opens the manager of neighbour entries; the first round is due at once.
    ///
    /// # Errors
    /// The note of entries that were made managed cannot be read.
    pub fn open(instance: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self {
            manager: NeighbourManager::open(instance)?,
            rounds: RoundSchedule::begin(clock::now()),
            last_round: LastResult::default(),
            obstacles: Arc::default(),
        })
    }

    /// When the next round of maintenance is due.
    pub const fn due(&self) -> Instant {
        self.rounds.due()
    }

    /// Why packets cannot reach a real server, by its address: a clause without capital letter and full stop.
    pub fn obstacles(&self) -> Arc<BTreeMap<IpAddr, String>> {
        Arc::clone(&self.obstacles)
    }

    /// What is wrong with the kernel's neighbour tables: one sentence each.
    pub fn warnings(&self) -> &[String] {
        self.manager.warnings()
    }

    /// An interface may have got its carrier back: next hops that did not answer are asked for again at once.
    pub fn links_changed(&mut self) {
        self.manager.links_changed(clock::now());
    }

    /// Takes note of changed routes and, if `neighbours`, of changed neighbours; decides when the next round is due.
    pub fn record_changes(
        &mut self,
        routes: &RouteChanges,
        neighbours: bool,
        reals: &BTreeSet<IpAddr>,
    ) {
        if affects_any(routes, reals) {
            self.manager.routes_changed();
            self.rounds.bring_forward(clock::now());
        } else if neighbours {
            self.rounds.schedule_soon();
        }
    }

    /// The result of the last round: its error lasts until a round succeeds.
    ///
    /// # Errors
    /// The kernel refused then.
    pub fn last_result(&self) -> anyhow::Result<()> {
        self.last_round.get()
    }

    /// Does a round of maintenance if it is due: keeps the next hops to `reals`, which are all real servers, resolved.
    /// Returns whether it did.
    ///
    /// # Errors
    /// The kernel refused; a later call tries again.
    pub fn run_maintenance(
        &mut self,
        netlink: &mut Netlink,
        reals: &BTreeSet<IpAddr>,
    ) -> anyhow::Result<bool> {
        if clock::now() < self.rounds.due() {
            self.last_result()?;
            return Ok(false);
        }
        // Set before the attempt, so that an error does not repeat more often.
        self.rounds
            .finish_round(clock::now(), neighbour_manager::BUSY_INTERVAL);
        let result = self.manager.run_maintenance(netlink, reals, clock::now());
        self.last_round.store(&result);
        let pause = result?;
        self.rounds.finish_round(clock::now(), pause);
        Ok(true)
    }

    /// Resolves the next hops to real servers that are new.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn resolve_new(
        &mut self,
        netlink: &mut Netlink,
        reals: &BTreeSet<IpAddr>,
    ) -> anyhow::Result<()> {
        let pause = self.manager.resolve_new(netlink, reals, clock::now())?;
        self.rounds.bring_forward(clock::now() + pause);
        Ok(())
    }

    /// Where packets to real servers go, as far as known.
    pub const fn targets(&self) -> &BTreeMap<IpAddr, RouteTarget> {
        self.manager.targets()
    }

    /// Real servers that packets reach by a gateway.
    pub fn routed(&self) -> BTreeSet<IpAddr> {
        routed(self.manager.targets())
    }

    /// Finds the real servers that packets cannot reach by the interfaces that carry the program.
    pub fn find_obstacles(&mut self, interfaces: &Interfaces, configured: &[String]) {
        if interfaces.links().len() == 0 {
            // At start: the program is not attached yet.
            return;
        }
        let ours: BTreeSet<_> = interfaces.links().map(|link| link.index).collect();
        // Members of a VRF use its routing table, which is not queried here.
        let in_vrf = interfaces.links().any(|link| link.master.is_some());
        let mut names = BTreeMap::new();
        let obstacles: BTreeMap<_, _> = self
            .manager
            .targets()
            .iter()
            .filter_map(|(real, target)| {
                let name = |index| {
                    let name = names.entry(index).or_insert_with(|| interface_name(index));
                    name.clone()
                };
                let is_known =
                    !in_vrf || matches!(target, RouteTarget::Local | RouteTarget::Broadcast);
                let obstacle = || obstacle(*real, *target, &ours, configured, name);
                Some((*real, is_known.then(obstacle).flatten()?))
            })
            .collect();
        if *self.obstacles != obstacles {
            self.obstacles = Arc::new(obstacles);
        }
    }
}

/// Whether `routes` contain a route to any of the addresses `reals`.
fn affects_any(routes: &RouteChanges, reals: &BTreeSet<IpAddr>) -> bool {
    match routes {
        RouteChanges::All => true,
        RouteChanges::To(prefixes) => prefixes.iter().any(|prefix| {
            let mut from = reals.range(prefix.address..);
            let next = from.next();
            next.is_some_and(|real| Prefix::of(*real, prefix.length) == *prefix)
        }),
    }
}

/// Real servers that packets reach by a gateway.
fn routed(targets: &BTreeMap<IpAddr, RouteTarget>) -> BTreeSet<IpAddr> {
    let by_gateway = |(real, target): (&IpAddr, &RouteTarget)| match target {
        RouteTarget::NextHop((_, hop)) if hop != real => Some(*real),
        _ => None,
    };
    targets.iter().filter_map(by_gateway).collect()
}

/// The name of an interface of this namespace.
fn interface_name(index: u32) -> String {
    nix::net::if_::if_indextoname(index).map_or_else(
        // The interface has just gone.
        |_| format!("interface {index}"),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Why packets to a real server cannot leave by the interfaces that carry the program: a clause without capital letter
/// and full stop.
fn obstacle(
    real: IpAddr,
    target: RouteTarget,
    ours: &BTreeSet<u32>,
    configured: &[String],
    name: impl FnOnce(u32) -> String,
) -> Option<String> {
    Some(match target {
        RouteTarget::NextHop((interface, _)) if ours.contains(&interface) => return None,
        RouteTarget::NextHop((LOOPBACK, _)) => {
            format!("the route to {real} leads to the loopback interface: change the route")
        }
        RouteTarget::NextHop((interface, _)) => {
            let name = name(interface);
            if configured.contains(&name) {
                return Some(format!(
                    "the route to {real} leads over {name}, which does not carry the packet program now"
                ));
            }
            format!(
                "the route to {real} leads over {name}, which is not among `interfaces` of [dataplane]: add {name} there, or change \
                 the route"
            )
        }
        RouteTarget::Local => {
            format!("{real} is an address of this host: name another host's address")
        }
        RouteTarget::Broadcast => {
            format!("{real} is the broadcast address of a connected network: name a host's address")
        }
        RouteTarget::NoRoute => {
            format!("this host has no route to {real}: add one with `ip route add`")
        }
        RouteTarget::Blackhole => {
            format!("the route to {real} is of type blackhole: change the route")
        }
        RouteTarget::Unreachable => {
            format!("the route to {real} is of type unreachable: change the route")
        }
        RouteTarget::Prohibited => {
            format!("the route to {real} is of type prohibit: change the route")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_packets_from_a_real_server_is_named() {
        let real: IpAddr = "10.0.0.2".parse().unwrap();
        let gateway: IpAddr = "10.0.0.1".parse().unwrap();
        let ours = BTreeSet::from([2, 3]);
        let reported = |target| {
            obstacle(real, target, &ours, &["eth7".to_owned()], |index| {
                format!("eth{index}")
            })
        };
        assert_eq!(reported(RouteTarget::NextHop((3, gateway))), None);
        for (target, sentence) in [
            (
                RouteTarget::NextHop((1, real)),
                "the route to 10.0.0.2 leads to the loopback interface: change the route",
            ),
            (
                RouteTarget::NextHop((4, gateway)),
                "the route to 10.0.0.2 leads over eth4, which is not among `interfaces` of [dataplane]: add eth4 there, or change \
                 the route",
            ),
            (
                RouteTarget::NextHop((7, gateway)),
                "the route to 10.0.0.2 leads over eth7, which does not carry the packet program now",
            ),
            (
                RouteTarget::Local,
                "10.0.0.2 is an address of this host: name another host's address",
            ),
            (
                RouteTarget::Broadcast,
                "10.0.0.2 is the broadcast address of a connected network: name a host's address",
            ),
            (
                RouteTarget::NoRoute,
                "this host has no route to 10.0.0.2: add one with `ip route add`",
            ),
            (
                RouteTarget::Blackhole,
                "the route to 10.0.0.2 is of type blackhole: change the route",
            ),
            (
                RouteTarget::Unreachable,
                "the route to 10.0.0.2 is of type unreachable: change the route",
            ),
            (
                RouteTarget::Prohibited,
                "the route to 10.0.0.2 is of type prohibit: change the route",
            ),
        ] {
            assert_eq!(reported(target).as_deref(), Some(sentence));
        }
    }

    #[test]
    fn changed_routes_to_other_addresses_affect_no_real_server() {
        let reals: BTreeSet<IpAddr> = ["10.0.1.2", "10.0.2.2", "2001:db8::2"]
            .map(|address| address.parse().unwrap())
            .into();
        let to = |text: &str, length| {
            let prefix = Prefix::of(text.parse().unwrap(), length);
            affects_any(&RouteChanges::To([prefix].into()), &reals)
        };
        for (text, length, expected) in [
            ("10.0.1.0", 24, true),
            ("10.0.2.2", 32, true),
            ("10.0.0.0", 8, true),
            ("0.0.0.0", 0, true),
            ("::", 0, true),
            ("2001:db8::", 64, true),
            ("10.0.3.0", 24, false),
            ("10.0.1.3", 32, false),
            ("198.51.100.0", 24, false),
            ("2001:db9::", 32, false),
        ] {
            assert_eq!(to(text, length), expected, "{text}/{length}");
        }
        assert!(affects_any(&RouteChanges::All, &reals));
    }

    #[test]
    fn a_neighbour_brings_a_round_soon_and_a_route_at_once() {
        let start = clock::now();
        let mut rounds = RoundSchedule::begin(start);
        rounds.finish_round(start, Duration::from_secs(5));
        for _ in 0..3 {
            rounds.schedule_soon();
        }
        assert_eq!(rounds.due(), start + Duration::from_secs(1));
        let later = start + Duration::from_millis(300);
        rounds.bring_forward(later);
        assert_eq!(rounds.due(), later);
        rounds.bring_forward(later + Duration::from_secs(1));
        assert_eq!(rounds.due(), later, "what is due already stays so");
    }
}
