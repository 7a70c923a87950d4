//! The folder of a configuration file, held open: whoever may change a folder or link on the way to it cannot lead a change elsewhere.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Where a file is, behind all links. What its folder holds under its name must be looked at before it is replaced: the way there may
/// have been another when it was loaded.
#[derive(Debug)]
pub(super) struct Place {
    folder: File,
    path: PathBuf,
}

impl Place {
    /// Finds a file's place.
    ///
    /// # Errors
    /// It is not there.
    pub(super) fn find(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let folder = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(path.parent().unwrap_or(Path::new("/")))?;
        Ok(Self { folder, path })
    }

    /// The file's path, for sentences.
    pub(super) fn shown(&self) -> &Path {
        &self.path
    }

    /// The folder's path, for sentences.
    pub(super) fn shown_folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// The folder that was found, wherever it is now; a path of this process alone, as long as this lives.
    pub(super) fn folder(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.folder.as_raw_fd()).into()
    }

    /// The file in it.
    pub(super) fn file(&self) -> PathBuf {
        self.folder()
            .join(self.path.file_name().unwrap_or_default())
    }
}
