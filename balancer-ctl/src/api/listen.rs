//! The control socket, and the lock that prevents a second daemon.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::os::{lock_file, new_directories::NewDirectories, paths::Instance};

/// Clients that may wait until they are accepted.
const BACKLOG: i32 = 128;

/// Makes sure that one daemon runs per instance: a file lock, which the kernel releases however the daemon ends. The file is removed
/// when this is dropped.
#[derive(Debug)]
pub struct Lock {
    /// The lock lasts as long as the file is open.
    file: File,
    path: PathBuf,
    /// Removed after the file.
    _directories: NewDirectories,
}

impl Lock {
    /// Takes an instance's lock and writes this process's id into it.
    ///
    /// # Errors
    /// Another daemon holds it, or its directory cannot be made.
    pub fn take(instance: &Instance) -> anyhow::Result<Self> {
        let path = instance.lock();
        let (directories, file) = loop {
            let directories = NewDirectories::make(&instance.directory())?;
            // The daemon that held the lock may have removed the directory, or the file, meanwhile.
            if let Some(file) = Self::lock_file(&path)?
                && is_at(&file, &path)
            {
                break (directories, file);
            }
        };
        let mut lock = Self {
            file,
            path,
            _directories: directories,
        };
        let written = lock.file.set_len(0);
        written
            .and_then(|()| writeln!(lock.file, "{}", std::process::id()))
            .with_context(|| format!("cannot write the lock file {}", lock.path.display()))?;
        Ok(lock)
    }

    /// Opens and locks the file; `None` if its directory is gone.
    fn lock_file(path: &Path) -> anyhow::Result<Option<File>> {
        let mut file = match lock_file::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.with_context(|| format!("cannot open {}", path.display()))?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The process id only helps the reader: the refusal does not need it.
                let _ = file.read_to_string(&mut holder);
                bail!(
                    "another balancerd is already running on this instance (pid {}): stop it first",
                    holder.trim()
                );
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked: nobody else holds it. One that stays is locked again at the next start.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a path is that of an open file.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else {
        return false;
    };
    (file.dev(), file.ino()) == (there.dev(), there.ino())
}

/// The file of a bound control socket; it is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    /// Removed after the socket.
    _directories: NewDirectories,
}

impl ControlSocket {
    /// Binds the socket, whose file never has another mode than 0600, or less where the umask says so. Replaces a socket that no
    /// daemon listens on.
    ///
    /// # Errors
    /// Another daemon answers there, or the file there is no socket.
    pub fn bind(path: &Path) -> anyhow::Result<(UnixListener, Self)> {
        let directory = path
            .parent()
            .filter(|directory| !directory.as_os_str().is_empty());
        let directories = directory.map(NewDirectories::make).transpose()?;
        remove_stale(path)?;
        // It is bound under another name, and renamed once it listens: nobody takes it for a stale one before.
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let context = || format!("cannot bind the control socket {}", path.display());
        let listener = listen(&temporary)
            .and_then(|listener| fs::rename(&temporary, path).map(|()| listener))
            .inspect_err(|_| drop(fs::remove_file(&temporary)))
            .with_context(context)?;
        Ok((
            listener,
            Self {
                path: path.to_owned(),
                _directories: directories.unwrap_or_default(),
            },
        ))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A file left behind is stale and is replaced at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// Listens on a new socket at this path, without blocking. The socket has its mode before it has its path: Linux gives the file the mode of the socket,
/// less the umask.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(OwnedFd::from(socket).into())
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        bail!(
            "{} is there and is no socket: remove it or choose another with --socket",
            path.display()
        );
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!(
            "another daemon answers on {}: stop it or choose another with --socket",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .with_context(|| format!("cannot remove the stale socket {}", path.display())),
        Err(error) => {
            Err(error).with_context(|| format!("cannot tell whether {} is in use", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_socket_is_private_and_removed_with_its_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            ControlSocket::bind(&path).unwrap_err().to_string(),
            format!(
                "another daemon answers on {}: stop it or choose another with --socket",
                path.display()
            )
        );
        drop(socket);
        assert!(!directory.path().join("new").exists());
    }

    #[test]
    fn a_lock_file_of_another_daemon_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let file = Lock::lock_file(&path).unwrap().unwrap();
        let lock = Lock {
            file,
            path: path.clone(),
            _directories: NewDirectories::default(),
        };
        // Somebody removes it, and another daemon makes one of its own.
        fs::remove_file(&path).unwrap();
        let other = Lock::lock_file(&path).unwrap().unwrap();
        drop(lock);
        assert!(is_at(&other, &path));
        // A folder that has gone is no error: it is made again.
        let gone = directory.path().join("gone/lock");
        assert!(Lock::lock_file(&gone).unwrap().is_none());
    }

    #[test]
    fn a_socket_that_cannot_be_bound_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        // Longer than the address of a socket may be.
        let path = directory.path().join("new").join("x".repeat(120));
        assert_eq!(
            ControlSocket::bind(&path).unwrap_err().to_string(),
            format!("cannot bind the control socket {}", path.display())
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_another_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        drop(ControlSocket::bind(&path).unwrap());
        fs::write(&path, "mine").unwrap();
        assert_eq!(
            ControlSocket::bind(&path).unwrap_err().to_string(),
            format!(
                "{} is there and is no socket: remove it or choose another with --socket",
                path.display()
            )
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
