//! The connection tables: connections are counted, listed, closed, purged, and ended when their idle timeout has passed.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use balancer_common::{
    addr::Addr,
    conntrack::{BucketV4, BucketV6},
    flow_hash::Seed,
    persistence::RunningClient,
    real_server::RealServer,
    settings::Settings,
};

use super::{
    Connection, ConnectionFilter, Deletion, Family,
    conntrack::{ConnectionCounts, Conntrack, ExpiryClock},
    entry_filter::EntryFilter,
    full_nat::FullNatUse,
    jiffies::Tick,
    list::Lister,
    listing::Listing,
    loads::Loads,
    map::Map,
    rcu_barrier::RcuBarrier,
    renewal,
    services::{BeforeChange, ServiceTables},
    sweep::{self, Sweep},
    table::EntryTable,
};
use crate::{
    dataplane::plan::tables::TableChange,
    model::{self, ServiceKey},
    os::clock,
};

/// Tables of up to this many entries are counted at every request, which takes milliseconds; for larger ones the last
/// sweep's counts are reported.
const LIVE_COUNT_ENTRIES: usize = 1 << 20;

/// The connection tables, and the sweep over them.
#[derive(Debug)]
pub struct ConnectionTables {
    /// Shared with the threads that list connections.
    conntrack: Arc<Conntrack>,
    tick: Tick,
    sweep: Option<Sweep>,
    /// The wait for running packet programs before the next sweep.
    barrier: Option<RcuBarrier>,
    /// What the last sweep counted.
    last_counts: Option<ConnectionCounts>,
    /// Removed real ids that the last sweep found no entry of.
    unreferenced: HashSet<u32>,
    /// The next sweep begins no earlier.
    next_sweep_at: Instant,
    full_nat: FullNatUse,
    /// When the clients of each service were renewed last, in jiffies, by service id.
    renewals: HashMap<u32, u32>,
}

impl ConnectionTables {
    /// Opens the maps pinned in `directory`, and writes the hash seed (a new one for new maps) and the numbers of
    /// buckets into the settings.
    ///
    /// # Errors
    /// A map is missing or cannot be mapped, or the kernel refused a call.
    pub fn open(
        directory: &Path,
        services: &ServiceTables,
        tick: Tick,
        now: Instant,
    ) -> anyhow::Result<Self> {
        let v4 = Map::<u32, BucketV4>::open(directory, "CONNTRACK_V4")?;
        let v6 = Map::<u32, BucketV6>::open(directory, "CONNTRACK_V6")?;
        let reals = Map::<u32, RealServer>::open(directory, "REALS")?;
        let snat_addresses = Map::<u32, Addr>::open(directory, "SNAT_ADDRESSES")?;
        // The entries of maps that are reused lie where the old seed put them.
        let seed = match services.settings().seed {
            seed if seed == Seed::default() => random_seed()?,
            seed => seed,
        };
        services.update_settings(|settings| {
            settings.seed = seed;
            settings.buckets = [v4.capacity(), v6.capacity()];
        })?;
        let memory = "cannot read the connection table as memory";
        let conntrack = Conntrack {
            v4: EntryTable::new(v4.memory().context(memory)?, seed),
            v6: EntryTable::new(v6.memory().context(memory)?, seed),
            reals: reals
                .memory()
                .context("cannot read the real servers as memory")?,
            snat_addresses: snat_addresses
                .memory()
                .context("cannot read the source addresses as memory")?,
            loads: Loads::open(directory)?,
            ends: Mutex::new(()),
        };
        conntrack.finish_ending();
        Ok(Self {
            conntrack: Arc::new(conntrack),
            tick,
            sweep: None,
            barrier: None,
            last_counts: None,
            unreferenced: HashSet::new(),
            next_sweep_at: now,
            full_nat: FullNatUse::default(),
            renewals: HashMap::new(),
        })
    }

    /// Makes the next sweep due now, since a change gives it work: ids to free, shorter timeouts.
    pub fn schedule_sweep(&mut self) {
        self.next_sweep_at = clock::now();
    }

    /// Whether connections may have full NAT.
    pub const fn full_nat(&self) -> FullNatUse {
        self.full_nat
    }

    /// Notes whether a service gives new connections full NAT.
    pub fn give_full_nat(&mut self, is_given: bool) {
        self.full_nat = self.full_nat.given(is_given);
    }

    /// How many connections there are: now, or for large tables at the last sweep, some seconds ago.
    pub fn count(&self) -> ConnectionCounts {
        let is_large = self.conntrack.capacity() > LIVE_COUNT_ENTRIES;
        match self.last_counts {
            Some(counts) if is_large => counts,
            _ => self.conntrack.count(),
        }
    }

    /// Counts at start, so that no later request for a large table's counts has to wait.
    pub fn count_now(&mut self) {
        self.last_counts = Some(self.conntrack.count());
    }

    /// The size in bytes of a family's table.
    pub fn bytes(&self, family: Family) -> u64 {
        match family {
            Family::V4 => self.conntrack.v4.bytes(),
            Family::V6 => self.conntrack.v6.bytes(),
        }
    }

    /// The connections that match `filter`, to be read later. `jiffies` is the present time.
    pub fn list(
        &self,
        filter: ConnectionFilter,
        jiffies: u32,
        settings: &Settings,
    ) -> Listing<Connection> {
        let lister = self.lister(filter, jiffies, settings, HashSet::new());
        Listing::new(move |take| {
            lister.each(take);
            Ok(())
        })
    }

    /// Closes the connections that [`ConnectionTables::list`] lists, later. `hashing` as [`Lister::hashing`].
    pub fn close(
        &mut self,
        filter: ConnectionFilter,
        jiffies: u32,
        settings: &Settings,
        hashing: HashSet<u32>,
    ) -> Deletion {
        self.schedule_sweep();
        let lister = self.lister(filter, jiffies, settings, hashing);
        Deletion::new(move || Ok(lister.close()))
    }

    fn lister(
        &self,
        filter: ConnectionFilter,
        jiffies: u32,
        settings: &Settings,
        hashing: HashSet<u32>,
    ) -> Lister {
        Lister {
            conntrack: Arc::clone(&self.conntrack),
            filter,
            tick: self.tick,
            now: ExpiryClock {
                jiffies,
                timeouts: settings.timeouts,
            },
            hashing,
        }
    }

    /// Ends the connections of a real server. Returns how many.
    pub fn purge(&mut self, service: &ServiceKey, real: SocketAddr) -> u64 {
        self.schedule_sweep();
        let reals = &self.conntrack.reals;
        self.conntrack.purge(
            EntryFilter::for_real(service, real, reals).as_ref(),
            EntryFilter::for_real(service, real, reals).as_ref(),
        )
    }

    /// Whether a sweep, or the wait before it, is in progress.
    pub const fn is_busy(&self) -> bool {
        self.sweep.is_some() || self.barrier.is_some()
    }

    /// Does the next step of the sweep, or begins one that is due. `jiffies` is the present time; `renew` renews what clients keep that
    /// have a running connection.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn run_maintenance(
        &mut self,
        services: &mut ServiceTables,
        jiffies: u32,
        timeouts: &model::Timeouts,
        renew: impl FnMut(&[RunningClient]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let is_due = self.barrier.is_some() || clock::now() >= self.next_sweep_at;
        let mut sweep = match self.sweep.take() {
            Some(sweep) => sweep,
            None if !is_due => return Ok(()),
            None => match self.start_sweep(services, jiffies)? {
                Some(sweep) => sweep,
                None => return Ok(()),
            },
        };
        let now = ExpiryClock {
            jiffies,
            timeouts: services.settings().timeouts,
        };
        let Some(outcome) = sweep.step(&self.conntrack, &now, renew) else {
            self.sweep = Some(sweep);
            return Ok(());
        };
        let unused = outcome
            .unreferenced
            .intersection(&self.unreferenced)
            .copied();
        let unused: Vec<_> = unused.collect();
        self.unreferenced = outcome.unreferenced;
        self.unreferenced.retain(|id| !unused.contains(id));
        self.last_counts = Some(outcome.counts);
        self.full_nat = self.full_nat.swept(outcome.has_full_nat);
        self.next_sweep_at = clock::now();
        if self.unreferenced.is_empty() {
            let persistent = services.tables()?.persistent_services();
            let shortest = persistent.values().map(|row| row.timeout).min();
            let shortest = shortest.map(|jiffies| self.tick.duration(jiffies));
            self.next_sweep_at += sweep::pause_after(timeouts, shortest, outcome.cpu_time);
        }
        services.free_reals(unused).and(outcome.renewed)
    }

    /// Starts a sweep; `None` while running packet programs are waited for.
    fn start_sweep(
        &mut self,
        services: &mut ServiceTables,
        jiffies: u32,
    ) -> anyhow::Result<Option<Sweep>> {
        let removed = match self.barrier.take() {
            Some(barrier) if !barrier.is_finished() => {
                self.barrier = Some(barrier);
                return Ok(None);
            }
            Some(barrier) => {
                let removed = barrier.finish()?;
                services.tables()?.space.end_wait();
                removed
            }
            None => {
                let removed = services.removed_reals()?;
                let tables = services.tables()?;
                if tables.space.has_retired() || !removed.is_empty() {
                    // A packet that read an old ring may still be about to open its connection.
                    tables.space.begin_wait();
                    self.barrier = Some(RcuBarrier::start(removed));
                    return Ok(None);
                }
                removed
            }
        };
        let tables = services.tables()?;
        let (reals, mut persistent) = (tables.reals.len(), tables.persistent_services());
        self.renewals.retain(|id, _| persistent.contains_key(id));
        persistent.retain(|id, row| renewal::is_due(&mut self.renewals, *id, row, jiffies));
        Ok(Some(Sweep::start(removed, reals, persistent)))
    }
}

impl BeforeChange for ConnectionTables {
    fn about_to_change(&mut self, changes: &[TableChange]) {
        if !changes.is_empty() {
            self.schedule_sweep();
        }
        sweep::remove_rewritten(&mut self.unreferenced, changes);
        if let Some(sweep) = &mut self.sweep {
            sweep.about_to_change(changes);
        }
        if let Some(barrier) = &mut self.barrier {
            barrier.about_to_change(changes);
        }
    }
}

/// A random seed, so that clients cannot aim at one bucket.
fn random_seed() -> anyhow::Result<Seed> {
    let mut bytes = [0_u8; size_of::<Seed>()];
    // SAFETY: the buffer is as long as said.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    ensure!(
        usize::try_from(count) == Ok(bytes.len()),
        "the kernel gives no random numbers"
    );
    let mut words = bytes
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let mut next = || words.next().unwrap_or_default();
    Ok(Seed {
        ports: [next(), next()],
        addresses: std::array::from_fn(|_| next()),
    })
}

/// The pause between two steps of a sweep, so that it takes a fifth of a CPU at most.
pub const SLICE_PAUSE: Duration = Duration::from_millis(20);
