//! Which slots of `RINGS` are free. Pure.

use std::{collections::BTreeMap, ops::Range};

use balancer_common::scheduler::{Ring, SLOTS_PER_WORD};

/// The free words of `RINGS`.
///
/// A region that a service has left is *retired*: a packet that looked the service up a moment ago may still read it. It
/// becomes free with [`RingSpace::release`], which the caller calls when no such packet is left, or with
/// [`RingSpace::end_wait`] after [`RingSpace::begin_wait`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingSpace {
    words: u32,
    /// Length of each free region by its first word; adjacent regions are merged.
    free: BTreeMap<u32, u32>,
    retired: Vec<Ring>,
    /// Regions that were retired before the present wait began.
    waiting: Vec<Ring>,
}

impl RingSpace {
    /// Space of `words` words, all free except those of `used`.
    #[must_use]
    pub fn with_used(words: u32, used: impl IntoIterator<Item = Ring>) -> Self {
        let used = used.into_iter().filter(|ring| ring.length > 0);
        let mut used: Vec<_> = used.map(|ring| ring.words()).collect();
        used.sort_by_key(|words| words.start);
        let mut free = BTreeMap::new();
        let mut next = 0;
        for taken in used {
            if taken.start > next {
                free.insert(next, taken.start - next);
            }
            next = next.max(taken.end);
        }
        if next < words {
            free.insert(next, words - next);
        }
        Self {
            words,
            free,
            retired: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Takes `length` slots: the first gap that is long enough. An empty ring needs none.
    pub fn allocate(&mut self, length: u32) -> Option<Ring> {
        if length == 0 {
            return Some(Ring::default());
        }
        let words = length.div_ceil(SLOTS_PER_WORD);
        let gaps = self.free.iter();
        let (first, _) = gaps
            .map(|(first, gap)| (*first, *gap))
            .find(|(_, gap)| *gap >= words)?;
        self.take(first..first + words);
        Some(Ring {
            offset: first * SLOTS_PER_WORD,
            length,
        })
    }

    /// Marks a region as used that another copy of this space allocated.
    pub fn occupy(&mut self, ring: Ring) {
        if ring.length > 0 {
            self.take(ring.words());
        }
    }

    /// Takes words that lie in one gap.
    fn take(&mut self, words: Range<u32>) {
        let before = self.free.range(..=words.start).next_back();
        let Some((first, gap)) = before.map(|(first, gap)| (*first, *gap)) else {
            return;
        };
        let end = first + gap;
        if end < words.end {
            return;
        }
        self.free.remove(&first);
        if words.start > first {
            self.free.insert(first, words.start - first);
        }
        if end > words.end {
            self.free.insert(words.end, end - words.end);
        }
    }

    /// Retires a region: no service uses it any more, but packets may still read it.
    pub fn retire(&mut self, ring: Ring) {
        if ring.length > 0 {
            self.retired.push(ring);
        }
    }

    /// Whether anything is retired.
    #[must_use]
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty() || !self.waiting.is_empty()
    }

    /// Frees what is retired: no packet reads it any more.
    pub fn release(&mut self) {
        self.begin_wait();
        self.end_wait();
    }

    /// Begins a wait for the packets that may read the regions retired so far.
    pub fn begin_wait(&mut self) {
        self.waiting.append(&mut self.retired);
    }

    /// Frees the regions that were retired when the wait began; later ones stay retired.
    pub fn end_wait(&mut self) {
        for ring in std::mem::take(&mut self.waiting) {
            let Range { mut start, mut end } = ring.words();
            if let Some((before, gap)) = self.free.range(..start).next_back().map(|(o, g)| (*o, *g))
                && before + gap == start
            {
                self.free.remove(&before);
                start = before;
            }
            if let Some(gap) = self.free.remove(&end) {
                end += gap;
            }
            self.free.insert(start, end - start);
        }
    }

    /// Whether one `part`th of all words is free.
    #[must_use]
    pub fn is_free(&self, part: u32) -> bool {
        self.free() >= self.words / part
    }

    /// Number of free words, scattered or not.
    fn free(&self) -> u32 {
        self.free.values().sum()
    }

    /// Number of free slots, scattered or not.
    #[must_use]
    pub fn free_slots(&self) -> u32 {
        self.free() * SLOTS_PER_WORD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring that takes the words from `first` on, `words` of them.
    const fn ring(first: u32, words: u32) -> Ring {
        Ring {
            offset: first * 4,
            length: words * 4,
        }
    }

    #[test]
    fn what_is_used_at_the_start_is_not_given_out() {
        let mut space = RingSpace::with_used(100, [ring(60, 20), ring(0, 10)]);
        assert_eq!(space.free_slots(), 280);
        assert_eq!(space.allocate(51 * 4), None);
        assert_eq!(space.allocate(50 * 4), Some(ring(10, 50)));
        // The last word is filled up.
        let part = Ring {
            offset: 80 * 4,
            length: 19 * 4 + 1,
        };
        assert_eq!(space.allocate(part.length), Some(part));
        assert_eq!(space.allocate(1), None);
        assert_eq!(space.allocate(0), Some(Ring::default()));
    }

    #[test]
    fn a_retired_region_is_free_only_after_its_release_and_merges_with_its_neighbours() {
        let mut space = RingSpace::with_used(30, []);
        let regions: Vec<_> = (0..3).map(|_| space.allocate(39).unwrap()).collect();
        for region in [regions[0], regions[2], regions[1]] {
            space.retire(region);
        }
        assert!(space.has_retired());
        assert_eq!(space.allocate(1), None);
        space.release();
        assert!(!space.has_retired());
        assert_eq!(space.allocate(120), Some(ring(0, 30)));
    }

    #[test]
    fn what_is_retired_during_a_wait_stays_retired() {
        let mut space = RingSpace::with_used(30, []);
        let regions: Vec<_> = (0..3).map(|_| space.allocate(40).unwrap()).collect();
        space.retire(regions[0]);
        space.begin_wait();
        space.retire(regions[1]);
        assert_eq!(space.free_slots(), 0);
        space.end_wait();
        assert_eq!(space.free_slots(), 40);
        assert!(space.has_retired());
        space.begin_wait();
        space.end_wait();
        assert_eq!(space.allocate(80), Some(ring(0, 20)));
    }

    #[test]
    fn taking_a_region_is_allocating_it() {
        let mut space = RingSpace::with_used(30, []);
        space.occupy(ring(10, 5));
        assert_eq!(space, RingSpace::with_used(30, [ring(10, 5)]));
        space.occupy(ring(0, 10));
        space.occupy(ring(15, 15));
        assert_eq!(space.free_slots(), 0);
    }
}
