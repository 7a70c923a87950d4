//! Half-open connections in their buckets.

use balancer_common::{
    addr::{Addr, Address},
    half_open::{HalfOpen, HalfOpenBucket, WAYS, bucket},
    tcp::State,
    verdict::Discard,
};

use crate::{atomic, maps::HALF_OPEN, table::Scratch};

/// How often a held lock is tried: many times what any holder needs, unless it is interrupted. Above what LLVM would
/// unroll.
const LOCK_TRIES: u32 = 256;

/// Whether the client's bucket may hold a record of it: a look without the lock, so that traffic that is not ours
/// takes none.
#[inline(always)]
pub fn may_have(client: &Addr, client_port: u16, seed: u64) -> bool {
    let Some(bucket) = HALF_OPEN.get_ptr(bucket(client, client_port, seed)) else {
        return false;
    };
    for way in 0..WAYS {
        // SAFETY: as in `lock`; a record that another CPU is writing gives a wrong answer at worst, and one that
        // matters to this packet was written before the packet could exist.
        let record = unsafe { &(*bucket).records[way] };
        if record.client_port == client_port && record.client.0[3] == client.0[3] {
            return true;
        }
    }
    false
}

/// A locked bucket. There is no destructor to forget: every path calls [`Locked::unlock`].
pub struct Locked(*mut HalfOpenBucket);

/// Locks the bucket of a client.
#[inline(always)]
pub fn lock(client: &Addr, client_port: u16, seed: u64) -> Result<Locked, Discard> {
    let bucket = HALF_OPEN
        .get_ptr_mut(bucket(client, client_port, seed))
        .ok_or(Discard::Busy)?;
    for _ in 0..LOCK_TRIES {
        // SAFETY: the map gave this pointer; array values never move.
        if atomic::exchange(unsafe { &raw mut (*bucket).lock }, 0, 1) {
            return Ok(Locked(bucket));
        }
    }
    Err(Discard::Busy)
}

impl Locked {
    /// Gives the bucket back.
    #[inline(always)]
    pub fn unlock(self) {
        // SAFETY: as in `lock`.
        atomic::exchange(unsafe { &raw mut (*self.0).lock }, 1, 0);
    }

    /// The live record of the scratch's packet, a client's.
    #[inline(always)]
    pub fn original<A: Address>(
        &mut self,
        scratch: &Scratch<A>,
        now: u32,
        timeout: u32,
    ) -> Option<&mut HalfOpen> {
        self.record(find_original(self.0, scratch, now, timeout))
    }

    /// The live record of the scratch's packet, a real server's.
    #[inline(always)]
    pub fn reply<A: Address>(
        &mut self,
        scratch: &Scratch<A>,
        now: u32,
        timeout: u32,
    ) -> Option<&mut HalfOpen> {
        self.record(find_reply(self.0, scratch, now, timeout))
    }

    /// The live record in which the real server's answer to the scratch's new connection would be found.
    #[inline(always)]
    pub fn same_reply<A: Address>(
        &mut self,
        scratch: &Scratch<A>,
        now: u32,
        timeout: u32,
    ) -> Option<&mut HalfOpen> {
        self.record(find_same_reply(self.0, scratch, now, timeout))
    }

    /// Begins the handshake of the scratch's packet, steered by the scratch's row: in place of a free or spent record,
    /// else of the one that has waited longest.
    #[inline(always)]
    pub fn overwrite<A: Address>(&mut self, scratch: &Scratch<A>, now: u32, timeout: u32) {
        overwrite(self.0, scratch, now, timeout);
    }

    /// The record in one way.
    #[inline(always)]
    fn record(&mut self, way: usize) -> Option<&mut HalfOpen> {
        // SAFETY: the lock is held, so nobody else writes, and `&mut self` lends one record at a time.
        unsafe { (*self.0).records.get_mut(way) }
    }
}

/// The way of the live record of a client's packet, or [`WAYS`]. A subprogram: it keeps the callers' stacks small.
#[inline(never)]
fn find_original<A: Address>(
    bucket: *const HalfOpenBucket,
    scratch: &Scratch<A>,
    now: u32,
    timeout: u32,
) -> usize {
    find(bucket, now, timeout, |record| {
        record.is_original(&scratch.key)
    })
}

/// The way of the live record of a real server's packet, or [`WAYS`].
#[inline(never)]
fn find_reply<A: Address>(
    bucket: *const HalfOpenBucket,
    scratch: &Scratch<A>,
    now: u32,
    timeout: u32,
) -> usize {
    find(bucket, now, timeout, |record| record.is_reply(&scratch.key))
}

/// The way of the live record whose real server's packets have the scratch's reply key, or [`WAYS`].
#[inline(never)]
fn find_same_reply<A: Address>(
    bucket: *const HalfOpenBucket,
    scratch: &Scratch<A>,
    now: u32,
    timeout: u32,
) -> usize {
    find(bucket, now, timeout, |record| {
        record.is_reply(&scratch.reply_key)
    })
}

/// The way of the live record that `matches`, or [`WAYS`].
#[inline(always)]
fn find(
    bucket: *const HalfOpenBucket,
    now: u32,
    timeout: u32,
    matches: impl Fn(&HalfOpen) -> bool,
) -> usize {
    for way in 0..WAYS {
        // SAFETY: callers hold the lock, and `way` is below `WAYS`.
        let record = unsafe { &(*bucket).records[way] };
        if matches(record) && record.is_live(now, timeout) {
            return way;
        }
    }
    WAYS
}

/// Begins a handshake in a bucket.
#[inline(never)]
fn overwrite<A: Address>(
    bucket: *mut HalfOpenBucket,
    scratch: &Scratch<A>,
    now: u32,
    timeout: u32,
) {
    let (key, row) = (&scratch.key, &scratch.row);
    // SAFETY: callers hold the lock, and the way is below `WAYS`.
    let record = unsafe { &mut (*bucket).records[oldest(bucket, now, timeout) & (WAYS - 1)] };
    record.client = key.source.widen();
    record.vip = key.destination.widen();
    record.real = row.translation.destination.widen();
    record.client_port = key.source_port;
    record.vip_port = key.destination_port;
    record.real_port = row.translation.destination_port;
    record.state = State::SynSent as u8;
    record.real_id = row.real;
    record.last_seen = now;
    record.sequence = 0;
}

/// The way of the record to overwrite.
#[inline(always)]
fn oldest(bucket: *const HalfOpenBucket, now: u32, timeout: u32) -> usize {
    const SPENT: u32 = u32::MAX;
    const ENDED: u32 = u32::MAX - 1;
    let (mut oldest, mut age) = (0, 0);
    for way in 0..WAYS {
        // SAFETY: as in `find`.
        let record = unsafe { &(*bucket).records[way] };
        let spent = record.state == 0 || !record.is_live(now, timeout);
        let idle = if spent {
            SPENT
        } else if !record.is_under_way() {
            ENDED
        } else {
            now.wrapping_sub(record.last_seen)
        };
        if idle >= age {
            age = idle;
            oldest = way;
        }
    }
    oldest
}
