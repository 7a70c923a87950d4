//! Brings the maps of a loaded object back to what they were after the load, so that the next test can use it: to
//! load the object again takes the verifier 0.2 s, and ten seconds on an emulated CPU.
//!
//! The kernel makes maps empty, or full of zeroes. The exceptions are `.rodata`, which the loader fills and nobody
//! can write, and `AYA_LOGS`, which only log lines fill (see `can_be_used_again`).

use std::{io, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use balancer_common::scheduler::SLOTS_PER_WORD;

use crate::{
    bulk::{self, Cursor},
    dataplane::Options,
};

/// Values that are read or written by one system call.
const CHUNK: u32 = 8_192;

/// Tells whether an object that was loaded with these options can serve another test. With log lines on it
/// cannot: a ring buffer is emptied only by its reader.
pub(crate) const fn can_be_used_again(options: &Options) -> bool {
    options.log_level == 0
}

/// Empties every map that the packet program or a test can write. Of `RINGS`, two million values that only
/// `Dataplane::write_slots` writes, one behind the other, it clears those of the first `ring_slots` slots.
///
/// # Errors
/// The kernel refuses a call, or the object has a map of a type that is not known here.
pub(crate) fn restore(ebpf: &Ebpf, ring_slots: u32) -> io::Result<()> {
    for (name, map) in ebpf.maps() {
        match Kind::of(name, map) {
            Kind::Array(map) => {
                let length = if name == "RINGS" {
                    ring_slots / SLOTS_PER_WORD
                } else {
                    shape(map)?.length
                };
                clear(map, length, 1)?;
            }
            Kind::PerCpuArray(map) => clear(map, shape(map)?.length, cpus())?,
            Kind::Hash(map) | Kind::PerCpuHash(map) => clear_hash(map)?,
            Kind::Constant | Kind::RingBuffer => {}
            Kind::Unknown => {
                return Err(io::Error::other(format!(
                    "the map {name} is of a type that tests/harness/initial.rs does not know"
                )));
            }
        }
    }
    Ok(())
}

/// Writes something into every map: the first and the last value of arrays, an entry of hashes.
///
/// # Errors
/// As for `restore`.
pub(crate) fn fill(ebpf: &Ebpf, ring_slots: u32) -> io::Result<()> {
    for (name, map) in ebpf.maps() {
        let (map, cpus) = match Kind::of(name, map) {
            Kind::Array(map) => (map, 1),
            Kind::PerCpuArray(map) => (map, cpus()),
            Kind::PerCpuHash(map) => {
                let shape = shape(map)?;
                let value = vec![1; room(&shape, cpus())];
                bulk::insert(map.fd().as_fd(), &vec![0; shape.key], &value)?;
                continue;
            }
            Kind::Hash(map) => {
                let shape = shape(map)?;
                // A map of devices takes devices only; the set-up has put some in.
                if bulk::next_key(map.fd().as_fd(), None, shape.key)?.is_none() {
                    // All zeroes is a key of every map, also where it begins with a length.
                    bulk::insert(map.fd().as_fd(), &vec![0; shape.key], &vec![1; shape.value])?;
                }
                continue;
            }
            Kind::Constant | Kind::RingBuffer | Kind::Unknown => continue,
        };
        let shape = shape(map)?;
        let length = if name == "RINGS" {
            ring_slots / SLOTS_PER_WORD
        } else {
            shape.length
        };
        for key in [0, length - 1] {
            bulk::update(map.fd().as_fd(), &[key], &vec![1; room(&shape, cpus)])?;
        }
    }
    Ok(())
}

/// A key and its value; of a per-CPU map, the values of all CPUs.
pub type Content = (Vec<u8>, Vec<u8>);

/// Returns what each map holds: every entry of hashes, and of arrays every value that is not zero.
///
/// # Errors
/// As for `restore`.
pub fn contents(ebpf: &Ebpf) -> io::Result<Vec<(String, Vec<Content>)>> {
    let mut all = Vec::new();
    for (name, map) in ebpf.maps() {
        let contents = match Kind::of(name, map) {
            Kind::Array(map) => array_contents(map, 1)?,
            Kind::PerCpuArray(map) => array_contents(map, cpus())?,
            Kind::Hash(map) => hash_contents(map, 1)?,
            Kind::PerCpuHash(map) => hash_contents(map, cpus())?,
            Kind::Constant | Kind::RingBuffer => continue,
            Kind::Unknown => return Err(io::Error::other(format!("cannot read the map {name}"))),
        };
        all.push((name.to_owned(), contents));
    }
    all.sort();
    Ok(all)
}

/// What a map is to this file.
enum Kind<'a> {
    Array(&'a MapData),
    PerCpuArray(&'a MapData),
    Hash(&'a MapData),
    PerCpuHash(&'a MapData),
    Constant,
    RingBuffer,
    Unknown,
}

impl<'a> Kind<'a> {
    fn of(name: &str, map: &'a Map) -> Self {
        match map {
            Map::Array(_) if name.starts_with(".rodata") => Self::Constant,
            // Holds what was loaded with the object.
            Map::ProgramArray(_) => Self::Constant,
            Map::Array(map) => Self::Array(map),
            Map::PerCpuArray(map) => Self::PerCpuArray(map),
            Map::HashMap(map) | Map::LruHashMap(map) | Map::LpmTrie(map) | Map::DevMapHash(map) => {
                Self::Hash(map)
            }
            Map::PerCpuHashMap(map) => Self::PerCpuHash(map),
            Map::RingBuf(_) => Self::RingBuffer,
            _ => Self::Unknown,
        }
    }
}

/// Sizes of a map, in bytes and values.
struct Shape {
    key: usize,
    value: usize,
    length: u32,
}

fn shape(map: &MapData) -> io::Result<Shape> {
    let info = map.info().map_err(io::Error::other)?;
    Ok(Shape {
        key: info.key_size() as usize,
        value: info.value_size() as usize,
        length: info.max_entries(),
    })
}

fn cpus() -> usize {
    aya::util::nr_cpus().expect("the number of CPUs")
}

/// Bytes of one value as system calls pass it: of a per-CPU map, every CPU's, each on a boundary of 8 bytes.
fn room(shape: &Shape, cpus: usize) -> usize {
    if cpus == 1 {
        shape.value
    } else {
        cpus * shape.value.next_multiple_of(8)
    }
}

fn clear(map: &MapData, length: u32, cpus: usize) -> io::Result<()> {
    let chunk = CHUNK.min(length);
    let zeroes = vec![0; chunk as usize * room(&shape(map)?, cpus)];
    for start in (0..length).step_by(CHUNK as usize) {
        let keys: Vec<u32> = (start..length).take(chunk as usize).collect();
        bulk::update(map.fd().as_fd(), &keys, &zeroes)?;
    }
    Ok(())
}

fn clear_hash(map: &MapData) -> io::Result<()> {
    let key_size = shape(map)?.key;
    while let Some(key) = bulk::next_key(map.fd().as_fd(), None, key_size)? {
        bulk::delete(map.fd().as_fd(), &key)?;
    }
    Ok(())
}

fn array_contents(map: &MapData, cpus: usize) -> io::Result<Vec<Content>> {
    let shape = shape(map)?;
    let room = room(&shape, cpus);
    let mut contents = Vec::new();
    let mut cursor = Cursor::default();
    while cursor.next() < shape.length {
        let (keys, values) =
            bulk::lookup(map.fd().as_fd(), &mut cursor, CHUNK.min(shape.length), room)?;
        for (key, value) in keys.iter().zip(values.chunks_exact(room)) {
            if value.iter().any(|byte| *byte != 0) {
                contents.push((key.to_ne_bytes().to_vec(), value.to_vec()));
            }
        }
    }
    Ok(contents)
}

fn hash_contents(map: &MapData, cpus: usize) -> io::Result<Vec<Content>> {
    let shape = shape(map)?;
    let room = room(&shape, cpus);
    let mut contents = Vec::new();
    let mut key = bulk::next_key(map.fd().as_fd(), None, shape.key)?;
    while let Some(of_entry) = key {
        let value = bulk::value(map.fd().as_fd(), &of_entry, room)?;
        key = bulk::next_key(map.fd().as_fd(), Some(&of_entry), shape.key)?;
        contents.push((of_entry, value));
    }
    contents.sort();
    Ok(contents)
}
