//! Announces addresses to the link, asks it who has them, and listens to who says so.

use std::{
    io,
    mem::size_of,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use nix::sys::socket::{LinkAddr, MsgFlags, SockaddrLike as _, bind, recvfrom, send};
use socket2::{Domain, SockFilter, Socket, Type};

use super::{
    announcement::{
        ADVERTISEMENT, Claim, HOP_LIMIT, ICMPV6, Mac, advertisement_claim, arp_claim, arp_probe,
        duplicate_solicitation, gratuitous_arp, unsolicited_advertisement,
    },
    packet::Family,
};

/// The priority of our frames in the interface's queue (`SO_PRIORITY`): interactive, the highest without privileges.
const QUEUE_PRIORITY: u32 = 6;
/// More than a neighbour advertisement has with any options, on links with the usual MTU.
const BUFFER_LENGTH: usize = 2048;

/// Sends frames out of one interface that say, or ask, who has an address.
#[derive(Debug)]
pub struct Announcer {
    socket: Socket,
}

impl Announcer {
    /// Opens a socket on the interface with this index, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// There is no such interface, or the caller is not privileged (`CAP_NET_RAW`).
    pub fn open(index: u32) -> io::Result<Self> {
        // Of protocol 0 it receives nothing.
        let socket = packet_socket(Type::RAW)?;
        bind_to(&socket, index, 0)?;
        socket.set_priority(QUEUE_PRIORITY)?;
        Ok(Self { socket })
    }

    /// Announces once that `vip` is at `mac`: by a gratuitous ARP request, or an unsolicited neighbour advertisement,
    /// which says with `is_router` whether this host forwards IPv6.
    ///
    /// # Errors
    /// `ENETDOWN` while the interface is down; `ENOBUFS` when its queue is full.
    pub fn announce(&self, vip: IpAddr, mac: Mac, is_router: bool) -> io::Result<()> {
        match vip {
            IpAddr::V4(vip) => self.send(&gratuitous_arp(vip, mac)),
            IpAddr::V6(vip) => self.send(&unsolicited_advertisement(vip, mac, is_router)),
        }
    }

    /// Asks once who has `vip`, from `mac`, so that nobody learns anything by it: by an ARP probe, or a neighbour
    /// solicitation as in duplicate address detection. Who has it answers with a [`Claim`].
    ///
    /// # Errors
    /// `ENETDOWN` while the interface is down; `ENOBUFS` when its queue is full.
    pub fn probe(&self, vip: IpAddr, mac: Mac) -> io::Result<()> {
        match vip {
            IpAddr::V4(vip) => self.send(&arp_probe(vip, mac)),
            IpAddr::V6(vip) => self.send(&duplicate_solicitation(vip, mac)),
        }
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }
}

/// Listens on one interface to which hosts claim which addresses of one family: by any ARP packet, or by a neighbour
/// advertisement. It does not block.
#[derive(Debug)]
pub struct ClaimWatch {
    socket: Socket,
    family: Family,
}

/// What came of reading one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// There is none.
    Nothing,
    /// It claims nothing, or this host sent it.
    NoClaim,
    /// Another host claims an address.
    Claim(Claim),
}

impl ClaimWatch {
    /// Opens a socket on the interface with this index, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// There is no such interface, or the caller is not privileged (`CAP_NET_RAW`).
    pub fn open(index: u32, family: Family) -> io::Result<Self> {
        // What it receives begins behind the Ethernet header. Until it is bound it receives nothing.
        let socket = packet_socket(Type::DGRAM)?;
        socket.set_nonblocking(true)?;
        let protocol = match family {
            Family::Ipv4 => libc::ETH_P_ARP,
            Family::Ipv6 => {
                socket.attach_filter(&advertisements_only())?;
                libc::ETH_P_IPV6
            }
        };
        // Both are 16-bit numbers.
        bind_to(&socket, index, protocol as u16)?;
        Ok(Self { socket, family })
    }

    /// Reads one packet. Anyone on the link may claim anything, and often: the caller bounds how many it reads at a
    /// time, and compares the addresses with its VIPs.
    ///
    /// # Errors
    /// The kernel refused; `ENETDOWN` once after the interface went down.
    pub fn read(&self) -> io::Result<Heard> {
        let mut buffer = [0; BUFFER_LENGTH];
        let (length, from) = match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            Ok((length, from)) => (length, from),
            Err(nix::Error::EAGAIN) => return Ok(Heard::Nothing),
            Err(error) => return Err(error.into()),
        };
        let packet = &buffer[..length];
        let claim = from
            .filter(|from| is_to_this_host(from.pkttype()))
            .and_then(|from| match self.family {
                Family::Ipv4 => arp_claim(packet),
                Family::Ipv6 => advertisement_claim(packet, from.addr()?),
            });
        Ok(claim.map_or(Heard::NoClaim, Heard::Claim))
    }
}

impl AsFd for ClaimWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether a packet of this type was sent to this host, or to all. Others are our own, or of VLANs that end elsewhere.
const fn is_to_this_host(packet_type: u8) -> bool {
    matches!(
        packet_type,
        libc::PACKET_HOST | libc::PACKET_BROADCAST | libc::PACKET_MULTICAST
    )
}

/// A packet socket that is not bound yet, and receives nothing. It is closed when a program is run.
fn packet_socket(kind: Type) -> io::Result<Socket> {
    Socket::new(Domain::PACKET, kind, None)
}

/// Binds a packet socket to an interface and an EtherType.
fn bind_to(socket: &Socket, index: u32, protocol: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the pointer is to an address of this length, which is only read.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    let address = address.ok_or(io::ErrorKind::InvalidInput)?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(())
}

/// A program of classic BPF that passes neighbour advertisements from this link, so that the host's other IPv6 packets
/// do not come here. Packets begin with the IPv6 header.
fn advertisements_only() -> [SockFilter; 8] {
    let load_byte = |at| {
        SockFilter::new(
            (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16,
            0,
            0,
            at,
        )
    };
    // Goes on if it is this value, and otherwise to the end, so many instructions further.
    let expect = |value: u8, further| {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        SockFilter::new(code, 0, further, value.into())
    };
    let result = |length| SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, length);
    [
        load_byte(6),
        expect(ICMPV6, 5),
        load_byte(7),
        expect(HOP_LIMIT, 3),
        load_byte(40),
        expect(ADVERTISEMENT, 1),
        result(u32::MAX),
        result(0),
    ]
}
