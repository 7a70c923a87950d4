//! Frames that the packet bench sends and expects.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use etherparse::{IpFragOffset, Ipv4Header, PacketBuilder};

/// The shortest frame the bench sends: Ethernet's minimum without its check sequence is 60, and 64 is customary.
const SHORTEST: usize = 64;
/// TCP over IPv6 takes 74; the front program restores whole words.
const SHORTEST_IPV6: usize = 80;

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// TCP SYN.
    Syn,
    /// TCP SYN and ACK.
    SynAck,
    /// TCP ACK without data.
    Ack,
    /// UDP with ten bytes of data.
    Datagram,
}

const CLIENT_SEQUENCE: u32 = 1_000;
const REAL_SEQUENCE: u32 = 9_000;

/// Builds a frame with valid checksums, filled up to the shortest length. `macs` are the source's and the destination's,
/// `hops` the time to live.
///
/// # Errors
/// The families of source and destination differ.
pub fn frame(
    macs: [[u8; 6]; 2],
    source: SocketAddr,
    destination: SocketAddr,
    segment: Segment,
    hops: u8,
) -> Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(macs[0], macs[1]);
    let (ip, shortest) = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            (ethernet.ipv4(from.octets(), to.octets(), hops), SHORTEST)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => (
            ethernet.ipv6(from.octets(), to.octets(), hops),
            SHORTEST_IPV6,
        ),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            anyhow::bail!("source and destination of a packet are of one family")
        }
    };
    let (from, to) = (source.port(), destination.port());
    let mut bytes = Vec::with_capacity(80);
    let window = 64_240;
    match segment {
        Segment::Syn => {
            ip.tcp(from, to, CLIENT_SEQUENCE, window)
                .syn()
                .write(&mut bytes, &[])?;
        }
        Segment::SynAck => ip
            .tcp(from, to, REAL_SEQUENCE, window)
            .syn()
            .ack(CLIENT_SEQUENCE + 1)
            .write(&mut bytes, &[])?,
        Segment::Ack => ip
            .tcp(from, to, CLIENT_SEQUENCE + 1, window)
            .ack(REAL_SEQUENCE + 1)
            .write(&mut bytes, &[])?,
        Segment::Datagram => ip.udp(from, to).write(&mut bytes, b"0123456789")?,
    }
    if bytes.len() < shortest {
        bytes.resize(shortest, 0);
    }
    Ok(bytes)
}

/// Builds a frame with the ICMP error "fragmentation needed" (1,400 bytes) about the packet in the frame `about`, of which it quotes the IPv4
/// header and eight bytes. The rest as for [`frame`].
///
/// # Errors
/// An address is not IPv4.
pub fn icmp_error(
    macs: [[u8; 6]; 2],
    source: IpAddr,
    destination: IpAddr,
    about: &[u8],
    hops: u8,
) -> Result<Vec<u8>> {
    const QUOTED: usize = 28;
    let (IpAddr::V4(from), IpAddr::V4(to)) = (source, destination) else {
        anyhow::bail!("the bench's ICMP errors are IPv4");
    };
    let mut bytes = Vec::with_capacity(80);
    PacketBuilder::ethernet2(macs[0], macs[1])
        .ipv4(from.octets(), to.octets(), hops)
        .icmpv4_raw(3, 4, [0, 0, 0x05, 0x78])
        .write(&mut bytes, &about[ETHERNET..ETHERNET + QUOTED])?;
    // What a balancer changes reaches as far: the front program restores that of long frames only.
    bytes.resize(SHORTEST_IPV6, 0);
    Ok(bytes)
}

/// Length in bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Makes the packet in an IPv4 frame a fragment at this place of its datagram, in units of eight bytes.
///
/// # Errors
/// The frame holds no IPv4 header.
pub fn fragment(mut frame: Vec<u8>, offset: u16, has_more: bool) -> Result<Vec<u8>> {
    let (mut header, _) = Ipv4Header::from_slice(&frame[ETHERNET..])?;
    header.dont_fragment = false;
    header.more_fragments = has_more;
    header.fragment_offset = IpFragOffset::try_new(offset)?;
    header.header_checksum = header.calc_header_checksum();
    let bytes = header.to_bytes();
    frame[ETHERNET..ETHERNET + bytes.len()].copy_from_slice(&bytes);
    Ok(frame)
}

/// A frame with the headers of Ethernet and IPv4 of `headers` and what follows them in `rest`: a fragment without ports, of which a
/// balancer changes the headers alone.
pub fn with_headers_of(headers: &[u8], rest: &[u8]) -> Vec<u8> {
    const HEADERS: usize = ETHERNET + 20;
    [&headers[..HEADERS], &rest[HEADERS..]].concat()
}
