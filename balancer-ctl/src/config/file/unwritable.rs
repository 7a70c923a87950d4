//! Why the configuration file cannot be replaced, and what to do about it.

use std::{io, path::Path};

use crate::{model::error::ApiError, os::shell};

/// The refusal of a change that cannot be written to the file at `path`. `what` (write, replace) failed; `place` is the file or
/// folder that is in the way.
pub(super) fn refusal(what: &str, path: &Path, place: &Path, error: &io::Error) -> ApiError {
    let remedy = match remedy(place, error) {
        Some(remedy) => format!(": {remedy}, or use --runtime"),
        None => String::new(),
    };
    ApiError::failed(format!(
        "cannot {what} {}: {error}; nothing was changed{remedy}",
        path.display()
    ))
}

/// What to do where something stands in the way that an operator can remove.
fn remedy(place: &Path, error: &io::Error) -> Option<String> {
    let (place, word) = (place.display(), shell::path(place));
    Some(match error.raw_os_error()? {
        libc::EBUSY => format!(
            "{place} is a mount of its own, as in a container: mount its folder instead, so that the file can be replaced"
        ),
        libc::EPERM => {
            format!("if `lsattr -d {word}` shows an `i`, it is immutable: `chattr -i {word}`")
        }
        libc::EROFS => format!(
            "{place} is read-only for balancerd: make it writable (`mount -o remount,rw`, or ReadWritePaths= in a systemd unit)"
        ),
        libc::EACCES => format!("let balancerd write to {place}"),
        libc::ENOSPC | libc::EDQUOT => "make room on its disk".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_obstacle_is_named_with_what_removes_it() {
        let path = Path::new("/etc/balancer/balancer.toml");
        let said = |error| {
            let error = io::Error::from_raw_os_error(error);
            refusal("write", path, Path::new("/etc/balancer"), &error).sentence
        };
        for (error, sentence) in [
            (
                libc::EBUSY,
                "Device or resource busy (os error 16); nothing was changed: /etc/balancer is a mount of its own, as in a container: \
                 mount its folder instead, so that the file can be replaced, or use --runtime",
            ),
            (
                libc::EPERM,
                "Operation not permitted (os error 1); nothing was changed: if `lsattr -d /etc/balancer` shows an `i`, it is \
                 immutable: `chattr -i /etc/balancer`, or use --runtime",
            ),
            (
                libc::EROFS,
                "Read-only file system (os error 30); nothing was changed: /etc/balancer is read-only for balancerd: make it writable \
                 (`mount -o remount,rw`, or ReadWritePaths= in a systemd unit), or use --runtime",
            ),
            (
                libc::EACCES,
                "Permission denied (os error 13); nothing was changed: let balancerd write to /etc/balancer, or use --runtime",
            ),
            (
                libc::ENOSPC,
                "No space left on device (os error 28); nothing was changed: make room on its disk, or use --runtime",
            ),
            (
                libc::EIO,
                "Input/output error (os error 5); nothing was changed",
            ),
        ] {
            assert_eq!(
                said(error),
                format!("cannot write /etc/balancer/balancer.toml: {sentence}")
            );
        }
    }
}
