//! Sockets for advertisements: one for each interface and family.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    ops::Range,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, recvmsg,
    sendmsg, setsockopt, sockopt,
};
use socket2::{Domain, InterfaceIndexOrAddress, Socket, Type};

use super::packet::{Family, HOP_LIMIT, PROTOCOL};

/// A buffer of this many bytes holds every message: an IPv4 header with options, and 255 IPv6 addresses.
pub const BUFFER_LENGTH: usize = 60 + 8 + 255 * 16;

/// The type of service, or traffic class, of advertisements: internetwork control (CS6).
const TRAFFIC_CLASS: u32 = 0xc0;
/// The priority of our packets in the interface's queue (`SO_PRIORITY`): interactive, the highest without privileges.
const QUEUE_PRIORITY: u32 = 6;
/// So many packets of other interfaces may have come in between a socket's creation and its binding.
const MOST_STRAY: usize = 10_000;

/// A raw socket that sends and receives advertisements of one family on one interface. It does not block, and does not
/// receive what it sends to the group.
#[derive(Debug)]
pub struct VrrpSocket {
    socket: Socket,
    index: u32,
    family: Family,
}

/// Where a message that was received lies, and how it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The sender's address.
    pub source: IpAddr,
    /// The group, or an address of this host.
    pub destination: IpAddr,
    /// The hop limit, or TTL, with which it arrived.
    pub hop_limit: u8,
    /// The message in the buffer: what the IP packet holds by its own length.
    pub message: Range<usize>,
}

impl VrrpSocket {
    /// Opens a socket on the interface with this name and index, in the network namespace of the calling thread, and
    /// joins the group of the family.
    ///
    /// # Errors
    /// There is no such interface, it does not have the family, or the caller is not privileged (`CAP_NET_RAW`).
    pub fn open(interface: &str, index: u32, family: Family) -> io::Result<Self> {
        let domain = match family {
            Family::Ipv4 => Domain::IPV4,
            Family::Ipv6 => Domain::IPV6,
        };
        // Closed when a program is run.
        let socket = Socket::new(domain, Type::RAW, Some(i32::from(PROTOCOL).into()))?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        let hop_limit = HOP_LIMIT.into();
        match family {
            Family::Ipv4 => {
                socket.set_ttl_v4(hop_limit)?;
                socket.set_multicast_ttl_v4(hop_limit)?;
                socket.set_multicast_loop_v4(false)?;
                // Only this group, also when other programs have joined others.
                socket.set_multicast_all_v4(false)?;
                socket.set_tos_v4(TRAFFIC_CLASS)?;
                let by = InterfaceIndexOrAddress::Index(index);
                socket.join_multicast_v4_n(&Family::GROUP_IPV4, &by)?;
            }
            Family::Ipv6 => {
                socket.set_unicast_hops_v6(hop_limit)?;
                socket.set_multicast_hops_v6(hop_limit)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_all_v6(false)?;
                socket.set_tclass_v6(TRAFFIC_CLASS)?;
                socket.set_recv_hoplimit_v6(true)?;
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                socket.join_multicast_v6(&Family::GROUP_IPV6, index)?;
            }
        }
        // After the type of service, which sets it too.
        socket.set_priority(QUEUE_PRIORITY)?;
        let opened = Self {
            socket,
            index,
            family,
        };
        opened.discard_strays();
        Ok(opened)
    }

    /// Its family.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Sends a message from an address of this host to the group or to a peer, out of the socket's interface.
    ///
    /// # Errors
    /// `EINVAL` or, over IPv4 with some kernels, `ENETUNREACH` if the host does not have the source address; `ENETDOWN`
    /// and the like while the interface is down. An address of the other family is refused as `InvalidInput`.
    pub fn send(&self, message: &[u8], source: IpAddr, destination: IpAddr) -> io::Result<()> {
        match (self.family, source, destination) {
            (Family::Ipv4, IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.send_ipv4(message, source, destination)
            }
            (Family::Ipv6, IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.send_ipv6(message, source, destination)
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the addresses are not of the socket's family",
            )),
        }
    }

    fn send_ipv4(&self, message: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> io::Result<()> {
        let info = libc::in_pktinfo {
            ipi_ifindex: self.index.cast_signed(),
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from_ne_bytes(source.octets()),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
        self.send_with(message, ControlMessage::Ipv4PacketInfo(&info), &to)
    }

    fn send_ipv6(&self, message: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> io::Result<()> {
        let info = libc::in6_pktinfo {
            ipi6_addr: libc::in6_addr {
                s6_addr: source.octets(),
            },
            ipi6_ifindex: self.index,
        };
        let to = SockaddrIn6::from(SocketAddrV6::new(destination, 0, 0, self.index));
        self.send_with(message, ControlMessage::Ipv6PacketInfo(&info), &to)
    }

    fn send_with<T: SockaddrLike>(
        &self,
        message: &[u8],
        info: ControlMessage<'_>,
        to: &T,
    ) -> io::Result<()> {
        let parts = [IoSlice::new(message)];
        let socket = self.socket.as_raw_fd();
        sendmsg(socket, &parts, &[info], MsgFlags::empty(), Some(to))?;
        Ok(())
    }

    /// Receives one message, with what lies before it, into `buffer`, which has [`BUFFER_LENGTH`] bytes; `None` if
    /// there is none. What is received may be from anyone on the link, and may be much: the caller bounds how many it
    /// takes at a time, and recognises those of its own host by their source.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let received = match self.family {
            Family::Ipv4 => self.receive_ipv4(buffer),
            Family::Ipv6 => self.receive_ipv6(buffer),
        };
        match received {
            Ok(received) => Ok(Some(received)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn receive_ipv4(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let length = nix::sys::socket::recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty())?;
        // The kernel has checked the header.
        parse_ipv4(&buffer[..length]).ok_or_else(|| incomplete("the IP header"))
    }

    fn receive_ipv6(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
        let mut parts = [IoSliceMut::new(buffer)];
        let received = recvmsg::<SockaddrIn6>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let source = received.address.ok_or_else(|| incomplete("the source"))?;
        let mut destination = None;
        let mut hop_limit = None;
        for message in received.cmsgs()? {
            match message {
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
                }
                ControlMessageOwned::Ipv6HopLimit(limit) => hop_limit = u8::try_from(limit).ok(),
                _ => {}
            }
        }
        Ok(Received {
            source: source.ip().into(),
            destination: destination
                .ok_or_else(|| incomplete("the destination"))?
                .into(),
            hop_limit: hop_limit.ok_or_else(|| incomplete("the hop limit"))?,
            message: 0..received.bytes,
        })
    }

    /// Throws away what came in before the socket was bound to its interface.
    fn discard_strays(&self) {
        for _ in 0..MOST_STRAY {
            if nix::sys::socket::recv(self.socket.as_raw_fd(), &mut [0], MsgFlags::empty()).is_err()
            {
                break;
            }
        }
    }
}

impl AsFd for VrrpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The error of a kernel, or a buffer, that leaves something out.
fn incomplete(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("an advertisement was received without {what}"),
    )
}

/// Reads the header of an IPv4 packet.
fn parse_ipv4(packet: &[u8]) -> Option<Received> {
    let header = packet.first_chunk::<20>()?;
    let address = |at: usize| Some(IpAddr::from(*header.get(at..)?.first_chunk::<4>()?));
    let begin = usize::from(header[0] & 0x0f) * 4;
    let end = usize::from(u16::from_be_bytes([header[2], header[3]]));
    (header.len()..=packet.len())
        .contains(&begin)
        .then_some(())?;
    Some(Received {
        source: address(12)?,
        destination: address(16)?,
        hop_limit: header[8],
        message: begin..end.clamp(begin, packet.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of keepalived 2.2.7: the header, and the message for three VIPs.
    const PACKET: [u8; 40] = [
        0x45, 0xc0, 0x00, 0x28, 0x00, 0x01, 0x00, 0x00, 0xff, 0x70, 0xd0, 0x44, 0x0a, 0x4d, 0x00,
        0x01, 0xe0, 0x00, 0x00, 0x12, 0x31, 0x34, 0x96, 0x03, 0x00, 0x19, 0x76, 0x5b, 0x0a, 0x4d,
        0x00, 0x65, 0x0a, 0x4d, 0x00, 0x66, 0xc0, 0x00, 0x02, 0x09,
    ];

    fn received(message: Range<usize>) -> Received {
        Received {
            source: "10.77.0.1".parse().unwrap(),
            destination: "224.0.0.18".parse().unwrap(),
            hop_limit: 255,
            message,
        }
    }

    #[test]
    fn the_message_lies_behind_the_header_and_ends_with_the_packet() {
        assert_eq!(parse_ipv4(&PACKET), Some(received(20..40)));
        // Padding behind it.
        let padded = [&PACKET[..], &[0; 6]].concat();
        assert_eq!(parse_ipv4(&padded), Some(received(20..40)));
        // More than the buffer held.
        assert_eq!(parse_ipv4(&PACKET[..30]), Some(received(20..30)));
        // A header with options.
        let mut longer = PACKET;
        longer[0] = 0x46;
        assert_eq!(parse_ipv4(&longer), Some(received(24..40)));
    }

    #[test]
    fn a_header_that_the_kernel_would_not_have_passed_on_is_no_packet() {
        for length in 0..20 {
            assert_eq!(parse_ipv4(&PACKET[..length]), None);
        }
        for first in [0x40, 0x44, 0x4f] {
            let mut wrong = PACKET;
            wrong[0] = first;
            assert_eq!(parse_ipv4(&wrong), None, "{first:x}");
        }
        let mut wrong = PACKET;
        wrong[3] = 3;
        assert_eq!(parse_ipv4(&wrong), Some(received(20..20)));
    }
}
