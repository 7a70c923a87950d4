//! Which real server a client keeps: the entries of `PERSISTENCE` and `PERSISTENCE_UDP`, and what each service says of them.

use crate::{
    addr::{Addr, Address, product},
    flow_hash::Seed,
    plain_data,
};

/// What a service says of its clients' persistence: a value of `STICKINESS`, by service id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Stickiness {
    /// The bits of a client's address (in the shared form) that tell clients apart.
    pub mask: Addr,
    /// Who shares entries: the number of a group, or of the service alone.
    pub group: u64,
    /// Jiffies after its last use at which an entry is forgotten; 0 = the service is not persistent.
    pub timeout: u32,
    /// Always zero.
    pub zero: u32,
}

const _: () = assert!(size_of::<Stickiness>() == 32);

/// What an entry is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct PersistenceKey {
    /// The client's address, masked; network byte order.
    pub client: Addr,
    /// [`Stickiness::group`].
    pub group: u64,
}

const _: () = assert!(size_of::<PersistenceKey>() == 24);

/// The server that a client keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PersistenceEntry {
    /// The server's address, network byte order.
    pub server: Addr,
    /// Low 32 bits of jiffies when the client last opened a connection, or was last found to have one.
    pub last_used: u32,
    /// The id of the real server that this connection got. It may have been given to another since, or be another service's: then a
    /// real server of the same address is looked for.
    pub real: u32,
}

const _: () = assert!(size_of::<PersistenceEntry>() == 24);

/// A client that has a connection: what the program `renew` reads, up to [`MAX_RUNNING_CLIENTS`] of them one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct RunningClient {
    /// What its entry is found by.
    pub key: PersistenceKey,
    /// The address of the connection's server, network byte order: the client may keep another one by now.
    pub server: Addr,
    /// 1 where it is a connection of UDP.
    pub is_udp: u32,
    /// Always zero.
    pub zero: u32,
}

const _: () = assert!(size_of::<RunningClient>() == 48);

/// How many clients the program `renew` reads at a time: as many as a test run's frame has room for, rounded down.
pub const MAX_RUNNING_CLIENTS: usize = 64;

/// A real server of a service, by its address: a key of `MEMBERS`, whose values are real ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct MemberKey {
    /// The server's address, network byte order.
    pub server: Addr,
    /// The service's id.
    pub service: u32,
}

const _: () = assert!(size_of::<MemberKey>() == 20);
plain_data!(
    Stickiness,
    PersistenceKey,
    PersistenceEntry,
    RunningClient,
    MemberKey
);

/// Number of words of `PENDING`, a power of two.
pub const PENDING_WORDS: u32 = 1 << 16;

/// The real server that a client's first connection got, before that has shown that the client exists: one word, written as a whole.
/// A flood of forged clients displaces such words, and nothing else.
///
/// ```text
///   63          32 31     16 15          0
///  +--------------+---------+-------------+
///  |     tag      | real id | jiffies low |
///  +--------------+---------+-------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct Pending(pub u64);

impl Pending {
    /// The real server `real` for the client with this hash, at `now` in jiffies.
    #[inline(always)]
    #[must_use]
    pub const fn new(hash: u64, real: u32, now: u32) -> Self {
        Self(hash & 0xffff_ffff_0000_0000 | (real as u64 & 0xffff) << 16 | now as u64 & 0xffff)
    }

    /// Where the word of a client with this hash stands.
    #[inline(always)]
    #[must_use]
    pub const fn index(hash: u64) -> u32 {
        hash as u32 & (PENDING_WORDS - 1)
    }

    /// Whether this is the word of the client with this hash, written less than `lifetime` before `now` (jiffies). A word that is as old
    /// as the 16 bits of its time take to wrap counts as new: it names a real server that the client may have.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, hash: u64, now: u32, lifetime: u32) -> bool {
        let age = (now as u16).wrapping_sub(self.0 as u16);
        (self.0 ^ hash) >> 32 == 0 && self.0 != 0 && (age as u32) < lifetime
    }

    /// The real server's id.
    #[inline(always)]
    #[must_use]
    pub const fn real(self) -> u32 {
        (self.0 >> 16) as u32 & 0xffff
    }
}

/// A keyed hash of a client of a group, 64 bits: nobody outside can aim at another client's word.
#[inline(always)]
#[must_use]
pub fn hash(key: &PersistenceKey, seed: &Seed) -> u64 {
    let client = key.client.0;
    let address = <[u32; 4]>::hash_pair(client, client, &seed.addresses);
    let group = product(
        key.group as u32,
        seed.ports[0],
        (key.group >> 32) as u32,
        seed.ports[1],
    );
    let sum = address.wrapping_add(group);
    (sum ^ (sum >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Stickiness {
    /// The key of a client's entry.
    #[inline(always)]
    #[must_use]
    pub const fn key(&self, client: Addr) -> PersistenceKey {
        let (a, m) = (client.0, self.mask.0);
        PersistenceKey {
            client: Addr([a[0] & m[0], a[1] & m[1], a[2] & m[2], a[3] & m[3]]),
            group: self.group,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_one_network_share_a_key() {
        let v4 = |address: [u8; 4]| Addr::from_v4(u32::from_ne_bytes(address));
        let stickiness = Stickiness {
            mask: Addr([u32::MAX, u32::MAX, u32::MAX, 0xffff_ff00_u32.to_be()]),
            group: 7,
            timeout: 100,
            zero: 0,
        };
        let key = stickiness.key(v4([198, 51, 100, 7]));
        assert_eq!(key, stickiness.key(v4([198, 51, 100, 200])));
        assert_ne!(key, stickiness.key(v4([198, 51, 101, 7])));
        assert_eq!(key.client, v4([198, 51, 100, 0]));
        let seed = Seed {
            ports: [3, 5],
            addresses: [7; 8],
        };
        let other = PersistenceKey { group: 8, ..key };
        assert_ne!(hash(&key, &seed), hash(&other, &seed));
    }

    #[test]
    fn a_pending_word_counts_for_its_client_and_a_short_time() {
        let hash = 0xdead_beef_0000_0001;
        let word = Pending::new(hash, 32_767, 0xffff_fff0);
        assert_eq!(word.real(), 32_767);
        let is_of = |later: u32| word.is_of(hash, 0xffff_fff0_u32.wrapping_add(later), 768);
        assert!(is_of(0) && is_of(767) && !is_of(768));
        assert!(!word.is_of(hash ^ 1 << 40, 0xffff_fff0, 768));
        assert!(!Pending::default().is_of(5, 0, 768));
    }
}
