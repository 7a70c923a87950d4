//! Sockets of TCP connections that are over, for connections to come. Making and destroying one costs the kernel a tenth
//! of a short probe: memory, a file, its options. `connect` to no address ends a connection as closing does, here with
//! a reset, and leaves a socket that is as new but for its options and its sequence number (`tcp_disconnect` in the
//! kernel's net/ipv4/tcp.c).
//!
//! The number would go on where it was, whoever is asked next, and each target could foretell those of others (RFC 6528
//! says what comes of that). Put to 0, which takes `CAP_NET_ADMIN`, `connect` chooses one as for a new socket.

use std::sync::{Mutex, PoisonError};

use nix::{
    getsockopt_impl, setsockopt_impl, sockopt_impl,
    sys::socket::{setsockopt, sockopt::TcpRepair},
};
use socket2::{Domain, Socket};
use tokio::net::TcpStream;

/// Repair is over, and nothing is sent for it.
const OFF_NO_WINDOW_PROBE: u32 = u32::MAX;
/// The queue of what is sent.
const SEND_QUEUE: u32 = 2;

sockopt_impl!(
    /// Which queue's number is set.
    RepairQueue, SetOnly, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, u32
);
sockopt_impl!(
    /// The sequence number of the next byte in that queue; 0 = `connect` chooses.
    QueueSequence, Both, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, u32
);

/// Most that are kept of each family: more than are started together of ten thousand checks every five seconds.
pub const MOST: usize = 128;

/// Those that are kept, all with the options of an endpoint that asks for none of its own.
#[derive(Debug, Default)]
pub struct SocketPool {
    v4: Mutex<Vec<Socket>>,
    v6: Mutex<Vec<Socket>>,
}

impl SocketPool {
    /// One that is not connected, if there is any.
    pub fn take(&self, domain: Domain) -> Option<Socket> {
        let mut kept = self
            .of(domain)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kept.pop()
    }

    /// Ends a connection and keeps its socket; where that cannot be, it is closed.
    pub fn keep(&self, domain: Domain, stream: TcpStream) {
        // No longer watched, so that what happens to it next is nobody's event.
        let Ok(stream) = stream.into_std() else {
            return;
        };
        if rustix::net::connect_unspec(&stream).is_err() {
            return;
        }
        let socket = Socket::from(stream);
        // It says that the connection was reset; the next one is not to hear of it.
        if socket.take_error().is_err() || forget_sequence(&socket).is_err() {
            return;
        }
        let mut kept = self
            .of(domain)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MOST {
            kept.push(socket);
        }
    }

    const fn of(&self, domain: Domain) -> &Mutex<Vec<Socket>> {
        match domain {
            Domain::IPV4 => &self.v4,
            _ => &self.v6,
        }
    }
}

/// Has the next connection begin at a number that nobody foretells (`TCP_REPAIR`, Linux 3.5).
fn forget_sequence(socket: &Socket) -> nix::Result<()> {
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

    /// Whether this process may have sockets kept; where it must, that is a failure.
    pub fn may_keep() -> bool {
        let socket = Socket::new(Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let may = setsockopt(&socket, TcpRepair, &1).is_ok();
        if !may {
            let skips =
                std::env::var_os("BALANCER_SKIP_PRIVILEGED").is_some_and(|skip| skip == "1");
            assert!(skips, "sockets are kept with CAP_NET_ADMIN only");
            println!("skipped: without CAP_NET_ADMIN no sockets are kept");
        }
        may
    }

    fn connected(socket: &Socket, listener: &TcpListener) -> io::Result<()> {
        socket.connect(&listener.local_addr()?.into())
    }

    #[test]
    fn nobody_foretells_where_the_next_connection_begins() {
        if !may_keep() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let listeners = [(), ()].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let spares = SocketPool::default();
        let mut socket = Socket::new(Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let mut numbers = Vec::new();
        for round in 0..12 {
            connected(&socket, &listeners[round % 2]).unwrap();
            // The kernel tells it of a socket that has been under repair.
            numbers.extend(getsockopt(&socket, QueueSequence).ok());
            let (mut served, _) = listeners[round % 2].accept().unwrap();
            served.write_all(b"a").unwrap();
            let mut stream = std::net::TcpStream::from(socket);
            assert_eq!(stream.read(&mut [0]).unwrap(), 1);
            stream.set_nonblocking(true).unwrap();
            spares.keep(Domain::IPV4, TcpStream::from_std(stream).unwrap());
            socket = spares.take(Domain::IPV4).unwrap();
            socket.set_nonblocking(false).unwrap();
        }
        assert_eq!(numbers.len(), 11);
        let steps = numbers.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
        let near = steps.filter(|step| *step < 1 << 20).count();
        assert!(near < 5, "{numbers:?}");
    }
}
