//! The loads of the real servers, mapped into memory: how many connections each has, what limits it, and what the daemon itself ends.
//!
//! The packet program counts a transition right after it has won it, and cannot be stopped in between. The daemon can, by SIGKILL. So it
//! notes each connection before it ends it (see [`Ending`]): the next daemon finds the note and finishes the count, once.

use std::{mem::offset_of, path::Path, sync::atomic::Ordering};

use anyhow::Context;
use balancer_common::{
    conntrack::Word,
    load::{Ending, Load, RealLoad},
    real_server::MAX_REALS,
};

use super::{map::Map, mapped_memory::MappedMemory, plan::tables::Limits};

/// The loads by real id, and the note of the connection that the daemon is about to end.
#[derive(Debug)]
pub struct Loads {
    rows: MappedMemory<RealLoad>,
    ending: MappedMemory<Ending>,
}

impl Loads {
    /// Opens the maps pinned in `directory`.
    ///
    /// # Errors
    /// A map is missing or cannot be mapped.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        // One value that holds them all, for the packet program; here they are many.
        let rows = Map::<u32, [RealLoad; MAX_REALS as usize]>::open(directory, "REAL_LOADS")?;
        let ending = Map::<u32, Ending>::open(directory, "ENDING")?;
        let memory = "cannot read the loads as memory";
        Ok(Self {
            rows: rows.memory_of(MAX_REALS).context(memory)?,
            ending: ending.memory().context(memory)?,
        })
    }

    /// The loads of `reals` real servers, in memory of their own.
    #[cfg(test)]
    pub fn anonymous(reals: u32) -> Self {
        Self {
            rows: MappedMemory::anonymous(reals).unwrap(),
            ending: MappedMemory::anonymous(1).unwrap(),
        }
    }

    /// A real server's connections, `[active, inactive]`.
    pub fn counts(&self, id: u32) -> [u64; 2] {
        let row = self.rows.read(id as usize).unwrap_or_default();
        row.counts().map(u64::from)
    }

    /// Whether a real server has reached its upper limit, and not fallen below its lower one since.
    pub fn is_full(&self, id: u32) -> bool {
        let row = self.rows.read(id as usize).unwrap_or_default();
        row.is_full() != 0
    }

    /// A real server's weight and limits.
    pub fn limits(&self, id: u32) -> Limits {
        let RealLoad {
            weight,
            upper,
            resume,
            ..
        } = self.rows.read(id as usize).unwrap_or_default();
        Limits {
            weight,
            upper,
            resume,
        }
    }

    /// Writes a real server's weight and limits. With another upper limit whether it is full shows at the next connection.
    pub fn set_limits(&self, id: u32, limits: Limits) {
        let is_same = self.limits(id).upper == limits.upper;
        let full = (!is_same).then_some((offset_of!(RealLoad, full), 0));
        let fields = [
            (offset_of!(RealLoad, weight), limits.weight),
            (offset_of!(RealLoad, resume), limits.resume),
            (offset_of!(RealLoad, upper), limits.upper),
        ];
        for (offset, value) in fields.into_iter().chain(full) {
            if let Some(word) = self.rows.word(id as usize, offset) {
                word.store(value, Ordering::Relaxed);
            }
        }
    }

    /// Adds to what the packet program has counted, in its place.
    #[cfg(test)]
    pub fn count(&self, id: u32, before: u8, after: u8) {
        let counted = self.rows.long(id as usize, offset_of!(RealLoad, counted));
        counted
            .unwrap()
            .fetch_add(Load::step(before, after), Ordering::AcqRel);
    }

    /// What the daemon has ended of a real server's connections.
    fn ended(&self, id: u32) -> u64 {
        let ended = self.rows.long(id as usize, offset_of!(RealLoad, ended));
        ended.map_or(0, |ended| ended.load(Ordering::Relaxed))
    }

    fn set_ended(&self, id: u32, ended: u64) {
        if let Some(word) = self.rows.long(id as usize, offset_of!(RealLoad, ended)) {
            word.store(ended, Ordering::SeqCst);
        }
    }

    /// Ends a connection of a real server whose original entry is at a place (family, number of the entry) with the word `word`. `exchange`
    /// replaces the word there, if it is the first one that it is given, by the second, and says whether it did. Only one thread may call
    /// this at a time.
    pub fn end(
        &self,
        place: [u32; 2],
        word: Word,
        real: u32,
        exchange: impl Fn(Word, Word) -> bool,
    ) -> bool {
        let taken = word.taken_by_daemon();
        let ended = self.ended(real).wrapping_add(Load::of(word.state()).0);
        self.note(&Ending {
            ended,
            family: place[0],
            place: place[1],
            word: taken.0,
            real,
            is_set: 1,
            zero: 0,
        });
        let is_mine = exchange(word, taken);
        if is_mine {
            self.set_ended(real, ended);
            exchange(taken, taken.freed());
        }
        self.clear_note();
        is_mine
    }

    /// Writes the note, last that it is one.
    fn note(&self, ending: &Ending) {
        if let Some(long) = self.ending.long(0, offset_of!(Ending, ended)) {
            long.store(ending.ended, Ordering::Relaxed);
        }
        for (offset, value) in [
            (offset_of!(Ending, family), ending.family),
            (offset_of!(Ending, place), ending.place),
            (offset_of!(Ending, word), ending.word),
            (offset_of!(Ending, real), ending.real),
            (offset_of!(Ending, is_set), ending.is_set),
        ] {
            if let Some(word) = self.ending.word(0, offset) {
                word.store(value, Ordering::SeqCst);
            }
        }
    }

    fn clear_note(&self) {
        if let Some(word) = self.ending.word(0, offset_of!(Ending, is_set)) {
            word.store(0, Ordering::SeqCst);
        }
    }

    /// Finishes what an earlier daemon was killed at. `exchange` is as for [`Loads::end`], at the place that it is given.
    pub fn finish(&self, exchange: impl Fn([u32; 2], Word, Word) -> bool) {
        let Some(ending) = self.ending.read(0).filter(|ending| ending.is_set != 0) else {
            return;
        };
        let (place, taken) = ([ending.family, ending.place], Word(ending.word));
        // Nobody else takes a place that is taken: where the word stands, the connection was ended and may not be counted.
        if exchange(place, taken, taken) {
            self.set_ended(ending.real, ending.ended);
            exchange(place, taken, taken.freed());
            tracing::info!(
                "the connection that an earlier daemon was about to end is ended and counted"
            );
        }
        self.clear_note();
    }
}
