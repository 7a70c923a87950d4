//! The identity of a network namespace.

use std::{
    fmt, fs, io,
    os::{
        fd::AsRawFd,
        unix::{fs::MetadataExt, net::UnixDatagram},
    },
    path::{Path, PathBuf},
};

/// Identifies a network namespace: device and inode of its file, which the kernel reuses, and a cookie, which it does
/// not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    device: u64,
    inode: u64,
    /// 0 before Linux 5.14.
    cookie: u64,
}

impl Namespace {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn current() -> io::Result<Self> {
        let file = fs::metadata("/proc/thread-self/ns/net")?;
        Ok(Self::new(file.dev(), file.ino(), cookie().unwrap_or(0)))
    }

    /// The namespace with these numbers.
    pub const fn new(device: u64, inode: u64, cookie: u64) -> Self {
        Self {
            device,
            inode,
            cookie,
        }
    }

    /// The file of the namespace whose [`fmt::Display`] form is `printed`; `None` when it is `current`, is gone, or has
    /// no file that can be found.
    pub fn find_file(printed: &str, current: &Self) -> Option<PathBuf> {
        let (file, _) = printed.rsplit_once(':')?;
        if file == current.file() {
            return None;
        }
        let named = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let mut paths =
            std::iter::once(PathBuf::from("/proc/1/ns/net")).chain(named.map(|entry| entry.path()));
        paths.find(|path| is_file_of(path, file))
    }

    fn file(&self) -> String {
        format!("{}:{}", self.device, self.inode)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file(), self.cookie)
    }
}

fn is_file_of(path: &Path, file: &str) -> bool {
    fs::metadata(path).is_ok_and(|found| format!("{}:{}", found.dev(), found.ino()) == file)
}

/// The cookie of the calling thread's namespace (`SO_NETNS_COOKIE`).
fn cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the value is as long as said, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}
