//! The interfaces as the packet program knows them.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use balancer_common::settings::{Interface, interface_flags};

use super::map::Map;

/// The values of `INTERFACES`.
#[derive(Debug)]
pub struct InterfaceTable {
    map: Map<u32, Interface>,
    /// Configured interfaces.
    ends: BTreeMap<u32, InterfaceEntry>,
}

impl InterfaceTable {
    /// Those in the map pinned in `directory`: what is not configured any more is to be cleared.
    ///
    /// # Errors
    /// The map is not there, or the kernel refused.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let map = Map::<u32, Interface>::open(directory, "INTERFACES")?;
        let interfaces = map.all().context("cannot read the interfaces")?;
        let known = interfaces
            .into_iter()
            .filter(|(_, interface)| interface.mac != 0);
        let ends = known
            .map(|(index, interface)| (index, InterfaceEntry::of(&interface)))
            .collect();
        Ok(Self { map, ends })
    }

    /// The interfaces that are configured now.
    pub const fn all(&self) -> &BTreeMap<u32, InterfaceEntry> {
        &self.ends
    }

    /// Configures these interfaces beside those that are configured.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn add(&mut self, ends: BTreeMap<u32, InterfaceEntry>) -> anyhow::Result<()> {
        self.ends.extend(ends);
        self.write()
    }

    /// Configures these interfaces, and no others.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn configure(&mut self, ends: BTreeMap<u32, InterfaceEntry>) -> anyhow::Result<()> {
        for index in self.ends.keys().filter(|index| !ends.contains_key(index)) {
            self.map
                .set(index, &Interface::default())
                .context("cannot write the interfaces")?;
        }
        self.ends = ends;
        self.write()
    }

    fn write(&self) -> anyhow::Result<()> {
        for (index, end) in &self.ends {
            self.map
                .set(index, &end.value())
                .context("cannot write the interfaces")?;
        }
        Ok(())
    }
}

/// An interface of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceEntry {
    /// Its address.
    pub mac: [u8; 6],
    /// The interface that its frames come in by, as routes name it: itself, or the bond that it is a slave of.
    pub index: u32,
    /// Whether it sends frames back by a redirect only ([`interface_flags::REDIRECTS`]).
    pub redirects: bool,
}

impl InterfaceEntry {
    /// What the map says of one.
    fn of(interface: &Interface) -> Self {
        let [a, b, c, d, e, f, _, _] = interface.mac.to_ne_bytes();
        Self {
            mac: [a, b, c, d, e, f],
            index: u32::from(interface.index),
            redirects: interface.flags & interface_flags::REDIRECTS != 0,
        }
    }

    /// What the map is to say of it.
    fn value(self) -> Interface {
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
    fn an_interface_survives_the_way_into_the_map_and_back() {
        for redirects in [false, true] {
            let end = InterfaceEntry {
                mac: [2, 0, 0, 0xff, 1, 9],
                index: 65_535,
                redirects,
            };
            assert_eq!(InterfaceEntry::of(&end.value()), end);
        }
    }
}
