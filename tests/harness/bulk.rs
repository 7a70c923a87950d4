//! Calls of bpf(2) that aya does not offer: many values at once, and values of any size.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use aya::Pod;
use aya_obj::generated::{
    bpf_attr,
    bpf_cmd::{
        self, BPF_MAP_DELETE_ELEM, BPF_MAP_GET_NEXT_KEY, BPF_MAP_LOOKUP_BATCH, BPF_MAP_LOOKUP_ELEM,
        BPF_MAP_UPDATE_BATCH, BPF_MAP_UPDATE_ELEM,
    },
};

/// Reads the first `length` values of an array map.
///
/// # Panics
/// The kernel refuses, or gives less.
pub fn read_array<V: Pod>(map: &impl AsRawFd, length: u32) -> Vec<V> {
    let mut keys = vec![0_u32; length as usize];
    // SAFETY: `V` is plain data, of which all zeroes is a value.
    let mut values: Vec<V> = vec![unsafe { std::mem::zeroed() }; length as usize];
    let mut position = 0_u32;
    let mut attr = zeroed();
    attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
    attr.batch.count = length;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.out_batch = &raw mut position as u64;
    // SAFETY: `attr` names buffers with room for `count` keys and values, which outlive the call.
    let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
    is_end(result).unwrap_or_else(|error| panic!("{error}"));
    // SAFETY: the kernel wrote this member.
    assert_eq!(unsafe { attr.batch.count }, length);
    assert!(keys.iter().copied().eq(0..length));
    values
}

/// Where in an array the next call of [`lookup`] goes on.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// What the kernel wants back: the last key that it returned.
    last: Option<u32>,
}

impl Cursor {
    /// The first key that was not read.
    pub(crate) fn next(&self) -> u32 {
        self.last.map_or(0, |last| last + 1)
    }
}

/// Reads up to `count` values of an array from the cursor on, each of `room` bytes.
pub(crate) fn lookup(
    map: BorrowedFd<'_>,
    cursor: &mut Cursor,
    count: u32,
    room: usize,
) -> io::Result<(Vec<u32>, Vec<u8>)> {
    let mut keys = vec![0_u32; count as usize];
    let mut values = vec![0_u8; count as usize * room];
    let mut position = 0_u32;
    let mut attr = zeroed();
    attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
    attr.batch.count = count;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.out_batch = &raw mut position as u64;
    if let Some(last) = &cursor.last {
        attr.batch.in_batch = std::ptr::from_ref(last) as u64;
    }
    // SAFETY: `attr` names buffers with room for `count` keys and values of `room` bytes, and two keys; all
    // outlive the call.
    let result = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) };
    is_end(result)?;
    // SAFETY: the kernel wrote this member.
    let read = unsafe { attr.batch.count } as usize;
    keys.truncate(read);
    values.truncate(read * room);
    cursor.last = keys.last().copied().or(cursor.last);
    Ok((keys, values))
}

/// Writes values of an array: those of `keys`, from the beginning of `values`.
pub(crate) fn update(map: BorrowedFd<'_>, keys: &[u32], values: &[u8]) -> io::Result<()> {
    let mut attr = zeroed();
    attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
    attr.batch.count = u32::try_from(keys.len()).map_err(io::Error::other)?;
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    // SAFETY: the caller passes a value for each key; both outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }
}

/// Returns the key behind this one, or the first.
pub(crate) fn next_key(
    map: BorrowedFd<'_>,
    key: Option<&[u8]>,
    size: usize,
) -> io::Result<Option<Vec<u8>>> {
    let mut next = vec![0; size];
    let mut attr = element(map);
    attr.__bindgen_anon_2.key = key.map_or(0, |key| key.as_ptr() as u64);
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    // SAFETY: both keys have the map's size and outlive the call.
    let result = unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) };
    Ok((!is_end(result)?).then_some(next))
}

/// Returns the value of a key.
pub(crate) fn value(map: BorrowedFd<'_>, key: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0; size];
    let mut attr = element(map);
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    // SAFETY: key and value have the map's sizes and outlive the call.
    unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) }?;
    Ok(value)
}

/// Writes the value of a key.
pub(crate) fn insert(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = element(map);
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
    // SAFETY: key and value have the map's sizes and outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) }
}

/// Deletes a key.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    let mut attr = element(map);
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    // SAFETY: the key has the map's size and outlives the call.
    unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr) }
}

fn element(map: BorrowedFd<'_>) -> bpf_attr {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    attr
}

fn zeroed() -> bpf_attr {
    // SAFETY: a plain union of integers.
    unsafe { std::mem::zeroed() }
}

/// Makes the call.
///
/// # Safety
/// Every pointer and file descriptor in `attr` that the command reads must be valid for it.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    // SAFETY: `attr` is a whole attribute union; the caller answers for what it points to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// The end of a map is told as an error.
fn is_end(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(true),
        Err(error) => Err(error),
    }
}
