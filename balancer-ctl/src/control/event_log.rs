//! The events: each goes to all that follow them, and the last ones are remembered for those who ask later.

use std::{
    collections::VecDeque,
    mem::size_of,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::sync::broadcast;

use crate::{
    model::view::{EventKind, EventRecord},
    os::clock,
};

/// How many events a reader may lag behind before it loses some.
const MAX_QUEUED: usize = 1024;
/// How many events are remembered.
const MAX_EVENTS: usize = 4096;
/// How many bytes of memory the remembered events take.
const MAX_BYTES: usize = 1 << 20;

/// Sends events to those who follow them, and remembers the last ones.
#[derive(Clone, Debug)]
pub struct EventLog {
    sender: broadcast::Sender<EventRecord>,
    memory: Arc<Mutex<Memory>>,
}

impl Default for EventLog {
    /// A log that begins now.
    fn default() -> Self {
        Self {
            sender: broadcast::channel(MAX_QUEUED).0,
            memory: Arc::new(Mutex::new(Memory::new(MAX_EVENTS, MAX_BYTES))),
        }
    }
}

impl EventLog {
    /// Sends an event to those who follow, and remembers it.
    pub fn publish(&self, event: EventRecord) {
        let mut memory = self.memory();
        memory.push(event.clone());
        // Fails if nobody follows the events. Still under the lock: an event is either remembered or followed.
        let _ = self.sender.send(event);
    }

    /// The events from now on.
    #[must_use]
    pub fn follow(&self) -> broadcast::Receiver<EventRecord> {
        self.sender.subscribe()
    }

    /// The remembered events since a time, and all that happen after them. Where older ones are forgotten, the first is
    /// [`EventKind::Forgotten`].
    #[must_use]
    pub fn since(
        &self,
        time: SystemTime,
    ) -> (Vec<Arc<EventRecord>>, broadcast::Receiver<EventRecord>) {
        let memory = self.memory();
        (memory.since(&clock::utc(time)), self.sender.subscribe())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last events.
#[derive(Debug)]
struct Memory {
    events: VecDeque<Arc<EventRecord>>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
    /// From when on no event is missing, as [`clock::utc`] writes it.
    begins: String,
    /// Whether it was longer once.
    has_forgotten: bool,
}

impl Memory {
    fn new(max_events: usize, max_bytes: usize) -> Self {
        Self {
            events: VecDeque::new(),
            bytes: 0,
            max_events,
            max_bytes,
            begins: clock::now_utc(),
            has_forgotten: false,
        }
    }

    fn push(&mut self, event: EventRecord) {
        self.bytes += size(&event);
        self.events.push_back(Arc::new(event));
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= size(&oldest);
            let begins = self.events.front().unwrap_or(&oldest);
            self.begins.clone_from(&begins.time);
            self.has_forgotten = true;
        }
    }

    /// The events since a time in UTC; texts of that form are in the order of their times.
    fn since(&self, time: &str) -> Vec<Arc<EventRecord>> {
        let forgotten = (*time < *self.begins).then(|| Arc::new(self.forgotten()));
        let events = self.events.iter().filter(|event| *event.time >= *time);
        forgotten.into_iter().chain(events.cloned()).collect()
    }

    fn forgotten(&self) -> EventRecord {
        let Self { begins, events, .. } = self;
        let why = if self.has_forgotten {
            format!("balancerd remembers the last {}", events.len())
        } else {
            "balancerd started then".to_owned()
        };
        EventRecord {
            time: begins.clone(),
            event: EventKind::Forgotten,
            service: None,
            real: None,
            peer: None,
            message: format!("events before {begins} are gone: {why}"),
        }
    }
}

/// The memory that an event takes, in bytes.
fn size(event: &EventRecord) -> usize {
    let EventRecord {
        time,
        event: _,
        service,
        real: _,
        peer,
        message,
    } = event;
    let names = [service, peer].into_iter().flatten();
    let names: usize = names.map(String::capacity).sum();
    size_of::<EventRecord>() + time.capacity() + names + message.capacity()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(second: u32, message: &str) -> EventRecord {
        EventRecord {
            time: at(second),
            event: EventKind::RealChanged,
            service: None,
            real: None,
            peer: None,
            message: message.to_owned(),
        }
    }

    fn at(second: u32) -> String {
        format!("2026-11-22T03:14:{second:02}.000Z")
    }

    fn memory(max_events: usize, max_bytes: usize) -> Memory {
        Memory {
            begins: at(10),
            ..Memory::new(max_events, max_bytes)
        }
    }

    /// What is remembered since a second.
    fn since(memory: &Memory, second: u32) -> Vec<String> {
        let events = memory.since(&at(second)).into_iter();
        events.map(|event| event.message.clone()).collect()
    }

    #[test]
    fn events_are_remembered_from_the_start_on() {
        let mut memory = memory(10, 10_000);
        let start = "events before 2026-11-22T03:14:10.000Z are gone: balancerd started then";
        assert_eq!(since(&memory, 9), [start]);
        assert_eq!(since(&memory, 10), [""; 0]);
        memory.push(event(11, "a"));
        memory.push(event(12, "b"));
        assert_eq!(since(&memory, 9), [start, "a", "b"]);
        assert_eq!(since(&memory, 10), ["a", "b"]);
        assert_eq!(since(&memory, 11), ["a", "b"]);
        assert_eq!(since(&memory, 12), ["b"]);
        assert_eq!(since(&memory, 13), [""; 0]);
    }

    #[test]
    fn no_more_are_remembered_than_fit_and_that_is_said() {
        let mut memory = memory(3, 10_000);
        for second in 11..20 {
            memory.push(event(second, &second.to_string()));
        }
        let gone =
            "events before 2026-11-22T03:14:17.000Z are gone: balancerd remembers the last 3";
        assert_eq!(since(&memory, 16), [gone, "17", "18", "19"]);
        assert_eq!(since(&memory, 17), ["17", "18", "19"]);
        let gone = memory.since(&at(0)).swap_remove(0);
        assert_eq!((&*gone.time, gone.event), (&*at(17), EventKind::Forgotten));
    }

    #[test]
    fn no_more_bytes_are_remembered_than_fit() {
        let long = "x".repeat(1_000);
        let mut memory = memory(100, 3_500);
        for second in 11..20 {
            memory.push(event(second, &long));
            let sum: usize = memory.events.iter().map(|event| size(event)).sum();
            assert_eq!(memory.bytes, sum);
            assert!(sum <= 3_500 && memory.events.len() < 4);
        }
        assert!(memory.events.len() > 1);
        // One that does not fit alone.
        memory.push(event(21, &"x".repeat(4_000)));
        assert_eq!(
            since(&memory, 0),
            ["events before 2026-11-22T03:14:21.000Z are gone: balancerd remembers the last 0"]
        );
        memory.push(event(22, "b"));
        assert_eq!(since(&memory, 22), ["b"]);
    }

    #[test]
    fn nothing_is_missed_or_told_twice_between_what_was_and_what_comes() {
        let log = EventLog::default();
        let publisher = log.clone();
        let thread = std::thread::spawn(move || {
            for number in 0..500 {
                publisher.publish(event(0, &number.to_string()));
            }
        });
        let (past, mut follower) = log.since(SystemTime::UNIX_EPOCH);
        thread.join().unwrap();
        let mut told: Vec<_> = past
            .iter()
            .skip(1)
            .map(|event| event.message.clone())
            .collect();
        while let Ok(event) = follower.try_recv() {
            told.push(event.message);
        }
        let all: Vec<_> = (0..500).map(|number| number.to_string()).collect();
        assert_eq!(told, all);
    }
}
