//! The interfaces as the program knows them, each with the route generation and whether real servers' connections are
//! reset. Two threads write them: the data plane's owner, and
//! the one that hears of routes.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use balancer_common::settings::Interface;

use super::table::Table;

/// Shared between threads.
#[derive(Clone, Debug)]
pub struct Ways(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    table: Table<u32, Interface>,
    /// The same for all interfaces, so that a way out means the same wherever its packet came in.
    generation: u32,
    /// Whether packets are to ask for real servers whose connections are reset.
    resets: bool,
    /// Configured interfaces and their addresses.
    macs: BTreeMap<u32, [u8; 6]>,
}

impl Ways {
    /// Goes on from the generation in the map: ways out that rows hold were found under it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open(table: Table<u32, Interface>) -> io::Result<Self> {
        let interfaces = table.all()?;
        let generation = interfaces
            .iter()
            .map(|(_, interface)| interface.generation)
            .max()
            .unwrap_or(0);
        let resets = interfaces
            .iter()
            .any(|(_, interface)| interface.resets != 0);
        // What is pinned from before, so that it is cleared when it is not configured any more.
        let known = interfaces
            .into_iter()
            .filter(|(_, interface)| interface.generation != 0);
        let macs = known
            .map(|(index, interface)| (index, mac(&interface)))
            .collect();
        Ok(Self(Arc::new(Mutex::new(Inner {
            table,
            generation,
            resets,
            macs,
        }))))
    }

    /// The interfaces that are configured now, and their addresses.
    pub fn interfaces(&self) -> BTreeMap<u32, [u8; 6]> {
        self.lock().macs.clone()
    }

    /// Configures these interfaces beside those that are configured.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn add(&self, macs: BTreeMap<u32, [u8; 6]>) -> io::Result<()> {
        let mut inner = self.lock();
        inner.macs.extend(macs);
        inner.raise()
    }

    /// Configures these interfaces, and no others. Every way out is looked up again.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn configure(&self, macs: BTreeMap<u32, [u8; 6]>) -> io::Result<()> {
        let mut inner = self.lock();
        let gone: Vec<_> = inner
            .macs
            .keys()
            .filter(|index| !macs.contains_key(index))
            .copied()
            .collect();
        for index in gone {
            inner.table.set(&index, &Interface::default())?;
        }
        inner.macs = macs;
        inner.raise()
    }

    /// Retires every cached way out.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn raise(&self) -> io::Result<()> {
        self.lock().raise()
    }

    /// Whether packets ask for real servers whose connections are reset.
    pub fn resets(&self) -> bool {
        self.lock().resets
    }

    /// Says whether packets are to ask for real servers whose connections are reset.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn set_resets(&self, resets: bool) -> io::Result<()> {
        let mut inner = self.lock();
        inner.resets = resets;
        inner.write()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A writer that panicked has left whole values.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn raise(&mut self) -> io::Result<()> {
        self.generation = next(self.generation);
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        for (index, mac) in &self.macs {
            let interface = Interface {
                resets: u32::from(self.resets),
                ..Interface::new(*mac, self.generation)
            };
            self.table.set(index, &interface)?;
        }
        Ok(())
    }
}

/// The address that [`Interface::new`] was given.
const fn mac(interface: &Interface) -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = interface.mac.to_ne_bytes();
    [a, b, c, d, e, f]
}

/// The generation after this one; 0 means "never looked up" in a row.
const fn next(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_way_into_the_map_and_back() {
        let address = [2, 0, 0, 0xff, 1, 9];
        assert_eq!(mac(&Interface::new(address, 7)), address);
    }

    #[test]
    fn generations_leave_out_zero() {
        assert_eq!([0, 1, u32::MAX].map(next), [1, 2, 1]);
    }
}
