//! Maps as memory, so that tests read them without a system call.

use std::{marker::PhantomData, num::NonZero, os::fd::AsFd, ptr::NonNull};

use aya::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The values of an array that the daemon, too, has as memory.
pub struct Mapped<V> {
    start: NonNull<V>,
    count: usize,
    values: PhantomData<V>,
}

// SAFETY: the mapping is memory that others write anyway; it is only copied from and to.
unsafe impl<V: Pod> Send for Mapped<V> {}
// SAFETY: as above.
unsafe impl<V: Pod> Sync for Mapped<V> {}

impl<V: Pod> Mapped<V> {
    /// Maps `count` values.
    ///
    /// # Panics
    /// The kernel refuses.
    pub fn new(map: impl AsFd, count: usize) -> Self {
        const { assert!(size_of::<V>().is_multiple_of(8) && align_of::<V>() <= 4096) };
        let length = NonZero::new(size_of::<V>() * count).expect("an array with values");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, which is unmapped when the value is dropped.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map, 0) };
        Self {
            start: start.expect("map an array").cast(),
            count,
            values: PhantomData,
        }
    }

    fn pointer(&self, index: usize) -> *mut V {
        assert!(index < self.count, "{index} of {}", self.count);
        // SAFETY: within the mapping.
        unsafe { self.start.as_ptr().add(index) }
    }

    /// How many values there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// A copy of a value.
    ///
    /// # Panics
    /// There are not so many.
    pub fn get(&self, index: usize) -> V {
        // SAFETY: within the mapping; every bit pattern is a value, and others may be writing it.
        unsafe { self.pointer(index).read_volatile() }
    }

    /// Writes a value.
    ///
    /// # Panics
    /// There are not so many.
    pub fn set(&mut self, index: usize, value: V) {
        // SAFETY: as for `get`.
        unsafe { self.pointer(index).write_volatile(value) }
    }

    /// Copies of all values.
    pub fn iter(&self) -> impl Iterator<Item = V> + '_ {
        (0..self.count).map(|index| self.get(index))
    }
}

impl<V> Drop for Mapped<V> {
    fn drop(&mut self) {
        // SAFETY: what `mmap` returned, of the same length.
        let _ = unsafe { munmap(self.start.cast(), size_of::<V>() * self.count) };
    }
}
