//! Sockets towards a target, with the source address, interface and mark that the check configures.
//!
//! TCP connections end with a reset (`SO_LINGER` 0), not with an orderly close. Closing first would leave a `TIME_WAIT`
//! socket that holds a local port for a minute: 2,000 probes a second would hold 120,000 of them, four times the ports
//! there are towards one target. A reset also stops a server that would go on sending, and frees everything on both
//! sides when a probe is dropped at its timeout. Servers have answered by then; OpenSSH and MariaDB log a client that
//! leaves after the greeting either way, and block nobody for it.

pub mod pool;

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
pub use pool::SocketPool;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpStream, UdpSocket};

use super::{CheckTarget, ProbeFailure, failure::send_failure, neighbour};
use crate::model::check::Source;

/// A target and the source from which it is probed.
#[derive(Clone, Debug)]
pub struct Endpoint {
    target: SocketAddr,
    source: Source,
    pool: Arc<SocketPool>,
}

/// How far a connection is established, and who sends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectMode {
    /// Complete handshake; the server may send first.
    Full,
    /// The client sends first and at once: the handshake's last ACK is delayed and goes with the first data.
    ClientFirst,
    /// Only until SYN-ACK: the last ACK is held back and closing sends a reset instead. The server's program never sees
    /// such a connection and logs nothing.
    HandshakeOnly,
}

impl Endpoint {
    /// # Errors
    /// The source address is of the other address family.
    pub fn new(check_target: &CheckTarget, pool: &Arc<SocketPool>) -> Result<Self, String> {
        let source = check_target.check.source.clone();
        match source.address {
            Some(address) if address.is_ipv4() != check_target.target.is_ipv4() => Err(format!(
                "the source address {address} cannot reach {}: they are not of one family",
                check_target.target.ip()
            )),
            _ => Ok(Self {
                target: check_target.target,
                source,
                pool: pool.clone(),
            }),
        }
    }

    pub const fn target(&self) -> SocketAddr {
        self.target
    }

    /// Opens a TCP connection.
    pub async fn connect(&self, mode: ConnectMode) -> Result<TcpStream, ProbeFailure> {
        let pooled = self.usable_pool().and_then(|pool| pool.take(self.domain()));
        let socket = pooled.map_or_else(|| self.tcp_socket(), Ok)?;
        match mode {
            ConnectMode::Full => {}
            ConnectMode::ClientFirst | ConnectMode::HandshakeOnly => {
                socket.set_tcp_quickack(false)?
            }
        }
        match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                return Err(self.connect_failure(&error));
            }
            _ => self.check_source(&socket)?,
        }
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        match stream.take_error()? {
            // The server answered at once and is gone: what it said can still be read.
            Some(error) if mode != ConnectMode::HandshakeOnly && was_answered(&stream, &error) => {
                Ok(stream)
            }
            Some(error) => Err(error.into()),
            None => Ok(stream),
        }
    }

    /// Ends a TCP connection with a reset, as dropping it does, and returns its socket to the pool.
    pub fn reset(&self, stream: TcpStream) {
        if let Some(pool) = self.usable_pool() {
            pool.put(self.domain(), stream);
        }
    }

    /// The pool, if this endpoint may use it: the check sets no socket options, and the target is neither an IPv4-mapped
    /// nor a link-local address, which leave state in the socket.
    fn usable_pool(&self) -> Option<&SocketPool> {
        let is_plain = match self.target {
            SocketAddr::V4(_) => true,
            SocketAddr::V6(target) => {
                target.ip().to_ipv4_mapped().is_none() && target.scope_id() == 0
            }
        };
        (is_plain && self.source == Source::default()).then_some(&*self.pool)
    }

    fn tcp_socket(&self) -> Result<Socket, ProbeFailure> {
        let socket = Socket::new(
            self.domain(),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_nodelay(true)?;
        self.apply_source(&socket)?;
        Ok(socket)
    }

    /// Opens a UDP socket that receives only from the target, and every ICMP error about what it sent.
    pub fn udp_socket(&self) -> Result<UdpSocket, ProbeFailure> {
        self.message_socket(Type::DGRAM, Some(Protocol::UDP))
    }

    /// Opens a socket for ICMP echo that receives only from the target: a ping socket, on which the kernel sorts the replies,
    /// or a raw socket where ping sockets are not allowed (`net.ipv4.ping_group_range`). Returns its type, too.
    pub fn icmp_socket(&self) -> Result<(UdpSocket, Type), ProbeFailure> {
        let protocol = match self.target {
            SocketAddr::V4(_) => Protocol::ICMPV4,
            SocketAddr::V6(_) => Protocol::ICMPV6,
        };
        let kind = match Socket::new(self.domain(), Type::DGRAM, Some(protocol)) {
            Ok(_) => Type::DGRAM,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Type::RAW,
            Err(error) => return Err(error.into()),
        };
        Ok((self.message_socket(kind, Some(protocol))?, kind))
    }

    fn message_socket(
        &self,
        kind: Type,
        protocol: Option<Protocol>,
    ) -> Result<UdpSocket, ProbeFailure> {
        let socket = Socket::new(self.domain(), kind.nonblocking(), protocol)?;
        self.apply_source(&socket)?;
        // Without this the kernel does not report transient errors such as "host unreachable".
        match self.target {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true),
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true),
        }
        .map_err(io::Error::from)?;
        socket
            .connect(&self.target.into())
            .map_err(|error| self.connect_failure(&error))?;
        self.check_source(&socket)?;
        // Sending and receiving work the same on UDP and ICMP sockets.
        Ok(UdpSocket::from_std(socket.into())?)
    }

    /// Sends a datagram.
    pub async fn send(&self, socket: &UdpSocket, datagram: &[u8]) -> Result<(), ProbeFailure> {
        match socket.send(datagram).await {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.raw_os_error().map(Errno::from_raw) {
                // Among others without room for another neighbour; IPv6 says EINVAL then.
                Some(Errno::ENOBUFS | Errno::EINVAL) => self
                    .full_table()
                    .map_or_else(|| error.into(), ProbeFailure::Local),
                _ => send_failure(&error),
            }),
        }
    }

    /// Why packets to the target do not leave this host, as far as its neighbour table says.
    pub fn first_hop_failure(&self) -> Option<ProbeFailure> {
        neighbour::first_hop_failure(self.target.ip(), &self.source)
    }

    /// Why the target is no neighbour: the kernel's table is full.
    pub fn full_table(&self) -> Option<String> {
        neighbour::full_table(self.target.ip(), &self.source)
    }

    /// The failure that an error of `connect` stands for.
    fn connect_failure(&self, error: &io::Error) -> ProbeFailure {
        match error.raw_os_error().map(Errno::from_raw) {
            // IPv6 has no address for the socket, or TCP no port.
            Some(Errno::EADDRNOTAVAIL) if self.lacks_source() => self.no_source(),
            _ => error.into(),
        }
    }

    /// Whether a datagram socket, which is never short of ports in `connect`, finds no source address either.
    fn lacks_source(&self) -> bool {
        let connected = Socket::new(self.domain(), Type::DGRAM, Some(Protocol::UDP))
            .map_err(ProbeFailure::from)
            .and_then(|socket| self.apply_source(&socket).map(|()| socket))
            .map(|socket| socket.connect(&self.target.into()));
        matches!(connected, Ok(Err(error)) if error.raw_os_error() == Some(Errno::EADDRNOTAVAIL as i32))
    }

    /// Fails if the kernel has found no source address for a connected socket and uses one that nobody can answer:
    /// 0.0.0.0, or the loopback address of IPv6.
    fn check_source(&self, socket: &Socket) -> Result<(), ProbeFailure> {
        match socket.local_addr()?.as_socket().map(|local| local.ip()) {
            Some(local) if local.is_unspecified() => Err(self.no_source()),
            Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) if !self.target.ip().is_loopback() => {
                Err(self.no_source())
            }
            _ => Ok(()),
        }
    }

    fn no_source(&self) -> ProbeFailure {
        format!(
            "this host has no source address towards {}",
            self.target.ip()
        )
        .into()
    }

    const fn domain(&self) -> Domain {
        match self.target {
            SocketAddr::V4(_) => Domain::IPV4,
            SocketAddr::V6(_) => Domain::IPV6,
        }
    }

    fn apply_source(&self, socket: &impl AsFd) -> Result<(), ProbeFailure> {
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
            // `connect` chooses the port, which then must be free only towards this target.
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

/// Whether a connection that was reset after its handshake has left something to read.
fn was_answered(stream: &TcpStream, error: &io::Error) -> bool {
    let is_reset = matches!(
        error.raw_os_error().map(Errno::from_raw),
        // `EPIPE` if the server had closed its side before.
        Some(Errno::ECONNRESET | Errno::EPIPE)
    );
    is_reset
        && matches!(
            SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]),
            Ok(1..)
        )
}

/// An address as in a URL: IPv6 in brackets.
pub fn in_url(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => Ipv4Addr::to_string(&address),
        IpAddr::V6(address) => format!("[{}]", Ipv6Addr::to_string(&address)),
    }
}

/// Makes a connection close with a FIN instead of a reset, so that the data sent last still arrives.
pub fn close_in_order(stream: &TcpStream) -> Result<(), ProbeFailure> {
    Ok(SockRef::from(stream).set_linger(None)?)
}
