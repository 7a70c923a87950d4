//! Why a probe did not pass, as operators read it.

use std::io;

use nix::errno::Errno;

use crate::os::open_files;

/// Why a probe did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeFailure {
    /// The target, or the path to it, failed.
    Target(String),
    /// This process or host could not make the probe, which says nothing about the target.
    Local(String),
}

impl From<String> for ProbeFailure {
    fn from(reason: String) -> Self {
        Self::Target(reason)
    }
}

impl From<&str> for ProbeFailure {
    fn from(reason: &str) -> Self {
        Self::Target(reason.to_owned())
    }
}

impl From<io::Error> for ProbeFailure {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&io::Error> for ProbeFailure {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => errno_failure(Errno::from_raw(number)),
            None => Self::Target(library_reason(error)),
        }
    }
}

fn errno_failure(errno: Errno) -> ProbeFailure {
    let reason = match errno {
        // Limits of this process or the kernel say nothing about the target.
        Errno::EMFILE => return ProbeFailure::Local(open_files::TOO_MANY.into()),
        Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN => {
            return ProbeFailure::Local(errno.desc().to_lowercase());
        }
        // Of `connect` alone, without a free port. Addresses have texts of their own: one that is not on this host fails in
        // `bind`, and a host without one is told from this by a datagram socket.
        Errno::EADDRNOTAVAIL => {
            return ProbeFailure::Local("no free local address and port".into());
        }
        Errno::ENETUNREACH => "network unreachable",
        Errno::ECONNRESET | Errno::EPIPE => "connection reset",
        Errno::ENOPROTOOPT => "protocol unreachable",
        Errno::EPERM | Errno::EACCES => "not permitted on this host (a firewall rule?)",
        Errno::EMSGSIZE => "too big for the path",
        _ => return ProbeFailure::Target(errno.desc().to_lowercase()),
    };
    reason.into()
}

/// The failure that an error of a connected socket, often from an ICMP message, stands for.
pub fn send_failure(error: &io::Error) -> ProbeFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "port unreachable".into(),
        _ => error.into(),
    }
}

/// The text of an error that has no error number.
fn library_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "connection closed before the answer was whole".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_errors_become_reasons() {
        let reason = |errno: Errno| ProbeFailure::from(io::Error::from_raw_os_error(errno as i32));
        for (errno, words) in [
            (Errno::ECONNREFUSED, "connection refused"),
            (Errno::EHOSTUNREACH, "no route to host"),
            (Errno::ENETUNREACH, "network unreachable"),
            (Errno::ECONNRESET, "connection reset"),
            (Errno::ETIMEDOUT, "connection timed out"),
        ] {
            assert_eq!(reason(errno), ProbeFailure::Target(words.into()));
        }
        for (errno, words) in [
            (Errno::EMFILE, "too many open files (raise LimitNOFILE=)"),
            (Errno::EADDRNOTAVAIL, "no free local address and port"),
        ] {
            assert_eq!(reason(errno), ProbeFailure::Local(words.into()));
        }
        for errno in [Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EAGAIN] {
            assert!(matches!(reason(errno), ProbeFailure::Local(_)), "{errno}");
        }
    }
}
