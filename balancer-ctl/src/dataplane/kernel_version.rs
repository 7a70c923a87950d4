//! Refuses kernels older than those that the packet program was tested on.

use std::{io, mem::MaybeUninit};

use anyhow::{Context, bail};

/// The oldest kernel on which the packet suite has run: Debian 12's.
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Checks that the running kernel is [`OLDEST_KERNEL`] or newer.
///
/// # Errors
/// It is older, or its version cannot be read.
pub fn check() -> anyhow::Result<()> {
    let release = release().context("cannot read the kernel's version")?;
    match too_old(&release) {
        Some(sentence) => bail!(sentence),
        None => Ok(()),
    }
}

/// The running kernel's release, as `uname -r` shows it.
fn release() -> io::Result<String> {
    let mut name = MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: the struct outlives the call.
    if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, and then it has filled the struct.
    let name = unsafe { name.assume_init() };
    let bytes = name.release.iter().map(|c| c.to_ne_bytes()[0]);
    let bytes: Vec<_> = bytes.take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The refusal of a kernel that is too old. A release that does not begin with a version counts as new.
fn too_old(release: &str) -> Option<String> {
    let (major, minor) = OLDEST_KERNEL;
    (version(release)? < OLDEST_KERNEL).then(|| {
        format!(
            "this kernel ({release}) is too old: the packet program needs Linux {major}.{minor} or newer, and was not tested on older \
             ones"
        )
    })
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_read() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.10.0-28-amd64"), Some((5, 10)));
        assert_eq!(version("next"), None);
    }

    #[test]
    fn this_kernel_is_not_too_old() {
        assert!(version(&release().unwrap()).is_some());
        check().unwrap();
    }

    #[test]
    fn a_kernel_older_than_the_oldest_that_was_tested_is_refused() {
        for release in ["6.1.0-40-amd64", "6.1", "6.12.48", "7.0-rc1", "next"] {
            assert_eq!(too_old(release), None, "{release}");
        }
        for release in ["6.0.19", "5.15.0-100-generic", "4.19"] {
            assert_eq!(
                too_old(release).unwrap(),
                format!(
                    "this kernel ({release}) is too old: the packet program needs Linux 6.1 or newer, and was not tested on older ones"
                )
            );
        }
    }
}
