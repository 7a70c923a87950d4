//! How real servers are reached: their next hops are looked after, and those that packets cannot reach are told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use balancer_common::real_server::state;

use super::kernel::{KernelDataplane, now};
use crate::{
    netlink::{keeper, route::Way},
    plan,
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

impl KernelDataplane {
    /// Looks after neighbours, when that is due.
    pub(super) fn tend_ways(&mut self) -> anyhow::Result<()> {
        // In this order: a route's news is a way's, too.
        let ways_changed = self.watch.ways_changed();
        if self.watch.routes_changed() {
            self.keeper.routes_changed();
            self.neighbours.hurry(now());
        } else if ways_changed {
            self.neighbours.soon();
        }
        if now() < self.neighbours.due() {
            return Ok(());
        }
        // Also after an error, which is not to be met more often.
        self.neighbours.made(now(), keeper::BUSY);
        let reals: BTreeSet<IpAddr> = self
            .tables()?
            .reals
            .iter()
            .filter(|real| real.state != state::FREE)
            .map(|real| IpAddr::from(real.address))
            .collect();
        let pause = self.keeper.tend(&mut self.netlink, &reals, now())?;
        self.neighbours.made(now(), pause);
        self.find_obstacles();
        self.follow_gateways()
    }

    /// Looks after the next hops towards real servers that are new.
    pub(super) fn reach(&mut self, reals: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        let pause = self.keeper.reach(&mut self.netlink, reals, now())?;
        self.neighbours.hurry(now() + pause);
        self.find_obstacles();
        self.follow_gateways()
    }

    /// Tells the packet program which real servers are behind gateways.
    fn follow_gateways(&mut self) -> anyhow::Result<()> {
        let routed = routed(self.keeper.ways());
        let tables = self.tables()?;
        if tables.routed == routed {
            return Ok(());
        }
        tables.routed = routed;
        let changes = plan::follow_networks(tables);
        self.make(&changes)?;
        Ok(())
    }

    /// Finds out which real servers packets cannot reach, as their ways and the interfaces that carry the program are now.
    pub(super) fn find_obstacles(&mut self) {
        if self.attached.is_empty() {
            // At a start: the interfaces are still to come.
            return;
        }
        let ours: BTreeSet<_> = self.attached.iter().map(|a| a.link.index).collect();
        // A VRF's members have routes of their own, which are not asked for.
        let in_vrf = self.attached.iter().any(|a| a.link.master.is_some());
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
                let obstacle = || obstacle(*real, *way, &ours, &self.configured.interfaces, name);
                Some((*real, is_known.then(obstacle).flatten()?))
            })
            .collect();
        if *self.obstacles != obstacles {
            self.obstacles = Arc::new(obstacles);
        }
    }
}

/// Real servers that packets reach by a gateway.
pub fn routed(ways: &BTreeMap<IpAddr, Way>) -> BTreeSet<IpAddr> {
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
