//! A pool of TCP sockets that are reused for later connections. Creating and destroying a socket costs the kernel a tenth
//! of a short probe. `connect` with `AF_UNSPEC` ends a connection as closing does, here with a reset, and leaves a socket
//! that is like a new one but for its options and its sequence number (`tcp_disconnect` in the kernel's
//! net/ipv4/tcp.c).
//!
//! The next connection would continue with that sequence number, so each target could predict those of others (RFC 6528
//! says why that is bad). Set to 0, which takes `CAP_NET_ADMIN`, `connect` chooses one as for a new socket.

use std::sync::{Mutex, PoisonError};

use nix::{
    getsockopt_impl, setsockopt_impl, sockopt_impl,
    sys::socket::{setsockopt, sockopt::TcpRepair},
};
use socket2::{Domain, Socket};
use tokio::net::TcpStream;

/// Ends `TCP_REPAIR` without a window probe.
const OFF_NO_WINDOW_PROBE: u32 = u32::MAX;
/// The send queue.
const SEND_QUEUE: u32 = 2;

sockopt_impl!(
    /// Selects the queue whose sequence number is set.
    RepairQueue, SetOnly, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, u32
);
sockopt_impl!(
    /// The sequence number of the next byte in that queue; 0 = `connect` chooses.
    QueueSequence, Both, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, u32
);

/// Most sockets kept per address family: more than start together with ten thousand checks every five seconds.
pub const MAX_PER_FAMILY: usize = 128;

/// Unconnected sockets without source options, per address family.
#[derive(Debug, Default)]
pub struct SocketPool {
    v4: Mutex<Vec<Socket>>,
    v6: Mutex<Vec<Socket>>,
}

impl SocketPool {
    /// Takes an unconnected socket, if there is one.
    pub fn take(&self, domain: Domain) -> Option<Socket> {
        let mut sockets = self
            .sockets(domain)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sockets.pop()
    }

    /// Resets a connection and adds its socket to the pool; closes it if the pool is full or the socket cannot be reused.
    pub fn put(&self, domain: Domain, stream: TcpStream) {
        // Removes it from tokio's reactor, which otherwise would report its later events to this stream.
        let Ok(stream) = stream.into_std() else {
            return;
        };
        if rustix::net::connect_unspec(&stream).is_err() {
            return;
        }
        let socket = Socket::from(stream);
        // Clears the pending error of the reset.
        if socket.take_error().is_err() || reset_sequence(&socket).is_err() {
            return;
        }
        let mut sockets = self
            .sockets(domain)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if sockets.len() < MAX_PER_FAMILY {
            sockets.push(socket);
        }
    }

    const fn sockets(&self, domain: Domain) -> &Mutex<Vec<Socket>> {
        match domain {
            Domain::IPV4 => &self.v4,
            _ => &self.v6,
        }
    }
}

/// Makes the next connection choose an unpredictable initial sequence number (`TCP_REPAIR`, Linux 3.5).
fn reset_sequence(socket: &Socket) -> nix::Result<()> {
    setsockopt(socket, TcpRepair, &1)?;
    setsockopt(socket, RepairQueue, &SEND_QUEUE)?;
    setsockopt(socket, QueueSequence, &0)?;
    setsockopt(socket, TcpRepair, &OFF_NO_WINDOW_PROBE)
}

#[cfg(test)]
pub mod tests {
    use std::{
        io::{self, Read as _, Write as _},
        net::{Ipv4Addr, TcpListener},
    };

    use nix::sys::socket::getsockopt;

    use super::*;

    /// Whether this process may reuse sockets. Fails the test if it may not, unless privileged tests are skipped.
    pub fn may_pool_sockets() -> bool {
        let socket = Socket::new(Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let may = setsockopt(&socket, TcpRepair, &1).is_ok();
        if !may {
            let skips =
                std::env::var_os("BALANCER_SKIP_PRIVILEGED").is_some_and(|skip| skip == "1");
            assert!(skips, "sockets are reused with CAP_NET_ADMIN only");
            println!("skipped: without CAP_NET_ADMIN no sockets are reused");
        }
        may
    }

    fn connected(socket: &Socket, listener: &TcpListener) -> io::Result<()> {
        socket.connect(&listener.local_addr()?.into())
    }

    #[test]
    fn sequence_numbers_of_reused_sockets_are_unpredictable() {
        if !may_pool_sockets() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let listeners = [(), ()].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let pool = SocketPool::default();
        let mut socket = Socket::new(Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let mut numbers = Vec::new();
        for round in 0..12 {
            connected(&socket, &listeners[round % 2]).unwrap();
            // The kernel returns it only for a socket that has been in repair mode, so not in the first round.
            numbers.extend(getsockopt(&socket, QueueSequence).ok());
            let (mut served, _) = listeners[round % 2].accept().unwrap();
            served.write_all(b"a").unwrap();
            let mut stream = std::net::TcpStream::from(socket);
            assert_eq!(stream.read(&mut [0]).unwrap(), 1);
            stream.set_nonblocking(true).unwrap();
            pool.put(Domain::IPV4, TcpStream::from_std(stream).unwrap());
            socket = pool.take(Domain::IPV4).unwrap();
            socket.set_nonblocking(false).unwrap();
        }
        assert_eq!(numbers.len(), 11);
        let steps = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
        let near = steps.filter(|step| *step < 1 << 20).count();
        assert!(near < 5, "{numbers:?}");
    }
}
