//! The interfaces as the program knows them, each with the route generation and whether real servers' connections are
//! reset. Two threads write them: the data plane's owner, and
//! the one that hears of routes.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use balancer_common::settings::{Interface, interface_flags};

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
    /// Configured interfaces.
    ends: BTreeMap<u32, End>,
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
            .any(|(_, interface)| interface.flags & interface_flags::RESETS != 0);
        // What is pinned from before, so that it is cleared when it is not configured any more.
        let known = interfaces
            .into_iter()
            .filter(|(_, interface)| interface.generation != 0);
        let ends = known
            .map(|(index, interface)| (index, End::of(&interface)))
            .collect();
        Ok(Self(Arc::new(Mutex::new(Inner {
            table,
            generation,
            resets,
            ends,
        }))))
    }

    /// The interfaces that are configured now.
    pub fn interfaces(&self) -> BTreeMap<u32, End> {
        self.lock().ends.clone()
    }

    /// Configures these interfaces beside those that are configured.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn add(&self, ends: BTreeMap<u32, End>) -> io::Result<()> {
        let mut inner = self.lock();
        inner.ends.extend(ends);
        inner.raise()
    }

    /// Configures these interfaces, and no others. Every way out is looked up again.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn configure(&self, ends: BTreeMap<u32, End>) -> io::Result<()> {
        let mut inner = self.lock();
        let gone: Vec<_> = inner
            .ends
            .keys()
            .filter(|index| !ends.contains_key(index))
            .copied()
            .collect();
        for index in gone {
            inner.table.set(&index, &Interface::default())?;
        }
        inner.ends = ends;
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
        inner.write(resets)?;
        inner.resets = resets;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A writer that panicked has left whole values.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn raise(&mut self) -> io::Result<()> {
        self.generation = next(self.generation);
        self.write(self.resets)
    }

    fn write(&mut self, resets: bool) -> io::Result<()> {
        for (index, end) in &self.ends {
            let interface = Interface {
                flags: (u16::from(resets) * interface_flags::RESETS)
                    | (u16::from(end.redirects) * interface_flags::REDIRECTS),
                ..Interface::new(end.mac, self.generation, end.index)
            };
            self.table.set(index, &interface)?;
        }
        Ok(())
    }
}

/// An interface of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Its address.
    pub mac: [u8; 6],
    /// The interface that its frames come in by, as routes name it: itself, or the bond that it is a slave of.
    pub index: u32,
    /// Whether it sends frames back by a redirect only ([`interface_flags::REDIRECTS`]).
    pub redirects: bool,
}

impl End {
    /// What the map says of one.
    fn of(interface: &Interface) -> Self {
        let [a, b, c, d, e, f, _, _] = interface.mac.to_ne_bytes();
        Self {
            mac: [a, b, c, d, e, f],
            index: u32::from(interface.index),
            redirects: interface.flags & interface_flags::REDIRECTS != 0,
        }
    }
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
    fn an_address_and_an_index_survive_the_way_into_the_map_and_back() {
        let end = End {
            mac: [2, 0, 0, 0xff, 1, 9],
            index: 65_535,
            redirects: false,
        };
        assert_eq!(End::of(&Interface::new(end.mac, 7, end.index)), end);
    }

    #[test]
    fn generations_leave_out_zero() {
        assert_eq!([0, 1, u32::MAX].map(next), [1, 2, 1]);
    }
}
