//! The pinned IPv4 connection table as the packet program writes it.

use std::{
    mem::size_of,
    os::fd::AsFd as _,
    ptr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use balancer_common::{
    conntrack::{BucketV4, ConntrackEntryV4, FREE, FlowKeyV4, Ports, WAYS, Word},
    direction,
    flow_hash::buckets_of,
    load::{Load, RealLoad},
    real_server::MAX_REALS,
    settings::Settings,
    tcp::State,
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::scene::Scene;

/// Bytes of all loads.
const LOADS: usize = MAX_REALS as usize * size_of::<RealLoad>();

/// The table's entries, mapped into memory.
pub struct Entries {
    start: ptr::NonNull<BucketV4>,
    loads: ptr::NonNull<RealLoad>,
    settings: Settings,
}

// SAFETY: the mapping belongs to no thread, and every access to it is volatile or atomic.
unsafe impl Sync for Entries {}

/// A connection of the first real server, real id 0.
#[derive(Clone, Copy)]
pub struct Flow {
    /// Determines the client's address.
    pub number: u32,
    /// State of both entries.
    pub state: State,
    /// When both directions' last packets came, in jiffies.
    pub last_seen: u32,
}

impl Flow {
    /// A flow whose last packets came at jiffy 0.
    pub const fn of(number: u32, state: State) -> Self {
        Self {
            number,
            state,
            last_seen: 0,
        }
    }

    fn keys(&self) -> [FlowKeyV4; 2] {
        let client = (0xc612_0000 + self.number).to_be();
        let address = u32::from_ne_bytes;
        [
            FlowKeyV4 {
                source: client,
                destination: address([192, 168, 1, 35]),
                ports: Ports::new(1, 80_u16.to_be()),
                protocol: 6,
            },
            FlowKeyV4 {
                source: address([10, 0, 1, 2]),
                destination: client,
                ports: Ports::new(8080_u16.to_be(), 1),
                protocol: 6,
            },
        ]
    }
}

impl Entries {
    /// Maps the entries of the scene's data plane, whether a daemon runs or not.
    pub fn of(scene: &Scene) -> Self {
        let settings: Settings = scene.array("SETTINGS").get(&0, 0).unwrap();
        let length = settings.buckets[0] as usize * size_of::<BucketV4>();
        let mapped = |name, length: usize| {
            let map = scene.map(name);
            // SAFETY: a new mapping, whose pages the kernel chooses.
            let start = unsafe {
                mmap(
                    None,
                    length.try_into().unwrap(),
                    ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                    MapFlags::MAP_SHARED,
                    map.fd().as_fd(),
                    0,
                )
            };
            start.unwrap()
        };
        Self {
            start: mapped("CONNTRACK_V4", length).cast(),
            loads: mapped("REAL_LOADS", LOADS).cast(),
            settings,
        }
    }

    const fn buckets(&self) -> usize {
        self.settings.buckets[0] as usize
    }

    fn place(&self, bucket: usize, way: usize) -> *mut ConntrackEntryV4 {
        assert!(bucket < self.buckets() && way < WAYS);
        // SAFETY: within the mapping.
        unsafe { (&raw mut (*self.start.as_ptr().add(bucket)).entries[way]).cast() }
    }

    fn places(&self) -> impl Iterator<Item = *mut ConntrackEntryV4> {
        (0..self.buckets())
            .flat_map(move |bucket| (0..WAYS).map(move |way| self.place(bucket, way)))
    }

    fn places_of(&self, key: &FlowKeyV4) -> impl Iterator<Item = *mut ConntrackEntryV4> {
        let buckets = buckets_of(key, &self.settings.seed, self.settings.buckets[0]);
        [buckets.first, buckets.second]
            .into_iter()
            .flat_map(move |bucket| (0..WAYS).map(move |way| self.place(bucket as usize, way)))
    }

    fn word(place: *mut ConntrackEntryV4) -> &'static AtomicU32 {
        // SAFETY: a word of an entry, which everybody changes as a whole; no test keeps it for longer than the mapping.
        unsafe { AtomicU32::from_ptr((&raw mut (*place).word).cast()) }
    }

    fn read(place: *mut ConntrackEntryV4) -> Option<ConntrackEntryV4> {
        // SAFETY: within the mapping.
        let entry = unsafe { place.read_volatile() };
        entry.word.is_used().then_some(entry)
    }

    /// Number of entries in use.
    pub fn count(&self) -> usize {
        self.places().filter_map(Self::read).count()
    }

    /// The slots of the original entries.
    pub fn originals(&self) -> Vec<*mut ConntrackEntryV4> {
        let is_original =
            |place: &*mut _| Self::read(*place).is_some_and(|entry| entry.word.is_original());
        self.places().filter(is_original).collect()
    }

    /// The slot of the reply entry of an original entry's connection.
    pub fn reply_of(&self, original: *mut ConntrackEntryV4) -> *mut ConntrackEntryV4 {
        let original = Self::read(original).unwrap();
        let is_reply = |place: &*mut _| {
            Self::read(*place).is_some_and(|entry| {
                !entry.word.is_original()
                    && entry.destination == original.source
                    && entry.ports.destination() == original.ports.source()
            })
        };
        self.places().find(is_reply).unwrap()
    }

    /// Frees a slot.
    pub fn free(&self, place: *mut ConntrackEntryV4) {
        let word = Self::word(place);
        let freed = Word(word.load(Ordering::Acquire)).freed();
        word.store(freed.0, Ordering::Release);
    }

    /// Writes both entries of a connection, and counts it as the packet program does. Returns whether there was room.
    pub fn put(&self, flow: &Flow) -> bool {
        let is_free =
            |place: &*mut _| Word(Self::word(*place).load(Ordering::Acquire)).state() == FREE;
        let places = flow.keys().map(|key| self.places_of(&key).find(is_free));
        let [Some(original), Some(reply)] = places else {
            return false;
        };
        if original == reply {
            return false;
        }
        for (place, direction) in [(reply, direction::REPLY), (original, direction::ORIGINAL)] {
            let key = flow.keys()[usize::from(direction)];
            let taken = Word(Self::word(place).load(Ordering::Acquire)).taken();
            let port: u16 = if direction == direction::ORIGINAL {
                8080
            } else {
                80
            };
            let entry = ConntrackEntryV4 {
                source: key.source,
                destination: key.destination,
                ports: key.ports,
                word: taken,
                last_seen: flow.last_seen,
                port: port.to_be(),
                ..ConntrackEntryV4::default()
            };
            // SAFETY: within the mapping, and nobody else's.
            unsafe { place.write_volatile(entry) };
            let word = Word::new(taken, flow.state as u8, direction, false);
            Self::word(place).store(word.0, Ordering::Release);
        }
        // SAFETY: within the mapping, and everybody changes it as a whole.
        let counted = unsafe { AtomicU64::from_ptr(&raw mut (*self.loads.as_ptr()).counted) };
        counted.fetch_add(Load::of(flow.state as u8).0, Ordering::AcqRel);
        true
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        let length = self.buckets() * size_of::<BucketV4>();
        // SAFETY: what `mmap` gave.
        let _ = unsafe { munmap(self.start.cast(), length) };
        // SAFETY: as above.
        let _ = unsafe { munmap(self.loads.cast(), LOADS) };
    }
}
