//! Frames that the packet bench sends and expects.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use etherparse::PacketBuilder;

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
