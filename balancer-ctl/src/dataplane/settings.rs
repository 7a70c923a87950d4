//! The only value of the map `SETTINGS`.

use std::{cell::Cell, io, path::Path};

use anyhow::Context;

use balancer_common::settings::Settings;

use super::map::Map;

/// The settings as the map has them. Only the data plane's owner writes them.
#[derive(Debug)]
pub struct SettingsRow {
    map: Map<u32, Settings>,
    value: Cell<Settings>,
}

impl SettingsRow {
    /// Reads the value of the map pinned in `directory`.
    ///
    /// # Errors
    /// The map does not exist, or the kernel refused.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let map = Map::open(directory, "SETTINGS")?;
        let value = map.get(&0).context("cannot read the settings")?;
        let value = Cell::new(value.unwrap_or_default());
        Ok(Self { map, value })
    }

    /// The present value.
    pub const fn get(&self) -> Settings {
        self.value.get()
    }

    /// Changes the value; nothing is written when it stays the same.
    ///
    /// # Errors
    /// The kernel refused; nothing is changed.
    pub fn update(&self, change: impl FnOnce(&mut Settings)) -> io::Result<()> {
        let mut value = self.value.get();
        change(&mut value);
        if value != self.value.get() {
            self.map.set(&0, &value)?;
            self.value.set(value);
        }
        Ok(())
    }
}
