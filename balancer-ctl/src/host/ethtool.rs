//! Offload switches of an interface, by the ethtool ioctl.

use std::{io, os::fd::AsRawFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// A question to ask.
#[derive(Clone, Copy, Debug)]
pub enum Question {
    /// Is receive merging in hardware (LRO) on?
    Lro,
    /// Is receive merging in software (GRO) on?
    Gro,
    /// Is checksumming left to the hardware when sending?
    TxChecksum,
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Asks about an interface in the network namespace of the calling thread. `Ok(None)`: its driver does not say.
///
/// # Errors
/// There is no such interface, or the kernel refused.
pub fn ask(interface: &str, question: Question) -> io::Result<Option<bool>> {
    const ETHTOOL_GTXCSUM: u32 = 0x16;
    const ETHTOOL_GFLAGS: u32 = 0x25;
    const ETHTOOL_GGRO: u32 = 0x2b;
    const ETH_FLAG_LRO: u32 = 1 << 15;
    let (command, mask) = match question {
        Question::Lro => (ETHTOOL_GFLAGS, ETH_FLAG_LRO),
        Question::Gro => (ETHTOOL_GGRO, u32::MAX),
        Question::TxChecksum => (ETHTOOL_GTXCSUM, u32::MAX),
    };
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut value = Value { command, data: 0 };
    // SAFETY: a struct of plain integers and pointers; all zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    // SAFETY: `request` names an interface and points to a value as the command wants it; both outlive the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result == 0 {
        return Ok(Some(value.data & mask != 0));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Ok(None),
        _ => Err(error),
    }
}
