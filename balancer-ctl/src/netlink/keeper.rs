//! The keeper of neighbour entries: has next hops resolved that the data plane sends to, makes those managed that have
//! answered, and gives them back.
//!
//! A next hop that does not answer is asked for at a falling pace (`Pace`), and only so many at a time that the kernel's
//! table, which all network namespaces share, keeps room for others. The kernel itself would ask for a managed entry
//! three times every five seconds for ever, so one that does not answer any more is made an ordinary one.
//!
//! Which ones were made managed is noted in a file before it is done, so that a later daemon, or `--detach`, gives back
//! what a killed one took, and nothing that others made managed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use netlink_packet_route::neighbour::NeighbourState;

use super::{
    Netlink,
    neighbour::{ManagedEntry, Neighbour, NextHop, delete, keep, list, release},
    neighbour_table::{self, Namespace, Table},
    pace::Pace,
    route::{Way, default_gateways, way},
};

/// How often default gateways are looked for at most.
const GATEWAYS_EVERY: Duration = Duration::from_secs(10);
/// From one round to the next while all next hops are resolved, or none is due.
const IDLE: Duration = Duration::from_secs(5);
/// While some do not resolve. Also the least time from one round to the next, whatever neighbours do.
pub const BUSY: Duration = Duration::from_secs(1);
/// After some were asked for: most answer at once, and then make room for the next.
const EXPECTANT: Duration = Duration::from_millis(100);

/// The entries of a namespace.
type Known = BTreeMap<NextHop, Neighbour>;

/// Keeps the neighbour entries of all reals' next hops and of default gateways fresh.
#[derive(Debug)]
pub struct NeighbourManager {
    /// Default gateways, until routes change and [`GATEWAYS_EVERY`] has passed: finding them takes a list of all routes.
    gateways: Option<BTreeSet<NextHop>>,
    listed: Option<Instant>,
    stale: bool,
    /// Where each real server is reached, until routes change: asking for ten thousand takes the better part of 100 ms.
    ways: BTreeMap<IpAddr, Way>,
    /// Next hops that are not resolved.
    pace: Pace,
    /// Entries that were made managed.
    managed: BTreeSet<NextHop>,
    /// What is wrong with the kernel's tables: a sentence each.
    warnings: Vec<String>,
    note: PathBuf,
}

impl NeighbourManager {
    /// Reads the note of an instance.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn open(instance: Option<&str>) -> anyhow::Result<Self> {
        let mut state = PathBuf::from("/var/lib/balancer");
        state.extend(instance);
        Self::at(&state.join("neighbours"))
    }

    fn at(note: &Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(note) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", note.display()));
            }
        };
        Ok(Self {
            gateways: None,
            listed: None,
            stale: false,
            ways: BTreeMap::new(),
            pace: Pace::default(),
            warnings: Vec::new(),
            managed: text.lines().filter_map(hop).collect(),
            note: note.to_path_buf(),
        })
    }

    /// All ways may be others now.
    pub fn routes_changed(&mut self) {
        self.stale = true;
        self.ways.clear();
    }

    /// An interface may have come back: whoever did not answer may now.
    pub fn links_changed(&mut self, now: Instant) {
        self.pace.start_over(now);
    }

    /// Where packets to each real server go, as far as that has been asked since routes changed last.
    pub const fn ways(&self) -> &BTreeMap<IpAddr, Way> {
        &self.ways
    }

    /// What is wrong with the kernel's tables: a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn gateways(&mut self, netlink: &mut Netlink) -> io::Result<BTreeSet<NextHop>> {
        let due = self.stale
            && self
                .listed
                .is_none_or(|listed| listed.elapsed() >= GATEWAYS_EVERY);
        match self.gateways.take().filter(|_| !due) {
            Some(gateways) => Ok(self.gateways.insert(gateways).clone()),
            None => {
                let gateways = default_gateways(netlink)?;
                self.stale = false;
                self.listed = Some(Instant::now());
                Ok(self.gateways.insert(gateways).clone())
            }
        }
    }

    /// Looks after the next hops towards `reals`, which are all there are, and the default gateways; gives back all
    /// others. Returns when it wants to be called again.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn run_maintenance(
        &mut self,
        netlink: &mut Netlink,
        reals: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> anyhow::Result<Duration> {
        self.ways.retain(|real, _| reals.contains(real));
        let hops = self.hops(netlink, reals)?;
        let known = list(netlink).context("cannot list the neighbours")?;
        let unneeded: BTreeSet<_> = self.managed.difference(&hops).copied().collect();
        release_all(netlink, &unneeded, &known);
        let managed = self.managed.difference(&unneeded).copied().collect();
        self.note(managed)?;
        self.pace.keep_only(&hops);
        let tables = neighbour_table::read(netlink).context("cannot read the neighbour tables")?;
        self.judge(&tables, &hops, &known);
        self.round(netlink, &hops, &known, &tables, now)
    }

    /// Looks after the next hops towards `reals`, which come to those there are. Returns when [`NeighbourManager::tend`] is to be
    /// called.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn reach(
        &mut self,
        netlink: &mut Netlink,
        reals: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> anyhow::Result<Duration> {
        let hops = self.hops(netlink, reals)?;
        let known = list(netlink).context("cannot list the neighbours")?;
        let tables = neighbour_table::read(netlink).context("cannot read the neighbour tables")?;
        self.round(netlink, &hops, &known, &tables, now)
    }

    /// Gives all entries back.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn give_back(&mut self, netlink: &mut Netlink) -> anyhow::Result<()> {
        if !self.managed.is_empty() {
            let known = list(netlink).context("cannot list the neighbours")?;
            release_all(netlink, &self.managed, &known);
        }
        self.note(BTreeSet::new())
    }

    fn hops(
        &mut self,
        netlink: &mut Netlink,
        reals: &BTreeSet<IpAddr>,
    ) -> anyhow::Result<BTreeSet<NextHop>> {
        let mut hops = self
            .gateways(netlink)
            .context("cannot list the default routes")?;
        for real in reals {
            let known = match self.ways.get(real) {
                Some(way) => *way,
                None => {
                    let way = way(netlink, *real)
                        .with_context(|| format!("cannot ask for the route to {real}"))?;
                    self.ways.insert(*real, way);
                    way
                }
            };
            hops.extend(known.hop());
        }
        Ok(hops)
    }

    /// Makes managed what has resolved, and asks for what has not, as far as pace and the kernel's tables allow.
    fn round(
        &mut self,
        netlink: &mut Netlink,
        hops: &BTreeSet<NextHop>,
        known: &Known,
        tables: &[Table; 2],
        now: Instant,
    ) -> anyhow::Result<Duration> {
        let entry = |hop: &NextHop| known.get(hop);
        let ordinary = hops
            .iter()
            .filter(|hop| !entry(hop).is_some_and(|entry| entry.fixed));
        let (resolved, unresolved): (BTreeSet<NextHop>, BTreeSet<NextHop>) =
            ordinary.partition(|hop| entry(hop).is_some_and(|entry| entry.mac.is_some()));
        let answered = resolved.iter().any(|hop| self.pace.has_asked(hop));
        self.manage(netlink, &resolved, known)?;
        let unresolved = self.unmanage(netlink, unresolved, known)?;
        self.pace.forget(hops.difference(&unresolved));
        self.pace.add(&unresolved, now);
        let asking = |hop: &NextHop| {
            entry(hop).is_some_and(|entry| entry.state == NeighbourState::Incomplete)
        };
        let room = [false, true].map(|is_v6| {
            let of_family = |hop: &&NextHop| hop.1.is_ipv6() == is_v6;
            let permanent = known
                .iter()
                .filter(|(hop, entry)| of_family(hop) && entry.state == NeighbourState::Permanent);
            let unresolved = known
                .keys()
                .filter(|hop| of_family(hop) && unresolved.contains(hop));
            let asking = known.keys().filter(|hop| of_family(hop) && asking(hop));
            tables[usize::from(is_v6)]
                .budget(unresolved.count(), permanent.count())
                .saturating_sub(asking.count())
        });
        let turn = self.pace.turn(room, asking, now);
        for hop in &turn.hops {
            if let Err(error) = keep(netlink, *hop, ManagedEntry::Use) {
                // The interface is down, or has just gone; or the table is full.
                tracing::debug!(address = %hop.1, %error, "neighbour not asked for");
            }
        }
        self.make_room(netlink, &unresolved, &turn.hops, known);
        Ok(if !turn.hops.is_empty() || turn.others_wait && answered {
            EXPECTANT
        } else if turn.others_wait || unresolved.iter().any(asking) {
            BUSY
        } else {
            let due = self.pace.next_due();
            due.map_or(IDLE, |due| {
                due.saturating_duration_since(now).clamp(BUSY, IDLE)
            })
        })
    }

    /// Makes managed what is resolved and is not yet.
    fn manage(
        &mut self,
        netlink: &mut Netlink,
        resolved: &BTreeSet<NextHop>,
        known: &Known,
    ) -> anyhow::Result<()> {
        let fresh: Vec<_> = resolved
            .iter()
            .filter(|hop| !known.get(hop).is_some_and(|entry| entry.managed))
            .copied()
            .collect();
        self.note(self.managed.iter().chain(&fresh).copied().collect())?;
        for hop in fresh {
            if let Err(error) = keep(netlink, hop, ManagedEntry::Managed) {
                // The interface is down, or has just gone.
                tracing::debug!(address = %hop.1, %error, "neighbour not kept");
            }
        }
        Ok(())
    }

    /// Makes ordinary entries of ours that do not answer any more. Returns what is to be asked for: what others have made
    /// managed, the kernel asks for.
    fn unmanage(
        &mut self,
        netlink: &mut Netlink,
        mut unresolved: BTreeSet<NextHop>,
        known: &Known,
    ) -> anyhow::Result<BTreeSet<NextHop>> {
        let ours: BTreeSet<_> = unresolved.intersection(&self.managed).copied().collect();
        release_all(netlink, &ours, known);
        self.note(self.managed.difference(&ours).copied().collect())?;
        unresolved
            .retain(|hop| ours.contains(hop) || !known.get(hop).is_some_and(|entry| entry.managed));
        Ok(unresolved)
    }

    /// Deletes the entries of those that were asked for in vain.
    fn make_room(
        &self,
        netlink: &mut Netlink,
        unresolved: &BTreeSet<NextHop>,
        asked_now: &[NextHop],
        known: &Known,
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
            .filter(|hop| self.pace.has_asked(hop) && !asked_now.contains(hop));
        for hop in in_vain {
            if let Err(error) = delete(netlink, *hop) {
                tracing::debug!(address = %hop.1, %error, "neighbour not deleted");
            }
        }
    }

    /// Notes what does not fit into the kernel's tables.
    fn judge(&mut self, tables: &[Table; 2], hops: &BTreeSet<NextHop>, known: &Known) {
        let warnings = [false, true].map(|is_v6| {
            let table = tables[usize::from(is_v6)];
            // Set by hand, or of a multicast group: the former have their own room, the latter go first.
            let is_fixed = |hop: &NextHop| known.get(hop).is_some_and(|entry| entry.fixed);
            let ours = hops.iter().filter(|hop| hop.1.is_ipv6() == is_v6);
            let wanted = ours.filter(|hop| !is_fixed(hop)).count();
            let held = known
                .keys()
                .filter(|hop| hop.1.is_ipv6() == is_v6 && (hops.contains(hop) || is_fixed(hop)));
            let others = table.entries.saturating_sub(held.count());
            table.too_small(wanted, others, Namespace::current())
        });
        self.warnings = warnings.into_iter().flatten().collect();
    }

    /// Notes which entries are managed by this instance.
    fn note(&mut self, managed: BTreeSet<NextHop>) -> anyhow::Result<()> {
        let write = || -> io::Result<()> {
            if managed.is_empty() {
                match fs::remove_file(&self.note) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                // What else an instance keeps there stays, and then so does the directory.
                let _ = self.note.parent().map(fs::remove_dir);
                return Ok(());
            }
            if let Some(directory) = self.note.parent() {
                fs::create_dir_all(directory)?;
            }
            let lines = managed
                .iter()
                .map(|(interface, address)| format!("{interface} {address}\n"));
            // Never half a note: a crash leaves the old one or the new one.
            let fresh = self.note.with_extension("new");
            fs::write(&fresh, lines.collect::<String>())?;
            fs::rename(&fresh, &self.note)
        };
        if managed != self.managed {
            write().with_context(|| format!("cannot write {}", self.note.display()))?;
            self.managed = managed;
        }
        Ok(())
    }
}

/// A line of the note.
fn hop(line: &str) -> Option<NextHop> {
    let (interface, address) = line.split_once(' ')?;
    Some((interface.parse().ok()?, address.parse().ok()?))
}

/// Makes ordinary entries of those that are still managed.
fn release_all(
    netlink: &mut Netlink,
    hops: &BTreeSet<NextHop>,
    known: &BTreeMap<NextHop, Neighbour>,
) {
    for hop in hops {
        if let Some(entry) = known.get(hop).filter(|entry| entry.managed)
            && let Err(error) = release(netlink, *hop, entry)
        {
            // The interface has just gone, and the entry with it.
            tracing::debug!(address = %hop.1, %error, "neighbour not given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_managed_is_noted_until_it_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let note = directory.path().join("one/neighbours");
        let hops = BTreeSet::from([
            (2, "10.0.0.2".parse().unwrap()),
            (3, "fe80::1".parse().unwrap()),
        ]);
        NeighbourManager::at(&note)
            .unwrap()
            .note(hops.clone())
            .unwrap();
        let mut keeper = NeighbourManager::at(&note).unwrap();
        assert_eq!(keeper.managed, hops);
        keeper.note(BTreeSet::new()).unwrap();
        assert!(!directory.path().join("one").exists());
        assert_eq!(
            NeighbourManager::at(&note).unwrap().managed,
            BTreeSet::new()
        );
    }
}
