//! Half-open connections: a SYN was seen, the handshake is not complete.
//!
//! They live apart from the connection table, so that a SYN flood can neither fill nor slow it. A half-open
//! connection is **one** record that serves both directions: both hash what they share, the client's
//! address and port, and compare the rest. The table is an array of buckets with [`WAYS`] records each; a
//! full bucket gives up its oldest record. Who reads or writes a record holds its bucket's lock; what a CPU
//! does meanwhile (choosing a real server, inserting the rows) takes about a microsecond.
//!
//! A handshake that is complete or was reset leaves its record behind for [`LINGER_JIFFIES`]: a packet that another
//! CPU looked up a moment before the rows were inserted still finds its translation.

use crate::{
    addr::{Addr, Address},
    conntrack::{FlowKey, is_older},
    plain_data,
    tcp::State,
};

/// Records per bucket.
pub const WAYS: usize = 4;

/// Number of buckets: 65,536 handshakes under way at once, 5 MB. A power of two.
pub const BUCKETS: u32 = 16_384;

/// How long a record whose handshake has ended may still translate packets.
pub const LINGER_JIFFIES: u32 = 32;

/// A connection whose handshake is not complete. Network byte order but for `sequence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct HalfOpen {
    /// The client's address.
    pub client: Addr,
    /// The virtual service's address, as the packet had it.
    pub vip: Addr,
    /// The real server's address.
    pub real: Addr,
    /// The client's port.
    pub client_port: u16,
    /// The virtual service's port, as the packet had it.
    pub vip_port: u16,
    /// The real server's port.
    pub real_port: u16,
    /// [`crate::tcp::State`] as a number; 0 = the record is free.
    pub state: u8,
    /// Always zero.
    pub zero: u8,
    /// Index of the real server in `REALS`.
    pub real_id: u32,
    /// Low 32 bits of jiffies at the last packet of either direction.
    pub last_seen: u32,
    /// The SYN|ACK's sequence number, host byte order.
    pub sequence: u32,
    /// Always zero.
    pub zero2: u32,
}

/// [`WAYS`] records and their lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct HalfOpenBucket {
    /// 1 while a CPU writes in this bucket.
    pub lock: u32,
    /// Always zero.
    pub zero: u32,
    /// The records.
    pub records: [HalfOpen; WAYS],
}

const _: () = assert!(size_of::<HalfOpen>() == 72);
const _: () = assert!(size_of::<HalfOpenBucket>() == 8 + WAYS * 72);
plain_data!(HalfOpen, HalfOpenBucket);

/// The bucket of a client's address and port, both in network byte order. `seed` is random per load, so
/// that nobody outside can aim at one bucket.
#[inline(always)]
#[must_use]
pub const fn bucket(client: &Addr, client_port: u16, seed: u64) -> u32 {
    // One keyed round per word (the multiplier of splitmix64): whoever knows the function but not the seed cannot
    // tell which clients share a bucket.
    let words = [
        client.0[0],
        client.0[1],
        client.0[2],
        client.0[3],
        client_port as u32,
    ];
    let mut hash = seed;
    let mut i = 0;
    while i < words.len() {
        hash = (hash ^ words[i] as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash ^= hash >> 32;
        i += 1;
    }
    (hash ^ (hash >> 31)) as u32 & (BUCKETS - 1)
}

impl HalfOpen {
    /// Whether this record is the handshake of a packet with `key` from the client to the service.
    #[inline(always)]
    #[must_use]
    pub fn is_original<A: Address>(&self, key: &FlowKey<A>) -> bool {
        self.state != 0
            && self.client_port == key.source_port
            && self.vip_port == key.destination_port
            && key.source.is(&self.client)
            && key.destination.is(&self.vip)
    }

    /// Whether this record is the handshake of a packet with `key` from the real server to the client.
    #[inline(always)]
    #[must_use]
    pub fn is_reply<A: Address>(&self, key: &FlowKey<A>) -> bool {
        self.state != 0
            && self.client_port == key.destination_port
            && self.real_port == key.source_port
            && key.destination.is(&self.client)
            && key.source.is(&self.real)
    }

    /// Whether the record may still translate packets at time `now` (jiffies, low 32 bits).
    #[inline(always)]
    #[must_use]
    pub const fn is_live(&self, now: u32, timeout: u32) -> bool {
        let timeout = if self.is_under_way() {
            timeout
        } else {
            LINGER_JIFFIES
        };
        !is_older(now, self.last_seen, timeout)
    }

    /// Ends the handshake: the record lingers.
    #[inline(always)]
    pub const fn end(&mut self, state: State, now: u32) {
        self.state = state as u8;
        self.last_seen = now;
    }

    /// Whether the handshake has neither been completed nor reset.
    #[inline(always)]
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        self.state == State::SynSent as u8 || self.state == State::SynReceived as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lives_for_the_timeout_and_lingers_briefly_when_its_handshake_has_ended() {
        let mut record = HalfOpen {
            state: State::SynSent as u8,
            last_seen: 100,
            ..HalfOpen::default()
        };
        assert!(record.is_live(700, 600));
        assert!(!record.is_live(701, 600));
        record.state = State::Established as u8;
        assert!(record.is_live(100 + LINGER_JIFFIES, 600));
        assert!(!record.is_live(101 + LINGER_JIFFIES, 600));
    }

    #[test]
    fn clients_that_share_a_bucket_under_one_seed_part_under_another() {
        let client = |host: u32| Addr::from_v4((0x0a00_0000 | host).to_be());
        let port = 40_000_u16.to_be();
        let mine = bucket(&client(0), port, 1);
        let others: Vec<_> = (1..200_000)
            .filter(|host| bucket(&client(*host), port, 1) == mine)
            .collect();
        assert!(others.len() > 3);
        let still = others
            .iter()
            .filter(|host| bucket(&client(**host), port, 2) == bucket(&client(0), port, 2))
            .count();
        assert!(still < 2, "{still} of {}", others.len());
    }

    #[test]
    fn clients_spread_over_the_buckets() {
        let mut hits = vec![0_u32; BUCKETS as usize];
        for host in 0..64_u32 {
            for port in 0..1024_u16 {
                let client = Addr::from_v4((0x0a00_0000 | host).to_be());
                hits[bucket(&client, (30_000 + port).to_be(), 42) as usize] += 1;
            }
        }
        // 65,536 clients over 16,384 buckets: 4 on average; a Poisson maximum stays below 20.
        assert!(hits.iter().all(|n| *n < 20));
        assert!(hits.iter().filter(|n| **n == 0).count() < BUCKETS as usize / 20);
    }
}
