//! The maps of persistence. Reading them from here does not count as use: the kernel marks an entry as used only where the packet
//! program looks it up, so a list does not change which client is the one to forget when the map is full.

use std::{io, ops::ControlFlow, path::Path};

use balancer_common::{
    flow_hash::Seed,
    persistence::{Pending, PersistenceEntry, PersistenceKey, hash},
};

use crate::dataplane::map::{BatchReader, Map};

/// Entries that are read with one call.
const BATCH: u32 = 1 << 12;

/// The maps, shared by the threads that read and delete.
#[derive(Debug)]
pub struct Store {
    entries: Map<PersistenceKey, PersistenceEntry>,
    pending: Map<u32, u64>,
}

impl Store {
    /// Opens the maps pinned in `directory`.
    ///
    /// # Errors
    /// One is missing or has another layout.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            entries: Map::open(directory, "PERSISTENCE")?,
            pending: Map::open(directory, "PENDING")?,
        })
    }

    /// How many entries there can be.
    pub const fn capacity(&self) -> u32 {
        self.entries.capacity()
    }

    /// Calls `take` for each entry, until it breaks.
    ///
    /// # Errors
    /// The kernel refused a call, or `take` returned the error.
    pub fn each(
        &self,
        mut take: impl FnMut(&PersistenceKey, &PersistenceEntry) -> io::Result<ControlFlow<()>>,
    ) -> io::Result<()> {
        let mut reader = BatchReader::new(BATCH);
        while let Some(batch) = reader.next(&self.entries)? {
            for (key, entry) in batch {
                if take(&key, &entry)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
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
        key: &PersistenceKey,
        is_over: impl FnOnce(&PersistenceEntry) -> bool,
    ) -> io::Result<bool> {
        match self.entries.get(key)? {
            Some(entry) if is_over(&entry) => self.entries.delete(key),
            _ => Ok(false),
        }
    }

    /// Forgets a client: also which server its first connection got a moment ago, by which its next would go there again. Returns whether
    /// there was an entry.
    ///
    /// # Errors
    /// The kernel refused a call.
    pub fn forget(&self, key: &PersistenceKey, seed: &Seed) -> io::Result<bool> {
        self.forget_pending(key, seed)?;
        self.entries.delete(key)
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
