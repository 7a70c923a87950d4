//! The map `INTERFACES`: what the packet program knows of the configured interfaces.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use balancer_common::settings::{Interface, interface_flags};

use super::map::Map;

/// The map, and what the daemon wrote into it.
#[derive(Debug)]
pub struct InterfaceTable {
    map: Map<u32, Interface>,
    /// Entries by interface index.
    entries: BTreeMap<u32, InterfaceEntry>,
}

impl InterfaceTable {
    /// Opens the map pinned in `directory` with the entries of an earlier daemon; [`Self::configure`] clears those that
    /// are not configured any more.
    ///
    /// # Errors
    /// The map is not there, or the kernel refused.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let map = Map::<u32, Interface>::open(directory, "INTERFACES")?;
        let interfaces = map.all().context("cannot read the interfaces")?;
        let known = interfaces
            .into_iter()
            .filter(|(_, interface)| interface.mac != 0);
        let entries = known
            .map(|(index, interface)| (index, InterfaceEntry::from_map(&interface)))
            .collect();
        Ok(Self { map, entries })
    }

    /// All entries by interface index.
    pub const fn all(&self) -> &BTreeMap<u32, InterfaceEntry> {
        &self.entries
    }

    /// Adds or replaces entries.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn add(&mut self, entries: BTreeMap<u32, InterfaceEntry>) -> anyhow::Result<()> {
        self.entries.extend(entries);
        self.write()
    }

    /// Replaces all entries: interfaces that are not in `entries` are cleared.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn configure(&mut self, entries: BTreeMap<u32, InterfaceEntry>) -> anyhow::Result<()> {
        for index in self
            .entries
            .keys()
            .filter(|index| !entries.contains_key(index))
        {
            self.map
                .set(index, &Interface::default())
                .context("cannot write the interfaces")?;
        }
        self.entries = entries;
        self.write()
    }

    fn write(&self) -> anyhow::Result<()> {
        for (index, entry) in &self.entries {
            self.map
                .set(index, &entry.to_map())
                .context("cannot write the interfaces")?;
        }
        Ok(())
    }
}

/// What the packet program knows of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceEntry {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Index of the interface that routes name for its frames: its own, or that of the bond that it is a slave of.
    pub index: u32,
    /// Whether frames that leave by the interface they came in by need a redirect, since `XDP_TX` does not work there
    /// ([`interface_flags::REDIRECTS`]).
    pub redirects: bool,
}

impl InterfaceEntry {
    /// Reads a value of the map.
    fn from_map(interface: &Interface) -> Self {
        let [a, b, c, d, e, f, _, _] = interface.mac.to_ne_bytes();
        Self {
            mac: [a, b, c, d, e, f],
            index: u32::from(interface.index),
            redirects: interface.flags & interface_flags::REDIRECTS != 0,
        }
    }

    /// The map's value for it.
    fn to_map(self) -> Interface {
        Interface {
            flags: u16::from(self.redirects) * interface_flags::REDIRECTS,
            ..Interface::new(self.mac, self.index)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_entry_round_trips_through_its_map_value() {
        for redirects in [false, true] {
            let entry = InterfaceEntry {
                mac: [2, 0, 0, 0xff, 1, 9],
                index: 65_535,
                redirects,
            };
            assert_eq!(InterfaceEntry::from_map(&entry.to_map()), entry);
        }
    }
}
