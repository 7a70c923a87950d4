//! The files in which an instance keeps what outlives the daemon: each is replaced as a whole, and root's alone.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Read as _, Write},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

use super::{
    file::OTHERS_WRITE,
    paths::{self, BOOT_ID},
};

/// The id of the host's present boot, new at each.
///
/// # Errors
/// The kernel's file cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// A file in an instance's state directory, which the instance's one daemon writes.
#[derive(Clone, Debug)]
pub struct StateFile(PathBuf);

impl StateFile {
    /// The file with this name of an instance; `None` = the default instance.
    #[must_use]
    pub fn of(instance: Option<&str>, name: &str) -> Self {
        Self::at(&paths::state_directory(instance).join(name))
    }

    /// The file at this path.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What it says; nothing if it is not there, as for [`Self::read_if_there`].
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self) -> io::Result<String> {
        Ok(self.read_if_there()?.unwrap_or_default())
    }

    /// What it says; `None` if it is not there. A link in its place, or a file that others than root may have written, counts as none,
    /// with a warning in the log.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_if_there(&self) -> io::Result<Option<String>> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&self.0);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Ok(self.disregard("is a symbolic link"));
            }
            opened => opened?,
        };
        let metadata = file.metadata()?;
        let owner = metadata.uid();
        if !metadata.is_file() {
            return Ok(self.disregard("is no regular file"));
        }
        if owner != 0 && owner != geteuid().as_raw() || metadata.mode() & OTHERS_WRITE != 0 {
            return Ok(self.disregard("may be written by others than root"));
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(Some(text))
    }

    /// Says in the log why the file counts as none.
    fn disregard(&self, flaw: &str) -> Option<String> {
        tracing::warn!("{self} {flaw}, which balancerd's own is not: what it says does not count");
        None
    }

    /// As [`Self::replace`], but after a power failure, too, it is the old file or the new one. It waits for the disk.
    ///
    /// # Errors
    /// The disk refused it; the old file is still there, or the new one.
    pub fn replace_durably(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        self.replace_with(write, File::sync_all)?;
        match self.0.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Replaces it by what `write` writes. A daemon that is killed leaves the old file or the new one; after a power failure it may be
    /// empty, which counts as none.
    ///
    /// # Errors
    /// The disk refused it; the old file is still there.
    pub fn replace(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        self.replace_with(write, |_| Ok(()))
    }

    fn replace_with(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
        finish: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(directory) = self.0.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)?;
        }
        let mut new = OsString::from(&self.0);
        new.push(".new");
        let new = Path::new(&new);
        remove_file(new)?;
        let written = written(new, write).and_then(|file| finish(&file));
        let replaced = written.and_then(|()| fs::rename(new, &self.0));
        if replaced.is_err() {
            let _ = fs::remove_file(new);
        }
        replaced
    }

    /// Removes it, and the directory if it held nothing else.
    ///
    /// # Errors
    /// The disk refused it.
    pub fn remove(&self) -> io::Result<()> {
        remove_file(&self.0)?;
        // It stays while it holds the instance's other state.
        let _ = self.0.parent().map(fs::remove_dir);
        Ok(())
    }
}

/// Writes a new file that only root may read: what checks send may hold secrets.
fn written(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut file = BufWriter::new(file);
    write(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)
}

/// Removes a file that need not be there.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

impl fmt::Display for StateFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_root_s_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::at(&folder.path().join("own/blue/health.json"));
        assert_eq!(file.read().unwrap(), "");
        file.replace(|file| writeln!(file, "one")).unwrap();
        assert_eq!(file.read().unwrap(), "one\n");
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        file.replace_durably(|file| writeln!(file, "one")).unwrap();
        let refused = file.replace(|file| {
            writeln!(file, "half")?;
            Err(io::Error::other("the disk is full"))
        });
        assert_eq!(refused.unwrap_err().to_string(), "the disk is full");
        assert_eq!(file.read().unwrap(), "one\n");
        assert_eq!(names(file.path().parent().unwrap()), ["health.json"]);
        // What a killed daemon has left, as others may read it.
        let left = file.path().with_extension("json.new");
        fs::write(&left, "left").unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).unwrap();
        file.replace(|file| writeln!(file, "2")).unwrap();
        let mode = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(file.read().unwrap(), "2\n");
        assert_eq!(names(file.path().parent().unwrap()), ["health.json"]);
    }

    #[test]
    fn what_others_may_have_written_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other");
        let file = StateFile::at(&folder.path().join("sysctl"));
        let set = |mode| fs::set_permissions(file.path(), fs::Permissions::from_mode(mode));
        fs::write(&other, "theirs").unwrap();
        symlink(&other, file.path()).unwrap();
        assert_eq!(file.read_if_there().unwrap(), None, "a link");
        file.replace(|file| write!(file, "ours")).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "theirs");
        assert_eq!(file.read().unwrap(), "ours");
        for (mode, counts) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false)] {
            set(mode).unwrap();
            let text = counts.then(|| "ours".to_owned());
            assert_eq!(file.read_if_there().unwrap(), text, "{mode:o}");
        }
        if geteuid().is_root() {
            set(0o600).unwrap();
            std::os::unix::fs::chown(file.path(), Some(65534), None).unwrap();
            assert_eq!(file.read_if_there().unwrap(), None, "another's");
        }
        fs::remove_file(file.path()).unwrap();
        nix::unistd::mkfifo(file.path(), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(file.read_if_there().unwrap(), None, "a pipe");
    }

    #[test]
    fn the_last_file_goes_with_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| StateFile::at(&folder.path().join("own").join(name));
        for name in ["a", "b"] {
            file(name).replace(|file| writeln!(file, "{name}")).unwrap();
        }
        file("a").remove().unwrap();
        file("a").remove().unwrap();
        assert_eq!(names(&folder.path().join("own")), ["b"]);
        file("b").remove().unwrap();
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[test]
    fn each_instance_has_files_of_its_own() {
        let of = |instance| StateFile::of(instance, "sysctl").to_string();
        assert_eq!(of(None), "/var/lib/balancer/sysctl");
        assert_eq!(of(Some("blue")), "/var/lib/balancer/blue/sysctl");
    }

    #[test]
    fn a_boot_has_an_id() {
        let id = boot_id().unwrap();
        assert_eq!((id.len(), id.trim()), (36, id.as_str()));
    }
}
