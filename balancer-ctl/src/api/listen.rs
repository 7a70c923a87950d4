//! The control socket, and the lock that prevents a second daemon.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::os::paths::Instance;

/// Makes sure that one daemon runs per instance: a file lock, which the kernel releases however the daemon ends.
#[derive(Debug)]
pub struct Lock {
    /// The lock lasts as long as the file is open.
    _file: File,
}

impl Lock {
    /// Takes an instance's lock and writes this process's id into it.
    ///
    /// # Errors
    /// Another daemon holds it, or its directory cannot be made.
    pub fn take(instance: &Instance) -> anyhow::Result<Self> {
        let path = instance.lock();
        make_directory(&instance.directory())?;
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        // Anyone who can open the file can take the lock, and an earlier version let everybody open it.
        file.set_permissions(Permissions::from_mode(0o600))
            .with_context(|| format!("cannot change the mode of {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
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
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .context("cannot write the lock file")?;
        Ok(Self { _file: file })
    }
}

/// The file of a bound control socket; it is removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
}

impl ControlSocket {
    /// Binds the socket with mode 0600. Replaces a socket that no daemon listens on.
    ///
    /// # Errors
    /// Another daemon answers there, or the file there is no socket.
    pub fn bind(path: &Path) -> anyhow::Result<(UnixListener, Self)> {
        if let Some(directory) = path
            .parent()
            .filter(|directory| !directory.as_os_str().is_empty())
        {
            make_directory(directory)?;
        }
        remove_stale(path)?;
        // It is bound under another name, and renamed once its mode is set: nobody can connect before.
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let context = || format!("cannot bind the control socket {}", path.display());
        let listener = UnixListener::bind(&temporary).with_context(context)?;
        fs::set_permissions(&temporary, Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&temporary, path))
            .with_context(context)?;
        listener.set_nonblocking(true).with_context(context)?;
        Ok((
            listener,
            Self {
                path: path.to_owned(),
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

fn make_directory(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
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
        assert_eq!(
            fs::read_dir(directory.path().join("new")).unwrap().count(),
            0
        );
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
