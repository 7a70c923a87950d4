//! Which virtual routers are Active together. Pure.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{
    fsm::{MemberSettings, Settings},
    packet::{Family, Interval},
};
use crate::model::vrrp::VirtualRouter;

/// Virtual routers that are Active together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What tells it from other groups.
    pub key: GroupKey,
    /// At least one, in an order that is the same on all nodes.
    pub routers: Vec<VirtualRouter>,
}

/// A group's name. A virtual router without a group is one of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupKey {
    /// A configured group.
    Named(String),
    /// A virtual router of this name that has no group.
    Single(String),
}

impl GroupKey {
    /// The name to show.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name) | Self::Single(name) => name,
        }
    }
}

/// The groups of these virtual routers, in the order of their first members.
#[must_use]
pub fn groups(routers: &[VirtualRouter]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for router in routers {
        let key = match &router.group {
            Some(name) => GroupKey::Named(name.clone()),
            None => GroupKey::Single(router.name.clone()),
        };
        match groups.iter_mut().find(|group| group.key == key) {
            Some(group) => group.routers.push(router.clone()),
            None => groups.push(Group {
                key,
                routers: vec![router.clone()],
            }),
        }
    }
    for group in &mut groups {
        // Interfaces' names may differ from node to node; router ids and families do not.
        let order = |router: &VirtualRouter| (family(router), router.router_id);
        group.routers.sort_by_key(order);
    }
    groups
}

impl Group {
    /// All VIPs.
    #[must_use]
    pub fn vips(&self) -> HashSet<IpAddr> {
        let addresses = self.routers.iter().flat_map(|router| &router.addresses);
        addresses.map(|address| address.address).collect()
    }

    /// What its state machine is given: with the address that each member's advertisements come from (`None` = it has none yet), and
    /// how long after another node this one may notice what both track.
    #[must_use]
    pub fn settings(
        &self,
        sources: impl Fn(&VirtualRouter) -> Option<IpAddr>,
        noticed_within: Duration,
    ) -> Settings {
        let members = self.routers.iter().map(|router| MemberSettings {
            interval: interval(router),
            source: sources(router).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            link_up_delay: router.link_up_delay,
        });
        let first = self.routers.first();
        let announce = first.and_then(|router| router.announce_interval);
        Settings {
            members: members.collect(),
            priority: self.priority(),
            failback: first.map(|router| router.failback).unwrap_or_default(),
            relieve_after: self.relieve_after(noticed_within),
            announce_interval: announce.unwrap_or_default(),
        }
    }

    /// How long the Active node's priority must have been lower, to be relieved, where this node may notice what both track so much
    /// later: a node that has lost what this one is about to lose is not to be relieved by it.
    #[must_use]
    pub fn relieve_after(&self, noticed_within: Duration) -> Duration {
        let routers = self.routers.iter();
        let longest = routers.map(|router| router.advertisement_interval).max();
        noticed_within + longest.unwrap_or_default()
    }

    /// The configured priority.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.routers
            .iter()
            .map(|router| router.priority)
            .min()
            .unwrap_or(1)
    }
}

/// A virtual router's advertisement interval.
#[must_use]
pub fn interval(router: &VirtualRouter) -> Interval {
    Interval::from_duration(router.advertisement_interval).unwrap_or(Interval::MAX)
}

/// The family of a virtual router's addresses.
#[must_use]
pub fn family(router: &VirtualRouter) -> Family {
    match router.is_ipv4() {
        Some(true) => Family::Ipv4,
        Some(false) | None => Family::Ipv6,
    }
}

/// Where a virtual router's advertisements go.
#[must_use]
pub fn destinations(router: &VirtualRouter) -> Vec<IpAddr> {
    if !router.unicast_peers.is_empty() {
        return router.unicast_peers.clone();
    }
    vec![family(router).group()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::vrrp::Failback;

    fn router(name: &str, id: u8, address: &str, group: Option<&str>) -> VirtualRouter {
        VirtualRouter {
            addresses: vec![address.parse().unwrap()],
            group: group.map(str::to_owned),
            ..VirtualRouter::new(name, "eth0", id)
        }
    }

    #[test]
    fn groups_have_the_same_order_on_all_nodes() {
        let routers = [
            router("inside6", 1, "fd00::1/64", Some("pair")),
            router("alone", 9, "192.0.2.9/24", None),
            router("outside", 51, "192.0.2.1/24", Some("pair")),
            router("pair", 3, "192.0.2.7/24", None),
            router("inside", 52, "10.0.0.1/24", Some("pair")),
        ];
        let names = |routers: &[VirtualRouter]| -> Vec<(GroupKey, Vec<String>)> {
            let names = |group: &Group| group.routers.iter().map(|one| one.name.clone()).collect();
            groups(routers)
                .iter()
                .map(|group| (group.key.clone(), names(group)))
                .collect()
        };
        let named = |name: &str| GroupKey::Named(name.to_owned());
        let single = |name: &str| (GroupKey::Single(name.to_owned()), vec![name.to_owned()]);
        let pair = ["outside", "inside", "inside6"].map(str::to_owned).to_vec();
        assert_eq!(
            names(&routers),
            [
                (named("pair"), pair.clone()),
                single("alone"),
                single("pair")
            ]
        );
        let mut reversed = routers;
        reversed.reverse();
        assert_eq!(names(&reversed)[0], (named("pair"), pair));
    }

    #[test]
    fn a_state_machine_is_given_what_is_configured() {
        let mut outside = router("outside", 51, "192.0.2.1/24", None);
        outside.failback = Failback::Immediate;
        let source = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11));
        let groups = groups(&[outside]);
        let settings = groups[0].settings(|_| Some(source), Duration::from_secs(7));
        let expected = Settings {
            members: vec![MemberSettings {
                interval: Interval::from_centiseconds(100).unwrap(),
                source,
                link_up_delay: Duration::from_secs(30),
            }],
            priority: 100,
            failback: Failback::Immediate,
            relieve_after: Duration::from_secs(8),
            announce_interval: Duration::from_secs(60),
        };
        assert_eq!(settings, expected);
    }
}
