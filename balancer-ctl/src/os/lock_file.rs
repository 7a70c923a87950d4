//! Files that are locked so that one process at a time does something. Whoever can open such a file can lock it, so it is root's alone.

use std::{
    fs::{File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Permissions of a lock file.
const MODE: u32 = 0o600;

/// Opens a lock file, and makes it if it is not there. It has mode 0600 afterwards, whatever the umask, and whatever mode an earlier
/// version gave it. A symbolic link in its place is not followed.
///
/// # Errors
/// It cannot be opened, or its mode cannot be changed.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_lock_file_is_root_s_alone_also_one_that_was_open_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        open(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        for old in [0o644, 0o666, 0o400, 0o4755] {
            fs::write(&path, "12\n").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(old)).unwrap();
            if old != 0o400 || nix::unistd::geteuid().is_root() {
                open(&path).unwrap();
                assert_eq!(mode(&path), 0o600, "{old:o}");
            }
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"12\n");
        }
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("lock"), folder.path().join("other"));
        fs::write(&other, "").unwrap();
        fs::set_permissions(&other, Permissions::from_mode(0o644)).unwrap();
        symlink(&other, &path).unwrap();
        assert_eq!(open(&path).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(mode(&other), 0o644);
    }
}
