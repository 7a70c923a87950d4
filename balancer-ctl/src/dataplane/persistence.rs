//! Which server each client keeps: the entries are counted, listed, and deleted when an operator says so or when they are over.
//!
//! Only the packet program writes entries, by [`super::renewal`] also at the daemon's word. The daemon reads them in batches and deletes
//! some, in threads apart from its own: there may be millions.

mod groups;
mod pass;
mod store;

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use balancer_common::{
    flow_hash::Seed,
    persistence::{PersistenceEntry, PersistenceKey},
};

use self::{
    groups::Groups,
    pass::{Counts, Pass, Rules},
    store::Store,
};
use super::{DataplaneError, KeptClient, PersistenceFilter, jiffies::Tick, listing::Listing};
use crate::{
    dataplane::plan::tables::Tables,
    model::{Protocol, ServiceKey},
    os::clock,
};

/// Up to this many entries are counted at every request, which takes some milliseconds; if there are more, the last pass's counts are
/// reported.
const LIVE_COUNT_ENTRIES: u64 = 1 << 12;

/// In a map for more entries they are never counted at a request, since even an empty one takes long to read.
const LIVE_COUNT_CAPACITY: u32 = 1 << 17;

/// The persistence map, and the pass over it.
#[derive(Debug)]
pub struct PersistenceTable {
    /// Shared with the threads that read and delete.
    store: Arc<Store>,
    tick: Tick,
    /// The numbers of the groups that there were at the last look.
    known: HashSet<u64>,
    /// Groups that were removed, and when, in jiffies: the next pass deletes their entries.
    removed: HashMap<u64, u32>,
    pass: Option<Pass>,
    /// What the last pass counted.
    last_counts: Counts,
    /// The next pass begins no earlier.
    next_pass_at: Instant,
}

impl PersistenceTable {
    /// Opens the maps pinned in `directory`; `tables` is what the others hold.
    ///
    /// # Errors
    /// A map is missing or has another layout.
    pub fn open(
        directory: &Path,
        tables: &Tables,
        tick: Tick,
        now: Instant,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            store: Arc::new(Store::open(directory)?),
            tick,
            known: Groups::of(tables).numbers(),
            removed: HashMap::new(),
            pass: None,
            last_counts: Counts::new(),
            next_pass_at: now,
        })
    }

    /// Follows a change of the services' persistence that was made: the clients of groups that are gone are forgotten from now on, even if
    /// such a group is added anew before the pass has found them. `jiffies` is the present time.
    ///
    /// # Errors
    /// There can be no thread for the pass, or an earlier one failed.
    pub fn follow(&mut self, tables: &Tables, jiffies: u32, seed: Seed) -> anyhow::Result<()> {
        let groups = Groups::of(tables).numbers();
        let known = std::mem::replace(&mut self.known, groups);
        let gone = known.difference(&self.known);
        self.removed.extend(gone.map(|number| (*number, jiffies)));
        self.next_pass_at = clock::now();
        let collected = self.collect();
        if self.pass.is_none() {
            self.begin_pass(tables, jiffies, seed)?;
        }
        collected
    }

    /// Whether to begin a pass.
    pub fn is_due(&self) -> bool {
        self.pass.is_none() && clock::now() >= self.next_pass_at
    }

    /// Begins a pass.
    ///
    /// # Errors
    /// There can be no thread for it.
    pub fn begin_pass(&mut self, tables: &Tables, jiffies: u32, seed: Seed) -> anyhow::Result<()> {
        let groups = Groups::of(tables);
        self.known = groups.numbers();
        let rules = Rules {
            groups,
            removed: self.removed.clone(),
            began: jiffies,
            seed,
        };
        let pass = Pass::start(Arc::clone(&self.store), rules)
            .context("cannot start a thread for entries of persistence")?;
        self.removed.clear();
        self.pass = Some(pass);
        Ok(())
    }

    /// Takes the outcome of a pass that has ended.
    ///
    /// # Errors
    /// The kernel refused it a call; another pass will try again.
    pub fn collect(&mut self) -> anyhow::Result<()> {
        let Some(pass) = self.pass.take_if(|pass| pass.is_finished()) else {
            return Ok(());
        };
        match pass.finish() {
            Ok(outcome) => {
                self.last_counts = outcome.counts;
                // A change meanwhile makes the next one due at once.
                if self.removed.is_empty() {
                    self.next_pass_at = clock::now() + pass::pause_after(outcome.cpu_time);
                }
                Ok(())
            }
            Err((error, removed)) => {
                for (number, since) in removed {
                    self.removed.entry(number).or_insert(since);
                }
                self.next_pass_at = clock::now() + pass::pause_after(Duration::ZERO);
                Err(error)
            }
        }
    }

    /// Counts at start, so that no later request has to wait for it. `jiffies` is the present time.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn count_now(&mut self, tables: &Tables, jiffies: u32) -> anyhow::Result<()> {
        let counts = self.count(&Groups::of(tables), jiffies, u64::MAX)?;
        self.last_counts = counts.unwrap_or_default();
        Ok(())
    }

    /// How many clients each persistent service has, by those of its group: now, or where there are many at the last pass, some seconds
    /// ago.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn counts(
        &self,
        tables: &Tables,
        jiffies: u32,
    ) -> anyhow::Result<HashMap<ServiceKey, u64>> {
        let groups = Groups::of(tables);
        if groups.is_empty() {
            return Ok(HashMap::new());
        }
        let counts = if self.is_large() {
            None
        } else {
            self.count(&groups, jiffies, LIVE_COUNT_ENTRIES)?
        };
        let counts = counts.as_ref().unwrap_or(&self.last_counts);
        let counted = groups.iter().flat_map(|(number, group)| {
            let count = counts.get(&number).copied().unwrap_or_default();
            group.services.iter().map(move |service| (*service, count))
        });
        Ok(counted.collect())
    }

    /// Whether counting takes so long that the last pass's counts have to do.
    fn is_large(&self) -> bool {
        self.store.capacity() > LIVE_COUNT_CAPACITY
            || self.last_counts.values().sum::<u64>() > LIVE_COUNT_ENTRIES
    }

    /// Counts the clients of each group; `None` if there are more than `most` entries.
    fn count(&self, groups: &Groups, jiffies: u32, most: u64) -> anyhow::Result<Option<Counts>> {
        let (mut counts, mut read) = (Counts::new(), 0_u64);
        self.store
            .each(|protocol, key, entry| {
                read += 1;
                if groups.left(key, entry, jiffies).is_some()
                    && !self
                        .store
                        .is_second(groups, protocol, key, entry, jiffies)?
                {
                    *counts.entry(key.group).or_default() += 1;
                }
                Ok(if read > most {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            })
            .context("cannot count the entries of persistence")?;
        Ok((read <= most).then_some(counts))
    }

    /// The clients that match `filter`, to be read later. `jiffies` is the present time.
    pub fn list(
        &self,
        tables: &Tables,
        filter: PersistenceFilter,
        jiffies: u32,
    ) -> Listing<KeptClient> {
        let matching = self.matching(tables, filter, jiffies);
        let mut left = matching.filter.limit.unwrap_or(usize::MAX);
        Listing::new(move |take| {
            if left == 0 {
                return Ok(());
            }
            let read = matching.each(|protocol, key, entry, client| {
                let Matching { store, groups, .. } = &matching;
                if store.is_second(groups, protocol, key, entry, jiffies)? {
                    return Ok(ControlFlow::Continue(()));
                }
                left -= 1;
                let flow = take(client);
                Ok(if left == 0 {
                    ControlFlow::Break(())
                } else {
                    flow
                })
            });
            Ok(read.context("cannot read the entries of persistence")?)
        })
    }

    /// The deletion of all entries that match `filter`, to be made later; its limit does not count.
    pub fn forget(
        &self,
        tables: &Tables,
        filter: PersistenceFilter,
        jiffies: u32,
        seed: Seed,
    ) -> Deletion {
        let matching = self.matching(tables, filter, jiffies);
        Deletion::new(move || {
            let mut deleted = 0;
            matching
                .each(|protocol, key, entry, _| {
                    deleted += u64::from(matching.store.forget(protocol, key, entry, &seed)?);
                    Ok(ControlFlow::Continue(()))
                })
                .with_context(|| {
                    format!("{deleted} clients are forgotten, and others cannot be")
                })?;
            Ok(deleted)
        })
    }

    fn matching(&self, tables: &Tables, filter: PersistenceFilter, now: u32) -> Matching {
        let mut groups = Groups::of(tables);
        groups.retain(|group| filter.matches_services(&group.services));
        Matching {
            store: Arc::clone(&self.store),
            groups,
            filter,
            tick: self.tick,
            now,
        }
    }
}

/// The entries that match a filter.
struct Matching {
    store: Arc<Store>,
    /// The groups that match.
    groups: Groups,
    filter: PersistenceFilter,
    tick: Tick,
    /// The time by which entries that are over are left out, in jiffies.
    now: u32,
}

impl Matching {
    fn each(
        &self,
        mut take: impl FnMut(
            Protocol,
            &PersistenceKey,
            &PersistenceEntry,
            KeptClient,
        ) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        self.store.each(|protocol, key, entry| {
            let group = self.groups.get(key.group);
            let client = group.and_then(|group| group.kept_client(key, entry, self.tick, self.now));
            match client.filter(|client| self.filter.matches(&client.client, client.server)) {
                Some(client) => take(protocol, key, entry, client),
                None => Ok(ControlFlow::Continue(())),
            }
        })
    }
}

/// A deletion that is still to be made, in any thread, while the data plane goes on.
pub struct Deletion(Box<dyn FnOnce() -> Result<u64, DataplaneError> + Send>);

impl Deletion {
    /// A deletion that `delete` makes, and counts.
    pub fn new(delete: impl FnOnce() -> Result<u64, DataplaneError> + Send + 'static) -> Self {
        Self(Box::new(delete))
    }

    /// Makes it. Returns how many were deleted.
    ///
    /// # Errors
    /// The kernel refused a call; some may be deleted.
    pub fn make(self) -> Result<u64, DataplaneError> {
        (self.0)()
    }
}

impl fmt::Debug for Deletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deletion").finish_non_exhaustive()
    }
}
