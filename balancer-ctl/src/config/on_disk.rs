//! The configuration file on disk, compared with the one that was loaded.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use super::file::{ConfigFile, bytes};

/// A file that was written more recently may be written again without a new stamp, since file systems count time in ticks.
const SETTLED: Duration = Duration::from_secs(2);

/// What changes whenever a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of a file; `None` if it was written just before `now`.
    fn of(path: &Path, now: SystemTime) -> io::Result<Option<Self>> {
        let metadata = fs::metadata(path)?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let age = now.abs_diff(u64::try_from(metadata.ctime()).unwrap_or(0));
        Ok((age > SETTLED.as_secs()).then_some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }))
    }
}

/// What a look at the file found.
#[derive(Debug)]
pub enum OnDisk {
    /// It has the stamp that it had when it was read last.
    Untouched,
    /// What is in it is what was loaded.
    Same(Option<Stamp>),
    /// Something else is in it.
    Different(Option<Stamp>),
    /// It cannot be read.
    Unreadable(io::Error),
}

impl ConfigFile {
    /// Compares the file on disk with this one. Reads it only if its stamp is not `seen`; the file system may block even so.
    #[must_use]
    pub fn on_disk(&self, seen: Option<Stamp>) -> OnDisk {
        self.on_disk_at(seen, SystemTime::now())
    }

    fn on_disk_at(&self, seen: Option<Stamp>, now: SystemTime) -> OnDisk {
        let look = || {
            // Before the file is read, so that what is written meanwhile is read at the next look.
            let stamp = Stamp::of(self.path(), now)?;
            if stamp.is_some() && stamp == seen {
                return Ok(OnDisk::Untouched);
            }
            Ok(if bytes(self.path())? == self.text().as_bytes() {
                OnDisk::Same(stamp)
            } else {
                OnDisk::Different(stamp)
            })
        };
        look().unwrap_or_else(OnDisk::Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const TEXT: &str = "dataplane.interfaces = [\"eth0\"]\n";

    #[test]
    fn a_file_is_read_again_only_when_its_stamp_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("balancer.toml");
        fs::write(&path, TEXT).unwrap();
        let file = ConfigFile::load(&path, "lb1", |_| None).unwrap();
        let touch = |seconds| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let written = File::options().append(true).open(&path).unwrap();
            written.set_modified(time).unwrap();
        };
        let later = |seen| file.on_disk_at(seen, SystemTime::now() + Duration::from_secs(60));
        // Written just now: the stamp says nothing.
        assert!(matches!(file.on_disk(None), OnDisk::Same(None)));
        let OnDisk::Same(Some(stamp)) = later(None) else {
            panic!("it is the same");
        };
        assert!(matches!(later(Some(stamp)), OnDisk::Untouched));
        touch(1000);
        let OnDisk::Same(Some(touched)) = later(Some(stamp)) else {
            panic!("it is the same");
        };
        assert_ne!(touched, stamp);
        // As long and as old as before.
        fs::write(&path, TEXT.replace("eth0", "eth1")).unwrap();
        touch(1000);
        assert!(matches!(
            later(Some(touched)),
            OnDisk::Different(Some(stamp)) if stamp != touched
        ));
        fs::remove_file(&path).unwrap();
        let OnDisk::Unreadable(error) = later(Some(touched)) else {
            panic!("it is gone");
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
