//! A changed configuration file: written beside the one that it replaces, which stays beside it then.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{ConfigFile, place::Place, unwritable};
use crate::{model::error::ApiError, os::file::OTHERS_WRITE};

/// A changed file, written beside the one that it will replace.
#[derive(Debug)]
pub struct Prepared {
    // Before the place, through which it is removed.
    temporary: NamedTempFile,
    /// A copy of the file that is replaced; `None` if the text stays the same.
    copy: Option<io::Result<NamedTempFile>>,
    place: Place,
    file: ConfigFile,
}

/// What became of the file that a change replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreviousFile {
    /// It is beside the new one, see [`ConfigFile::previous`].
    Kept,
    /// No file was replaced, or by one that says the same: what is beside it is older.
    NotReplaced,
    /// It could not be kept; a sentence.
    Lost(String),
}

impl Prepared {
    /// Writes a changed file, and a copy of the old one's text if it is another, beside the old one.
    ///
    /// # Errors
    /// The disk refused the changed file.
    pub(super) fn write(place: Place, old: &str, file: ConfigFile) -> Result<Self, ApiError> {
        let temporary = write(&place, file.text(), Role::New).map_err(|error| {
            unwritable::refusal("write", file.path(), place.shown_folder(), &error)
        })?;
        let is_changed = file.text() != old;
        let copy = is_changed.then(|| write(&place, old, Role::Previous));
        Ok(Self {
            temporary,
            copy,
            place,
            file,
        })
    }

    /// Puts the changed file in the old one's place, on disk when this returns (or else the log warns). The old one is then beside it,
    /// under its name and a `~`, unless that failed, which undoes nothing.
    ///
    /// # Errors
    /// The old file is still there, unchanged, and so is the one before it.
    pub fn commit(self) -> Result<(ConfigFile, PreviousFile), ApiError> {
        self.commit_with(sync)
    }

    pub(super) fn commit_with(
        self,
        sync: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(ConfigFile, PreviousFile), ApiError> {
        // The place is dropped last.
        let Self {
            place,
            file,
            temporary,
            copy,
        } = self;
        let path = file.path();
        temporary
            .persist(place.file())
            .map_err(|error| unwritable::refusal("replace", path, place.shown(), &error.error))?;
        let kept = copy.map(|copy| {
            copy?
                .persist(previous(&place.file()))
                .map_err(|error| error.error)
        });
        let previous = match kept {
            None => PreviousFile::NotReplaced,
            Some(Ok(_)) => PreviousFile::Kept,
            Some(Err(error)) => PreviousFile::Lost(format!(
                "the file as it was before could not be kept as {}: {error}",
                previous(place.shown()).display()
            )),
        };
        if let PreviousFile::Lost(sentence) = &previous {
            tracing::warn!("{sentence}");
        }
        // The new file is in place from here on, even if it cannot be synced.
        if let Err(error) = sync(&place.folder()) {
            tracing::warn!(
                file = %path.display(),
                %error,
                "the changed configuration file may be lost if the power fails now"
            );
        }
        Ok((file, previous))
    }
}

/// Where the file at `target`, which is no link, is kept as it was before its last change.
pub(super) fn previous(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push("~");
    name.into()
}

/// What a file that is written beside another becomes.
#[derive(Clone, Copy)]
enum Role {
    /// That other file: it gets its mode and owner.
    New,
    /// Its copy as it was: who may write that other file at present cannot write this one.
    Previous,
}

/// Writes `text` to a file in the folder of another, which has its mode, and its owner or group.
fn write(place: &Place, text: &str, role: Role) -> io::Result<NamedTempFile> {
    let metadata = fs::symlink_metadata(place.file())?;
    // Not by `tempfile` itself, whose errors have no number, but a path that only this process knows.
    let create = |path: &Path| {
        File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
    };
    let temporary = tempfile::Builder::new()
        .prefix(".balancer-")
        .suffix(".toml")
        .make_in(place.folder(), create)?;
    let mut file = temporary.as_file();
    file.write_all(text.as_bytes())?;
    let (owner, mode) = match role {
        Role::New => (Some(metadata.uid()), metadata.mode() & 0o7777),
        Role::Previous => (None, metadata.mode() & 0o7777 & !OTHERS_WRITE),
    };
    // The owner before the mode: changing the owner clears set-user-id bits.
    fchown(file, owner, Some(metadata.gid()))?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    Ok(temporary)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
