//! Typed access to pinned BPF maps, one entry at a time or in batches.

use std::{
    collections::HashMap,
    io,
    marker::PhantomData,
    mem::size_of,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, ensure};
use aya::Pod;

use super::{
    mapped_memory::MappedMemory,
    syscall::{self, BatchCursor, MapShape},
};

/// A map of keys `K` and values `V`.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    shape: MapShape,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Pod, V: Pod> Map<K, V> {
    /// Opens the map pinned at `directory/name`.
    ///
    /// # Errors
    /// There is no such pin, or the sizes of keys or values differ from these types'.
    pub fn open(directory: &Path, name: &str) -> anyhow::Result<Self> {
        let (fd, shape) = open(directory, name)?;
        ensure!(
            shape.key_size as usize == size_of::<K>()
                && shape.value_size as usize == size_of::<V>(),
            "the map {name} has keys of {} and values of {} bytes, not {} and {}: the embedded object and this program \
             do not fit together",
            shape.key_size,
            shape.value_size,
            size_of::<K>(),
            size_of::<V>(),
        );
        Ok(Self {
            fd,
            shape,
            types: PhantomData,
        })
    }

    /// The kernel's id of the map.
    pub fn id(&self) -> io::Result<u32> {
        syscall::map_id(self.fd.as_fd())
    }

    /// Capacity in entries.
    pub const fn capacity(&self) -> u32 {
        self.shape.max_entries
    }

    /// Maps an array's values into memory.
    ///
    /// # Errors
    /// The map was made without `BPF_F_MMAPABLE`.
    pub fn memory(&self) -> io::Result<MappedMemory<V>> {
        MappedMemory::of_map(self.fd.as_fd(), self.shape.max_entries)
    }

    /// Maps an array's values into memory as `count` values of another type, which take as many bytes.
    ///
    /// # Errors
    /// As for [`Map::memory`].
    pub fn memory_of<T: Pod>(&self, count: u32) -> io::Result<MappedMemory<T>> {
        let bytes = size_of::<V>() * self.shape.max_entries as usize;
        if size_of::<T>() * count as usize != bytes {
            return Err(io::Error::other("the map's size is another one"));
        }
        MappedMemory::of_map(self.fd.as_fd(), count)
    }

    /// Reads one value.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        // SAFETY: `V` is plain data, for which all zero is a value.
        let mut value: V = unsafe { std::mem::zeroed() };
        // SAFETY: `open` has compared both sizes with the kernel's.
        let found = unsafe {
            syscall::lookup(
                self.fd.as_fd(),
                std::ptr::from_ref(key).cast(),
                std::ptr::from_mut(&mut value).cast(),
            )
        }?;
        Ok(found.then_some(value))
    }

    /// Writes one value.
    pub fn set(&self, key: &K, value: &V) -> io::Result<()> {
        // SAFETY: `open` has compared both sizes with the kernel's.
        unsafe {
            syscall::update(
                self.fd.as_fd(),
                std::ptr::from_ref(key).cast(),
                std::ptr::from_ref(value).cast(),
            )
        }
    }

    /// Deletes one entry; returns whether it existed.
    pub fn delete(&self, key: &K) -> io::Result<bool> {
        // SAFETY: `open` has compared the key's size with the kernel's.
        unsafe { syscall::delete(self.fd.as_fd(), std::ptr::from_ref(key).cast()) }
    }

    /// Writes many values, in order.
    pub fn set_many(&self, entries: &[(K, V)]) -> io::Result<()> {
        // The kernel copies one pair at a time; chunks only bound our own memory.
        for chunk in entries.chunks(1 << 16) {
            let keys: Vec<K> = chunk.iter().map(|(key, _)| *key).collect();
            let values: Vec<V> = chunk.iter().map(|(_, value)| *value).collect();
            // SAFETY: both vectors hold `chunk.len()` items of sizes that `open` has compared.
            unsafe {
                syscall::update_batch(
                    self.fd.as_fd(),
                    keys.as_ptr().cast(),
                    values.as_ptr().cast(),
                    chunk.len() as u32,
                )
            }?;
        }
        Ok(())
    }

    /// Reads all entries.
    pub fn all(&self) -> io::Result<Vec<(K, V)>> {
        let mut reader = BatchReader::new(1 << 14);
        let mut entries = Vec::new();
        while let Some(batch) = reader.next(self)? {
            entries.extend(batch);
        }
        Ok(entries)
    }
}

/// Opens a pinned map.
fn open(directory: &Path, name: &str) -> anyhow::Result<(OwnedFd, MapShape)> {
    let path = directory.join(name);
    let fd = syscall::open_pin(&path)
        .with_context(|| format!("cannot open the pinned map {}", path.display()))?;
    let shape = syscall::map_shape(fd.as_fd())
        .with_context(|| format!("cannot ask about the map {name}"))?;
    Ok((fd, shape))
}

/// Reads all entries of a map in batches. Entries that are added or deleted meanwhile may be missed; all others are
/// read exactly once.
#[derive(Debug)]
pub struct BatchReader<K, V> {
    cursor: BatchCursor,
    done: bool,
    keys: Vec<K>,
    values: Vec<V>,
    batch_size: u32,
}

impl<K: Pod, V: Pod> BatchReader<K, V> {
    /// A reader of up to `batch_size` entries at a time.
    pub const fn new(batch_size: u32) -> Self {
        Self {
            cursor: BatchCursor(None),
            done: false,
            keys: Vec::new(),
            values: Vec::new(),
            batch_size,
        }
    }

    /// The next batch; `None` after the last one.
    pub fn next(
        &mut self,
        map: &Map<K, V>,
    ) -> io::Result<Option<impl ExactSizeIterator<Item = (K, V)>>> {
        const { assert!(size_of::<K>() <= BatchCursor::ROOM) };
        if self.done {
            return Ok(None);
        }
        loop {
            let room = self.batch_size as usize;
            self.keys.clear();
            self.values.clear();
            self.keys.reserve(room);
            self.values.reserve(room);
            // SAFETY: both vectors have room for as many items, of sizes that `Map::open` has compared; the keys' is compared above.
            let result = unsafe {
                syscall::lookup_batch(
                    map.fd.as_fd(),
                    &mut self.cursor,
                    self.keys.as_mut_ptr().cast(),
                    self.values.as_mut_ptr().cast(),
                    self.batch_size,
                )
            };
            match result {
                Ok((count, done)) => {
                    let count = (count as usize).min(room);
                    // SAFETY: the kernel has written this many of each; they are plain data.
                    unsafe {
                        self.keys.set_len(count);
                        self.values.set_len(count);
                    }
                    self.done = done;
                    return Ok(Some(
                        self.keys.iter().copied().zip(self.values.iter().copied()),
                    ));
                }
                // One hash bucket holds more than the buffer.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC) && self.batch_size < 1 << 20 =>
                {
                    self.batch_size *= 2
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A per-CPU array with values `V`.
#[derive(Debug)]
pub struct PerCpuMap<V> {
    fd: OwnedFd,
    entries: u32,
    cpus: usize,
    types: PhantomData<fn() -> V>,
}

impl<V: Pod> PerCpuMap<V> {
    /// Opens the map pinned at `directory/name`.
    ///
    /// # Errors
    /// There is no such pin, or the size of its values differs from this type's.
    pub fn open(directory: &Path, name: &str) -> anyhow::Result<Self> {
        // The kernel rounds each CPU's value up to 8 bytes; with such types the values of all CPUs are a plain array.
        const { assert!(size_of::<V>().is_multiple_of(8)) };
        let (fd, shape) = open(directory, name)?;
        ensure!(
            shape.key_size == 4 && shape.value_size as usize == size_of::<V>(),
            "the map {name} has keys of {} and values of {} bytes, not 4 and {}: the embedded object and this program do \
             not fit together",
            shape.key_size,
            shape.value_size,
            size_of::<V>(),
        );
        let cpus =
            aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        Ok(Self {
            fd,
            entries: shape.max_entries,
            cpus,
            types: PhantomData,
        })
    }

    /// Capacity in entries.
    pub const fn capacity(&self) -> u32 {
        self.entries
    }

    /// Reads the values of all CPUs.
    pub fn get(&self, index: u32) -> io::Result<Vec<V>> {
        // SAFETY: `V` is plain data, for which all zero is a value.
        let mut values: Vec<V> = vec![unsafe { std::mem::zeroed() }; self.cpus];
        // SAFETY: the kernel writes one value per possible CPU; sizes were compared by `open`.
        let found = unsafe {
            syscall::lookup(
                self.fd.as_fd(),
                std::ptr::from_ref(&index).cast(),
                values.as_mut_ptr().cast(),
            )
        }?;
        Ok(if found { values } else { Vec::new() })
    }

    /// Writes the same value for all CPUs.
    pub fn set(&self, index: u32, value: V) -> io::Result<()> {
        let values = vec![value; self.cpus];
        // SAFETY: the kernel reads one value per possible CPU; sizes were compared by `open`.
        unsafe {
            syscall::update(
                self.fd.as_fd(),
                std::ptr::from_ref(&index).cast(),
                values.as_ptr().cast(),
            )
        }
    }
}

/// A per-CPU hash of counters, whose entries take memory as they are made.
#[derive(Debug)]
pub struct PerCpuHash {
    fd: OwnedFd,
    cpus: usize,
}

impl PerCpuHash {
    /// Counters that are read or written by one call: their keys and values take some memory meanwhile.
    const CHUNK: usize = 1 << 12;

    /// Opens the map pinned at `directory/name`.
    ///
    /// # Errors
    /// There is no such pin, or its keys or values are of another size.
    pub fn open(directory: &Path, name: &str) -> anyhow::Result<Self> {
        let PerCpuMap { fd, cpus, .. } = PerCpuMap::<u64>::open(directory, name)?;
        Ok(Self { fd, cpus })
    }

    /// Reads a counter, the sum over all CPUs.
    pub fn get(&self, key: u32) -> io::Result<Option<u64>> {
        let mut values = vec![0_u64; self.cpus];
        // SAFETY: the kernel writes one value per possible CPU; sizes were compared by `open`.
        let found = unsafe {
            syscall::lookup(
                self.fd.as_fd(),
                std::ptr::from_ref(&key).cast(),
                values.as_mut_ptr().cast(),
            )
        }?;
        Ok(found.then(|| values.iter().sum()))
    }

    /// Reads all counters, each the sum over all CPUs.
    pub fn all(&self) -> io::Result<HashMap<u32, u64>> {
        let mut cursor = BatchCursor::default();
        let mut counts = HashMap::new();
        let mut keys = vec![0_u32; Self::CHUNK];
        let mut values = vec![0_u64; Self::CHUNK * self.cpus];
        loop {
            // SAFETY: there is room for as many keys, and for one value for each and per possible CPU.
            let (count, is_last) = unsafe {
                syscall::lookup_batch(
                    self.fd.as_fd(),
                    &mut cursor,
                    keys.as_mut_ptr().cast(),
                    values.as_mut_ptr().cast(),
                    Self::CHUNK as u32,
                )
            }?;
            let sums = values
                .chunks_exact(self.cpus)
                .map(|of_cpus| of_cpus.iter().sum());
            counts.extend(keys.iter().copied().zip(sums).take(count as usize));
            if is_last {
                return Ok(counts);
            }
        }
    }

    /// Makes counters, or sets them to zero.
    pub fn reset(&self, keys: &[u32]) -> io::Result<()> {
        for keys in keys.chunks(Self::CHUNK) {
            let values = vec![0_u64; keys.len() * self.cpus];
            // SAFETY: there are as many keys, and one value for each and per possible CPU.
            unsafe {
                syscall::update_batch(
                    self.fd.as_fd(),
                    keys.as_ptr().cast(),
                    values.as_ptr().cast(),
                    keys.len() as u32,
                )
            }?;
        }
        Ok(())
    }

    /// Deletes a counter, if it exists.
    pub fn delete(&self, key: u32) -> io::Result<()> {
        // SAFETY: `open` has compared the key's size with the kernel's.
        unsafe { syscall::delete(self.fd.as_fd(), std::ptr::from_ref(&key).cast()) }.map(drop)
    }
}
