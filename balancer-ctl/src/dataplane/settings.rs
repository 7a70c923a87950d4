//! The one value of `SETTINGS`.

use std::{cell::Cell, io};

use balancer_common::settings::Settings;

use super::table::Table;

/// The settings as they stand in the map. The data plane's owner alone writes them.
#[derive(Debug)]
pub struct SettingsRow {
    table: Table<u32, Settings>,
    value: Cell<Settings>,
}

impl SettingsRow {
    /// Reads the map's value.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open(table: Table<u32, Settings>) -> io::Result<Self> {
        let value = Cell::new(table.get(&0)?.unwrap_or_default());
        Ok(Self { table, value })
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
            self.table.set(&0, &value)?;
            self.value.set(value);
        }
        Ok(())
    }
}
