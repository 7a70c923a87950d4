//! Reads files that others write: the configuration, certificates and keys. Refuses pipes and devices, which would block.

use std::{
    fs,
    io::{self, Read as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
};

/// Permission bits: writable by the group, and by others.
pub const OTHERS_WRITE: u32 = 0o022;

/// Largest file in bytes: far larger than the certificate bundle of a system.
const MAX_BYTES: u64 = 16 << 20;

/// Reads a regular file of at most 16 MiB. Never blocks on a pipe without a writer.
///
/// # Errors
/// The file cannot be read, is not a regular file, or is too large.
pub fn read_regular_file(path: &Path) -> io::Result<Vec<u8>> {
    read_regular_file_up_to(path, MAX_BYTES)
}

/// As [`read_regular_file`], of at most `max_bytes`.
///
/// # Errors
/// As [`read_regular_file`].
pub fn read_regular_file_up_to(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    read(open_regular_file(path, 0, |_| true)?, max_bytes)
}

/// As [`read_regular_file_up_to`], where a symbolic link is no regular file.
///
/// # Errors
/// As [`read_regular_file`].
pub fn read_regular_file_at(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    read(
        open_regular_file(path, libc::O_NOFOLLOW, |_| true)?,
        max_bytes,
    )
}

/// Opens a regular file to read it, without blocking, if `may_open` agrees, which is asked before. Nothing else is opened: a pipe would
/// block, and a device may do something when it is opened.
///
/// # Errors
/// It cannot be opened, is no regular file, or `may_open` does not agree.
pub fn open_regular_file(
    path: &Path,
    flags: i32,
    may_open: impl Fn(&fs::Metadata) -> bool,
) -> io::Result<fs::File> {
    let open = |path: &Path, flags: i32| {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)?;
        let metadata = file.metadata()?;
        match metadata.is_file() {
            true if may_open(&metadata) => Ok(file),
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => Err(io::Error::other("it is not a regular file")),
        }
    };
    let place = open(path, libc::O_PATH | flags)?;
    // What `/proc` has of the kernel's log is a regular file to look at, and blocks until there is more; so does the lease of another's.
    let same = format!("/proc/self/fd/{}", place.as_raw_fd());
    match open(Path::new(&same), libc::O_NONBLOCK) {
        // Nothing is mounted there, as in a bare chroot.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            open(path, libc::O_NONBLOCK | libc::O_NOCTTY | flags)
        }
        opened => opened,
    }
}

fn read(file: fs::File, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let length = file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if length as u64 > max_bytes {
        return Err(io::Error::other(format!(
            "it is larger than {} MiB",
            max_bytes >> 20
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blocks_or_is_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [b'a'; 100]).unwrap();
        assert_eq!(read_regular_file(&path).unwrap(), [b'a'; 100]);
        assert_eq!(
            read_regular_file_up_to(&path, 99).unwrap_err().to_string(),
            "it is larger than 0 MiB"
        );
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read_regular_file(&link).unwrap(), [b'a'; 100]);
        let error = read_regular_file_at(&link, 100).unwrap_err();
        assert_eq!(error.to_string(), "it is not a regular file");
        // For root the kernel's log ends with `EAGAIN`; nobody else may open it.
        assert!(read_regular_file(Path::new("/proc/kmsg")).is_err());
    }
}
