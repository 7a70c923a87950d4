//! Connections: counted, listed, purged, and ended when they were idle for too long.

use std::{
    borrow::Cow,
    collections::HashSet,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use balancer_common::{
    conntrack::{BucketV4, BucketV6},
    flow_hash::Seed,
    real_server::RealServer,
    settings::Settings,
};

use super::{
    ConnectionFilter, Family,
    clock::Tick,
    conntrack::{ConnectionCounts, Conntrack, ExpiryClock},
    grace::RcuBarrier,
    list::{Lister, Listing, Wanted},
    map::Map,
    services::ServiceTables,
    sweep::{self, Sweep},
    table::Table,
};
use crate::{
    dataplane::plan::tables::TableChange,
    model::{self, ServiceKey},
};

/// Places in tables whose connections are counted whenever somebody asks, which takes milliseconds; of larger ones the last
/// pass's numbers are told.
const COUNTED_AT_ONCE: usize = 1 << 20;

/// The connection tables, and the pass over them.
#[derive(Debug)]
pub struct ConnectionTables {
    /// Those who list connections have their share.
    conntrack: Arc<Conntrack>,
    tick: Tick,
    sweep: Option<Sweep>,
    /// What is waited for before the next pass begins.
    grace: Option<RcuBarrier>,
    /// What the last pass has counted.
    count: Option<ConnectionCounts>,
    /// Removed real ids that the last pass met no entry of.
    unmet: HashSet<u32>,
    /// No pass begins before.
    rests_until: Instant,
}

impl ConnectionTables {
    /// Those in the maps pinned in `directory`. What new maps lack of the settings is written: the seed, and how many
    /// buckets there are.
    ///
    /// # Errors
    /// A map is missing or cannot be read as memory, or the kernel refused a call.
    pub fn open(
        directory: &Path,
        services: &ServiceTables,
        tick: Tick,
        now: Instant,
    ) -> anyhow::Result<Self> {
        let v4 = Map::<u32, BucketV4>::open(directory, "CONNTRACK_V4")?;
        let v6 = Map::<u32, BucketV6>::open(directory, "CONNTRACK_V6")?;
        let reals = Map::<u32, RealServer>::open(directory, "REALS")?;
        // Entries that are taken up lie where the old seed put them.
        let seed = match services.settings().seed {
            seed if seed == Seed::default() => random()?,
            seed => seed,
        };
        services.set(|settings| {
            settings.seed = seed;
            settings.buckets = [v4.capacity(), v6.capacity()];
        })?;
        let memory = "cannot read the connection table as memory";
        let conntrack = Conntrack {
            v4: Table::new(v4.memory().context(memory)?, seed),
            v6: Table::new(v6.memory().context(memory)?, seed),
            reals: reals
                .memory()
                .context("cannot read the real servers as memory")?,
        };
        Ok(Self {
            conntrack: Arc::new(conntrack),
            tick,
            sweep: None,
            grace: None,
            count: None,
            unmet: HashSet::new(),
            rests_until: now,
        })
    }

    /// These changes are about to be made.
    pub fn about_to_change(&mut self, changes: &[TableChange]) {
        if !changes.is_empty() {
            self.schedule_sweep();
        }
        sweep::forget_changed(&mut self.unmet, changes);
        if let Some(sweep) = &mut self.sweep {
            sweep.about_to_change(changes);
        }
        if let Some(grace) = &mut self.grace {
            grace.about_to_change(changes);
        }
    }

    /// What was changed gives the next pass something to find: ids to free, shorter timeouts.
    pub fn schedule_sweep(&mut self) {
        self.rests_until = super::kernel::now();
    }

    /// How many connections there are: now, or in large tables at the last pass, some seconds ago.
    pub fn count(&self) -> Cow<'_, ConnectionCounts> {
        let is_large = self.conntrack.places() > COUNTED_AT_ONCE;
        match &self.count {
            Some(count) if is_large => Cow::Borrowed(count),
            _ => Cow::Owned(self.conntrack.count()),
        }
    }

    /// Counts once, so that nobody waits for that later.
    pub fn count_now(&mut self) {
        self.count = Some(self.conntrack.count());
    }

    /// The size in bytes of a family's table.
    pub fn bytes(&self, family: Family) -> u64 {
        match family {
            Family::V4 => self.conntrack.v4.bytes(),
            Family::V6 => self.conntrack.v6.bytes(),
        }
    }

    /// Connections that match, to be read later.
    pub fn list(&self, filter: ConnectionFilter, jiffies: u32, settings: &Settings) -> Listing {
        let lister = Lister {
            conntrack: Arc::clone(&self.conntrack),
            filter,
            tick: self.tick,
            now: ExpiryClock {
                jiffies,
                timeouts: settings.timeouts,
            },
        };
        Listing::new(move |take| lister.each(take))
    }

    /// Ends the connections of a real server. How many.
    pub fn purge(&mut self, service: &ServiceKey, real: SocketAddr) -> u64 {
        self.schedule_sweep();
        let reals = &self.conntrack.reals;
        self.conntrack.purge(
            Wanted::of_real(service, real, reals).as_ref(),
            Wanted::of_real(service, real, reals).as_ref(),
        )
    }

    /// Whether a pass is under way, or about to begin.
    pub const fn is_busy(&self) -> bool {
        self.sweep.is_some() || self.grace.is_some()
    }

    /// Goes on with the pass, or begins one that is due.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn run_maintenance(
        &mut self,
        services: &mut ServiceTables,
        jiffies: u32,
        timeouts: &model::Timeouts,
    ) -> anyhow::Result<()> {
        let is_due = self.grace.is_some() || super::kernel::now() >= self.rests_until;
        let mut sweep = match self.sweep.take() {
            Some(sweep) => sweep,
            None if !is_due => return Ok(()),
            None => match self.begin(services)? {
                Some(sweep) => sweep,
                None => return Ok(()),
            },
        };
        let now = ExpiryClock {
            jiffies,
            timeouts: services.settings().timeouts,
        };
        let Some(outcome) = sweep.step(&self.conntrack, &now) else {
            self.sweep = Some(sweep);
            return Ok(());
        };
        let unused = outcome.unmet.intersection(&self.unmet).copied();
        let unused: Vec<_> = unused.collect();
        self.unmet = outcome.unmet;
        self.unmet.retain(|id| !unused.contains(id));
        self.count = Some(outcome.count);
        self.rests_until = super::kernel::now();
        if self.unmet.is_empty() {
            self.rests_until += sweep::pause_after(timeouts, outcome.worked);
        }
        services.free_reals(unused)
    }

    /// A pass, or nothing while packets are waited for.
    fn begin(&mut self, services: &mut ServiceTables) -> anyhow::Result<Option<Sweep>> {
        let removed = match self.grace.take() {
            Some(grace) if !grace.is_over() => {
                self.grace = Some(grace);
                return Ok(None);
            }
            Some(grace) => {
                let removed = grace.end()?;
                services.tables()?.space.end_wait();
                removed
            }
            None => {
                let removed = services.removed()?;
                let tables = services.tables()?;
                if tables.space.has_retired() || !removed.is_empty() {
                    // No packet that read an old ring may still be about to make its connection.
                    tables.space.begin_wait();
                    self.grace = Some(RcuBarrier::begin(removed));
                    return Ok(None);
                }
                removed
            }
        };
        let reals = services.tables()?.reals.len();
        Ok(Some(Sweep::begin(removed, reals)))
    }
}

/// A seed that nobody outside knows.
fn random() -> anyhow::Result<Seed> {
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

/// How long the daemon does other things between two slices of a pass: a fifth of a CPU goes to it at most.
pub const BETWEEN_SLICES: Duration = Duration::from_millis(20);
