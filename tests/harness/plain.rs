//! Entries and counters in types of the standard library, read and changed cheaply: for tests that look at them after each of
//! millions of packets.

use std::net::IpAddr;

use aya::{Pod, maps::HashMap};
use balancer_common::{
    addr::Addr,
    conntrack::{Bucket, ConntrackEntry, TAKEN, Word},
    fragment::{Fragment, FragmentKeyV4, FragmentKeyV6},
    load::{Load, RealLoad},
    service::ServiceKey,
    stats::RealStats,
    verdict::Discard,
};

use crate::{
    dataplane::Dataplane, mapped::Mapped, rows::Table, services::ServiceHandle, snapshot::sum,
};

/// An entry of either table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainEntry {
    /// Source of its packets.
    pub source: (IpAddr, u16),
    /// Their destination.
    pub destination: (IpAddr, u16),
    /// Their protocol.
    pub protocol: u8,
    /// One of `balancer_common::direction`.
    pub direction: u8,
    /// A `State` as a number; 15 = its place is being written.
    pub state: u8,
    /// Which directions were heard after a reset.
    pub heard: [bool; 2],
    /// Whether the operator has ended the connection.
    pub is_ended: bool,
    /// Low 32 bits of jiffies.
    pub last_seen: u32,
    /// Real id.
    pub real: u32,
    /// The port that replaces one of the packets'.
    pub port: u16,
    /// The number that the connection waits for.
    pub number: u32,
}

impl PlainEntry {
    fn of<A: Table>(entry: &ConntrackEntry<A>) -> Self {
        let word = entry.word;
        let address = |address: A| IpAddr::from(address.widen());
        let port = u16::from_be;
        Self {
            source: (address(entry.source), port(entry.ports.source())),
            destination: (address(entry.destination), port(entry.ports.destination())),
            protocol: word.protocol() as u8,
            direction: word.direction(),
            state: word.state(),
            heard: [0, 1].map(|side| word.hear(side) == word),
            is_ended: word.is_ended(),
            last_seen: entry.last_seen,
            real: entry.real.into(),
            port: port(entry.port),
            number: entry.extra,
        }
    }
}

impl Dataplane {
    /// All entries of both families.
    #[must_use]
    pub fn plain_entries(&self) -> Vec<PlainEntry> {
        let mut all = Vec::new();
        plain_entries_of(&self.memory.v4, &mut all);
        plain_entries_of(&self.memory.v6, &mut all);
        all
    }

    /// As many jiffies pass for all connections.
    pub fn age(&mut self, jiffies: u32) {
        let age = |entry: &mut PlainChange<'_>| {
            *entry.last_seen = entry.last_seen.wrapping_sub(jiffies);
        };
        change(&mut self.memory.v4, age);
        change(&mut self.memory.v6, age);
    }

    /// The operator ends the connection of a client's packets with this source, destination and protocol: its next segment is answered
    /// with a reset.
    pub fn end_plain(&mut self, source: (IpAddr, u16), destination: (IpAddr, u16), protocol: u8) {
        let end = |entry: &mut PlainChange<'_>| {
            if entry.is_of(source, destination, protocol) {
                *entry.word = entry.word.ended();
            }
        };
        change(&mut self.memory.v4, end);
        change(&mut self.memory.v6, end);
    }

    /// The operator deletes that connection.
    pub fn delete_plain(
        &mut self,
        source: (IpAddr, u16),
        destination: (IpAddr, u16),
        protocol: u8,
    ) {
        let all = self.plain_entries();
        let is_it = |entry: &&PlainEntry| {
            (entry.source, entry.destination, entry.protocol) == (source, destination, protocol)
        };
        let Some(original) = all.iter().find(is_it) else {
            return;
        };
        let replies = all.iter().filter(|entry| {
            entry.direction != original.direction
                && entry.real == original.real
                && entry.destination == source
                && entry.port == destination.1
                && entry.source.1 == original.port
                && entry.protocol == protocol
        });
        let replies: Vec<_> = replies.collect();
        assert_eq!(replies.len(), 1, "{original:?}: {replies:?}");
        let reply = *replies[0];
        let free = |entry: &mut PlainChange<'_>| {
            if entry.is_of(source, destination, protocol)
                || entry.is_of(reply.source, reply.destination, protocol)
            {
                *entry.word = entry.word.freed();
            }
        };
        change(&mut self.memory.v4, free);
        change(&mut self.memory.v6, free);
        let load = Load::of(original.state).0;
        self.update_load(original.real, |row| {
            row.ended = row.ended.wrapping_add(load)
        });
    }

    /// Forgets all connections, their loads, fragments, turns and rings: services have to be written anew.
    pub fn forget(&mut self) {
        let free = |entry: &mut PlainChange<'_>| *entry.word = entry.word.freed();
        change(&mut self.memory.v4, free);
        change(&mut self.memory.v6, free);
        for id in 0..self.reals {
            let row = self.load_of(id);
            self.memory.loads.set(
                id as usize,
                RealLoad {
                    counted: 0,
                    ended: 0,
                    ..row
                },
            );
        }
        for which in ["", "UNPROVEN_"] {
            self.forget_fragments::<FragmentKeyV4>(&format!("{which}FRAGMENTS_V4"));
            self.forget_fragments::<FragmentKeyV6>(&format!("{which}FRAGMENTS_V6"));
        }
        for id in 0..self.services {
            self.array_mut("TURNS")
                .set(id, 0_u64, 0)
                .expect("write TURNS");
        }
        self.ring_slots = 0;
    }

    fn forget_fragments<K: Pod>(&mut self, name: &str) {
        let mut map: HashMap<_, K, Fragment> = self.hash_mut(name);
        let keys: Vec<_> = map.keys().map(|key| key.expect("a key")).collect();
        for key in keys {
            map.remove(&key).expect("delete a fragment");
        }
    }

    /// How often a packet left early for this reason.
    #[must_use]
    pub fn discarded(&self, reason: Discard) -> u64 {
        let map = self.per_cpu::<u64>("DISCARDS");
        let values = map.get(&(reason as u32), 0).expect("read DISCARDS");
        values.iter().sum()
    }

    /// What a real server's packets have counted.
    #[must_use]
    pub fn traffic_of(&self, real: u32) -> RealStats {
        let map = self.per_cpu::<RealStats>("REAL_STATS");
        sum(&map.get(&real, 0).expect("read REAL_STATS"))
    }

    /// How often a service has taken a turn.
    #[must_use]
    pub fn turns_of(&self, service: ServiceHandle) -> u64 {
        self.array("TURNS").get(&service.id, 0).expect("read TURNS")
    }

    /// Removes a service, whose real servers are what they were.
    pub fn remove_service(&mut self, service: ServiceHandle) {
        let (port, protocol) = (service.port.to_be(), u16::from(service.protocol));
        let address = Addr::from(service.vip);
        let result = if service.vip.is_ipv4() {
            let address = address.0[3];
            let key = ServiceKey {
                address,
                port,
                protocol,
            };
            self.hash_mut::<_, balancer_common::service::Service>("SERVICES_V4")
                .remove(&key)
        } else {
            let key = ServiceKey {
                address: address.0,
                port,
                protocol,
            };
            self.hash_mut::<_, balancer_common::service::Service>("SERVICES_V6")
                .remove(&key)
        };
        // It may be gone already.
        let _ = result;
    }
}

/// What may be changed of an entry.
struct PlainChange<'a> {
    of: PlainEntry,
    word: &'a mut Word,
    last_seen: &'a mut u32,
}

impl PlainChange<'_> {
    fn is_of(&self, source: (IpAddr, u16), destination: (IpAddr, u16), protocol: u8) -> bool {
        (self.of.source, self.of.destination, self.of.protocol) == (source, destination, protocol)
    }
}

fn plain_entries_of<A: Table>(table: &Mapped<Bucket<A>>, all: &mut Vec<PlainEntry>)
where
    Bucket<A>: Pod,
{
    for bucket in table.iter() {
        for entry in &bucket.entries {
            if entry.word.is_used() || entry.word.state() == TAKEN {
                all.push(PlainEntry::of(entry));
            }
        }
    }
}

fn change<A: Table>(table: &mut Mapped<Bucket<A>>, change: impl Fn(&mut PlainChange<'_>))
where
    Bucket<A>: Pod,
{
    for index in 0..table.len() {
        let before = table.get(index);
        let mut bucket = before;
        for entry in &mut bucket.entries {
            if entry.word.is_used() {
                let of = PlainEntry::of(entry);
                change(&mut PlainChange {
                    of,
                    word: &mut entry.word,
                    last_seen: &mut entry.last_seen,
                });
            }
        }
        if bucket != before {
            table.set(index, bucket);
        }
    }
}
