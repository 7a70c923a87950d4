//! Which slots of `RINGS` are free. Pure.

use std::collections::BTreeMap;

use balancer_common::scheduler::Ring;

/// The free slots of `RINGS`.
///
/// A region that a service has left is *retired*: a packet that looked the service up a moment ago may still read it. It
/// becomes free with [`RingSpace::release`], which the caller calls when no such packet is left, or with
/// [`RingSpace::end_wait`] after [`RingSpace::begin_wait`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingSpace {
    slots: u32,
    /// Length of each free region by its offset; adjacent regions are merged.
    free: BTreeMap<u32, u32>,
    retired: Vec<Ring>,
    /// Regions that were retired before the present wait began.
    waiting: Vec<Ring>,
}

impl RingSpace {
    /// Space of `slots` slots, all free except those of `used`.
    #[must_use]
    pub fn with_used(slots: u32, used: impl IntoIterator<Item = Ring>) -> Self {
        let mut used: Vec<_> = used.into_iter().filter(|ring| ring.length > 0).collect();
        used.sort_by_key(|ring| ring.offset);
        let mut free = BTreeMap::new();
        let mut next = 0;
        for ring in used {
            if ring.offset > next {
                free.insert(next, ring.offset - next);
            }
            next = next.max(ring.offset.saturating_add(ring.length));
        }
        if next < slots {
            free.insert(next, slots - next);
        }
        Self {
            slots,
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
        let (offset, gap) = self
            .free
            .iter()
            .find(|(_, gap)| **gap >= length)
            .map(|(o, g)| (*o, *g))?;
        self.free.remove(&offset);
        if gap > length {
            self.free.insert(offset + length, gap - length);
        }
        Some(Ring { offset, length })
    }

    /// Marks a region as used that another copy of this space allocated.
    pub fn occupy(&mut self, ring: Ring) {
        if ring.length == 0 {
            return;
        }
        let Some((offset, gap)) = self
            .free
            .range(..=ring.offset)
            .next_back()
            .map(|(o, g)| (*o, *g))
        else {
            return;
        };
        let end = offset + gap;
        if end < ring.offset + ring.length {
            return;
        }
        self.free.remove(&offset);
        if ring.offset > offset {
            self.free.insert(offset, ring.offset - offset);
        }
        if end > ring.offset + ring.length {
            self.free
                .insert(ring.offset + ring.length, end - ring.offset - ring.length);
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
        for Ring {
            mut offset,
            mut length,
        } in std::mem::take(&mut self.waiting)
        {
            if let Some((before, gap)) =
                self.free.range(..offset).next_back().map(|(o, g)| (*o, *g))
                && before + gap == offset
            {
                self.free.remove(&before);
                offset = before;
                length += gap;
            }
            if let Some(gap) = self.free.remove(&(offset + length)) {
                length += gap;
            }
            self.free.insert(offset, length);
        }
    }

    /// Whether half of all slots are free.
    #[must_use]
    pub fn half_is_free(&self) -> bool {
        self.free() >= self.slots / 2
    }

    /// Number of free slots, scattered or not.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ring(offset: u32, length: u32) -> Ring {
        Ring { offset, length }
    }

    #[test]
    fn what_is_used_at_the_start_is_not_given_out() {
        let mut space = RingSpace::with_used(100, [ring(60, 20), ring(0, 10)]);
        assert_eq!(space.free(), 70);
        assert_eq!(space.allocate(51), None);
        assert_eq!(space.allocate(50), Some(ring(10, 50)));
        assert_eq!(space.allocate(20), Some(ring(80, 20)));
        assert_eq!(space.allocate(1), None);
        assert_eq!(space.allocate(0), Some(ring(0, 0)));
    }

    #[test]
    fn a_retired_region_is_free_only_after_its_release_and_merges_with_its_neighbours() {
        let mut space = RingSpace::with_used(30, []);
        let regions: Vec<_> = (0..3).map(|_| space.allocate(10).unwrap()).collect();
        for region in [regions[0], regions[2], regions[1]] {
            space.retire(region);
        }
        assert!(space.has_retired());
        assert_eq!(space.allocate(1), None);
        space.release();
        assert!(!space.has_retired());
        assert_eq!(space.allocate(30), Some(ring(0, 30)));
    }

    #[test]
    fn what_is_retired_during_a_wait_stays_retired() {
        let mut space = RingSpace::with_used(30, []);
        let regions: Vec<_> = (0..3).map(|_| space.allocate(10).unwrap()).collect();
        space.retire(regions[0]);
        space.begin_wait();
        space.retire(regions[1]);
        assert_eq!(space.free(), 0);
        space.end_wait();
        assert_eq!(space.free(), 10);
        assert!(space.has_retired());
        space.begin_wait();
        space.end_wait();
        assert_eq!(space.allocate(20), Some(ring(0, 20)));
    }

    #[test]
    fn taking_a_region_is_allocating_it() {
        let mut space = RingSpace::with_used(30, []);
        space.occupy(ring(10, 5));
        assert_eq!(space, RingSpace::with_used(30, [ring(10, 5)]));
        space.occupy(ring(0, 10));
        space.occupy(ring(15, 15));
        assert_eq!(space.free(), 0);
    }
}
