//! Offloads of an interface, queried and set by the ethtool ioctl.

use std::{io, os::fd::AsRawFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// An offload of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// Receive merging in hardware (LRO).
    Lro,
    /// Receive merging in software (GRO).
    Gro,
    /// Checksumming by the hardware when sending.
    TxChecksum,
    /// Removing VLAN tags from received frames: the tag is passed on beside the frame.
    RxVlan,
    /// Inserting VLAN tags in hardware when sending: until then the tag is passed on beside the frame.
    TxVlan,
}

impl Offload {
    /// Its name on the command line of `ethtool -K`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lro => "lro",
            Self::Gro => "gro",
            Self::TxChecksum => "tx",
            Self::RxVlan => "rxvlan",
            Self::TxVlan => "txvlan",
        }
    }

    /// The offload of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [
            Self::Lro,
            Self::Gro,
            Self::TxChecksum,
            Self::RxVlan,
            Self::TxVlan,
        ];
        all.into_iter().find(|offload| offload.name() == name)
    }

    /// The ioctl's commands that read and write it, and its bits in the value.
    const fn commands(self) -> (u32, u32, u32) {
        const FLAGS: (u32, u32) = (0x25, 0x26);
        match self {
            Self::Lro => (FLAGS.0, FLAGS.1, 1 << 15),
            Self::RxVlan => (FLAGS.0, FLAGS.1, 1 << 8),
            Self::TxVlan => (FLAGS.0, FLAGS.1, 1 << 7),
            Self::Gro => (0x2b, 0x2c, u32::MAX),
            Self::TxChecksum => (0x16, 0x17, u32::MAX),
        }
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct Driver {
    command: u32,
    name: [u8; 32],
    rest: [u8; 160],
}

/// Whether an offload of an interface is on, in the network namespace of the calling thread. `Ok(None)`: its driver
/// does not support the query.
///
/// # Errors
/// There is no such interface, or the kernel refused.
pub fn query(interface: &str, offload: Offload) -> io::Result<Option<bool>> {
    let (command, _, mask) = offload.commands();
    let mut value = Value { command, data: 0 };
    // SAFETY: the commands that read switches take a `struct ethtool_value`.
    match unsafe { ethtool_ioctl(interface, std::ptr::from_mut(&mut value).cast()) } {
        Ok(()) => Ok(Some(value.data & mask != 0)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Switches an offload of an interface on or off, in the network namespace of the calling thread.
///
/// # Errors
/// There is no such interface, or its driver refuses, or silently leaves the offload as it is.
pub fn set(interface: &str, offload: Offload, on: bool) -> io::Result<()> {
    let (read, write, mask) = offload.commands();
    let mut value = Value {
        command: read,
        data: 0,
    };
    // SAFETY: as above.
    unsafe { ethtool_ioctl(interface, std::ptr::from_mut(&mut value).cast()) }?;
    let bits = if mask == u32::MAX { 1 } else { mask };
    let data = if on {
        value.data | bits
    } else {
        value.data & !mask
    };
    let mut value = Value {
        command: write,
        data,
    };
    // SAFETY: the commands that write switches take a `struct ethtool_value`.
    unsafe { ethtool_ioctl(interface, std::ptr::from_mut(&mut value).cast()) }?;
    if query(interface, offload)? == Some(on) {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

/// The name of an interface's driver; empty where it reports none.
///
/// # Errors
/// There is no such interface, or the kernel refused.
pub fn driver(interface: &str) -> io::Result<String> {
    const ETHTOOL_GDRVINFO: u32 = 3;
    let mut driver = Driver {
        command: ETHTOOL_GDRVINFO,
        name: [0; 32],
        rest: [0; 160],
    };
    // SAFETY: this command takes a `struct ethtool_drvinfo`.
    match unsafe { ethtool_ioctl(interface, std::ptr::from_mut(&mut driver).cast()) } {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    let name = driver.name.split(|byte| *byte == 0).next();
    Ok(String::from_utf8_lossy(name.unwrap_or_default()).into_owned())
}

/// Makes the ioctl `SIOCETHTOOL`.
///
/// # Safety
/// `command` points to a struct as the command at its start wants it.
unsafe fn ethtool_ioctl(interface: &str, command: *mut libc::c_char) -> io::Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: a struct of plain integers and pointers; all zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = command;
    // SAFETY: `request` names an interface and points to what the caller answers for; both outlive the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
