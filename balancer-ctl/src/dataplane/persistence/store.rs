//! The maps of persistence. Reading them from here does not count as use: the kernel marks an entry as used only where the packet
//! program looks it up, so a list does not change which client is the one to forget when the map is full.

use std::{io, ops::ControlFlow, path::Path};

use balancer_common::{
    flow_hash::Seed,
    persistence::{Pending, PersistenceEntry, PersistenceKey, hash},
};

use super::groups::Groups;
use crate::{
    dataplane::map::{BatchReader, Map},
    model::Protocol,
};

/// Entries that are read with one call.
const BATCH: u32 = 1 << 12;

/// The maps, shared by the threads that read and delete.
#[derive(Debug)]
pub struct Store {
    /// Of clients that have completed a handshake.
    tcp: Map<PersistenceKey, PersistenceEntry>,
    /// Of clients that have sent datagrams.
    udp: Map<PersistenceKey, PersistenceEntry>,
    pending: Map<u32, u64>,
}

impl Store {
    /// Opens the maps pinned in `directory`.
    ///
    /// # Errors
    /// One is missing or has another layout.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            tcp: Map::open(directory, "PERSISTENCE")?,
            udp: Map::open(directory, "PERSISTENCE_UDP")?,
            pending: Map::open(directory, "PENDING")?,
        })
    }

    /// How many entries of a protocol there can be.
    pub const fn capacity(&self) -> u32 {
        self.tcp.capacity()
    }

    /// The entries of clients that have shown by `protocol` that they exist.
    const fn of(&self, protocol: Protocol) -> &Map<PersistenceKey, PersistenceEntry> {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    /// Calls `take` for each entry, until it breaks: for those of TCP, then for those of UDP.
    ///
    /// # Errors
    /// The kernel refused a call, or `take` returned the error.
    pub fn each(
        &self,
        mut take: impl FnMut(
            Protocol,
            &PersistenceKey,
            &PersistenceEntry,
        ) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut reader = BatchReader::new(BATCH);
            while let Some(batch) = reader.next(self.of(protocol))? {
                for (key, entry) in batch {
                    if take(protocol, &key, &entry)?.is_break() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether an entry says what the client's other one says already: one of UDP whose client keeps this server by its handshakes, too. `now`
    /// is in jiffies.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn is_second(
        &self,
        groups: &Groups,
        protocol: Protocol,
        key: &PersistenceKey,
        entry: &PersistenceEntry,
        now: u32,
    ) -> io::Result<bool> {
        if protocol == Protocol::Tcp || !groups.is_mixed(key) {
            return Ok(false);
        }
        let of_tcp = self.tcp.get(key)?;
        Ok(of_tcp.is_some_and(|of_tcp| {
            of_tcp.server == entry.server && groups.left(key, &of_tcp, now).is_some()
        }))
    }

    /// Deletes an entry if `is_over` still says so of it: the packet program may have refreshed it since it was read. Returns whether it
    /// was deleted.
    ///
    /// Between this look and the deletion the program may refresh it once more. That moment is a microsecond, and costs this client's
    /// next connection the server that it had.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn delete_if(
        &self,
        protocol: Protocol,
        key: &PersistenceKey,
        is_over: impl FnOnce(&PersistenceEntry) -> bool,
    ) -> io::Result<bool> {
        let entries = self.of(protocol);
        match entries.get(key)? {
            Some(entry) if is_over(&entry) => entries.delete(key),
            _ => Ok(false),
        }
    }

    /// Forgets that a client keeps a server by an entry of this protocol: also which server its first connection got a moment ago, by which
    /// its next would go there again. Returns whether there was an entry.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn forget(
        &self,
        protocol: Protocol,
        key: &PersistenceKey,
        entry: &PersistenceEntry,
        seed: &Seed,
    ) -> io::Result<bool> {
        self.forget_pending(key, seed)?;
        if protocol == Protocol::Tcp {
            let of_udp = self.udp.get(key)?;
            if of_udp.is_some_and(|of_udp| of_udp.server == entry.server) {
                self.udp.delete(key)?;
            }
        }
        self.of(protocol).delete(key)
    }

    /// Forgets which server the first connection of a client got.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn forget_pending(&self, key: &PersistenceKey, seed: &Seed) -> io::Result<()> {
        let hash = hash(key, seed);
        let index = Pending::index(hash);
        let word = Pending(self.pending.get(&index)?.unwrap_or_default());
        // However old: one that has aged may count as new when its clock wraps.
        if word.is_of(hash, 0, u32::MAX) {
            self.pending.set(&index, &0)?;
        }
        Ok(())
    }
}
