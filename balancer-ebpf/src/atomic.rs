//! Reads and writes of map values that LLVM must not do its own way: atomic ones, by the intrinsics that this target has, and
//! copies.

use core::{
    intrinsics::{
        AtomicOrdering::{AcqRel, Acquire},
        atomic_cxchg, atomic_xadd,
    },
    ptr,
};

/// Adds and gives the old value. Not relaxed: for that LLVM emits the instruction that does not fetch, and the
/// "old value" is the addend.
#[inline(always)]
pub fn fetch_add(value: *mut u64, n: u64) -> u64 {
    // SAFETY: callers pass pointers to map values, which are aligned and outlive the program's run.
    unsafe { atomic_xadd::<u64, u64, { AcqRel }>(value, n) }
}

/// Writes `new` where `old` stands, and tells whether it did. A full barrier: the kernel's memory model makes
/// every BPF atomic that fetches fully ordered.
#[inline(always)]
pub fn exchange(value: *mut u32, old: u32, new: u32) -> bool {
    // SAFETY: as above.
    unsafe { atomic_cxchg::<u32, { AcqRel }, { Acquire }>(value, old, new).1 }
}

/// As [`exchange`], of 64 bits.
#[inline(always)]
pub fn exchange_long(value: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: as above.
    unsafe { atomic_cxchg::<u64, { AcqRel }, { Acquire }>(value, old, new).1 }
}

/// Copies a value made of 32-bit words, word by word and volatile: for longer ones LLVM calls memcpy, a subprogram that
/// copies byte by byte.
#[inline(always)]
pub fn copy<T: Copy>(to: *mut T, from: &T) {
    const {
        assert!(
            size_of::<T>().is_multiple_of(4) && align_of::<T>() >= 4,
            "whole words"
        )
    };
    let from: *const u32 = ptr::from_ref(from).cast();
    let to: *mut u32 = to.cast();
    for word in 0..size_of::<T>() / 4 {
        // SAFETY: both are values of the same type, and callers pass pointers to map values.
        unsafe { ptr::write_volatile(to.add(word), *from.add(word)) };
    }
}
