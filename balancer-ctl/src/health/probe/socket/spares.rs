//! Sockets of TCP connections that are over, for connections to come. Making and destroying one costs the kernel a tenth
//! of a short probe: memory, a file, its options. `connect` to no address ends a connection as closing does, here with
//! a reset, and leaves a socket that is as new but for its options (`tcp_disconnect` in the kernel's net/ipv4/tcp.c).

use std::sync::{Mutex, PoisonError};

use socket2::{Domain, Socket};
use tokio::net::TcpStream;

/// Most that are kept of each family: more than are started together of ten thousand checks every five seconds.
pub const MOST: usize = 128;

/// Those that are kept, all with the options of an endpoint that asks for none of its own.
#[derive(Debug, Default)]
pub struct Spares {
    v4: Mutex<Vec<Socket>>,
    v6: Mutex<Vec<Socket>>,
}

impl Spares {
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
        if socket.take_error().is_err() {
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
