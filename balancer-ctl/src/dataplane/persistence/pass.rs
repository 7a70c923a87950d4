//! The pass over the entries of persistence, in a thread of its own: it counts them, and deletes those whose time is up or whose group no
//! service has any more, so that a service that is added anew begins without clients.

use std::{
    collections::HashMap,
    io,
    ops::ControlFlow,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use balancer_common::{
    conntrack::idle,
    flow_hash::Seed,
    persistence::{PersistenceEntry, PersistenceKey},
};

use super::{groups::Groups, store::Store};
use crate::dataplane::sweep::PAUSE_PER_CPU_TIME;

/// The usual pause between two passes.
const PAUSE: Duration = Duration::from_secs(10);

/// The longest pause, after a pass that took much CPU time.
const MAX_PAUSE: Duration = Duration::from_secs(600);

/// The pause after a pass that took `cpu_time`.
pub fn pause_after(cpu_time: Duration) -> Duration {
    (cpu_time * PAUSE_PER_CPU_TIME).clamp(PAUSE, MAX_PAUSE)
}

/// How many clients each group has, by its number.
pub type Counts = HashMap<u64, u64>;

/// By which rules a pass counts and deletes.
#[derive(Debug)]
pub struct Rules {
    /// The groups that there are.
    pub groups: Groups,
    /// Groups that were removed, and when, in jiffies; those that were added again since are among [`Self::groups`], too.
    pub removed: HashMap<u64, u32>,
    /// When the pass began, in jiffies.
    pub began: u32,
    /// The seed of the hash by which first connections are found.
    pub seed: Seed,
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It stays.
    Kept,
    /// Its time is up.
    Expired,
    /// It belongs to a group that was removed.
    Orphaned,
}

impl Rules {
    fn fate(&self, key: &PersistenceKey, entry: &PersistenceEntry) -> Fate {
        let group = self.groups.get(key.group);
        let removed = self.removed.get(&key.group).copied();
        // What was used since belongs to a service that was added since.
        let gone = removed.or(group.is_none().then_some(self.began));
        if gone.is_some_and(|gone| !is_after(entry.last_used, gone)) {
            return Fate::Orphaned;
        }
        match group {
            Some(group) if group.left(entry, self.began).is_none() => Fate::Expired,
            _ => Fate::Kept,
        }
    }
}

/// Whether `then` lies a little after `moment`, in jiffies that wrap.
const fn is_after(then: u32, moment: u32) -> bool {
    then != moment && idle(moment, then) == 0
}

/// What a pass found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The entries that stay.
    pub counts: Counts,
    /// Entries that were deleted.
    pub deleted: u64,
    /// CPU time that it took, or somewhat more.
    pub cpu_time: Duration,
}

/// A pass in progress.
#[derive(Debug)]
pub struct Pass {
    thread: JoinHandle<io::Result<Outcome>>,
    /// As in [`Rules`].
    removed: HashMap<u64, u32>,
}

impl Pass {
    /// Starts a pass.
    ///
    /// # Errors
    /// There can be no thread.
    pub fn start(store: Arc<Store>, rules: Rules) -> io::Result<Self> {
        let removed = rules.removed.clone();
        let thread = std::thread::Builder::new()
            .name("persistence".to_owned())
            .spawn(move || run(&store, &rules))?;
        Ok(Self { thread, removed })
    }

    /// Whether it has ended, so that [`Self::finish`] does not block.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Joins the thread. A pass that failed returns the removed groups whose entries it should have deleted.
    pub fn finish(self) -> Result<Outcome, (anyhow::Error, HashMap<u64, u32>)> {
        let result = self.thread.join();
        result
            .map_err(|_| anyhow!("the pass ended in a panic"))
            .and_then(|outcome| Ok(outcome?))
            .context("cannot delete entries of persistence that are over")
            .map_err(|error| (error, self.removed))
    }
}

fn run(store: &Store, rules: &Rules) -> io::Result<Outcome> {
    let began = Instant::now();
    let mut outcome = Outcome::default();
    store.each(|protocol, key, entry| {
        let fate = rules.fate(key, entry);
        if fate == Fate::Orphaned {
            store.forget_pending(key, &rules.seed)?;
        }
        let is_over = |entry: &PersistenceEntry| rules.fate(key, entry) != Fate::Kept;
        if fate != Fate::Kept && store.delete_if(protocol, key, is_over)? {
            outcome.deleted += 1;
        } else if !store.is_second(&rules.groups, protocol, key, entry, rules.began)? {
            *outcome.counts.entry(key.group).or_default() += 1;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    outcome.cpu_time = began.elapsed();
    if outcome.deleted > 0 {
        let Outcome {
            deleted, cpu_time, ..
        } = outcome;
        tracing::debug!(deleted, ?cpu_time, "entries of persistence were over");
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::{super::groups::tests::tables, *};

    #[test]
    fn entries_go_when_their_time_is_up_or_their_group_is_gone() {
        let groups = Groups::of(&tables(&[(80, None, 32)]));
        let there = groups.iter().next().unwrap().0;
        let rules = Rules {
            removed: HashMap::from([(there, 7_000), (there + 1, 7_000)]),
            groups,
            began: 10_000,
            seed: Seed::default(),
        };
        let fate = |group, last_used| {
            let key = PersistenceKey {
                group,
                ..PersistenceKey::default()
            };
            let entry = PersistenceEntry {
                last_used,
                ..PersistenceEntry::default()
            };
            rules.fate(&key, &entry)
        };
        // It was removed and added again: it has the clients that came since, for 6,000 jiffies.
        assert_eq!(fate(there, 7_001), Fate::Kept);
        assert_eq!(fate(there, 10_001), Fate::Kept);
        assert_eq!(fate(there, 7_000), Fate::Orphaned);
        // Clients of long ago, or of before the clock wrapped, are no clients of the future.
        assert_eq!(fate(there, 7_000_u32.wrapping_sub(1 << 31)), Fate::Orphaned);
        // What is unknown was removed, unless it is being added now.
        assert_eq!(fate(there + 1, 7_000), Fate::Orphaned);
        assert_eq!(fate(there + 2, 10_000), Fate::Orphaned);
        assert_eq!(fate(there + 2, 10_001), Fate::Kept);
        let rules = Rules {
            removed: HashMap::new(),
            began: 20_000,
            ..rules
        };
        let fate = |last_used| {
            let key = PersistenceKey {
                group: there,
                ..PersistenceKey::default()
            };
            let entry = PersistenceEntry {
                last_used,
                ..PersistenceEntry::default()
            };
            rules.fate(&key, &entry)
        };
        assert_eq!(fate(14_000), Fate::Kept);
        assert_eq!(fate(13_999), Fate::Expired);
    }

    #[test]
    fn passes_take_a_hundredth_of_a_cpu_at_most() {
        let of = |milliseconds| pause_after(Duration::from_millis(milliseconds));
        assert_eq!(of(0), PAUSE);
        assert_eq!(of(100), PAUSE);
        assert_eq!(of(250), Duration::from_secs(25));
        assert_eq!(of(60_000), MAX_PAUSE);
    }
}
