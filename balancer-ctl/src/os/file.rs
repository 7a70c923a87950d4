//! Reads files that other programs write: certificates and keys. Refuses pipes and devices, which would block.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Largest file in bytes: far larger than the certificate bundle of a system.
const MAX_BYTES: u64 = 16 << 20;

/// Reads a regular file of at most 16 MiB. Never blocks on a pipe without a writer.
///
/// # Errors
/// The file cannot be read, is not a regular file, or is too large.
pub fn read_regular_file(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let length = file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if length as u64 > MAX_BYTES {
        return Err(io::Error::other(format!(
            "it is larger than {} MiB",
            MAX_BYTES >> 20
        )));
    }
    Ok(bytes)
}
