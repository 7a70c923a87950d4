//! The services that share their clients' servers, as the kernel's tables have them. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use balancer_common::{
    addr::Addr,
    conntrack::idle,
    persistence::{PersistenceEntry, PersistenceKey},
};

use crate::{
    dataplane::{KeptClient, jiffies::Tick, plan::tables::Tables},
    model::{Protocol, ServiceKey, prefix::Prefix},
};

/// The services of a group, or one that shares with no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The services.
    pub services: Arc<[ServiceKey]>,
    /// How much of a client's address tells clients apart.
    pub length: u8,
    /// Jiffies after its last use at which an entry is forgotten.
    pub timeout: u32,
}

impl Group {
    /// How long the entry is still good for, in jiffies; `None` where its time is up.
    pub const fn left(&self, entry: &PersistenceEntry, now: u32) -> Option<u32> {
        self.timeout.checked_sub(idle(now, entry.last_used))
    }

    /// The client of an entry of this group.
    pub fn client(&self, key: &PersistenceKey) -> Prefix {
        Prefix::of(IpAddr::from(key.client), self.length)
    }

    /// An entry of this group in words; `None` where its time is up.
    pub fn kept_client(
        &self,
        key: &PersistenceKey,
        entry: &PersistenceEntry,
        tick: Tick,
        now: u32,
    ) -> Option<KeptClient> {
        Some(KeptClient {
            expires_in: tick.duration(self.left(entry, now)?),
            client: self.client(key),
            services: Arc::clone(&self.services),
            server: IpAddr::from(entry.server),
        })
    }
}

/// All groups, by their numbers in the keys of entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(HashMap<u64, Group>);

impl Groups {
    /// The groups of the services that there are.
    pub fn of(tables: &Tables) -> Self {
        let mut members = BTreeMap::<u64, (Vec<ServiceKey>, u8, u32)>::new();
        let persistent = tables.persistent_services();
        for (key, row) in &tables.services {
            let Some(row) = persistent.get(&row.service.id) else {
                continue;
            };
            let length = length(&row.mask, key.address.is_ipv4());
            let group = members.entry(row.group).or_insert((Vec::new(), length, 0));
            group.0.push(*key);
            group.2 = group.2.max(row.timeout);
        }
        let groups = members.into_iter().map(|(number, group)| {
            let (services, length, timeout) = group;
            let group = Group {
                services: services.into(),
                length,
                timeout,
            };
            (number, group)
        });
        Self(groups.collect())
    }

    /// The group with this number.
    pub fn get(&self, number: u64) -> Option<&Group> {
        self.0.get(&number)
    }

    /// How long the entry with this key is still good for, in jiffies; `None` where its time is up, or no service has its group.
    pub fn left(&self, key: &PersistenceKey, entry: &PersistenceEntry, now: u32) -> Option<u32> {
        self.get(key.group)?.left(entry, now)
    }

    /// Whether a client may have an entry of each protocol, since the group of this key has services of both.
    pub fn is_mixed(&self, key: &PersistenceKey) -> bool {
        self.get(key.group).is_some_and(|group| {
            let has = |protocol| group.services.iter().any(|one| one.protocol == protocol);
            has(Protocol::Tcp) && has(Protocol::Udp)
        })
    }

    /// All numbers.
    pub fn numbers(&self) -> HashSet<u64> {
        self.0.keys().copied().collect()
    }

    /// Keeps the groups that `is_wanted` accepts.
    pub fn retain(&mut self, is_wanted: impl Fn(&Group) -> bool) {
        self.0.retain(|_, group| is_wanted(group));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The groups and their numbers, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Group)> {
        self.0.iter().map(|(number, group)| (*number, group))
    }
}

/// The length of the prefix that a mask in the shared form covers.
fn length(mask: &Addr, is_v4: bool) -> u8 {
    let ones: u32 = mask.0.iter().map(|word| word.count_ones()).sum();
    let mapped = if is_v4 { 96 } else { 0 };
    ones.saturating_sub(mapped) as u8
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        dataplane::{Service, plan},
        model::{Persistence, Protocol},
    };

    /// Tables with a service on each of these ports of 192.0.2.80, or of 2001:db8::80 with a netmask above 32. Each has 60 s at 100
    /// jiffies a second.
    pub fn tables(services: &[(u16, Option<&str>, u8)]) -> Tables {
        let services = services.iter().map(|(port, group, netmask)| {
            let vip = if *netmask > 32 {
                "2001:db8::80"
            } else {
                "192.0.2.80"
            };
            let key = ServiceKey {
                protocol: Protocol::Tcp,
                address: (vip.parse::<IpAddr>().unwrap(), *port).into(),
            };
            let mut service = crate::model::VirtualService::new(key);
            service.persistence = Some(Persistence {
                timeout: Duration::from_secs(60),
                netmask: Some(*netmask),
                group: group.map(str::to_owned),
                ..Persistence::default()
            });
            Service::from(&service)
        });
        let services: Vec<_> = services.collect();
        let mut tables = Tables::empty(16, 64, Tick::with_hz(100));
        for change in plan::plan(&services, &tables).unwrap() {
            tables.apply(&change);
        }
        tables
    }

    #[test]
    fn services_of_one_group_share_it_and_others_have_their_own() {
        let mut tables = tables(&[
            (80, Some("shop"), 24),
            (443, Some("shop"), 24),
            (25, None, 32),
            (80, None, 64),
        ]);
        let groups = |tables: &Tables| {
            let groups = Groups::of(tables);
            let mut shown: Vec<_> = groups
                .iter()
                .map(|(_, group)| {
                    let services = group.services.iter();
                    let ports: Vec<_> = services.map(|service| service.address.port()).collect();
                    (ports, group.length, group.timeout)
                })
                .collect();
            shown.sort_unstable();
            shown
        };
        assert_eq!(
            groups(&tables),
            [
                (vec![25], 32, 6000),
                (vec![80], 64, 6000),
                (vec![80, 443], 24, 6000)
            ]
        );
        // A service that is removed takes its group with it.
        for change in plan::plan(&[], &tables).unwrap() {
            tables.apply(&change);
        }
        assert_eq!(groups(&tables), []);
    }

    #[test]
    fn an_entry_is_shown_with_the_prefix_of_its_group_until_its_time_is_up() {
        for (netmask, client, shown) in [
            (24, "198.51.100.0", "198.51.100.0/24"),
            (32, "198.51.100.7", "198.51.100.7"),
            (64, "2001:db8:1::", "2001:db8:1::/64"),
            (128, "2001:db8:1::7", "2001:db8:1::7"),
        ] {
            let groups = Groups::of(&tables(&[(80, None, netmask)]));
            let (number, group) = groups.iter().next().unwrap();
            let key = PersistenceKey {
                client: client.parse::<IpAddr>().unwrap().into(),
                group: number,
            };
            let entry = PersistenceEntry {
                server: "10.0.0.2".parse::<IpAddr>().unwrap().into(),
                last_used: u32::MAX,
                real: 3,
            };
            let kept = |now| group.kept_client(&key, &entry, Tick::with_hz(100), now);
            let found = kept(999).unwrap();
            assert_eq!(found.client.to_string(), shown);
            assert_eq!(found.server.to_string(), "10.0.0.2");
            assert_eq!(found.expires_in, Duration::from_secs(50));
            assert_eq!(kept(5999).unwrap().expires_in, Duration::ZERO);
            assert_eq!(kept(6000), None);
        }
    }
}
