//! The keeper of neighbour entries: makes those managed that the data plane sends to, and gives them back.
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

use super::{
    Netlink,
    neighbour::{Keep, Neighbour, NextHop, default_gateways, keep, list, next_hop, release},
};

/// How often default gateways are looked for at most.
const GATEWAYS_EVERY: Duration = Duration::from_secs(10);

/// Keeps the neighbour entries of all reals' next hops and of default gateways fresh.
#[derive(Debug)]
pub struct Keeper {
    /// The kernel has refused managed entries.
    only_use: bool,
    /// Default gateways, until routes change and [`GATEWAYS_EVERY`] has passed: finding them takes a list of all routes.
    gateways: Option<BTreeSet<NextHop>>,
    listed: Option<Instant>,
    stale: bool,
    /// Where each real server is reached, until routes change: asking for ten thousand takes the better part of 100 ms.
    ways: BTreeMap<IpAddr, Option<NextHop>>,
    /// Entries that were made managed.
    managed: BTreeSet<NextHop>,
    note: PathBuf,
}

impl Keeper {
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
            only_use: false,
            gateways: None,
            listed: None,
            stale: false,
            ways: BTreeMap::new(),
            managed: text.lines().filter_map(hop).collect(),
            note: note.to_path_buf(),
        })
    }

    /// All ways may be others now.
    pub fn routes_changed(&mut self) {
        self.stale = true;
        self.ways.clear();
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
    /// others. Called every few seconds.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn tend(&mut self, netlink: &mut Netlink, reals: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        self.ways.retain(|real, _| reals.contains(real));
        let hops = self.hops(netlink, reals)?;
        let known = list(netlink).context("cannot list the neighbours")?;
        let unneeded: BTreeSet<_> = self.managed.difference(&hops).copied().collect();
        give_back(netlink, &unneeded, &known);
        let managed = self.managed.difference(&unneeded).copied().collect();
        self.note(managed)?;
        self.keep(netlink, hops, &known)
    }

    /// Looks after the next hops towards `reals`, which come to those there are.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn reach(&mut self, netlink: &mut Netlink, reals: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
        let hops = self.hops(netlink, reals)?;
        let known = list(netlink).context("cannot list the neighbours")?;
        self.keep(netlink, hops, &known)
    }

    /// Gives all entries back.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn give_back(&mut self, netlink: &mut Netlink) -> anyhow::Result<()> {
        if !self.managed.is_empty() {
            let known = list(netlink).context("cannot list the neighbours")?;
            give_back(netlink, &self.managed, &known);
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
            let way = match self.ways.get(real) {
                Some(way) => *way,
                None => {
                    let way = next_hop(netlink, *real)
                        .with_context(|| format!("cannot ask for the route to {real}"))?;
                    self.ways.insert(*real, way);
                    way
                }
            };
            hops.extend(way);
        }
        Ok(hops)
    }

    fn keep(
        &mut self,
        netlink: &mut Netlink,
        mut hops: BTreeSet<NextHop>,
        known: &BTreeMap<NextHop, Neighbour>,
    ) -> anyhow::Result<()> {
        hops.retain(|hop| !known.get(hop).is_some_and(|entry| entry.fixed));
        let unmanaged = |hop: &&NextHop| !known.get(hop).is_some_and(|entry| entry.managed);
        if !self.only_use {
            let fresh = hops.iter().filter(unmanaged);
            self.note(fresh.chain(&self.managed).copied().collect())?;
        }
        for hop in &hops {
            // A managed entry whose probe failed is probed again by the kernel every few seconds; asking helps it along.
            // Asked for as managed again: plain use would make it an ordinary one.
            let unresolved = known.get(hop).is_none_or(|entry| entry.mac.is_none());
            if !self.only_use && !unmanaged(&hop) && !unresolved {
                continue;
            }
            let mut result = Ok(());
            if !self.only_use {
                result = keep(netlink, *hop, Keep::Managed);
                self.only_use =
                    matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EINVAL));
            }
            if self.only_use {
                result = keep(netlink, *hop, Keep::Use);
            }
            if let Err(error) = result {
                // The interface is down, or has just gone.
                tracing::debug!(address = %hop.1, %error, "neighbour not kept");
            }
        }
        Ok(())
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
fn give_back(
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
        Keeper::at(&note).unwrap().note(hops.clone()).unwrap();
        let mut keeper = Keeper::at(&note).unwrap();
        assert_eq!(keeper.managed, hops);
        keeper.note(BTreeSet::new()).unwrap();
        assert!(!directory.path().join("one").exists());
        assert_eq!(Keeper::at(&note).unwrap().managed, BTreeSet::new());
    }
}
