//! Whole arrays in one system call: a snapshot reads thousands of buckets before and after each packet.

use std::os::fd::AsRawFd;

use aya::Pod;
use aya_obj::generated::{bpf_attr, bpf_cmd::BPF_MAP_LOOKUP_BATCH};

/// Reads the first `length` values of an array map.
///
/// # Panics
/// The kernel refuses, or gives less.
pub fn read_array<V: Pod>(map: &impl AsRawFd, length: u32) -> Vec<V> {
    let mut keys = vec![0_u32; length as usize];
    // SAFETY: `V` is plain data, of which all zeroes is a value.
    let mut values: Vec<V> = vec![unsafe { std::mem::zeroed() }; length as usize];
    let mut position = 0_u32;
    // SAFETY: a plain union of integers.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.batch.map_fd = map.as_raw_fd() as u32;
    attr.batch.count = length;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.out_batch = &raw mut position as u64;
    // SAFETY: `attr` names buffers with room for `count` keys and values, which outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    };
    // The end of the map is told as an error.
    let error = std::io::Error::last_os_error();
    assert!(
        result == 0 || error.raw_os_error() == Some(libc::ENOENT),
        "{error}"
    );
    // SAFETY: the kernel wrote this member.
    assert_eq!(unsafe { attr.batch.count }, length);
    assert!(keys.iter().copied().eq(0..length));
    values
}
