//! An array map as memory of this process (`BPF_F_MMAPABLE`): read and written without a system call, while the packet
//! program does the same.

use std::{
    io,
    marker::PhantomData,
    mem::{align_of, size_of},
    num::NonZero,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::AtomicU32,
};

use aya::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Values `T` that others read and write at the same time.
#[derive(Debug)]
pub struct Memory<T> {
    start: NonNull<T>,
    count: usize,
    types: PhantomData<fn() -> T>,
}

// SAFETY: the memory belongs to no thread; every access is atomic or volatile, and `T` is plain data.
unsafe impl<T: Pod> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Pod> Sync for Memory<T> {}

impl<T: Pod> Memory<T> {
    /// The values of an array map. They lie side by side, as their size is a multiple of 8.
    ///
    /// # Errors
    /// The map is not mmapable, or there is no address space for it.
    pub fn of_map(map: BorrowedFd<'_>, count: u32) -> io::Result<Self> {
        let length = Self::length(count)?;
        // SAFETY: a new mapping, whose pages the kernel chooses.
        let start = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map,
                0,
            )
        }?;
        Ok(Self::at(start, count))
    }

    /// Zeroed memory of no map.
    ///
    /// # Errors
    /// There is not enough.
    #[cfg(test)]
    pub fn anonymous(count: u32) -> io::Result<Self> {
        let length = Self::length(count)?;
        // SAFETY: a new mapping, whose pages the kernel chooses.
        let start = unsafe {
            nix::sys::mman::mmap_anonymous(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }?;
        Ok(Self::at(start, count))
    }

    fn length(count: u32) -> io::Result<NonZero<usize>> {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 4096) };
        NonZero::new(size_of::<T>() * count as usize)
            .ok_or_else(|| io::Error::other("a map without values cannot be read as memory"))
    }

    const fn at(start: NonNull<std::ffi::c_void>, count: u32) -> Self {
        Self {
            start: start.cast(),
            count: count as usize,
            types: PhantomData,
        }
    }

    /// Number of values.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Their size in bytes.
    pub const fn bytes(&self) -> u64 {
        size_of::<T>() as u64 * self.count as u64
    }

    /// Where a value stands, for as long as `self` lives.
    pub const fn value(&self, index: usize) -> Option<*mut T> {
        if index >= self.count {
            return None;
        }
        // SAFETY: the index is within the mapping.
        Some(unsafe { self.start.as_ptr().add(index) })
    }

    /// A copy of a value. Half of it may be from before a change that is under way.
    pub fn read(&self, index: usize) -> Option<T> {
        let value = self.value(index)?;
        // SAFETY: it is within the mapping and aligned, and every bit pattern is a `T`.
        Some(unsafe { value.read_volatile() })
    }

    /// A word of a value, `offset` bytes from its beginning.
    ///
    /// # Panics
    /// There is no whole word at that offset.
    pub fn word(&self, index: usize, offset: usize) -> Option<&AtomicU32> {
        assert!(offset.is_multiple_of(4) && offset + 4 <= size_of::<T>());
        let value = self.value(index)?;
        // SAFETY: the word is within the value, hence within the mapping, which outlives the reference; it is aligned as the value
        // is; and everybody changes it as a whole.
        Some(unsafe { AtomicU32::from_ptr(value.cast::<u32>().byte_add(offset)) })
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        // SAFETY: this is what `mmap` gave, of the same length, and nobody refers to it any more. A failure would leave the
        // address space taken, and nothing else.
        let _ = unsafe { munmap(self.start.cast(), size_of::<T>() * self.count) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn values_and_their_words_are_the_same_memory() {
        let memory = Memory::<[u32; 4]>::anonymous(3).unwrap();
        assert_eq!((memory.count(), memory.bytes()), (3, 48));
        memory.word(1, 8).unwrap().store(7, Ordering::Relaxed);
        assert_eq!(memory.read(0), Some([0; 4]));
        assert_eq!(memory.read(1), Some([0, 0, 7, 0]));
        assert_eq!(memory.read(3), None);
        assert!(memory.word(3, 0).is_none());
        assert!(Memory::<[u32; 4]>::anonymous(0).is_err());
    }
}
