//! One lock for many clients, held while a connection is opened: two first packets of one client that come in on two CPUs at
//! once must not make two connections, to one service or to two that share a real server. Nothing else takes it; established
//! packets, the daemon and whoever takes places back do without.

use balancer_common::verdict::Discard;

use crate::{
    atomic,
    maps::{LOCK_COUNT, LOCKS},
};

/// How often a held lock is tried: many times what any holder needs, unless it is interrupted. Above what LLVM would
/// unroll.
const TRIES: u32 = 256;

/// Takes the lock of the client with this hash. There is no destructor: every path calls [`release`].
#[inline(always)]
pub fn take(hash: u64) -> Result<(), Discard> {
    let lock = lock(hash).ok_or(Discard::Busy)?;
    for _ in 0..TRIES {
        if atomic::exchange(lock, 0, 1) {
            return Ok(());
        }
    }
    Err(Discard::Busy)
}

/// Gives it back.
#[inline(always)]
pub fn release(hash: u64) {
    if let Some(lock) = lock(hash) {
        atomic::exchange(lock, 1, 0);
    }
}

#[inline(always)]
fn lock(hash: u64) -> Option<*mut u32> {
    LOCKS.get_ptr_mut((hash >> 16) as u32 & (LOCK_COUNT - 1))
}
