//! The configuration file on disk: loaded whole, replaced atomically. The one that was replaced last stays beside it.

mod place;
mod prepared;
mod unwritable;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::prepared::{Prepared, PreviousFile};
use self::{place::Place, prepared::previous};
use super::{
    edit::Content,
    files::{self, TlsTest},
    read,
    validate::{Problem, validate},
};
use crate::{
    model::{Model, change::Change, error::ApiError},
    os::{
        file::{read_regular_file_at, read_regular_file_up_to},
        program::check_origin,
    },
};

/// A file's size beyond which it is neither read nor written: room for 32,768 real servers in 4,096 services, each with its weight.
/// Reading takes up to 140 times as much memory.
const MAX_SIZE: u64 = 4 << 20;

/// Why a file could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be read.
    #[error("configuration file {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why; the sentence contains it.
        error: io::Error,
    },
    /// There are errors in it; a line `FILE:LINE:COLUMN: message` each.
    #[error("{}", Lines(path, errors))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them.
        errors: Vec<read::ReadError>,
    },
}

struct Lines<'a>(&'a Path, &'a [read::ReadError]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.1.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{error}", self.0.display())?;
        }
        Ok(())
    }
}

/// Where a configuration comes from, and what is needed to load it, on any thread.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    tls_test: TlsTest,
    path: PathBuf,
    /// Names the node when the file does not.
    host: String,
}

impl ConfigSource {
    /// Who else than root, and this process's own user, can decide what the file says, with the remedy.
    #[must_use]
    pub fn distrust(&self) -> Option<String> {
        match std::path::absolute(&self.path) {
            Ok(path) => check_origin(&path).err(),
            Err(error) => Some(format!(
                "`{}` cannot be found: {error}",
                self.path.display()
            )),
        }
    }

    /// Loads the file; `also` may find further errors in it. Reads the files that it names too, so it may block.
    ///
    /// # Errors
    /// As [`ConfigFile::load`].
    pub fn load(self, also: impl FnOnce(&Model) -> Vec<Problem>) -> Result<ConfigFile, FileError> {
        let path = &self.path;
        // Before it is read: nobody else can put another file in its place meanwhile, if so.
        let distrust = self.distrust();
        let bytes = bytes(path).map_err(|error| FileError::Unreadable {
            path: path.clone(),
            error,
        })?;
        let wrong = |errors| FileError::Invalid {
            path: path.clone(),
            errors,
        };
        let text = text(bytes).map_err(|error| wrong(vec![error]))?;
        let (model, parts) = read::validated(&text, &self.host, |model| {
            let mut problems = validate(model);
            problems.extend(files::problems(model, self.tls_test));
            problems.extend(also(model));
            problems
        })
        .map_err(wrong)?;
        Ok(ConfigFile {
            source: self,
            content: Arc::new(Content { text, parts, model }),
            distrust,
        })
    }
}

/// A loaded configuration file.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    source: ConfigSource,
    /// Each file that is loaded or written has its own.
    content: Arc<Content>,
    /// Who else than root could have written it when it was loaded, with the remedy.
    distrust: Option<String>,
}

impl ConfigFile {
    /// Loads a file. `host` names the node when the file does not; `tls_test` tries the TLS settings of its checks.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong.
    pub fn load(path: &Path, host: &str, tls_test: TlsTest) -> Result<Self, FileError> {
        let source = ConfigSource {
            tls_test,
            path: path.to_owned(),
            host: host.to_owned(),
        };
        source.load(|_| Vec::new())
    }

    /// Where it comes from: what loads the same file again.
    #[must_use]
    pub fn source(&self) -> ConfigSource {
        self.source.clone()
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// Where the file is kept as it was before its last change: beside it, or beside what it links to.
    #[must_use]
    pub fn previous(&self) -> PathBuf {
        let path = self.path();
        previous(&fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// The model that it describes.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.content.model
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.content.text
    }

    /// Whether `other` is a copy of it, and not what was loaded or written later.
    #[must_use]
    pub fn is_copy(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.content, &other.content)
    }

    /// Who else than root could have written it when it was loaded, with the remedy; if so, none of the programs that it names runs.
    #[must_use]
    pub fn distrust(&self) -> Option<&str> {
        self.distrust.as_deref()
    }

    /// A sentence that says that its programs do not run, if so.
    #[must_use]
    pub fn distrust_warning(&self) -> Option<String> {
        let reason = self.distrust.as_ref()?;
        let path = self.source.path.display();
        let what = if files::distrusted_programs(self.model(), reason).is_empty() {
            format!("programs that {path} comes to name are not run")
        } else {
            format!(
                "programs that {path} names are not run, and checks that run one keep their state"
            )
        };
        Some(not_run(&what, reason))
    }

    /// Checks that a program may be added to it.
    ///
    /// # Errors
    /// Others than root can write it, or could when it was loaded, so that the program would not run.
    pub fn require_trust(&self) -> Result<(), ApiError> {
        let found = self.distrust.clone();
        match found.or_else(|| self.source.distrust()) {
            None => Ok(()),
            Some(reason) => {
                let what = format!(
                    "programs that {} names are not run",
                    self.source.path.display()
                );
                Err(ApiError::conflict(not_run(&what, &reason)))
            }
        }
    }

    /// A sentence about an interface, behind the position of its name in the file.
    #[must_use]
    pub fn about_interface(&self, name: &str, sentence: &str) -> String {
        let path = self.source.path.display();
        let text = &self.content.text;
        match read::interface_place(text, name) {
            Some(at) => format!("{path}:{}", read::locate(text, at, sentence.to_owned())),
            None => format!("{path}: {sentence}"),
        }
    }

    /// Writes a changed file, whose model is `wanted`, beside the old one.
    ///
    /// # Errors
    /// The file on disk is no longer the one that was loaded, or the disk refused the new one.
    pub fn prepare(&self, changes: &[Change], wanted: Model) -> Result<Prepared, ApiError> {
        let path = &self.source.path;
        // Behind a symbolic link, the file itself is replaced.
        let place = Place::find(path).map_err(|error| self.unreadable(&error))?;
        self.require_unchanged(&place)?;
        let content = self.content.edited(&self.source.host, changes, wanted)?;
        if content.text.len() as u64 > MAX_SIZE {
            return Err(ApiError::failed(format!(
                "{} would be larger than {} MiB, and could not be loaded again; nothing was changed",
                path.display(),
                MAX_SIZE >> 20
            )));
        }
        let file = Self {
            source: self.source(),
            content: Arc::new(content),
            distrust: self.distrust.clone(),
        };
        Prepared::write(place, &self.content.text, file)
    }

    /// Refuses when the file on disk differs from the one that was loaded.
    fn require_unchanged(&self, place: &Place) -> Result<(), ApiError> {
        match read_regular_file_at(&place.file(), MAX_SIZE) {
            Ok(bytes) if bytes == self.content.text.as_bytes() => Ok(()),
            Ok(_) => Err(ApiError::conflict(format!(
                "{} has changed since it was loaded: `balancer-ctl reload` first, or use --runtime",
                self.source.path.display()
            ))),
            Err(error) => Err(self.unreadable(&error)),
        }
    }

    fn unreadable(&self, error: &io::Error) -> ApiError {
        ApiError::conflict(format!(
            "{} cannot be read any more ({error}): put it back, or use --runtime",
            self.source.path.display()
        ))
    }
}

/// Reads a configuration file. Never blocks on a pipe.
pub(super) fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    read_regular_file_up_to(path, MAX_SIZE)
}

fn text(bytes: Vec<u8>) -> Result<String, read::ReadError> {
    String::from_utf8(bytes).map_err(|error| {
        let end = error.utf8_error().valid_up_to();
        let bytes = error.into_bytes();
        let before = String::from_utf8_lossy(&bytes[..end]);
        let message = format!(
            "byte {:#04x} is not UTF-8: save the file as UTF-8",
            bytes[end]
        );
        read::locate(&before, end, message)
    })
}

/// The sentence that programs are not run, and how that ends.
fn not_run(what: &str, reason: &str) -> String {
    format!("{what}: {reason}, see what it says, then `balancer-ctl reload`")
}

#[cfg(test)]
mod tests;
