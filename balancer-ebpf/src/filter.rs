//! Whether a client may open a connection: its service's rules, then the limit of connections in a second. See
//! `balancer_common::filter`. Touches maps and the scratch only.

use core::ptr;

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_ktime_get_ns, maps::lpm_trie::Key};
use balancer_common::{
    addr::Address,
    filter::{ClientKey, RateLimit, verdict},
    service::{FILTERED, LIMITED},
    verdict::Discard,
};

use crate::{
    atomic,
    encoded::Encoded,
    family::{Family, scratch},
    maps::{FILTER_COUNTS, FILTER_RULES, RATE_BUCKETS, RATE_LIMITS},
    scratch::{Scratch, Screening},
};

/// How often a token is reached for that other CPUs take at the same moment. After that the connection is let in without: each of these
/// CPUs has taken one.
const TRIES: u32 = 4;

/// Why the scratch's packet may not open a connection to its service, if it may not. With `is_trace` nothing is counted or taken.
#[inline(never)]
pub fn screen<H: Family>(is_trace: u64) -> Encoded {
    Encoded::step(try_screen::<H>(is_trace))
}

#[inline(always)]
fn try_screen<H: Family>(is_trace: u64) -> Result<bool, Discard> {
    let scratch = scratch::<H>()?;
    let flags = scratch.service.flags;
    if flags & (FILTERED | LIMITED) == 0 {
        return Ok(true);
    }
    if flags & FILTERED != 0 {
        ask_rules(scratch, is_trace)?;
    }
    if flags & LIMITED != 0 {
        ask_limit(scratch, is_trace)?;
    }
    Ok(true)
}

/// Asks the rule with the longest prefix.
#[inline(always)]
fn ask_rules<A: Address>(scratch: &mut Scratch<A>, is_trace: u64) -> Result<(), Discard> {
    let client = ClientKey {
        service: scratch.service.id,
        client: scratch.key.source.widen(),
    };
    scratch.screening.rule_key = Key::new(ClientKey::BITS, client);
    let Some(rule) = FILTER_RULES.get(&scratch.screening.rule_key) else {
        return Ok(());
    };
    let is_denied = rule.verdict != verdict::ALLOW;
    scratch.screening.rule = rule.id;
    if is_trace == 0 {
        count(&scratch.screening);
    }
    if is_denied {
        return Err(Discard::Denied);
    }
    Ok(())
}

/// Takes a token out of the client's bucket.
#[inline(always)]
fn ask_limit<A: Address>(scratch: &mut Scratch<A>, is_trace: u64) -> Result<(), Discard> {
    let Some(limit) = RATE_LIMITS.get(scratch.service.id) else {
        return Ok(());
    };
    let key = limit.bucket(scratch.service.id, scratch.key.source.widen());
    atomic::copy(&raw mut scratch.screening.bucket_key, &key);
    // SAFETY: the helper only reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    if limit.each == 0 || has_token(&mut scratch.screening, limit, now, is_trace) {
        return Ok(());
    }
    scratch.screening.rule = limit.id;
    if is_trace == 0 {
        count(&scratch.screening);
    }
    Err(Discard::RateLimited)
}

/// Whether the screening's bucket has a token; it is taken then, unless it is only asked for.
#[inline(always)]
fn has_token(screening: &mut Screening, limit: &RateLimit, now: u64, is_trace: u64) -> bool {
    if RATE_BUCKETS.get_ptr(&screening.bucket_key).is_none() {
        if is_trace != 0 {
            return true;
        }
        screening.bucket = limit.admit(0, now).unwrap_or(now);
        let key = &screening.bucket_key;
        if RATE_BUCKETS
            .insert(key, &screening.bucket, BPF_NOEXIST.into())
            .is_ok()
        {
            return true;
        }
    }
    // Where it is there now, another CPU has made it. Where it is not, there is no room for it at this moment.
    let Some(bucket) = RATE_BUCKETS.get_ptr_mut(&screening.bucket_key) else {
        return true;
    };
    for _ in 0..TRIES {
        // SAFETY: the map gave this pointer. Its place may be given to another client meanwhile, who then has a token less.
        let due = unsafe { ptr::read_volatile(bucket) };
        let Some(next) = limit.admit(due, now) else {
            return false;
        };
        if is_trace != 0 || atomic::exchange_long(bucket, due, next) {
            return true;
        }
    }
    true
}

/// Counts a packet for the screening's rule.
#[inline(always)]
fn count(screening: &Screening) {
    if let Some(count) = FILTER_COUNTS.get_ptr_mut(&screening.rule) {
        // SAFETY: this CPU's own value.
        unsafe { *count += 1 };
    }
}
