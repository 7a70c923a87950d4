//! Versions of routes and next hops: when one has changed, its version is bumped, and flows that use it look the route
//! up again. See [`balancer_common::next_hop`].
//!
//! All accesses are atomic, so that the data plane's owner and the watch thread need no lock.

use std::{
    collections::HashSet,
    mem::offset_of,
    net::IpAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::Context;
use balancer_common::{
    addr::Addr,
    next_hop::{
        NextHop, PROBES, ROUTE_SLOTS, RouteVersions, SLOT_BITS_V4, SLOT_BITS_V6, place, slot,
    },
};

use super::{map::Map, mapped_memory::MappedMemory};
use crate::{
    model::prefix::Prefix,
    netlink::{monitor, neighbour},
};

/// A prefix that is at most this many bits shorter than a slot's bumps its slots one by one; a shorter one bumps all.
const MAX_SHORTER_BITS: u8 = 8;

/// How often a next hop that is being written is read before all routes are bumped instead. The packet program writes
/// it in less than a microsecond, unless it is interrupted.
const MAX_READS: u32 = 10_000;

/// Handle of the mapped versions, shared between threads.
#[derive(Clone, Debug)]
pub struct RouteVersionTable(Arc<Versions>);

#[derive(Debug)]
struct Versions {
    routes: MappedMemory<RouteVersions>,
    next_hops: MappedMemory<NextHop>,
}

/// The slots of `ROUTE_VERSIONS` that a change affects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slots {
    /// These slots.
    Some(HashSet<usize>),
    /// All.
    All,
}

/// The slots of all addresses in a prefix.
#[must_use]
pub fn slots_of_prefix(prefix: Prefix) -> Slots {
    let bits = match prefix.address {
        IpAddr::V4(_) => SLOT_BITS_V4,
        IpAddr::V6(_) => SLOT_BITS_V6,
    };
    let shorter = bits.saturating_sub(prefix.length);
    if shorter > MAX_SHORTER_BITS {
        return Slots::All;
    }
    let covered = (0_u32..1 << shorter).map(|number| {
        let address = match prefix.address {
            IpAddr::V4(v4) => {
                let number = number << (u32::BITS - u32::from(bits));
                IpAddr::V4((v4.to_bits() | number).into())
            }
            IpAddr::V6(v6) => {
                let number = u128::from(number) << (u128::BITS - u32::from(bits));
                IpAddr::V6((v6.to_bits() | number).into())
            }
        };
        slot(&Addr::from(address))
    });
    Slots::Some(covered.collect())
}

/// The slots of all changed routes.
fn slots_of_changes(routes: &monitor::RouteChanges) -> Slots {
    let monitor::RouteChanges::To(prefixes) = routes else {
        return Slots::All;
    };
    let mut all = HashSet::new();
    for prefix in prefixes {
        match slots_of_prefix(*prefix) {
            Slots::Some(slots) => all.extend(slots),
            Slots::All => return Slots::All,
        }
        if all.len() == ROUTE_SLOTS {
            return Slots::All;
        }
    }
    Slots::Some(all)
}

impl RouteVersionTable {
    /// Opens the maps pinned in `directory`.
    ///
    /// # Errors
    /// A map is missing, or cannot be mapped.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let routes = Map::<u32, RouteVersions>::open(directory, "ROUTE_VERSIONS")?;
        let next_hops = Map::<u32, NextHop>::open(directory, "NEXT_HOPS")?;
        Ok(Self(Arc::new(Versions {
            routes: routes
                .memory()
                .context("cannot read the versions of routes")?,
            next_hops: next_hops.memory().context("cannot read the next hops")?,
        })))
    }

    /// Bumps the versions that these changes affect.
    pub fn bump_versions(&self, routes: &monitor::RouteChanges) {
        match slots_of_changes(routes) {
            Slots::Some(slots) => slots.into_iter().for_each(|slot| self.bump_slot(slot)),
            Slots::All => self.bump_all(),
        }
    }

    /// Bumps all versions: every flow looks its route up again.
    pub fn bump_all(&self) {
        (0..ROUTE_SLOTS).for_each(|slot| self.bump_slot(slot));
    }

    fn bump_slot(&self, slot: usize) {
        if let Some(version) = self.0.routes.word(0, 4 * slot) {
            version.fetch_add(2, Ordering::Release);
        }
    }

    /// Bumps the version of a neighbour, if it is the next hop of any flow.
    pub fn bump_neighbour(&self, neighbour: neighbour::NextHop) {
        let (ifindex, address) = neighbour;
        let address = Addr::from(address);
        let first = place(&address, ifindex) as usize;
        let count = self.0.next_hops.count();
        for probe in 0..PROBES as usize {
            let row = (first + probe) % count;
            let Some(version) = self.0.next_hops.word(row, offset_of!(NextHop, version)) else {
                continue;
            };
            let is_it = || {
                let row = self.0.next_hops.read(row);
                row.is_some_and(|row| (row.ifindex, row.address) == (ifindex, address))
            };
            if !bump_row(version, is_it) {
                self.bump_all();
                return;
            }
        }
    }
}

/// Bumps the version of a row of `NEXT_HOPS` if `is_it` says, while the row is not being written, that it is the right
/// one. Returns false if it was being written all the time (odd version).
fn bump_row(version: &AtomicU32, is_it: impl Fn() -> bool) -> bool {
    for _ in 0..MAX_READS {
        let before = version.load(Ordering::Acquire);
        if before % 2 == 1 {
            std::hint::spin_loop();
            continue;
        }
        let is_meant = before != 0 && is_it();
        std::sync::atomic::fence(Ordering::Acquire);
        if !is_meant {
            if version.load(Ordering::Relaxed) == before {
                return true;
            }
            continue;
        }
        let after = before.wrapping_add(2);
        // Version 0 marks a row that was never used.
        let after = if after == 0 { 2 } else { after };
        if version
            .compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix::of(address.parse().unwrap(), length.parse().unwrap())
    }

    fn slot_of(address: &str) -> usize {
        slot(&Addr::from(address.parse::<IpAddr>().unwrap()))
    }

    fn some(addresses: &[&str]) -> Slots {
        Slots::Some(addresses.iter().map(|address| slot_of(address)).collect())
    }

    #[test]
    fn a_prefix_touches_the_slots_of_the_addresses_in_it() {
        for (text, touched) in [
            ("198.51.100.0/24", some(&["198.51.0.0"])),
            ("198.51.100.7/32", some(&["198.51.255.1"])),
            ("198.51.0.0/16", some(&["198.51.1.1"])),
            ("198.50.0.0/15", some(&["198.50.9.9", "198.51.9.9"])),
            (
                "198.48.0.0/14",
                some(&["198.48.0.1", "198.49.0.1", "198.50.0.1", "198.51.0.1"]),
            ),
            ("198.0.0.0/7", Slots::All),
            ("0.0.0.0/0", Slots::All),
            ("2001:db8::/32", some(&["2001:db8:ffff::1"])),
            ("2001:db8:1:2::/64", some(&["2001:db8::"])),
            ("2001:db8::1/128", some(&["2001:db8::"])),
            ("2001:db8::/31", some(&["2001:db8::", "2001:db9::"])),
            ("2001:d00::/23", Slots::All),
            ("fe80::/10", Slots::All),
            ("::/0", Slots::All),
        ] {
            assert_eq!(slots_of_prefix(prefix(text)), touched, "{text}");
        }
        let Slots::Some(eight) = slots_of_prefix(prefix("10.0.0.0/8")) else {
            panic!("256 slots are followed one by one");
        };
        for second in 0..=255 {
            assert!(eight.contains(&slot_of(&format!("10.{second}.3.4"))));
        }
        let Slots::Some(v6) = slots_of_prefix(prefix("2001:d00::/24")) else {
            panic!("as many of IPv6");
        };
        assert!(v6.contains(&slot_of("2001:db8::1")) && v6.contains(&slot_of("2001:dff::1")));
    }

    fn versions() -> RouteVersionTable {
        RouteVersionTable(Arc::new(Versions {
            routes: MappedMemory::anonymous(1).unwrap(),
            next_hops: MappedMemory::anonymous(balancer_common::next_hop::NEXT_HOPS).unwrap(),
        }))
    }

    /// The slots whose version is not `all`, with their version.
    fn others(routes: &RouteVersionTable, all: u32) -> Vec<(usize, u32)> {
        let versions = routes.0.routes.read(0).unwrap().of;
        let versions = versions.into_iter().enumerate();
        versions.filter(|(_, version)| *version != all).collect()
    }

    #[test]
    fn what_did_not_change_keeps_its_version() {
        let routes = versions();
        assert_eq!(others(&routes, 0), []);
        let to = |prefixes: &[&str]| {
            monitor::RouteChanges::To(prefixes.iter().map(|text| prefix(text)).collect())
        };
        routes.bump_versions(&to(&["198.51.100.0/24", "198.51.7.0/24"]));
        assert_eq!(others(&routes, 0), [(slot_of("198.51.0.0"), 2)]);
        routes.bump_versions(&to(&["198.51.100.0/24", "0.0.0.0/0"]));
        assert_eq!(others(&routes, 2), [(slot_of("198.51.0.0"), 4)]);
        routes.bump_versions(&monitor::RouteChanges::All);
        assert_eq!(others(&routes, 4), [(slot_of("198.51.0.0"), 6)]);
        routes.bump_versions(&to(&[]));
        assert_eq!(others(&routes, 4), [(slot_of("198.51.0.0"), 6)]);
    }

    /// Writes a row of `NEXT_HOPS`.
    fn put(routes: &RouteVersionTable, row: usize, version: u32, hop: neighbour::NextHop) {
        let value = NextHop {
            version,
            ifindex: hop.0,
            address: Addr::from(hop.1),
            ..NextHop::default()
        };
        let place = routes.0.next_hops.pointer(row).unwrap();
        // SAFETY: the memory is this test's alone.
        unsafe { place.write(value) };
    }

    fn version(routes: &RouteVersionTable, row: usize) -> u32 {
        routes.0.next_hops.read(row).unwrap().version
    }

    #[test]
    fn a_changed_neighbour_bumps_only_its_own_row() {
        let routes = versions();
        let address: IpAddr = "192.168.0.2".parse().unwrap();
        let (hop, other) = ((3, address), (4, address));
        let first = place(&Addr::from(address), 3) as usize;
        let rows = balancer_common::next_hop::NEXT_HOPS as usize;
        // Its row is the last one that it may have; another interface's neighbour has the first.
        let own = (first + PROBES as usize - 1) % rows;
        put(&routes, first, 8, other);
        put(&routes, own, 6, hop);
        routes.bump_neighbour(hop);
        assert_eq!((version(&routes, first), version(&routes, own)), (8, 8));
        // A neighbour that is no flow's next hop changes no version.
        routes.bump_neighbour((3, "192.168.0.77".parse().unwrap()));
        assert_eq!((version(&routes, first), version(&routes, own)), (8, 8));
        put(&routes, own, u32::MAX - 1, hop);
        routes.bump_neighbour(hop);
        assert_eq!(version(&routes, own), 2);
        assert_eq!(others(&routes, 0), []);
        // A row that stays in writing: all versions are bumped.
        put(&routes, own, 7, hop);
        routes.bump_neighbour(hop);
        assert_eq!(version(&routes, own), 7);
        assert_eq!(others(&routes, 2), []);
    }

    #[test]
    fn a_row_that_is_being_written_is_bumped_afterwards() {
        let routes = versions();
        let hop = (3, "192.168.0.2".parse().unwrap());
        let row = place(&Addr::from(hop.1), 3) as usize;
        put(&routes, row, 2, hop);
        let word = routes.0.next_hops.word(row, 0).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let mut bumped = 0;
        std::thread::scope(|threads| {
            let writer = threads.spawn(|| {
                let mut writes = 0;
                while !stop.load(Ordering::Relaxed) {
                    let version = word.load(Ordering::Acquire);
                    if version.is_multiple_of(2)
                        && word
                            .compare_exchange(
                                version,
                                version.wrapping_add(1),
                                Ordering::AcqRel,
                                Ordering::Relaxed,
                            )
                            .is_ok()
                    {
                        word.store(version.wrapping_add(2), Ordering::Release);
                        writes += 1;
                    }
                }
                writes
            });
            for _ in 0..20_000 {
                routes.bump_neighbour(hop);
                bumped += 1;
            }
            stop.store(true, Ordering::Relaxed);
            let writes: u32 = writer.join().unwrap();
            let all = routes.0.routes.read(0).unwrap().of[0] / 2;
            assert_eq!(
                word.load(Ordering::Relaxed),
                2 + 2 * (writes + bumped - all)
            );
        });
    }
}
