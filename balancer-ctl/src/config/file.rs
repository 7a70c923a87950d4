//! The configuration file on disk: loaded whole, replaced atomically.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{
    edit::Content,
    files::{self, TlsTest},
    read,
    validate::{Problem, validate},
};
use crate::model::{Model, change::Change, error::ApiError};

/// A file's size beyond which it is not read: far above 4,096 services with 10 real servers each.
const MAX_SIZE: u64 = 64 << 20;

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
    /// Loads the file; `also` may find further errors in it. Reads the files that it names too, so it may block.
    ///
    /// # Errors
    /// As [`ConfigFile::load`].
    pub fn load(self, also: impl FnOnce(&Model) -> Vec<Problem>) -> Result<ConfigFile, FileError> {
        let path = &self.path;
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
            content: Content { text, parts, model },
        })
    }
}

/// A loaded configuration file.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    source: ConfigSource,
    content: Content,
}

/// A changed file, written beside the one that it will replace.
#[derive(Debug)]
pub struct Prepared {
    temporary: NamedTempFile,
    file: ConfigFile,
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

    /// The model that it describes.
    #[must_use]
    pub const fn model(&self) -> &Model {
        &self.content.model
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
        self.require_unchanged()?;
        let content = self.content.edited(&self.source.host, changes, wanted)?;
        // Behind a symbolic link, the file itself is replaced.
        let cannot = |error: io::Error| {
            ApiError::failed(format!(
                "cannot write {}: {error}; nothing was changed",
                self.source.path.display()
            ))
        };
        let target = fs::canonicalize(&self.source.path).map_err(cannot)?;
        let temporary = write(&target, &content.text).map_err(cannot)?;
        Ok(Prepared {
            temporary,
            file: Self {
                source: self.source(),
                content,
            },
        })
    }

    /// Refuses when the file on disk differs from the one that was loaded.
    fn require_unchanged(&self) -> Result<(), ApiError> {
        let path = self.source.path.display();
        match bytes(&self.source.path) {
            Ok(bytes) if bytes == self.content.text.as_bytes() => Ok(()),
            Ok(_) => Err(ApiError::conflict(format!(
                "{path} has changed since it was loaded: `balancer-ctl reload` first, or use --runtime"
            ))),
            Err(error) => Err(ApiError::conflict(format!(
                "{path} cannot be read any more ({error}): put it back, or use --runtime"
            ))),
        }
    }
}

impl Prepared {
    /// Puts the changed file in the old one's place, on disk when this returns (or else the log warns).
    ///
    /// # Errors
    /// The old file is still there, unchanged.
    pub fn commit(self) -> Result<ConfigFile, ApiError> {
        let Self { temporary, file } = self;
        file_in_place(temporary, file.path(), sync).map_err(|error| {
            ApiError::failed(format!(
                "cannot replace {}: {error}; nothing was changed",
                file.path().display()
            ))
        })?;
        Ok(file)
    }
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > MAX_SIZE {
        return Err(io::Error::other(format!(
            "it is larger than {} MiB",
            MAX_SIZE >> 20
        )));
    }
    fs::read(path)
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

/// Writes `text` to a file beside `target` with its mode and owner.
fn write(target: &Path, text: &str) -> io::Result<NamedTempFile> {
    let metadata = fs::metadata(target)?;
    let directory = target.parent().unwrap_or(Path::new("/"));
    let mut temporary = tempfile::Builder::new()
        .prefix(".balancer-")
        .suffix(".toml")
        .tempfile_in(directory)?;
    temporary.write_all(text.as_bytes())?;
    let file = temporary.as_file();
    // The owner before the mode: changing the owner clears set-user-id bits.
    fchown(file, Some(metadata.uid()), Some(metadata.gid()))?;
    file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    file.sync_all()?;
    Ok(temporary)
}

fn file_in_place(
    temporary: NamedTempFile,
    path: &Path,
    sync: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let target = fs::canonicalize(path)?;
    temporary.persist(&target).map_err(|error| error.error)?;
    // The new file is in place from here on, even if it cannot be synced.
    if let Err(error) = sync(target.parent().unwrap_or(Path::new("/"))) {
        tracing::warn!(
            file = %path.display(),
            %error,
            "the changed configuration file may be lost if the power fails now"
        );
    }
    Ok(())
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::model::{address::service_key, service::ServiceSettings};

    const TEXT: &str = "# mine\ndataplane.interfaces = [\"eth0\"]\n";

    fn load(path: &Path) -> Result<ConfigFile, FileError> {
        ConfigFile::load(path, "lb1", |_| None)
    }

    fn add_web() -> Change {
        Change::AddService(
            service_key("192.0.2.80:80").unwrap(),
            ServiceSettings::default(),
        )
    }

    fn prepare(file: &ConfigFile) -> Result<Prepared, ApiError> {
        file.prepare(&[add_web()], add_web().after(file.model()).unwrap())
    }

    #[test]
    fn a_replaced_file_keeps_mode_link_and_comments_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("real.toml");
        let link = directory.path().join("balancer.toml");
        fs::write(&path, TEXT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&path, &link).unwrap();

        let file = load(&link).unwrap();
        let prepared = prepare(&file).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            TEXT,
            "not before the commit"
        );
        let file = prepared.commit().unwrap();

        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{TEXT}\n[[service]]\naddress = \"192.0.2.80:80\"\n")
        );
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert_eq!(
            file.source().load(|_| Vec::new()).unwrap().model(),
            file.model()
        );
    }

    #[test]
    fn a_file_that_is_in_place_stays_when_the_disk_does_not_answer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("balancer.toml");
        fs::write(&path, TEXT).unwrap();
        let temporary = write(&path, "new").unwrap();
        file_in_place(temporary, &path, |_| Err(io::Error::other("broken"))).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_prepared_file_that_is_given_up_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("balancer.toml");
        fs::write(&path, TEXT).unwrap();
        drop(prepare(&load(&path).unwrap()).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), TEXT);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("balancer.toml");
        fs::write(&path, TEXT).unwrap();
        let file = load(&path).unwrap();
        fs::write(&path, "# other\n").unwrap();
        let path = path.display();
        assert_eq!(
            prepare(&file).unwrap_err().to_string(),
            format!(
                "{path} has changed since it was loaded: `balancer-ctl reload` first, or use --runtime"
            )
        );
        fs::remove_file(path.to_string()).unwrap();
        assert_eq!(
            prepare(&file).unwrap_err().to_string(),
            format!(
                "{path} cannot be read any more (No such file or directory (os error 2)): put it back, or use --runtime"
            )
        );
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let error = |path: &Path| load(path).unwrap_err().to_string();
        let absent = directory.path().join("absent.toml");
        assert_eq!(
            error(&absent),
            format!(
                "configuration file {}: No such file or directory (os error 2)",
                absent.display()
            )
        );
        assert_eq!(
            error(directory.path()),
            format!(
                "configuration file {}: it is not a regular file",
                directory.path().display()
            )
        );
        let binary = directory.path().join("binary.toml");
        fs::write(&binary, b"# \xc3\xa9\n# \xc3\xa9 \xe9\n").unwrap();
        assert_eq!(
            error(&binary),
            format!(
                "{}:2:5: byte 0xe9 is not UTF-8: save the file as UTF-8",
                binary.display()
            )
        );
        let wrong = directory.path().join("wrong.toml");
        fs::write(&wrong, "colour = 1\n[dataplane]\ninterfaces = []\n").unwrap();
        let at = wrong.display();
        assert_eq!(
            error(&wrong),
            format!(
                "{at}:1:1: unknown key `colour`: expected `node`, `dataplane`, `timeouts`, `service`, `notify`, `vrrp` or `peers`\n\
                 {at}:3:14: interfaces is empty: name at least one, as in `interfaces = [\"eth0\"]`"
            )
        );
    }
}
