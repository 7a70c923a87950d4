//! Whole frames onto an interface: what a stranger with a packet generator sends.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use xtask::lab::Namespace;

/// A packet socket on one interface.
pub struct RawSocket(OwnedFd);

impl RawSocket {
    /// Opens one on an interface of a namespace.
    ///
    /// # Panics
    /// There is no such interface, or the kernel refused.
    #[must_use]
    pub fn open(namespace: &Namespace, interface: &str) -> Self {
        let index = namespace.index(interface).expect("the interface");
        namespace
            .run(|| open(index))
            .expect("enter the namespace")
            .map(Self)
            .expect("a packet socket (needs root)")
    }

    /// Sends one frame; waits while the interface's queue is full.
    ///
    /// # Panics
    /// The kernel refused.
    pub fn send(&self, frame: &[u8]) {
        loop {
            // SAFETY: the frame is as long as said.
            let sent =
                unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if sent >= 0 {
                return;
            }
            let error = io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "{error}");
            std::thread::yield_now();
        }
    }
}

fn open(index: u32) -> io::Result<OwnedFd> {
    // Protocol 0: it receives nothing.
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes is a valid value of this plain struct.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the address is as long as said and outlives the call.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
