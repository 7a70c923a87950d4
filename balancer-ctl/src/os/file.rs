//! Reading files that others write: certificates and keys. What is no file is refused: a pipe would be waited for.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Largest file: far above the bundle of certificates of a whole system.
const MAX_BYTES: u64 = 16 << 20;

/// The content of a regular file, without ever waiting for a writer.
///
/// # Errors
/// It cannot be read, is no regular file, or is too large.
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
