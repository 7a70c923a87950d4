//! An array map mapped into this process (`BPF_F_MMAPABLE`): read and written without a system call, while the packet
//! program does the same.

use std::{
    io,
    marker::PhantomData,
    mem::{align_of, size_of},
    num::NonZero,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64},
};

use aya::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The values `T` of the map, which the packet program and other daemons read and write at the same time.
#[derive(Debug)]
pub struct MappedMemory<T> {
    start: NonNull<T>,
    count: usize,
    types: PhantomData<fn() -> T>,
}

// SAFETY: the memory belongs to no thread; every access is atomic or volatile, and `T` is plain data.
unsafe impl<T: Pod> Send for MappedMemory<T> {}
// SAFETY: as above.
unsafe impl<T: Pod> Sync for MappedMemory<T> {}

impl<T: Pod> MappedMemory<T> {
    /// Maps the values of an array map. Their size must be a multiple of 8 bytes, so that they lie side by side.
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
        Ok(Self::from_raw(start, count))
    }

    /// Zeroed memory that belongs to no map.
    ///
    /// # Errors
    /// There is not enough memory.
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
        Ok(Self::from_raw(start, count))
    }

    fn length(count: u32) -> io::Result<NonZero<usize>> {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 4096) };
        NonZero::new(size_of::<T>() * count as usize)
            .ok_or_else(|| io::Error::other("a map without values cannot be read as memory"))
    }

    const fn from_raw(start: NonNull<std::ffi::c_void>, count: u32) -> Self {
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

    /// Size of all values in bytes.
    pub const fn bytes(&self) -> u64 {
        size_of::<T>() as u64 * self.count as u64
    }

    /// Pointer to a value, valid for as long as `self` lives; `None` beyond the last one.
    pub const fn pointer(&self, index: usize) -> Option<*mut T> {
        if index >= self.count {
            return None;
        }
        // SAFETY: the index is within the mapping.
        Some(unsafe { self.start.as_ptr().add(index) })
    }

    /// A copy of a value. It may be torn: half of it from before a concurrent write.
    pub fn read(&self, index: usize) -> Option<T> {
        let value = self.pointer(index)?;
        // SAFETY: it is within the mapping and aligned, and every bit pattern is a `T`.
        Some(unsafe { value.read_volatile() })
    }

    /// The 32-bit word of a value that begins `offset` bytes from its start.
    ///
    /// # Panics
    /// `offset` is not a multiple of 4, or beyond the value's last word.
    pub fn word(&self, index: usize, offset: usize) -> Option<&AtomicU32> {
        assert!(offset.is_multiple_of(4) && offset + 4 <= size_of::<T>());
        let value = self.pointer(index)?;
        // SAFETY: the word is within the value, hence within the mapping, which outlives the reference; it is aligned as the value
        // is; and everybody changes it as a whole.
        Some(unsafe { AtomicU32::from_ptr(value.cast::<u32>().byte_add(offset)) })
    }

    /// The 64-bit word of a value that begins `offset` bytes from its start.
    ///
    /// # Panics
    /// `offset` is not a multiple of 8, or beyond the value's last word.
    pub fn long(&self, index: usize, offset: usize) -> Option<&AtomicU64> {
        const { assert!(align_of::<T>() >= 8) };
        assert!(offset.is_multiple_of(8) && offset + 8 <= size_of::<T>());
        let value = self.pointer(index)?;
        // SAFETY: as for `word`.
        Some(unsafe { AtomicU64::from_ptr(value.cast::<u64>().byte_add(offset)) })
    }
}

impl<T> Drop for MappedMemory<T> {
    fn drop(&mut self) {
        // SAFETY: this is what `mmap` returned, of the same length, and no reference to it is left. A failure would
        // only leak address space.
        let _ = unsafe { munmap(self.start.cast(), size_of::<T>() * self.count) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn values_and_their_words_are_the_same_memory() {
        let memory = MappedMemory::<[u32; 4]>::anonymous(3).unwrap();
        assert_eq!((memory.count(), memory.bytes()), (3, 48));
        memory.word(1, 8).unwrap().store(7, Ordering::Relaxed);
        assert_eq!(memory.read(0), Some([0; 4]));
        assert_eq!(memory.read(1), Some([0, 0, 7, 0]));
        assert_eq!(memory.read(3), None);
        assert!(memory.word(3, 0).is_none());
        assert!(MappedMemory::<[u32; 4]>::anonymous(0).is_err());
    }
}
