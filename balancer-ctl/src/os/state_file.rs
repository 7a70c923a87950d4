//! The files in which an instance keeps what outlives the daemon: each is replaced as a whole, and root's alone.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::paths::{self, BOOT_ID};

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

    /// What it says; nothing if it is not there.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self) -> io::Result<String> {
        match fs::read_to_string(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            result => result,
        }
    }

    /// Replaces it by what `write` writes. A daemon that is killed leaves the old file or the new one; after a power failure it may be
    /// empty, which counts as none.
    ///
    /// # Errors
    /// The disk refused it; the old file is still there.
    pub fn replace(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
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
        let replaced = written(new, write).and_then(|()| fs::rename(new, &self.0));
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
fn written(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let mut file = BufWriter::new(file);
    write(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(())
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
    use std::os::unix::fs::PermissionsExt as _;

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
