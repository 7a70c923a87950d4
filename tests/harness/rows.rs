//! Connections and handshakes in the tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use aya::Pod;
use balancer_common::{
    addr::{Addr, Address},
    conntrack::{Bucket, ConntrackEntry, FREE, FlowKey, FlowKeyV4, TAKEN, Word},
    direction,
    fragment::{Fragment, FragmentKeyV4, FragmentKeyV6},
    load::Load,
    next_hop::NextHopRef,
    snat,
    tcp::State,
};

use crate::{
    dataplane::{Dataplane, Memory},
    mapped::Mapped,
    packet::Packet,
};

/// An entry with its key.
pub type Row<A> = (FlowKey<A>, Entry<A>);

/// What tests ask of an entry, and change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<A> {
    /// A [`State`] as a number.
    pub state: u8,
    /// One of `balancer_common::direction`.
    pub direction: u8,
    /// Low 32 bits of jiffies.
    pub last_seen: u32,
    /// Real id.
    pub real: u32,
    /// What the entry remembers of its next hop.
    pub next_hop: NextHopRef,
    /// Of an original entry: the sequence number of the SYN|ACK.
    pub sequence: u32,
    /// Of a connection with full NAT: this host's address towards the real server.
    pub full_nat: Option<IpAddr>,
    /// The key of the connection's other entry.
    pub other: FlowKey<A>,
}

impl<A> Entry<A> {
    /// Whether the connection's handshake is under way, or nobody but its client has shown that it exists.
    #[must_use]
    pub const fn is_half_open(&self) -> bool {
        self.state < State::Established as u8 || self.state == State::PickedUp as u8
    }
}

/// A family's table.
pub trait Table: Address + std::fmt::Debug + Default + Eq + std::hash::Hash {
    /// The map's name.
    const NAME: &'static str;

    /// Its buckets.
    fn buckets(memory: &Memory) -> &Mapped<Bucket<Self>>
    where
        Bucket<Self>: Pod;
}

impl Table for u32 {
    const NAME: &'static str = "CONNTRACK_V4";

    fn buckets(memory: &Memory) -> &Mapped<Bucket<Self>> {
        &memory.v4
    }
}

impl Table for [u32; 4] {
    const NAME: &'static str = "CONNTRACK_V6";

    fn buckets(memory: &Memory) -> &Mapped<Bucket<Self>> {
        &memory.v6
    }
}

impl Dataplane {
    /// All entries of a family, each with its place: bucket and way.
    ///
    /// # Panics
    /// One is being written, or has none of the other direction.
    fn entries<A>(&self) -> Vec<((u32, usize), Row<A>)>
    where
        A: Table,
        Bucket<A>: Pod,
    {
        let mut all = Vec::new();
        for (index, bucket) in (0..).zip(A::buckets(&self.memory).iter()) {
            for (way, entry) in bucket.entries.iter().enumerate() {
                assert_ne!(entry.word.state(), TAKEN, "a place is taken for ever");
                if entry.word.state() != FREE {
                    all.push(((index, way), self.row(entry)));
                }
            }
        }
        let mut of_keys = HashMap::<_, Vec<_>>::new();
        for (_, (key, entry)) in &all {
            of_keys.entry(*key).or_default().push(*entry);
        }
        for (_, (key, entry)) in &all {
            let others = of_keys.get(&entry.other).map_or(&[][..], Vec::as_slice);
            assert!(
                matches!(others[..], [other] if other.direction != entry.direction
                    && other.real == entry.real && other.state == entry.state && other.other == *key),
                "an entry without its other half: {key:?} {entry:?}, but {others:?}"
            );
        }
        all
    }

    fn row<A: Table>(&self, entry: &ConntrackEntry<A>) -> Row<A> {
        let word = entry.word;
        let real = self.memory.reals.get(entry.real.into());
        let snat_address = self
            .memory
            .snat_addresses
            .get(snat::index::<A>(word.snat_address()) as usize);
        let keeps_client = word.is_full_nat() && !word.is_original();
        let row = Entry {
            state: word.state(),
            direction: word.direction(),
            last_seen: entry.last_seen,
            real: entry.real.into(),
            next_hop: if ConntrackEntry::<A>::has_next_hop(word) {
                entry.next_hop
            } else {
                NextHopRef(0)
            },
            sequence: if keeps_client { 0 } else { entry.extra },
            full_nat: word.is_full_nat().then(|| snat_address.into()),
            other: entry.other_key(&real, A::narrow(snat_address), word),
        };
        (entry.key(word), row)
    }

    /// What the connections of a family count of each real server: a [`Load`] by real id.
    pub(crate) fn counted_rows<A: Table>(&self) -> BTreeMap<u32, u64>
    where
        Bucket<A>: Pod,
    {
        let mut all = BTreeMap::new();
        let buckets = A::buckets(&self.memory).iter();
        for entry in buckets.flat_map(|bucket| bucket.entries) {
            let state = entry.word.state();
            if entry.word.is_original() && state != FREE && state != TAKEN {
                let load: &mut u64 = all.entry(entry.real.into()).or_default();
                *load = load.wrapping_add(Load::of(state).0);
            }
        }
        all
    }

    fn buckets<A: Table>(&self) -> Vec<Bucket<A>>
    where
        Bucket<A>: Pod,
    {
        A::buckets(&self.memory).iter().collect()
    }

    /// How many entries of connections there are whose handshake is over, by family, and how many handshakes are under way.
    ///
    /// # Panics
    /// An entry is being written, or has none of the other direction.
    pub(crate) fn count_rows(&self) -> ([usize; 2], usize) {
        let (rows_v4, half_open_v4) = self.count_rows_of::<u32>();
        let (rows_v6, half_open_v6) = self.count_rows_of::<[u32; 4]>();
        ([rows_v4, rows_v6], half_open_v4 + half_open_v6)
    }

    fn count_rows_of<A>(&self) -> (usize, usize)
    where
        A: Table,
        Bucket<A>: Pod,
    {
        let all = self.entries::<A>();
        let half_open = all.iter().filter(|(_, (_, entry))| entry.is_half_open());
        let originals = half_open
            .clone()
            .filter(|(_, (_, entry))| entry.direction == direction::ORIGINAL);
        (all.len() - half_open.count(), originals.count())
    }

    /// The entries of IPv4 connections whose handshake is over.
    #[must_use]
    pub fn rows_v4(&self) -> Vec<Row<u32>> {
        self.connections()
    }

    /// The entries of IPv6 connections whose handshake is over.
    #[must_use]
    pub fn rows_v6(&self) -> Vec<Row<[u32; 4]>> {
        self.connections()
    }

    /// The ports of connections with full NAT towards their real servers, in order, each with its address and the real server's.
    #[must_use]
    pub fn sources(&self) -> Vec<(u16, IpAddr, IpAddr)> {
        let mut all = Vec::new();
        self.add_sources::<u32>(&mut all);
        self.add_sources::<[u32; 4]>(&mut all);
        all.sort_unstable();
        all
    }

    fn add_sources<A: Table>(&self, all: &mut Vec<(u16, IpAddr, IpAddr)>)
    where
        Bucket<A>: Pod,
    {
        for (_, (key, entry)) in self.entries::<A>() {
            if let (direction::REPLY, Some(source)) = (entry.direction, entry.full_nat) {
                assert_eq!(key.destination.widen(), Addr::from(source));
                let port = u16::from_be(key.ports.destination());
                all.push((port, source, key.source.widen().into()));
            }
        }
    }

    fn connections<A>(&self) -> Vec<Row<A>>
    where
        A: Table,
        Bucket<A>: Pod,
    {
        let all = self.entries().into_iter().map(|(_, row)| row);
        all.filter(|(_, entry)| !entry.is_half_open()).collect()
    }

    /// The original entries of handshakes under way.
    #[must_use]
    pub fn half_open(&self) -> Vec<Handshake> {
        let v4 = self.entries::<u32>().into_iter();
        let v6 = self.entries::<[u32; 4]>().into_iter();
        let v4 = v4.filter_map(|(_, row)| Handshake::of(&row));
        let v6 = v6.filter_map(|(_, row)| Handshake::of(&row));
        v4.chain(v6).collect()
    }

    /// Changes every IPv4 entry of connections whose handshake is over.
    pub fn change_rows_v4(&mut self, change: impl Fn(&mut Entry<u32>)) {
        self.change_rows(|entry| !entry.is_half_open(), change);
    }

    /// Changes every IPv4 entry of handshakes under way.
    pub fn change_half_open(&mut self, change: impl Fn(&mut Entry<u32>)) {
        self.change_rows(Entry::is_half_open, change);
    }

    fn change_rows<A>(&mut self, of: impl Fn(&Entry<A>) -> bool, change: impl Fn(&mut Entry<A>))
    where
        A: Table,
        Bucket<A>: Pod,
    {
        let mut buckets = self.buckets::<A>();
        let mut changed = BTreeSet::new();
        for ((index, way), (_, mut row)) in self.entries::<A>() {
            if !of(&row) {
                continue;
            }
            changed.insert(index);
            let before = row.state;
            change(&mut row);
            if row.direction == direction::ORIGINAL && row.state != before {
                let step = Load::step(before, row.state);
                self.update_load(row.real, |load| {
                    load.counted = load.counted.wrapping_add(step);
                });
            }
            let entry = &mut buckets[index as usize].entries[way];
            entry.word = entry.word.with_state(row.state);
            entry.last_seen = row.last_seen;
            entry.next_hop = row.next_hop;
        }
        self.write(changed, &buckets);
    }

    /// Writes the buckets that have changed.
    fn write<A: Table>(&mut self, changed: BTreeSet<u32>, buckets: &[Bucket<A>])
    where
        Bucket<A>: Pod,
    {
        let mut map = self.array_mut(A::NAME);
        for index in changed {
            let bucket = buckets[index as usize];
            map.set(index, bucket, 0).expect("write a bucket");
        }
    }

    /// Where each IPv4 entry lies: bucket and way.
    #[must_use]
    pub fn places_v4(&self) -> HashMap<FlowKeyV4, (u32, usize)> {
        let rows = self.entries::<u32>().into_iter();
        rows.map(|(place, (key, _))| (key, place)).collect()
    }

    /// Lets as much time pass for all fragmented datagrams as this machine has run.
    ///
    /// # Panics
    /// The maps cannot be read or written.
    pub fn age_fragments(&mut self) {
        for which in ["", "UNPROVEN_"] {
            self.age_fragments_of::<FragmentKeyV4>(&format!("{which}FRAGMENTS_V4"));
            self.age_fragments_of::<FragmentKeyV6>(&format!("{which}FRAGMENTS_V6"));
        }
    }

    /// Gives each of two fragmented IPv4 datagrams that are remembered the other's record.
    ///
    /// # Panics
    /// There are not two.
    pub fn exchange_fragments(&mut self) {
        let mut maps = ["FRAGMENTS_V4", "UNPROVEN_FRAGMENTS_V4"].into_iter();
        let found = maps.find_map(|name| {
            let map = self.hash_mut::<FragmentKeyV4, Fragment>(name);
            let all: Vec<_> = map.iter().map(|entry| entry.expect("an entry")).collect();
            <[_; 2]>::try_from(all).ok().map(|all| (name, all))
        });
        let (name, [(one, of_one), (other, of_other)]) = found.expect("two datagrams");
        let mut map = self.hash_mut::<FragmentKeyV4, Fragment>(name);
        map.insert(one, of_other, 0).expect("write a fragment");
        map.insert(other, of_one, 0).expect("write a fragment");
    }

    fn age_fragments_of<K: Pod>(&mut self, name: &str) {
        let mut map = self.hash_mut::<K, Fragment>(name);
        let all: Vec<_> = map.iter().map(|entry| entry.expect("an entry")).collect();
        for (key, mut fragment) in all {
            fragment.seen = 0;
            map.insert(key, fragment, 0).expect("write a fragment");
        }
    }

    /// Deletes the connection of this, a client's packet, as the daemon does.
    pub fn delete_connection(&mut self, packet: &Packet) {
        if packet.source.is_ipv4() {
            self.delete_rows::<u32>(packet);
        } else {
            self.delete_rows::<[u32; 4]>(packet);
        }
    }

    fn delete_rows<A>(&mut self, packet: &Packet)
    where
        A: Table,
        Bucket<A>: Pod,
    {
        let rows = self.entries::<A>();
        let (_, (key, entry)) = rows
            .iter()
            .find(|(_, row)| is_of(row, packet))
            .expect("the packet's connection");
        let mut buckets = self.buckets::<A>();
        let mut changed = BTreeSet::new();
        for ((index, way), (of, _)) in &rows {
            if of == key || *of == entry.other {
                changed.insert(*index);
                let word: &mut Word = &mut buckets[*index as usize].entries[*way].word;
                *word = word.freed();
            }
        }
        self.write(changed, &buckets);
        let (real, state) = (entry.real, entry.state);
        self.update_load(real, |load| {
            load.ended = load.ended.wrapping_add(Load::of(state).0);
        });
    }
}

/// Whether this is the original entry of a client's packet.
fn is_of<A: Address>((key, entry): &Row<A>, packet: &Packet) -> bool {
    entry.direction == direction::ORIGINAL
        && key.source == A::narrow(packet.source.into())
        && key.destination == A::narrow(packet.destination.into())
        && key.ports.source() == packet.source_port.to_be()
        && key.ports.destination() == packet.destination_port.to_be()
        && key.protocol == u32::from(packet.protocol())
}

/// A handshake under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handshake {
    /// The client's port, host byte order.
    pub client_port: u16,
    /// A [`State`] as a number.
    pub state: u8,
    /// Real id.
    pub real_id: u32,
    /// The SYN|ACK's sequence number, host byte order.
    pub sequence: u32,
}

impl Handshake {
    fn of<A: Copy>((key, entry): &Row<A>) -> Option<Self> {
        let is_original = entry.direction == direction::ORIGINAL;
        (is_original && entry.is_half_open()).then_some(Self {
            client_port: u16::from_be(key.ports.source()),
            state: entry.state,
            real_id: entry.real,
            sequence: entry.sequence,
        })
    }
}
