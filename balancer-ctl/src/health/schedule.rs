//! When each of many checkers is due. Pure: `now` goes in; who starts, and when to come back, comes out.
//!
//! ```text
//!            ┌────────── phase (evenly spread over the interval) ─────────────┐
//!  added ──▶ waiting ──────────────────────────────────────────────────▶ due ─┤
//!              └─ early: asked at once, a few at a time ────────────────────▶ running
//!              ▲                                                              │
//!              └── regular: its next phase │ fast: its start + fast interval │ soon: early again
//! ```
//!
//! Each checker has a *phase* of its own in its interval, so that starts are spread evenly for good. Those that have
//! just come, or whose result was void, need not wait for it: they are asked *early*, in the order in which they came, a
//! handful at once and the others at half the rate of the whole set. So a few are all asked within milliseconds, ten
//! thousand over their interval, and never more than twice the mean at once. A checker that finds itself late, because
//! the process was stopped, is asked early too, rather than all at once.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

/// A checker, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CheckerId(pub u64);

/// How often a checker is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// As a rule.
    pub interval: Duration,
    /// While results disagree with its state.
    pub fast: Option<Duration>,
}

/// When a checker is to be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// An interval after it was asked, or sooner to meet its phase.
    Regular,
    /// A fast interval after it was asked, if it has one.
    Fast,
    /// As soon as the others leave room.
    Soon,
}

/// Early starts that may happen at once.
const EARLY_BURST: f64 = 8.0;
/// Early starts per second, at least.
const EARLY_RATE: f64 = 100.0;
/// Early starts per second, as a share of all regular ones.
const EARLY_SHARE: f64 = 0.5;
/// A start that is as late as this waits for its turn.
const LATE: Duration = Duration::from_millis(500);
/// Fraction of the golden ratio: its multiples, modulo 1, are spread evenly however many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Who is due when.
#[derive(Debug)]
pub struct Schedule {
    /// Where all phases are counted from.
    epoch: Instant,
    slots: HashMap<CheckerId, Slot>,
    /// Those that wait, by when they are due.
    waiting: BTreeSet<(Instant, CheckerId)>,
    /// Those that wait and may start early; also some that have started or gone since.
    early: VecDeque<CheckerId>,
    bucket: Bucket,
    /// By interval: how many checkers, and how many phases were given out.
    classes: HashMap<Duration, Class>,
    /// Regular starts per second of all.
    rate: f64,
    /// When [`Self::start`] was asked last.
    asked: Instant,
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
struct Class {
    members: u32,
    given: u64,
}

impl Schedule {
    /// An empty one.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            slots: HashMap::new(),
            waiting: BTreeSet::new(),
            early: VecDeque::new(),
            bucket: Bucket {
                tokens: EARLY_BURST,
                filled: now,
                rate: EARLY_RATE,
            },
            classes: HashMap::new(),
            rate: 0.0,
            asked: now,
        }
    }

    /// Adds a checker, to be asked early.
    pub fn add(&mut self, id: CheckerId, pace: Pace, now: Instant) {
        self.remove(id, now);
        let class = self.classes.entry(pace.interval).or_default();
        class.members += 1;
        let phase = (class.given as f64 * GOLDEN).fract();
        class.given += 1;
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

    /// Removes a checker; one that is running is never asked again.
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
            // Sums of fractions drift; this one begins anew when it can.
            self.rate = 0.0;
        }
        self.bucket.set_rate(self.rate, now);
    }

    /// When to ask [`Self::start`] again; `None` = not before something is added or finished.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = self.waiting.first().map(|(due, _)| *due);
        let early = (!self.early.is_empty()).then(|| self.bucket.next());
        due.into_iter().chain(early).min()
    }

    /// Starts those that are due, at most `room`. When there is no room they wait, and go first when there is; ask
    /// every now and then all the same, or they are taken for those of a process that was stopped.
    pub fn start(&mut self, now: Instant, room: usize) -> Vec<CheckerId> {
        let mut started = Vec::new();
        if now.saturating_duration_since(self.asked) >= LATE {
            self.postpone_late(now);
        }
        self.asked = now;
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

    /// A checker that was started is done.
    pub fn finish(&mut self, id: CheckerId, again: Again, now: Instant) {
        let epoch = self.epoch;
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let SlotState::Running { started } = slot.state else {
            return;
        };
        let regular = regular_after(epoch, slot.pace.interval, slot.phase, started).max(now);
        let (due, early) = match (again, slot.pace.fast) {
            (Again::Regular, _) | (Again::Fast, None) => (regular, false),
            (Again::Fast, Some(fast)) => ((started + fast).max(now), false),
            (Again::Soon, _) => (regular, true),
        };
        slot.state = SlotState::Waiting { due, early };
        self.waiting.insert((due, id));
        if early {
            self.early.push_back(id);
        }
    }

    /// Checkers that were started and are not done.
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

    /// Nobody asked for a while: those that are much too late wait for their turn among the early ones, or for their next phase.
    fn postpone_late(&mut self, now: Instant) {
        while let Some(&(due, id)) = self.waiting.first()
            && now.saturating_duration_since(due) >= LATE
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

/// The first time after `now` that a phase comes round.
fn phase_after(epoch: Instant, interval: Duration, phase: f64, now: Instant) -> Instant {
    let interval = interval.max(Duration::from_millis(1));
    let first = epoch + interval.mul_f64(phase);
    let Some(passed) = now.checked_duration_since(first) else {
        // Before the first time of all; that is less than an interval away.
        return first;
    };
    let into = passed.as_nanos() % interval.as_nanos();
    // Less than an interval, which fits.
    now + (interval - Duration::from_nanos(u64::try_from(into).unwrap_or(0)))
}

/// When to ask again one that was asked at `started`: at its phase if that is at least half an interval away. One that is
/// out of phase comes to it in two steps, so that it never waits longer than its interval.
fn regular_after(epoch: Instant, interval: Duration, phase: f64, started: Instant) -> Instant {
    let wait = phase_after(epoch, interval, phase, started).saturating_duration_since(started);
    if wait >= interval / 2 {
        started + wait
    } else {
        started + interval / 2 + wait / 2
    }
}

/// Early starts that are allowed: a few at once, more as time passes.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    rate: f64,
}

impl Bucket {
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

    /// When there is one to take.
    fn next(&self) -> Instant {
        let missing = (1.0 - self.tokens).max(0.0);
        // Rounded up, or the one who comes then finds a little less than one.
        self.filled + Duration::from_secs_f64(missing / self.rate) + Duration::from_micros(1)
    }
}

#[cfg(test)]
mod tests;
