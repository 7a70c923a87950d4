//! How real servers are reached: their next hops are looked after, and those that packets cannot reach are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{interfaces::Interfaces, kernel::now};
use crate::netlink::{
    Netlink,
    keeper::{self, NeighbourManager},
    local::Prefix,
    monitor::Routes,
    route::Way,
};

/// The loopback interface's index, the same in every network namespace.
const LOOPBACK: u32 = 1;

/// When neighbours are looked after.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    last: Instant,
    due: Instant,
}

impl Rounds {
    /// The first one is due now.
    pub const fn begin(now: Instant) -> Self {
        Self {
            last: now,
            due: now,
        }
    }

    /// When the next one is due.
    pub const fn due(&self) -> Instant {
        self.due
    }

    /// One has been made, and the next is due after `pause`.
    fn made(&mut self, now: Instant, pause: Duration) {
        *self = Self {
            last: now,
            due: now + pause,
        };
    }

    /// One is due at once: routes have changed.
    pub fn hurry(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// One is due soon: a neighbour has changed, perhaps since it was asked for.
    fn soon(&mut self) {
        self.due = self.due.min(self.last + keeper::BUSY);
    }
}

/// The next hops of all real servers and gateways.
#[derive(Debug)]
pub struct Neighbours {
    keeper: NeighbourManager,
    rounds: Rounds,
    /// Why packets to a real server cannot leave, by its address.
    obstacles: Arc<BTreeMap<IpAddr, String>>,
}

impl Neighbours {
    /// Nobody is looked after yet.
    ///
    /// # Errors
    /// The note of what was changed in the kernel's table cannot be read.
    pub fn open(instance: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self {
            keeper: NeighbourManager::open(instance)?,
            rounds: Rounds::begin(now()),
            obstacles: Arc::default(),
        })
    }

    /// When they are to be looked after.
    pub const fn due(&self) -> Instant {
        self.rounds.due()
    }

    /// Why packets to a real server cannot leave, by its address; a sentence without its beginning.
    pub fn obstacles(&self) -> Arc<BTreeMap<IpAddr, String>> {
        Arc::clone(&self.obstacles)
    }

    /// What is wrong with the kernel's tables of neighbours: a sentence each.
    pub fn warnings(&self) -> &[String] {
        self.keeper.warnings()
    }

    /// An interface may have come back: whoever did not answer by it is asked at once.
    pub fn links_changed(&mut self) {
        self.keeper.links_changed(now());
    }

    /// Routes or neighbours have changed.
    pub fn note(&mut self, routes: &Routes, neighbours: bool, reals: &BTreeSet<IpAddr>) {
        if concern(routes, reals) {
            self.keeper.routes_changed();
            self.rounds.hurry(now());
        } else if neighbours {
            self.rounds.soon();
        }
    }

    /// Looks after the next hops to `reals`, which are all there are, when that is due. Whether it did.
    ///
    /// # Errors
    /// The kernel refused; the next call tries again, some time later.
    pub fn run_maintenance(
        &mut self,
        netlink: &mut Netlink,
        reals: &BTreeSet<IpAddr>,
    ) -> anyhow::Result<bool> {
        if now() < self.rounds.due() {
            return Ok(false);
        }
        // Also after an error, which is not to be met more often.
        self.rounds.made(now(), keeper::BUSY);
        let pause = self.keeper.run_maintenance(netlink, reals, now())?;
        self.rounds.made(now(), pause);
        Ok(true)
    }

    /// Looks after the next hops towards real servers that are new.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn reach(&mut self, netlink: &mut Netlink, reals: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        let pause = self.keeper.reach(netlink, reals, now())?;
        self.rounds.hurry(now() + pause);
        Ok(())
    }

    /// Real servers that packets reach by a gateway.
    pub fn routed(&self) -> BTreeSet<IpAddr> {
        routed(self.keeper.ways())
    }

    /// Finds out which real servers packets cannot reach, as their ways and the interfaces that carry the program are now.
    pub fn find_obstacles(&mut self, interfaces: &Interfaces, configured: &[String]) {
        if interfaces.links().len() == 0 {
            // At a start: the interfaces are still to come.
            return;
        }
        let ours: BTreeSet<_> = interfaces.links().map(|link| link.index).collect();
        // A VRF's members have routes of their own, which are not asked for.
        let in_vrf = interfaces.links().any(|link| link.master.is_some());
        let mut names = BTreeMap::new();
        let obstacles: BTreeMap<_, _> = self
            .keeper
            .ways()
            .iter()
            .filter_map(|(real, way)| {
                let name = |index| {
                    let name = names.entry(index).or_insert_with(|| name_of(index));
                    name.clone()
                };
                let is_known = !in_vrf || matches!(way, Way::Local | Way::Broadcast);
                let obstacle = || obstacle(*real, *way, &ours, configured, name);
                Some((*real, is_known.then(obstacle).flatten()?))
            })
            .collect();
        if *self.obstacles != obstacles {
            self.obstacles = Arc::new(obstacles);
        }
    }
}

/// Whether routes to any of these addresses are among them.
fn concern(routes: &Routes, reals: &BTreeSet<IpAddr>) -> bool {
    match routes {
        Routes::All => true,
        Routes::To(prefixes) => prefixes.iter().any(|prefix| {
            let mut from = reals.range(prefix.address..);
            let next = from.next();
            next.is_some_and(|real| Prefix::of(*real, prefix.length) == *prefix)
        }),
    }
}

/// Real servers that packets reach by a gateway.
fn routed(ways: &BTreeMap<IpAddr, Way>) -> BTreeSet<IpAddr> {
    let by_gateway = |(real, way): (&IpAddr, &Way)| match way {
        Way::Hop((_, hop)) if hop != real => Some(*real),
        _ => None,
    };
    ways.iter().filter_map(by_gateway).collect()
}

/// The name of an interface of this namespace.
fn name_of(index: u32) -> String {
    nix::net::if_::if_indextoname(index).map_or_else(
        // It has just gone.
        |_| format!("interface {index}"),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Why packets to a real server cannot leave by the interfaces that carry the program: a sentence without its beginning.
fn obstacle(
    real: IpAddr,
    way: Way,
    ours: &BTreeSet<u32>,
    configured: &[String],
    name: impl FnOnce(u32) -> String,
) -> Option<String> {
    Some(match way {
        Way::Hop((interface, _)) if ours.contains(&interface) => return None,
        Way::Hop((LOOPBACK, _)) => {
            format!("the route to {real} leads to the loopback interface: change the route")
        }
        Way::Hop((interface, _)) => {
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
        Way::Local => format!("{real} is an address of this host: name another host's address"),
        Way::Broadcast => {
            format!("{real} is the broadcast address of a connected network: name a host's address")
        }
        Way::Missing => format!("this host has no route to {real}: add one with `ip route add`"),
        Way::Blackhole => format!("the route to {real} is of type blackhole: change the route"),
        Way::Unreachable => format!("the route to {real} is of type unreachable: change the route"),
        Way::Prohibited => format!("the route to {real} is of type prohibit: change the route"),
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
        let told = |way| {
            obstacle(real, way, &ours, &["eth7".to_owned()], |index| {
                format!("eth{index}")
            })
        };
        assert_eq!(told(Way::Hop((3, gateway))), None);
        for (way, sentence) in [
            (
                Way::Hop((1, real)),
                "the route to 10.0.0.2 leads to the loopback interface: change the route",
            ),
            (
                Way::Hop((4, gateway)),
                "the route to 10.0.0.2 leads over eth4, which is not among `interfaces` of [dataplane]: add eth4 there, or change \
                 the route",
            ),
            (
                Way::Hop((7, gateway)),
                "the route to 10.0.0.2 leads over eth7, which does not carry the packet program now",
            ),
            (
                Way::Local,
                "10.0.0.2 is an address of this host: name another host's address",
            ),
            (
                Way::Broadcast,
                "10.0.0.2 is the broadcast address of a connected network: name a host's address",
            ),
            (
                Way::Missing,
                "this host has no route to 10.0.0.2: add one with `ip route add`",
            ),
            (
                Way::Blackhole,
                "the route to 10.0.0.2 is of type blackhole: change the route",
            ),
            (
                Way::Unreachable,
                "the route to 10.0.0.2 is of type unreachable: change the route",
            ),
            (
                Way::Prohibited,
                "the route to 10.0.0.2 is of type prohibit: change the route",
            ),
        ] {
            assert_eq!(told(way).as_deref(), Some(sentence));
        }
    }

    #[test]
    fn routes_to_strangers_are_of_no_concern() {
        let reals: BTreeSet<IpAddr> = ["10.0.1.2", "10.0.2.2", "2001:db8::2"]
            .map(|address| address.parse().unwrap())
            .into();
        let to = |text: &str, length| {
            let prefix = Prefix::of(text.parse().unwrap(), length);
            concern(&Routes::To([prefix].into()), &reals)
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
        assert!(concern(&Routes::All, &reals));
    }

    #[test]
    fn a_neighbour_brings_a_round_soon_and_a_route_at_once() {
        let start = now();
        let mut rounds = Rounds::begin(start);
        rounds.made(start, Duration::from_secs(5));
        for _ in 0..3 {
            rounds.soon();
        }
        assert_eq!(rounds.due(), start + Duration::from_secs(1));
        let later = start + Duration::from_millis(300);
        rounds.hurry(later);
        assert_eq!(rounds.due(), later);
        rounds.hurry(later + Duration::from_secs(1));
        assert_eq!(rounds.due(), later, "what is due already stays so");
    }
}
