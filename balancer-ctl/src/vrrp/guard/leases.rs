//! What the guard holds, for how long, and what it does when that ends. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::orders::{Farewell, HeldAddress, Holding, Order};

/// How long the kernel keeps an address that is not renewed, at least. The kernel counts in seconds.
const MIN_LIFETIME: Duration = Duration::from_secs(3);

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Remove the addresses that earlier guards have left.
    Sweep,
    /// Set these addresses of a group, or renew them, for this long.
    Set(u64, Vec<HeldAddress>, Duration),
    /// Remove these addresses, which a group had.
    Remove(Vec<HeldAddress>),
    /// Send this.
    Say(Farewell),
    /// Tell the daemon that this group's lease has ended.
    Report(u64),
}

/// The holdings.
#[derive(Debug, Default)]
pub struct Leases {
    held: BTreeMap<u64, Lease>,
}

#[derive(Debug)]
struct Lease {
    holding: Holding,
    ends: Instant,
    renew_at: Instant,
}

impl Leases {
    /// Takes an order at `now`; returns what is to be done.
    pub fn take(&mut self, order: Order, now: Instant) -> Vec<Action> {
        match order {
            Order::Sweep => vec![Action::Sweep],
            Order::Renew => {
                for lease in self.held.values_mut() {
                    lease.ends = now + lease.holding.lease;
                }
                Vec::new()
            }
            Order::Free { group } => match self.held.remove(&group) {
                Some(lease) => self.without(lease.holding.addresses),
                None => Vec::new(),
            },
            Order::Hold(holding) => {
                let group = holding.group;
                let lifetime = lifetime(&holding);
                let addresses = holding.addresses.clone();
                let lease = Lease {
                    ends: now + holding.lease,
                    renew_at: now + lifetime / 3,
                    holding,
                };
                let before = self.held.insert(group, lease);
                let before = before.map(|lease| lease.holding.addresses);
                let actions = self.without(before.unwrap_or_default());
                if actions.is_empty() {
                    vec![Action::Set(group, addresses, lifetime)]
                } else {
                    actions
                }
            }
        }
    }

    /// Removes those of these addresses that no lease holds, and sets all others again: with the first address of a network, the kernel
    /// may remove the rest, and one address may have got another length.
    fn without(&self, mut addresses: Vec<HeldAddress>) -> Vec<Action> {
        let mut held = self
            .held
            .values()
            .flat_map(|lease| &lease.holding.addresses);
        addresses.retain(|address| held.clone().all(|one| one != address));
        if addresses.is_empty() {
            return Vec::new();
        }
        let remaining = held.next().is_some();
        let mut actions = vec![Action::Remove(addresses)];
        if remaining {
            actions.extend(self.held.values().map(|lease| {
                let Holding {
                    group, addresses, ..
                } = &lease.holding;
                Action::Set(*group, addresses.clone(), lifetime(&lease.holding))
            }));
        }
        actions
    }

    /// When [`Self::run`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let leases = self.held.values();
        leases.flat_map(|lease| [lease.ends, lease.renew_at]).min()
    }

    /// Ends the leases that are over at `now`, and renews the addresses of the others.
    pub fn run(&mut self, now: Instant) -> Vec<Action> {
        let over = |lease: &Lease| lease.ends <= now;
        let ended: Vec<_> = self
            .held
            .extract_if(.., |_, lease| over(lease))
            .map(|(_, lease)| lease)
            .collect();
        let mut actions: Vec<_> = ended.into_iter().flat_map(Lease::end).collect();
        for lease in self.held.values_mut() {
            if lease.renew_at <= now {
                let lifetime = lifetime(&lease.holding);
                lease.renew_at = now + lifetime / 3;
                let addresses = lease.holding.addresses.clone();
                actions.push(Action::Set(lease.holding.group, addresses, lifetime));
            }
        }
        actions
    }

    /// Ends all leases: nobody renews them any more.
    pub fn end_all(&mut self) -> Vec<Action> {
        let leases = std::mem::take(&mut self.held).into_values();
        leases.flat_map(Lease::end).collect()
    }
}

impl Lease {
    /// The addresses go before others are told to take them.
    fn end(self) -> Vec<Action> {
        let mut actions = vec![Action::Remove(self.holding.addresses)];
        actions.extend(self.holding.farewells.into_iter().map(Action::Say));
        actions.push(Action::Report(self.holding.group));
        actions
    }
}

/// Lifetime of a holding's addresses: some more than the lease, so that a guard that is late is not overtaken by the kernel.
fn lifetime(holding: &Holding) -> Duration {
    (holding.lease * 3 / 2).max(MIN_LIFETIME)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const LEASE: Duration = Duration::from_millis(300);

    fn address(last: u8) -> HeldAddress {
        HeldAddress {
            index: 2,
            interface: "eth0".to_owned(),
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)),
            length: 24,
        }
    }

    fn farewell() -> Farewell {
        Farewell {
            interface: "eth0".to_owned(),
            index: 2,
            source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            destination: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18)),
            message: vec![0x31],
        }
    }

    fn holding(group: u64, addresses: &[HeldAddress]) -> Holding {
        Holding {
            group,
            lease: LEASE,
            addresses: addresses.to_vec(),
            farewells: vec![farewell()],
        }
    }

    fn set(group: u64, addresses: &[HeldAddress]) -> Action {
        Action::Set(group, addresses.to_vec(), MIN_LIFETIME)
    }

    #[test]
    fn what_is_no_longer_held_goes() {
        let now = Instant::now();
        let mut leases = Leases::default();
        let one = [address(80), address(81)];
        let hold = |addresses: &[HeldAddress]| Order::Hold(holding(1, addresses));
        assert_eq!(leases.take(hold(&one), now), [set(1, &one)]);
        let other = [address(81), address(82)];
        assert_eq!(
            leases.take(hold(&other), now),
            [Action::Remove(vec![address(80)]), set(1, &other)]
        );
        let free = Order::Free { group: 1 };
        assert_eq!(
            leases.take(free.clone(), now),
            [Action::Remove(other.to_vec())]
        );
        assert_eq!(leases.take(free, now), []);
        assert_eq!(leases.next_deadline(), None);
        assert_eq!(leases.take(Order::Sweep, now), [Action::Sweep]);
    }

    #[test]
    fn what_another_group_holds_stays_and_another_length_comes_last() {
        let now = Instant::now();
        let mut leases = Leases::default();
        let hold = |group, addresses: &[HeldAddress]| Order::Hold(holding(group, addresses));
        leases.take(hold(1, &[address(80), address(81)]), now);
        // An address goes from one group to another, which is told first.
        assert_eq!(
            leases.take(hold(2, &[address(81)]), now),
            [set(2, &[address(81)])]
        );
        assert_eq!(
            leases.take(hold(1, &[address(80)]), now),
            [set(1, &[address(80)])]
        );
        let long = HeldAddress {
            length: 32,
            ..address(80)
        };
        let again = [
            Action::Remove(vec![address(80)]),
            set(1, std::slice::from_ref(&long)),
            set(2, &[address(81)]),
        ];
        assert_eq!(
            leases.take(hold(1, std::slice::from_ref(&long)), now),
            again
        );
        let free = [Action::Remove(vec![long]), set(2, &[address(81)])];
        assert_eq!(leases.take(Order::Free { group: 1 }, now), free);
    }

    #[test]
    fn a_lease_that_is_not_renewed_ends_with_a_farewell() {
        let now = Instant::now();
        let mut leases = Leases::default();
        leases.take(Order::Hold(holding(1, &[address(80)])), now);
        assert_eq!(leases.next_deadline(), Some(now + LEASE));
        let later = now + LEASE / 2;
        assert_eq!(leases.take(Order::Renew, later), []);
        assert_eq!(leases.run(now + LEASE), []);
        let ends = later + LEASE;
        assert_eq!(leases.next_deadline(), Some(ends));
        let gone = [
            Action::Remove(vec![address(80)]),
            Action::Say(farewell()),
            Action::Report(1),
        ];
        assert_eq!(leases.run(ends), gone);
        assert_eq!(leases.run(ends), []);
    }

    #[test]
    fn addresses_are_renewed_long_before_the_kernel_removes_them() {
        let now = Instant::now();
        let mut leases = Leases::default();
        leases.take(Order::Hold(holding(1, &[address(80)])), now);
        let mut renewed = 0;
        for tenth in 1..=60 {
            let now = now + tenth * LEASE / 3;
            leases.take(Order::Renew, now);
            let actions = leases.run(now);
            renewed += actions.len();
            assert!(
                actions
                    .iter()
                    .all(|action| *action == set(1, &[address(80)]))
            );
        }
        assert_eq!(renewed, 6, "in 6 s");
    }

    #[test]
    fn when_the_daemon_is_gone_all_leases_end() {
        let now = Instant::now();
        let mut leases = Leases::default();
        for group in 1..=2 {
            let last = u8::try_from(group).unwrap();
            leases.take(Order::Hold(holding(group, &[address(last)])), now);
        }
        let gone = [
            Action::Remove(vec![address(1)]),
            Action::Say(farewell()),
            Action::Report(1),
            Action::Remove(vec![address(2)]),
            Action::Say(farewell()),
            Action::Report(2),
        ];
        assert_eq!(leases.end_all(), gone);
        assert_eq!(leases.end_all(), []);
    }
}
