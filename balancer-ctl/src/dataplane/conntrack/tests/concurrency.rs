//! The daemon ends connections while the packet program opens others in the same slots.

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;

/// Plays the packet program on one table: opens connections, ends them, and opens others with the same addresses and
/// ports in the same slots.
struct Program<'a> {
    table: &'a EntryTable<u32>,
    loads: &'a Loads,
    random: Cell<u64>,
}

impl Program<'_> {
    fn random(&self, below: u32) -> u32 {
        let next = self
            .random
            .get()
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.random.set(next);
        ((next >> 33) as u32) % below
    }

    /// Takes the slot of a spent entry with this key, or a free one.
    fn take(&self, key: &FlowKey<u32>) -> EntrySlot<'_, u32> {
        loop {
            if let Some(old) = found(self.table, key) {
                let word = old.slot.word();
                if word.is_same_entry(old.entry.word)
                    && word.is_used()
                    && old.slot.compare_exchange(word, word.taken())
                {
                    if word.is_original() {
                        self.count(&old, word.state(), FREE);
                    }
                    return old.slot;
                }
            } else if let Some(slot) = take(self.table, key) {
                return slot;
            }
        }
    }

    /// Counts a transition, which this has won.
    fn count(&self, entry: &EntrySnapshot<'_, u32>, before: u8, after: u8) {
        self.loads.count(entry.entry.real.into(), before, after);
    }

    /// Opens the connection `number`, replacing what is left of an earlier one with the same keys.
    fn open(&self, flow: &Flow<u32>, number: u32) {
        let [key, reply_key] = flow.keys();
        // The original entry's word first, as the rules demand; only the winner goes on to the reply's.
        if let Some(old) = found(self.table, &key)
            && old
                .slot
                .compare_exchange(old.entry.word, old.entry.word.freed())
        {
            self.count(&old, old.entry.word.state(), FREE);
            if let Some(reply) = found(self.table, &reply_key) {
                reply.free();
            }
        }
        let reply = self.take(&reply_key);
        let original = self.take(&key);
        self.loads.count(flow.real.into(), FREE, flow.state as u8);
        publish(reply, flow, direction::REPLY, number);
        publish(original, flow, direction::ORIGINAL, number);
    }

    /// Whether both entries of the connection `number` exist.
    fn lives(&self, flow: &Flow<u32>, number: u32) -> bool {
        flow.keys()
            .iter()
            .all(|key| found(self.table, key).is_some_and(|found| found.entry.extra == number))
    }

    /// Makes the connection expire.
    fn forget(&self, flow: &Flow<u32>) {
        for key in flow.keys().iter().rev() {
            if let Some(found) = found(self.table, key) {
                found.slot.set_last_seen(JIFFIES - 2 * TIMEOUTS.established);
            }
        }
    }

    /// Brings the connection to another state.
    fn advance(&self, flow: &Flow<u32>, state: State) {
        for key in flow.keys() {
            if let Some(found) = found(self.table, &key) {
                let word = found.entry.word;
                let after = word.with_state(state as u8);
                if found.slot.compare_exchange(word, after) && word.is_original() {
                    self.count(&found, word.state(), after.state());
                }
            }
        }
    }
}

#[test]
fn no_living_connection_is_lost_while_the_daemon_ends_others_in_the_same_places() {
    const FLOWS: usize = 24;
    const ROUNDS: u32 = 2_000_000;
    // More than there are CPUs, so that they are interrupted everywhere in their work.
    const DAEMONS: usize = 6;
    // Room for all, so that no connection is displaced.
    let conntrack = tables(4 * FLOWS as u32);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let daemon = || {
            let (mut expired, mut purged) = (0, 0);
            // The connections of real server 4 are purged all the time.
            let service = service("192.0.2.80:80", Protocol::Tcp);
            let real = "10.0.0.4:8080".parse().unwrap();
            let wanted = EntryFilter::for_real(&service, real, &conntrack.reals).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                expired += sweep(&conntrack).expired;
                purged += conntrack.purge(Some(&wanted), None);
            }
            [expired, purged]
        };
        let daemons: [_; DAEMONS] = std::array::from_fn(|_| threads.spawn(daemon));
        let program = Program {
            table: &conntrack.v4,
            loads: &conntrack.loads,
            random: Cell::new(1),
        };
        let flows: [Flow<u32>; FLOWS] = std::array::from_fn(|index| Flow {
            real: if index % 6 == 0 { 4 } else { 2 },
            ..v4(index as u8, State::Established, [0; 2])
        });
        // Stops the daemons also when a round fails.
        let end = OnDrop(|| is_over.store(true, Ordering::Relaxed));
        let opened = rounds(&program, &flows, ROUNDS);
        drop(end);
        let ended = daemons.map(|daemon| daemon.join().unwrap());
        let ended = ended
            .into_iter()
            .fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
        assert!(opened > ROUNDS / 10, "{opened}");
        assert!(
            ended.iter().all(|ended| *ended > 1_000),
            "the daemon was at it: {ended:?}"
        );
        for real in [2, 4] {
            let words = conntrack.v4.slots(0..usize::MAX);
            let mut counts = [0, 0];
            for slot in words.filter(|slot| u32::from(slot.real()) == real) {
                let word = slot.word();
                if word.is_used() && word.is_original() {
                    counts[usize::from(word.state() != State::Established as u8)] += 1;
                }
            }
            assert_eq!(conntrack.loads.counts(real), counts, "real server {real}");
        }
    });
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Opens, uses and expires connections. Returns how many were opened.
fn rounds(program: &Program<'_>, flows: &[Flow<u32>], rounds: u32) -> u32 {
    // The number of each flow's connection, while it exists.
    let mut living = vec![None; flows.len()];
    let mut opened = 0;
    for round in 0..rounds {
        let index = program.random(flows.len() as u32) as usize;
        let flow = &flows[index];
        match living[index] {
            None => {
                program.open(flow, round);
                opened += 1;
                living[index] = Some(round);
            }
            // It may be purged at any time, and then nothing of it is left.
            Some(_) if flow.real == 4 => {
                if program.random(4) == 0 {
                    living[index] = None;
                } else {
                    program.advance(flow, State::FinReply);
                }
            }
            Some(number) => {
                assert!(
                    program.lives(flow, number),
                    "round {round}: {flow:?} is lost"
                );
                match program.random(4) {
                    0 => {
                        program.forget(flow);
                        living[index] = None;
                    }
                    1 => program.advance(flow, State::Established),
                    _ => {}
                }
            }
        }
    }
    opened
}
