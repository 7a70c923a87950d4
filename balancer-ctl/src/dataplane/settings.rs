//! The one value of `SETTINGS` and its writers: the data plane's owner, and the thread that hears of routes.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use balancer_common::settings::Settings;

use super::table::Table;

/// The settings as they stand in the map, shared between threads.
#[derive(Clone, Debug)]
pub struct SharedSettings(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    table: Table<u32, Settings>,
    value: Settings,
}

impl SharedSettings {
    /// Reads the map's value.
    pub fn open(table: Table<u32, Settings>) -> anyhow::Result<Self> {
        let value = table.get(&0)?.unwrap_or_default();
        Ok(Self(Arc::new(Mutex::new(Inner { table, value }))))
    }

    /// The present value.
    pub fn get(&self) -> Settings {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).value
    }

    /// Changes the value; nothing is written when it stays the same.
    pub fn update(&self, change: impl FnOnce(&mut Settings)) -> io::Result<()> {
        // The value is plain data and whole at any moment, so a writer that panicked has broken nothing.
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut value = inner.value;
        change(&mut value);
        if value != inner.value {
            inner.table.set(&0, &value)?;
            inner.value = value;
        }
        Ok(())
    }

    /// Retires every cached way out.
    pub fn raise_generation(&self) -> io::Result<()> {
        self.update(|settings| settings.generation = next_generation(settings.generation))
    }
}

/// The generation after this one; 0 means "never looked up" in a row.
const fn next_generation(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_leave_out_zero() {
        assert_eq!([0, 1, u32::MAX].map(next_generation), [1, 2, 1]);
    }
}
