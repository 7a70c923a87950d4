//! Atomic read-modify-write on map values, by the intrinsics that this target has.

use core::intrinsics::{
    AtomicOrdering::{AcqRel, Acquire},
    atomic_cxchg, atomic_xadd,
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
