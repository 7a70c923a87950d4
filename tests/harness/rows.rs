//! Connections and handshakes in the maps.

use std::os::fd::AsFd as _;

use aya::{Pod, maps::Map};
use balancer_common::{
    conntrack::{ConntrackEntry, FlowKey, direction},
    half_open::{self, HalfOpen, HalfOpenBucket},
};

use crate::{bulk, dataplane::Dataplane, packet::Packet};

/// A row with its key.
pub type Row<A> = (FlowKey<A>, ConntrackEntry<A>);

/// The key of the other row of a connection, which the row with this key names by its translation.
#[must_use]
pub fn other_half<A: Copy>(key: &FlowKey<A>, row: &ConntrackEntry<A>) -> FlowKey<A> {
    FlowKey {
        source: row.translation.destination,
        destination: row.translation.source,
        source_port: row.translation.destination_port,
        destination_port: row.translation.source_port,
        ..*key
    }
}

impl Dataplane {
    /// The IPv4 rows.
    #[must_use]
    pub fn rows_v4(&self) -> Vec<Row<u32>> {
        self.hash("CONNTRACK_V4")
            .iter()
            .map(|row| row.expect("a row"))
            .collect()
    }

    /// The IPv6 rows.
    #[must_use]
    pub fn rows_v6(&self) -> Vec<Row<[u32; 4]>> {
        self.hash("CONNTRACK_V6")
            .iter()
            .map(|row| row.expect("a row"))
            .collect()
    }

    /// Changes every IPv4 row.
    pub fn change_rows_v4(&mut self, change: impl Fn(&mut ConntrackEntry<u32>)) {
        for (key, mut row) in self.rows_v4() {
            change(&mut row);
            self.hash_mut("CONNTRACK_V4")
                .insert(key, row, 0)
                .expect("write CONNTRACK_V4");
        }
    }

    /// Deletes the connection of this, a client's packet, as the daemon does.
    pub fn delete_connection(&mut self, packet: &Packet) {
        if packet.source.is_ipv4() {
            self.delete_rows("CONNTRACK_V4", self.rows_v4(), packet);
        } else {
            self.delete_rows("CONNTRACK_V6", self.rows_v6(), packet);
        }
    }

    fn delete_rows<A: Copy>(&mut self, table: &str, rows: Vec<Row<A>>, packet: &Packet)
    where
        FlowKey<A>: Pod,
        ConntrackEntry<A>: Pod,
    {
        let (key, row) = rows
            .into_iter()
            .find(|(key, row)| {
                row.direction == direction::ORIGINAL
                    && key.source_port == packet.source_port.to_be()
                    && key.destination_port == packet.destination_port.to_be()
                    && key.protocol == u32::from(packet.protocol())
            })
            .expect("the packet's connection");
        let other = other_half(&key, &row);
        let mut table = self.hash_mut::<FlowKey<A>, ConntrackEntry<A>>(table);
        table.remove(&key).expect("the original row");
        table.remove(&other).expect("the reply row");
    }

    /// The records of handshakes, under way or ended.
    #[must_use]
    pub fn half_open(&self) -> Vec<HalfOpen> {
        self.half_open_buckets()
            .iter()
            .flat_map(|bucket| &bucket.records)
            .filter(|record| record.state != 0)
            .copied()
            .collect()
    }

    /// Changes every record of a handshake.
    pub fn change_half_open(&mut self, change: impl Fn(&mut HalfOpen)) {
        for (index, mut bucket) in (0..).zip(self.half_open_buckets()) {
            let mut used = bucket
                .records
                .iter_mut()
                .filter(|record| record.state != 0)
                .peekable();
            if used.peek().is_some() {
                used.for_each(&change);
                self.array_mut("HALF_OPEN")
                    .set(index, bucket, 0)
                    .expect("write HALF_OPEN");
            }
        }
    }

    /// Frees the records of handshakes that have ended: otherwise they translate for a moment longer.
    pub fn forget_handshakes(&mut self) {
        self.change_half_open(|record| *record = HalfOpen::default());
    }

    fn half_open_buckets(&self) -> Vec<HalfOpenBucket> {
        let Some(Map::Array(map)) = self.ebpf.map("HALF_OPEN") else {
            panic!("no array HALF_OPEN");
        };
        bulk::read_array(&map.fd().as_fd(), half_open::BUCKETS)
    }
}
