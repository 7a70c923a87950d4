//! The channel's sockets: on the configured address and interface.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::PeerSettings;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 128;

/// Opens the socket that listens.
///
/// # Errors
/// A sentence: the address or the interface is not there, or another program listens on the port.
pub(super) fn listen(address: SocketAddr, interface: Option<&str>) -> Result<TcpListener, String> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        bind_interface(&socket, interface)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|error| {
        let over = interface.map_or_else(String::new, |name| format!(" over {name}"));
        format!("cannot listen for other nodes on {address}{over}: {error}")
    })
}

/// Connects to another node, from the address on which this one listens.
///
/// # Errors
/// The node cannot be reached.
pub(super) async fn connect(settings: &PeerSettings, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    bind_interface(&SockRef::from(&socket), settings.interface.as_deref())?;
    if let Some(own) = settings.listen
        && own.is_ipv4() == target.is_ipv4()
        && !own.ip().is_unspecified()
    {
        socket.bind(SocketAddr::new(own.ip(), 0))?;
    }
    socket.connect(target).await
}

/// Sends small messages at once, and finds out by itself that the other host is gone.
pub(super) fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    // Without these, the channel still works.
    let _ = socket.set_tcp_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(5));
    let _ = socket.set_tcp_keepalive(&keepalive);
}

fn bind_interface(socket: &Socket, interface: Option<&str>) -> io::Result<()> {
    match interface {
        Some(name) => socket.bind_device(Some(name.as_bytes())),
        None => Ok(()),
    }
}
