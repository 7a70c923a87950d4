//! When each of many checkers is due. Pure: `now` goes in; which checkers start, and when to ask again, comes out.
//!
//! ```text
//!            ┌────────── phase (evenly spread over the interval) ─────────────┐
//!  added ──▶ waiting ──────────────────────────────────────────────────▶ due ─┤
//!              └─ early: started at once, a few at a time ──────────────────▶ running
//!              ▲                                                              │
//!              └── regular: its next phase │ fast: its start + fast interval │ soon: early again
//! ```
//!
//! Each checker has a *phase* of its own within its interval, so that starts are spread evenly. Checkers that were just
//! added, or whose result was inconclusive, need not wait for their phase: they start *early*, in the order in which they
//! were added, eight at once and the others at half the regular rate of all checkers. So a few checkers all start within
//! milliseconds, ten thousand over their interval, and never more than twice the mean rate. Checkers that are late because
//! the process was stopped start early too, instead of all at once.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

/// Identifies a checker; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckerId(pub u64);

/// How often a checker probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From one start to the next.
    pub interval: Duration,
    /// The same while results disagree with the checker's state; `None` = the regular interval.
    pub fast: Option<Duration>,
}

/// When a checker probes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextProbe {
    /// An interval after its last start, or sooner to meet its phase.
    Regular,
    /// A fast interval after its last start, or as [`Self::Regular`] if it has none.
    Fast,
    /// Early: as soon as the limit of early starts allows.
    Soon,
}

/// Early starts that may happen at once.
const EARLY_BURST: f64 = 8.0;
/// Early starts per second, at least.
const EARLY_RATE: f64 = 100.0;
/// Early starts per second, as a share of all regular ones.
const EARLY_SHARE: f64 = 0.5;
/// A checker that is overdue by this much is not started at once, but queued as an early one.
const LATE_AFTER: Duration = Duration::from_millis(500);
/// Fractional part of the golden ratio: its multiples, modulo 1, are spread evenly however many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Which checker is due when.
#[derive(Debug)]
pub struct Schedule {
    /// The time from which all phases are counted.
    epoch: Instant,
    slots: HashMap<CheckerId, Slot>,
    /// Checkers that do not run, by when they are due.
    waiting: BTreeSet<(Instant, CheckerId)>,
    /// Checkers that may start early, oldest first; may contain some that have started or been removed since.
    early: VecDeque<CheckerId>,
    bucket: TokenBucket,
    /// Number of checkers, and of phases given out, per interval.
    classes: HashMap<Duration, IntervalClass>,
    /// Regular starts per second, over all checkers.
    rate: f64,
    /// When [`Self::start`] was last called.
    last_start: Instant,
}

#[derive(Debug)]
struct Slot {
    pace: Pace,
    phase: f64,
    state: SlotState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    Waiting { due: Instant, early: bool },
    Running { started: Instant },
}

#[derive(Debug, Default)]
struct IntervalClass {
    members: u32,
    phases_given: u64,
}

impl Schedule {
    /// A schedule without checkers.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            slots: HashMap::new(),
            waiting: BTreeSet::new(),
            early: VecDeque::new(),
            bucket: TokenBucket {
                tokens: EARLY_BURST,
                filled: now,
                rate: EARLY_RATE,
            },
            classes: HashMap::new(),
            rate: 0.0,
            last_start: now,
        }
    }

    /// Adds a checker, which starts early. Replaces one with the same id.
    pub fn add(&mut self, id: CheckerId, pace: Pace, now: Instant) {
        self.remove(id, now);
        let class = self.classes.entry(pace.interval).or_default();
        class.members += 1;
        let phase = (class.phases_given as f64 * GOLDEN).fract();
        class.phases_given += 1;
        let due = phase_after(self.epoch, pace.interval, phase, now);
        self.slots.insert(
            id,
            Slot {
                pace,
                phase,
                state: SlotState::Waiting { due, early: true },
            },
        );
        self.waiting.insert((due, id));
        self.early.push_back(id);
        self.rate += per_second(pace.interval);
        self.bucket.set_rate(self.rate, now);
    }

    /// Removes a checker; if it is running, it is not scheduled again.
    pub fn remove(&mut self, id: CheckerId, now: Instant) {
        let Some(slot) = self.slots.remove(&id) else {
            return;
        };
        if let SlotState::Waiting { due, .. } = slot.state {
            self.waiting.remove(&(due, id));
        }
        if let Some(class) = self.classes.get_mut(&slot.pace.interval) {
            class.members -= 1;
            if class.members == 0 {
                self.classes.remove(&slot.pace.interval);
            }
        }
        self.rate -= per_second(slot.pace.interval);
        if self.slots.is_empty() {
            // Sums of floating-point numbers drift; an empty schedule is the chance to correct that.
            self.rate = 0.0;
        }
        self.bucket.set_rate(self.rate, now);
    }

    /// When to call [`Self::start`] again; `None` = not before a checker is added or finishes.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = self.waiting.first().map(|(due, _)| *due);
        let early = (!self.early.is_empty()).then(|| self.bucket.next());
        due.into_iter().chain(early).min()
    }

    /// Starts the checkers that are due, at most `room` of them; the others start first when there is room again. Call it
    /// at least every 500 ms even without room, or overdue checkers are treated as those of a process that was stopped.
    pub fn start(&mut self, now: Instant, room: usize) -> Vec<CheckerId> {
        let mut started = Vec::new();
        if now.saturating_duration_since(self.last_start) >= LATE_AFTER {
            self.postpone_late(now);
        }
        self.last_start = now;
        while started.len() < room
            && let Some(&(due, id)) = self.waiting.first()
            && due <= now
        {
            self.run(id, now);
            started.push(id);
        }
        self.bucket.fill(now);
        while started.len() < room
            && let Some(&id) = self.early.front()
        {
            let waits = matches!(
                self.slots.get(&id).map(|slot| slot.state),
                Some(SlotState::Waiting { early: true, .. })
            );
            if waits && !self.bucket.take() {
                break;
            }
            self.early.pop_front();
            if waits {
                self.run(id, now);
                started.push(id);
            }
        }
        started
    }

    /// Schedules the next start of a checker whose probe is done.
    pub fn finish(&mut self, id: CheckerId, again: NextProbe, now: Instant) {
        let epoch = self.epoch;
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let SlotState::Running { started } = slot.state else {
            return;
        };
        let regular = regular_after(epoch, slot.pace.interval, slot.phase, started).max(now);
        let (due, early) = match (again, slot.pace.fast) {
            (NextProbe::Regular, _) | (NextProbe::Fast, None) => (regular, false),
            (NextProbe::Fast, Some(fast)) => ((started + fast).max(now), false),
            (NextProbe::Soon, _) => (regular, true),
        };
        slot.state = SlotState::Waiting { due, early };
        self.waiting.insert((due, id));
        if early {
            self.early.push_back(id);
        }
    }

    /// Number of checkers that were started and are not done.
    #[must_use]
    pub fn running(&self) -> usize {
        self.slots.len() - self.waiting.len()
    }

    fn run(&mut self, id: CheckerId, now: Instant) {
        if let Some(slot) = self.slots.get_mut(&id)
            && let SlotState::Waiting { due, .. } = slot.state
        {
            self.waiting.remove(&(due, id));
            slot.state = SlotState::Running { started: now };
        }
    }

    /// Queues checkers that are overdue by [`LATE_AFTER`] as early ones; they start then or at their next phase.
    fn postpone_late(&mut self, now: Instant) {
        while let Some(&(due, id)) = self.waiting.first()
            && now.saturating_duration_since(due) >= LATE_AFTER
        {
            self.waiting.remove(&(due, id));
            let Some(slot) = self.slots.get_mut(&id) else {
                continue;
            };
            let was_early = matches!(slot.state, SlotState::Waiting { early: true, .. });
            let due = phase_after(self.epoch, slot.pace.interval, slot.phase, now);
            slot.state = SlotState::Waiting { due, early: true };
            self.waiting.insert((due, id));
            if !was_early {
                self.early.push_back(id);
            }
        }
    }
}

fn per_second(interval: Duration) -> f64 {
    1.0 / interval.as_secs_f64().max(1e-3)
}

/// The first time after `now` at the given phase (0 to 1) of the interval.
fn phase_after(epoch: Instant, interval: Duration, phase: f64, now: Instant) -> Instant {
    let interval = interval.max(Duration::from_millis(1));
    let first = epoch + interval.mul_f64(phase);
    let Some(passed) = now.checked_duration_since(first) else {
        // The first occurrence is less than an interval away.
        return first;
    };
    let into = passed.as_nanos() % interval.as_nanos();
    // Less than an interval, which fits into 64 bits.
    now + (interval - Duration::from_nanos(u64::try_from(into).unwrap_or(0)))
}

/// The next regular start of a checker that was started at `started`: its phase if that is at least half an interval
/// away. A checker that is out of phase reaches it in two steps, so that it never waits longer than its interval.
fn regular_after(epoch: Instant, interval: Duration, phase: f64, started: Instant) -> Instant {
    let wait = phase_after(epoch, interval, phase, started).saturating_duration_since(started);
    if wait >= interval / 2 {
        started + wait
    } else {
        started + interval / 2 + wait / 2
    }
}

/// Limits early starts: [`EARLY_BURST`] at once, then `rate` per second.
#[derive(Debug)]
struct TokenBucket {
    tokens: f64,
    filled: Instant,
    rate: f64,
}

impl TokenBucket {
    fn set_rate(&mut self, regular: f64, now: Instant) {
        self.fill(now);
        self.rate = (regular * EARLY_SHARE).max(EARLY_RATE);
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(EARLY_BURST);
        self.filled = self.filled.max(now);
    }

    fn take(&mut self) -> bool {
        let has = self.tokens >= 1.0;
        if has {
            self.tokens -= 1.0;
        }
        has
    }

    /// When the next token is available.
    fn next(&self) -> Instant {
        let missing = (1.0 - self.tokens).max(0.0);
        // Rounded up, or the caller would find slightly less than one token.
        self.filled + Duration::from_secs_f64(missing / self.rate) + Duration::from_micros(1)
    }
}

#[cfg(test)]
mod tests;
