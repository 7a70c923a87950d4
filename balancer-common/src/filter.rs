//! Which clients may open connections to a service, and how many of them in a second: the rules in `FILTER_RULES`, and the token
//! buckets in `RATE_BUCKETS`.
//!
//! Of a service's rules the one with the longest prefix that contains the client decides; a client that is in none may open connections.
//! Where a service lets in only some clients, a rule for all addresses refuses the others. The rule is asked first, then the limit.

use crate::{
    addr::Addr,
    plain_data,
    service::MAX_SERVICES,
    token_bucket::{SECOND, take},
};

/// Most prefixes in the lists of all services together.
pub const MAX_PREFIXES: u32 = 65_536;

/// Capacity of `FILTER_RULES`: the lists' prefixes and a rule of each service for all others; twice, so that all lists can be replaced by
/// others, whose rules are written before the old ones are deleted.
pub const MAX_RULES: u32 = 2 * (MAX_PREFIXES + MAX_SERVICES);

/// Capacity of `FILTER_COUNTS`: an id for each rule, and for each service's limit. Ids begin with 1.
pub const MAX_RULE_IDS: u32 = MAX_RULES + MAX_SERVICES;

/// Capacity of `RATE_BUCKETS`: clients, or networks of clients that count as one, over all services. Where more than these come in, the
/// bucket that was asked for longest ago goes, and its client begins with a full one.
pub const RATE_BUCKETS: u32 = 65_536;

/// What a rule says of its clients: numbers in [`Rule::verdict`].
pub mod verdict {
    /// They may open connections.
    pub const ALLOW: u32 = 0;
    /// They may not.
    pub const DENY: u32 = 1;
}

/// A client, or a network of clients, of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct ClientKey {
    /// The service's id.
    pub service: u32,
    /// The client's address; of a network, the first. Network byte order.
    pub client: Addr,
}

const _: () = assert!(size_of::<ClientKey>() == 20);

impl ClientKey {
    /// Its bits.
    pub const BITS: u32 = 160;
    /// Bits in front of an IPv6 address, and of an IPv4 address in the shared form.
    pub const BITS_BEFORE: [u32; 2] = [32, 128];
}

/// Key of `FILTER_RULES`, a longest-prefix table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct RulePrefix {
    /// Leading bits of the client's key that count: 32, those of the service, and more.
    pub length: u32,
    /// The service, and the first address.
    pub first: ClientKey,
}

const _: () = assert!(size_of::<RulePrefix>() == 24);

/// A rule: a value of `FILTER_RULES`. It is never changed where it lies, but replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Rule {
    /// One of [`verdict`].
    pub verdict: u32,
    /// Its key in `FILTER_COUNTS`.
    pub id: u32,
}

const _: () = assert!(size_of::<Rule>() == 8);

/// How many connections a client may open: a value of `RATE_LIMITS`, by service id.
///
/// Each client has a token bucket, see [`token_bucket`](crate::token_bucket).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RateLimit {
    /// The bits of a client's address (in the shared form) that tell clients apart.
    pub mask: Addr,
    /// Nanoseconds that a token takes to come back; 0 = there is no limit.
    pub each: u64,
    /// Nanoseconds by which a connection may come earlier than evenly: what all tokens but one are worth.
    pub burst: u64,
    /// Its key in `FILTER_COUNTS`, which counts what it refuses.
    pub id: u32,
    /// Always zero.
    pub zero: u32,
}

const _: () = assert!(size_of::<RateLimit>() == 40);
plain_data!(ClientKey, RulePrefix, Rule, RateLimit);

impl RateLimit {
    /// The limit of so many connections in a second, 1 to 1,000,000, as many of them at once after a second of silence.
    #[must_use]
    pub const fn new(per_second: u32, mask: Addr, id: u32) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second };
        let each = SECOND / per_second as u64;
        Self {
            mask,
            each,
            burst: (per_second as u64 - 1) * each,
            id,
            zero: 0,
        }
    }

    /// Whose bucket a client's connection takes a token from.
    #[inline(always)]
    #[must_use]
    pub const fn bucket(&self, service: u32, client: Addr) -> ClientKey {
        let (a, m) = (client.0, self.mask.0);
        ClientKey {
            service,
            client: Addr([a[0] & m[0], a[1] & m[1], a[2] & m[2], a[3] & m[3]]),
        }
    }

    /// What stands in a client's bucket after a connection at time `now` (nanoseconds), where `due` stood before, at first zero; nothing
    /// where the connection is one too many.
    #[inline(always)]
    #[must_use]
    pub const fn admit(&self, due: u64, now: u64) -> Option<u64> {
        take(due, now, self.each, self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 5 * SECOND;

    fn limit(per_second: u32) -> RateLimit {
        RateLimit::new(per_second, Addr([u32::MAX; 4]), 1)
    }

    fn admitted(limit: &RateLimit, due: &mut u64, now: u64, asked: u32) -> u32 {
        (0..asked)
            .filter(|_| match limit.admit(*due, now) {
                Some(next) => {
                    *due = next;
                    true
                }
                None => false,
            })
            .count() as u32
    }

    #[test]
    fn a_second_of_connections_comes_at_once_and_then_one_each_interval() {
        for per_second in [1, 2, 3, 7, 100, 999, 1_000_000] {
            let (limit, mut due) = (limit(per_second), 0);
            let asked = 2 * per_second;
            assert_eq!(admitted(&limit, &mut due, NOW, asked), per_second);
            assert_eq!(admitted(&limit, &mut due, NOW + limit.each - 1, 5), 0);
            assert_eq!(admitted(&limit, &mut due, NOW + limit.each, 5), 1);
            // A long silence saves up no more than a second's.
            let later = NOW + 100 * SECOND;
            assert_eq!(admitted(&limit, &mut due, later, asked), per_second);
        }
    }

    #[test]
    fn who_is_refused_pays_nothing() {
        let (limit, mut due) = (limit(10), 0);
        assert_eq!(admitted(&limit, &mut due, NOW, 10), 10);
        assert_eq!(admitted(&limit, &mut due, NOW, 1_000_000), 0);
        assert_eq!(admitted(&limit, &mut due, NOW + SECOND / 10, 2), 1);
    }

    #[test]
    fn in_the_long_run_no_second_has_more_than_the_rate_and_a_burst() {
        let (limit, mut due) = (limit(50), 0);
        // Ten times as many as allowed, for 20 seconds.
        let total: u32 = (0..10_000)
            .map(|i| admitted(&limit, &mut due, NOW + i * SECOND / 500, 1))
            .sum();
        assert_eq!(total, 50 + 50 * 20 - 1);
    }

    #[test]
    fn clients_of_one_network_share_a_bucket_and_services_do_not() {
        let v4 = |address: [u8; 4]| Addr::from_v4(u32::from_ne_bytes(address));
        let mask = Addr([u32::MAX, u32::MAX, u32::MAX, 0xffff_ff00_u32.to_be()]);
        let limit = RateLimit::new(1, mask, 1);
        let key = limit.bucket(3, v4([198, 51, 100, 7]));
        assert_eq!(key, limit.bucket(3, v4([198, 51, 100, 200])));
        assert_ne!(key, limit.bucket(3, v4([198, 51, 101, 7])));
        assert_ne!(key, limit.bucket(4, v4([198, 51, 100, 7])));
        assert_eq!(key.client, v4([198, 51, 100, 0]));
    }

    /// Against a bucket of tokens in the plain sense, with a clock that stands still or goes on.
    #[test]
    fn admits_as_a_bucket_of_tokens_would() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |most: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % most
        };
        for _ in 0..300 {
            let limit = limit(1 + below(2_000) as u32);
            let (mut due, mut now) = (0, NOW);
            // In nanoseconds of tokens, so that nothing is rounded.
            let full = limit.burst + limit.each;
            let mut tokens = full;
            for _ in 0..60 {
                let pause = below(400_000_000);
                now += pause;
                tokens = (tokens + pause).min(full);
                for _ in 0..below(50) {
                    let has_token = tokens >= limit.each;
                    if has_token {
                        tokens -= limit.each;
                    }
                    assert_eq!(admitted(&limit, &mut due, now, 1) == 1, has_token);
                }
            }
        }
    }
}
