//! Sockets towards a target, from where the check says.
//!
//! TCP connections end with a reset (`SO_LINGER` 0) and not in good order. A probe that closes first would leave a
//! `TIME_WAIT` behind, for a minute and with a local port: 2,000 probes a second would hold 120,000 of them, four
//! times the ports there are towards one target. A reset also lets a server that would go on sending stop at once,
//! and frees everything on both sides when a probe is dropped at its timeout. Servers have answered by then; OpenSSH
//! and MariaDB log a client that goes after the greeting either way, and shut nobody out for it.

pub mod spares;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
pub use spares::SocketPool;
use tokio::net::{TcpStream, UdpSocket};

use super::{CheckTarget, ProbeFailure};
use crate::model::check::Source;

/// A target, and from where it is asked.
#[derive(Clone, Debug)]
pub struct Endpoint {
    target: SocketAddr,
    source: Source,
    spares: Arc<SocketPool>,
}

/// How far a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectMode {
    /// To be used, by a server that may speak first.
    Full,
    /// To be used, by us first and at once: the handshake's last packet waits for what we say, and goes with it.
    ClientFirst,
    /// Until the server's kernel has agreed: the handshake's last packet is held back, and closing sends a reset in
    /// its place. The program behind the port never sees such a connection, and has nothing to log.
    HandshakeOnly,
}

impl Endpoint {
    /// # Errors
    /// The source address is of the other family.
    pub fn new(watched: &CheckTarget, spares: &Arc<SocketPool>) -> Result<Self, String> {
        let source = watched.check.source.clone();
        match source.address {
            Some(address) if address.is_ipv4() != watched.target.is_ipv4() => Err(format!(
                "the source address {address} cannot reach {}: they are not of one family",
                watched.target.ip()
            )),
            _ => Ok(Self {
                target: watched.target,
                source,
                spares: spares.clone(),
            }),
        }
    }

    pub const fn target(&self) -> SocketAddr {
        self.target
    }

    /// Opens a TCP connection.
    pub async fn connect(&self, opening: ConnectMode) -> Result<TcpStream, ProbeFailure> {
        let spare = self.spares().and_then(|spares| spares.take(self.domain()));
        let socket = spare.map_or_else(|| self.stream(), Ok)?;
        match opening {
            ConnectMode::Full => {}
            ConnectMode::ClientFirst | ConnectMode::HandshakeOnly => {
                socket.set_tcp_quickack(false)?
            }
        }
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                return Err(error.into());
            }
            _ => {}
        }
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error.into()),
            None => Ok(stream),
        }
    }

    /// Ends a TCP connection with a reset, as dropping it does. What it held serves the next one.
    pub fn reset(&self, stream: TcpStream) {
        if let Some(spares) = self.spares() {
            spares.keep(self.domain(), stream);
        }
    }

    /// Sockets may serve all checks that ask for no options of their own, and of one family: a socket that has been to
    /// an IPv4 address in IPv6 clothes, or to one of a link, is good for no other.
    fn spares(&self) -> Option<&SocketPool> {
        let is_plain = match self.target {
            SocketAddr::V4(_) => true,
            SocketAddr::V6(target) => {
                target.ip().to_ipv4_mapped().is_none() && target.scope_id() == 0
            }
        };
        (is_plain && self.source == Source::default()).then_some(&*self.spares)
    }

    fn stream(&self) -> Result<Socket, ProbeFailure> {
        let socket = Socket::new(
            self.domain(),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_nodelay(true)?;
        self.prepare(&socket)?;
        Ok(socket)
    }

    /// Opens a UDP socket that hears the target alone, and every ICMP error about what it sent.
    pub fn datagrams(&self) -> Result<UdpSocket, ProbeFailure> {
        self.messages(Type::DGRAM, Some(Protocol::UDP))
    }

    /// Opens a socket for ICMP echo that hears the target alone. The kernel's own kind for this takes the replies
    /// apart by itself; where it is not allowed (`net.ipv4.ping_group_range`), a raw one must do.
    pub fn echo(&self) -> Result<(UdpSocket, Type), ProbeFailure> {
        let protocol = match self.target {
            SocketAddr::V4(_) => Protocol::ICMPV4,
            SocketAddr::V6(_) => Protocol::ICMPV6,
        };
        let kind = match Socket::new(self.domain(), Type::DGRAM, Some(protocol)) {
            Ok(_) => Type::DGRAM,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Type::RAW,
            Err(error) => return Err(error.into()),
        };
        Ok((self.messages(kind, Some(protocol))?, kind))
    }

    fn messages(&self, kind: Type, protocol: Option<Protocol>) -> Result<UdpSocket, ProbeFailure> {
        let socket = Socket::new(self.domain(), kind.nonblocking(), protocol)?;
        self.prepare(&socket)?;
        // Without this the kernel keeps errors that may pass, as "host unreachable", to itself.
        match self.target {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
        }
        .map_err(io::Error::from)?;
        socket.connect(&self.target.into())?;
        // Sending, receiving and waiting are the same for all of these sockets.
        Ok(UdpSocket::from_std(socket.into())?)
    }

    const fn domain(&self) -> Domain {
        match self.target {
            SocketAddr::V4(_) => Domain::IPV4,
            SocketAddr::V6(_) => Domain::IPV6,
        }
    }

    fn prepare(&self, socket: &impl AsFd) -> Result<(), ProbeFailure> {
        let socket_ref = SockRef::from(socket);
        if let Some(mark) = self.source.mark {
            socket_ref.set_mark(mark)?;
        }
        if let Some(interface) = &self.source.interface {
            let bound = socket_ref.bind_device(Some(interface.as_bytes()));
            bound.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENODEV) => ProbeFailure::Target(format!("no interface {interface}")),
                _ => error.into(),
            })?;
        }
        if let Some(address) = self.source.address {
            // The port is chosen by `connect`, which needs it to be free towards this target alone.
            setsockopt(socket, sockopt::IpBindAddressNoPort, &true).map_err(io::Error::from)?;
            let bound = socket_ref.bind(&SocketAddr::new(address, 0).into());
            bound.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EADDRNOTAVAIL) => {
                    ProbeFailure::Target(format!("source address {address} is not on this host"))
                }
                _ => error.into(),
            })?;
        }
        Ok(())
    }
}

/// An address as a URL writes it: IPv6 in brackets.
pub fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => Ipv4Addr::to_string(&address),
        IpAddr::V6(address) => format!("[{}]", Ipv6Addr::to_string(&address)),
    }
}

/// Lets a connection close in good order: what was sent last still arrives.
pub fn close_in_order(stream: &TcpStream) -> Result<(), ProbeFailure> {
    Ok(SockRef::from(stream).set_linger(None)?)
}
