//! Manages neighbour entries: has the kernel resolve the next hops that the data plane sends to, makes those managed
//! that have answered, and releases them when they are no longer needed.
//!
//! A next hop that does not answer is probed less and less often (`ProbePacing`), and only so many are probed at a
//! time that the kernel's table, which all network namespaces share, keeps room for others. The kernel itself would
//! probe a managed entry three times every five seconds for ever, so one that stops answering is made an ordinary one.
//!
//! The entries that are made managed are noted in a file beforehand, so that a later daemon, or `--detach`, releases
//! those of a killed one, and none that others made managed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use netlink_packet_route::neighbour::NeighbourState;

use super::{
    Netlink,
    neighbour::{Neighbour, NextHop, Resolution, delete, list, release, resolve},
    neighbour_table::{self, NamespaceKind, NeighbourTable},
    probe_pacing::ProbePacing,
    route::{self, RouteTarget, default_gateways},
};
use crate::os::boot_note::BootNote;

/// Default gateways are listed at most once per this interval.
const GATEWAY_LIST_INTERVAL: Duration = Duration::from_secs(10);
/// From one round to the next while all next hops are resolved, or none is due for a probe.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// From one round to the next while some are unresolved. Changes of neighbours do not shorten it.
pub const BUSY_INTERVAL: Duration = Duration::from_secs(1);
/// From a round with probes to the next: most next hops answer at once, and then leave room for others.
const AFTER_PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// The neighbour entries of this namespace.
type NeighbourEntries = BTreeMap<NextHop, Neighbour>;

/// Keeps the neighbour entries of all real servers' next hops and of default gateways fresh.
#[derive(Debug)]
pub struct NeighbourManager {
    /// Default gateways, kept until routes change and [`GATEWAY_LIST_INTERVAL`] has passed, since finding them takes a
    /// dump of all routes.
    gateways: Option<BTreeSet<NextHop>>,
    gateways_listed_at: Option<Instant>,
    gateways_stale: bool,
    /// Where packets to each real server go, kept until routes change: looking up ten thousand takes almost 100 ms.
    targets: BTreeMap<IpAddr, RouteTarget>,
    /// When unresolved next hops are probed.
    pacing: ProbePacing,
    /// Entries that this instance made managed.
    managed: BTreeSet<NextHop>,
    /// What is wrong with the kernel's tables: one sentence each.
    warnings: Vec<String>,
    /// Which entries this instance made managed.
    note: BootNote,
}

impl NeighbourManager {
    /// Reads the note of an instance from its state directory.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn open(instance: Option<&str>) -> anyhow::Result<Self> {
        Self::at(BootNote::of(instance, "neighbours")?)
    }

    fn at(note: BootNote) -> anyhow::Result<Self> {
        Ok(Self {
            gateways: None,
            gateways_listed_at: None,
            gateways_stale: false,
            targets: BTreeMap::new(),
            pacing: ProbePacing::default(),
            warnings: Vec::new(),
            managed: note.read()?.lines().filter_map(parse_line).collect(),
            note,
        })
    }

    /// Routes have changed: everything is looked up again.
    pub fn routes_changed(&mut self) {
        self.gateways_stale = true;
        self.targets.clear();
    }

    /// An interface may have got its carrier back: next hops that did not answer are probed at once.
    pub fn links_changed(&mut self, now: Instant) {
        self.pacing.make_all_due(now);
    }

    /// Where packets to each real server go, as far as looked up since routes changed last.
    pub const fn targets(&self) -> &BTreeMap<IpAddr, RouteTarget> {
        &self.targets
    }

    /// What is wrong with the kernel's tables: one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn gateways(&mut self, netlink: &mut Netlink) -> io::Result<BTreeSet<NextHop>> {
        let due = self.gateways_stale
            && self
                .gateways_listed_at
                .is_none_or(|listed| listed.elapsed() >= GATEWAY_LIST_INTERVAL);
        match self.gateways.take().filter(|_| !due) {
            Some(gateways) => Ok(self.gateways.insert(gateways).clone()),
            None => {
                let gateways = default_gateways(netlink)?;
                self.gateways_stale = false;
                self.gateways_listed_at = Some(Instant::now());
                Ok(self.gateways.insert(gateways).clone())
            }
        }
    }

    /// Keeps the next hops to `reals`, which are all real servers, and the default gateways resolved; releases all
    /// others. Returns the time until the next call.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn run_maintenance(
        &mut self,
        netlink: &mut Netlink,
        reals: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> anyhow::Result<Duration> {
        self.targets.retain(|real, _| reals.contains(real));
        let hops = self.next_hops(netlink, reals)?;
        let known = list(netlink).context("cannot list the neighbours")?;
        let unneeded: BTreeSet<_> = self.managed.difference(&hops).copied().collect();
        release_entries(netlink, &unneeded, &known);
        let managed = self.managed.difference(&unneeded).copied().collect();
        self.write_note(managed)?;
        self.pacing.retain(&hops);
        let tables = neighbour_table::read(netlink).context("cannot read the neighbour tables")?;
        self.check_capacity(&tables, &hops, &known);
        self.probe_round(netlink, &hops, &known, &tables, now)
    }

    /// Resolves the next hops to `reals`, which are new ones. Returns the time until the next call of
    /// [`Self::run_maintenance`].
    ///
    /// # Errors
    /// The kernel refused.
    pub fn resolve_new(
        &mut self,
        netlink: &mut Netlink,
        reals: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> anyhow::Result<Duration> {
        let hops = self.next_hops(netlink, reals)?;
        let known = list(netlink).context("cannot list the neighbours")?;
        let tables = neighbour_table::read(netlink).context("cannot read the neighbour tables")?;
        self.probe_round(netlink, &hops, &known, &tables, now)
    }

    /// Releases all entries.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn release_all(&mut self, netlink: &mut Netlink) -> anyhow::Result<()> {
        if !self.managed.is_empty() {
            let known = list(netlink).context("cannot list the neighbours")?;
            release_entries(netlink, &self.managed, &known);
        }
        self.write_note(BTreeSet::new())
    }

    fn next_hops(
        &mut self,
        netlink: &mut Netlink,
        reals: &BTreeSet<IpAddr>,
    ) -> anyhow::Result<BTreeSet<NextHop>> {
        let mut hops = self
            .gateways(netlink)
            .context("cannot list the default routes")?;
        for real in reals {
            let known = match self.targets.get(real) {
                Some(target) => *target,
                None => {
                    let target = route::lookup(netlink, *real)
                        .with_context(|| format!("cannot ask for the route to {real}"))?;
                    self.targets.insert(*real, target);
                    target
                }
            };
            hops.extend(known.next_hop());
        }
        Ok(hops)
    }

    /// Makes resolved entries managed, and probes unresolved ones as far as the pacing and the kernel's tables allow.
    fn probe_round(
        &mut self,
        netlink: &mut Netlink,
        hops: &BTreeSet<NextHop>,
        known: &NeighbourEntries,
        tables: &[NeighbourTable; 2],
        now: Instant,
    ) -> anyhow::Result<Duration> {
        let entry = |hop: &NextHop| known.get(hop);
        let ordinary = hops
            .iter()
            .filter(|hop| !entry(hop).is_some_and(|entry| entry.fixed));
        let (resolved, unresolved): (BTreeSet<NextHop>, BTreeSet<NextHop>) =
            ordinary.partition(|hop| entry(hop).is_some_and(|entry| entry.mac.is_some()));
        let answered = resolved.iter().any(|hop| self.pacing.was_probed(hop));
        self.manage(netlink, &resolved, known)?;
        let unresolved = self.unmanage(netlink, unresolved, known)?;
        self.pacing.forget(hops.difference(&unresolved));
        self.pacing.add(&unresolved, now);
        let asking = |hop: &NextHop| {
            entry(hop).is_some_and(|entry| entry.state == NeighbourState::Incomplete)
        };
        let room = [false, true].map(|is_v6| {
            let of_family = |hop: &&NextHop| hop.1.is_ipv6() == is_v6;
            let uncounted = known
                .iter()
                .filter(|(hop, entry)| of_family(hop) && entry.uncounted);
            let unresolved = known
                .keys()
                .filter(|hop| of_family(hop) && unresolved.contains(hop));
            let asking = known.keys().filter(|hop| of_family(hop) && asking(hop));
            tables[usize::from(is_v6)]
                .budget(unresolved.count(), uncounted.count())
                .saturating_sub(asking.count())
        });
        let batch = self.pacing.next_batch(room, asking, now);
        for hop in &batch.hops {
            if let Err(error) = resolve(netlink, *hop, Resolution::Once) {
                // The interface is down, or has just gone; or the table is full.
                tracing::debug!(address = %hop.1, %error, "neighbour not probed");
            }
        }
        self.delete_failed(netlink, &unresolved, &batch.hops, known);
        Ok(if !batch.hops.is_empty() || batch.others_wait && answered {
            AFTER_PROBE_INTERVAL
        } else if batch.others_wait || unresolved.iter().any(asking) {
            BUSY_INTERVAL
        } else {
            let due = self.pacing.next_due();
            due.map_or(IDLE_INTERVAL, |due| {
                due.saturating_duration_since(now)
                    .clamp(BUSY_INTERVAL, IDLE_INTERVAL)
            })
        })
    }

    /// Makes resolved entries managed that are not yet.
    fn manage(
        &mut self,
        netlink: &mut Netlink,
        resolved: &BTreeSet<NextHop>,
        known: &NeighbourEntries,
    ) -> anyhow::Result<()> {
        let fresh: Vec<_> = resolved
            .iter()
            .filter(|hop| !known.get(hop).is_some_and(|entry| entry.managed))
            .copied()
            .collect();
        self.write_note(self.managed.iter().chain(&fresh).copied().collect())?;
        for hop in fresh {
            if let Err(error) = resolve(netlink, hop, Resolution::Managed) {
                // The interface is down, or has just gone.
                tracing::debug!(address = %hop.1, %error, "neighbour not made managed");
            }
        }
        Ok(())
    }

    /// Makes entries of ours that stopped answering ordinary ones. Returns the next hops to probe: without those that
    /// others made managed, which the kernel probes itself.
    fn unmanage(
        &mut self,
        netlink: &mut Netlink,
        mut unresolved: BTreeSet<NextHop>,
        known: &NeighbourEntries,
    ) -> anyhow::Result<BTreeSet<NextHop>> {
        let ours: BTreeSet<_> = unresolved.intersection(&self.managed).copied().collect();
        release_entries(netlink, &ours, known);
        self.write_note(self.managed.difference(&ours).copied().collect())?;
        unresolved
            .retain(|hop| ours.contains(hop) || !known.get(hop).is_some_and(|entry| entry.managed));
        Ok(unresolved)
    }

    /// Deletes the entries of next hops that were probed and did not answer.
    fn delete_failed(
        &self,
        netlink: &mut Netlink,
        unresolved: &BTreeSet<NextHop>,
        asked_now: &[NextHop],
        known: &NeighbourEntries,
    ) {
        let asked_now: BTreeSet<_> = asked_now.iter().collect();
        let has_failed = |hop: &&NextHop| {
            known
                .get(hop)
                .is_some_and(|entry| entry.state == NeighbourState::Failed)
        };
        let in_vain = unresolved
            .iter()
            .filter(has_failed)
            .filter(|hop| self.pacing.was_probed(hop) && !asked_now.contains(hop));
        for hop in in_vain {
            if let Err(error) = delete(netlink, *hop) {
                tracing::debug!(address = %hop.1, %error, "neighbour not deleted");
            }
        }
    }

    /// Sets the warnings about kernel tables that are too small.
    fn check_capacity(
        &mut self,
        tables: &[NeighbourTable; 2],
        hops: &BTreeSet<NextHop>,
        known: &NeighbourEntries,
    ) {
        let warnings = [false, true].map(|is_v6| {
            let table = tables[usize::from(is_v6)];
            // Permanent entries do not count against the limit, and those of multicast groups are dropped first.
            let is_fixed = |hop: &NextHop| known.get(hop).is_some_and(|entry| entry.fixed);
            let ours = hops.iter().filter(|hop| hop.1.is_ipv6() == is_v6);
            let wanted = ours.filter(|hop| !is_fixed(hop)).count();
            let held = known
                .keys()
                .filter(|hop| hop.1.is_ipv6() == is_v6 && (hops.contains(hop) || is_fixed(hop)));
            let others = table.entries.saturating_sub(held.count());
            table.capacity_warning(wanted, others, NamespaceKind::current())
        });
        self.warnings = warnings.into_iter().flatten().collect();
    }

    /// Writes to the note which entries this instance made managed.
    fn write_note(&mut self, managed: BTreeSet<NextHop>) -> anyhow::Result<()> {
        if managed == self.managed {
            return Ok(());
        }
        let lines = managed
            .iter()
            .map(|(interface, address)| format!("{interface} {address}\n"));
        self.note.write(&lines.collect::<String>())?;
        self.managed = managed;
        Ok(())
    }
}

/// Parses a line of the note: interface index and address.
fn parse_line(line: &str) -> Option<NextHop> {
    let (interface, address) = line.split_once(' ')?;
    Some((interface.parse().ok()?, address.parse().ok()?))
}

/// Makes those of `hops` that are still managed ordinary entries.
fn release_entries(
    netlink: &mut Netlink,
    hops: &BTreeSet<NextHop>,
    known: &BTreeMap<NextHop, Neighbour>,
) {
    for hop in hops {
        if let Some(entry) = known.get(hop).filter(|entry| entry.managed)
            && let Err(error) = release(netlink, *hop, entry)
        {
            // The interface has just gone, and the entry with it.
            tracing::debug!(address = %hop.1, %error, "neighbour not released");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::state_file::StateFile;

    #[test]
    fn managed_entries_are_noted_until_they_are_released() {
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("one/neighbours");
        let hops = BTreeSet::from([
            (2, "10.0.0.2".parse().unwrap()),
            (3, "fe80::1".parse().unwrap()),
        ]);
        let manager =
            |boot: &str| NeighbourManager::at(BootNote::at(StateFile::at(&note), boot)).unwrap();
        manager("a").write_note(hops.clone()).unwrap();
        assert_eq!(manager("b").managed, BTreeSet::new(), "after a reboot");
        let mut manager_of_next = manager("a");
        assert_eq!(manager_of_next.managed, hops);
        manager_of_next.write_note(BTreeSet::new()).unwrap();
        assert!(!directory.path().join("one").exists());
        assert_eq!(manager("a").managed, BTreeSet::new());
    }
}
