//! What a frame is: the packet in it, or why it leaves early whatever the balancer is told.

use std::net::IpAddr;

use balancer_common::verdict::Discard;

use crate::wire::{ETHERNET, TCP, UDP, address, be16, be32};

/// Most extension headers that are looked through, and most bytes in all.
const MOST_EXTENSIONS: (usize, usize) = (8, 512);

/// A packet in a frame.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Whether it is one of IPv6.
    pub is_v6: bool,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// Bytes of the IP packet, which the frame may go beyond.
    pub length: usize,
    /// Offset of the transport header in the frame.
    pub transport: usize,
    /// Number of the transport protocol.
    pub protocol: u8,
    /// Whether it may not be fragmented.
    pub is_whole: bool,
    /// Number of its datagram, if it is a fragment.
    pub id: u32,
    /// What of a datagram it is.
    pub part: Part,
    /// Where in the datagram it begins, in units of eight bytes.
    pub offset: u16,
    /// Number of the protocol that all fragments of its datagram name: of IPv6 that of what follows the fragment header.
    pub fragmented: u8,
    /// What is wrong with its IPv4 options.
    pub options: Option<Discard>,
}

/// What of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The beginning.
    First,
    /// Another part.
    Later,
}

/// What a packet is to the balancer.
#[derive(Clone, Debug)]
pub enum Kind {
    /// TCP or UDP, with its ports.
    Transport(Packet),
    /// Part of a datagram that is not its beginning.
    Later(Packet),
    /// The beginning of a datagram, which leaves early whatever the balancer is told.
    Beginning(Packet, Discard),
    /// An ICMP message.
    Icmp(Packet),
}

impl Packet {
    /// Where the IP packet ends in the frame.
    pub const fn end(&self) -> usize {
        ETHERNET + self.length
    }

    /// Bytes that a transport header may speak of.
    const fn spoken_of(&self) -> usize {
        match self.part {
            Part::First => usize::MAX,
            _ => self.end() - self.transport,
        }
    }

    /// Bytes of the TCP header with its options, as it says itself.
    pub fn header(&self, frame: &[u8]) -> usize {
        usize::from(frame[self.transport + 12] >> 4) * 4
    }

    /// What is wrong with its transport header, or its options.
    pub fn fault(&self, frame: &[u8]) -> Option<Discard> {
        let fault = if self.protocol == TCP {
            let header = self.header(frame);
            (header < 20 || header > self.spoken_of()).then_some(Discard::Malformed)
        } else {
            let length = be16(frame, self.transport + 4).expect("a UDP header");
            let length = usize::from(length);
            if length < 8 || length > self.spoken_of() {
                Some(Discard::UdpLength)
            } else {
                // RFC 8200 section 8.1.
                let sum = be16(frame, self.transport + 6);
                (self.is_v6 && sum == Some(0)).then_some(Discard::UdpNoChecksum)
            }
        };
        fault.or(self.options)
    }
}

/// Reads the packet of an IPv4 or IPv6 frame. `is_ours` tells VIPs and real servers.
pub fn parse(frame: &[u8], is_v6: bool, is_ours: impl Fn(IpAddr) -> bool) -> Result<Kind, Discard> {
    let (packet, walked) = if is_v6 {
        parse_v6(frame)?
    } else {
        (parse_v4(frame)?, Ok(()))
    };
    let is_to_us = is_ours(packet.destination);
    let is_ours = is_to_us || is_ours(packet.source);
    let reason = match walked.and_then(|()| examine(&packet)) {
        Ok(()) if packet.part == Part::Later => return Ok(Kind::Later(packet)),
        Ok(()) if matches!(packet.protocol, TCP | UDP) => return Ok(Kind::Transport(packet)),
        Ok(()) => return Ok(Kind::Icmp(packet)),
        Err(Discard::ExtensionHeaders) if !is_to_us => Discard::NotTcpUdp,
        Err(Discard::FragmentTiny) if !is_ours => Discard::Fragment,
        // Its headers go on in the next fragment (RFC 7112).
        Err(Discard::Malformed) if is_ours && packet.part == Part::First => Discard::FragmentTiny,
        Err(reason) => reason,
    };
    match packet.part {
        Part::First => Ok(Kind::Beginning(packet, reason)),
        Part::Whole | Part::Later => Err(reason),
    }
}

/// That a packet, whose headers are known, is one that the balancer takes, and that its transport header is whole.
fn examine(packet: &Packet) -> Result<(), Discard> {
    let is_transport = matches!(packet.protocol, TCP | UDP);
    if !packet.is_v6 && packet.part != Part::Whole && !is_transport {
        return Err(Discard::Fragment);
    }
    if packet.part == Part::Later {
        return overwrites(packet);
    }
    let needed = match packet.protocol {
        TCP => 20,
        UDP => 8,
        1 if !packet.is_v6 => 0,
        // Behind extension headers it is left to the host.
        58 if packet.is_v6 && packet.transport == 54 => 0,
        _ => return Err(Discard::NotTcpUdp),
    };
    if packet.transport + needed > packet.end() {
        return Err(Discard::Malformed);
    }
    Ok(())
}

/// Refuses a fragment that would overwrite the flags of the TCP header (RFC 3128).
fn overwrites(packet: &Packet) -> Result<(), Discard> {
    if packet.fragmented == TCP && packet.offset == 1 {
        return Err(Discard::FragmentTiny);
    }
    Ok(())
}

/// The destination, if the frame holds a whole header.
fn target(frame: &[u8], is_v6: bool) -> Result<IpAddr, Discard> {
    let (least, at) = if is_v6 { (54, 38) } else { (34, 30) };
    if frame.len() < least {
        return Err(Discard::Malformed);
    }
    Ok(address(frame, at, is_v6))
}

fn parse_v4(frame: &[u8]) -> Result<Packet, Discard> {
    let destination = target(frame, false)?;
    let header = usize::from(frame[14] & 0xf) * 4;
    let length = usize::from(be16(frame, 16).expect("a header"));
    if frame[14] >> 4 != 4 || header < 20 || length < header || ETHERNET + length > frame.len() {
        return Err(Discard::Malformed);
    }
    let fragment = be16(frame, 20).expect("a header");
    Ok(Packet {
        is_v6: false,
        source: address(frame, 26, false),
        destination,
        hops: frame[22],
        length,
        transport: ETHERNET + header,
        protocol: frame[23],
        is_whole: fragment & 0x4000 != 0,
        id: u32::from(be16(frame, 18).expect("a header")),
        part: match (fragment & 0x1fff, fragment & 0x2000) {
            (0, 0) => Part::Whole,
            (0, _) => Part::First,
            _ => Part::Later,
        },
        offset: fragment & 0x1fff,
        fragmented: frame[23],
        options: options(&frame[34..ETHERNET + header]).err(),
    })
}

/// Looks through IPv4 options (RFC 791 section 3.1).
fn options(mut rest: &[u8]) -> Result<(), Discard> {
    while let [kind, ..] = *rest {
        let length = match kind {
            0 => return Ok(()),
            1 => 1,
            131 | 137 => return Err(Discard::SourceRoute),
            _ => match rest.get(1) {
                Some(length) if *length >= 2 => usize::from(*length),
                _ => return Err(Discard::Malformed),
            },
        };
        rest = rest.get(length..).ok_or(Discard::Malformed)?;
    }
    Ok(())
}

/// Reads an IPv6 packet, and how far its headers could be looked through.
fn parse_v6(frame: &[u8]) -> Result<(Packet, Result<(), Discard>), Discard> {
    let destination = target(frame, true)?;
    let length = 40 + usize::from(be16(frame, 18).expect("a header"));
    if frame[14] >> 4 != 6 || ETHERNET + length > frame.len() {
        return Err(Discard::Malformed);
    }
    let source = address(frame, 22, true);
    if source.to_canonical().is_ipv4() || destination.to_canonical().is_ipv4() {
        return Err(Discard::MappedAddress);
    }
    let mut walk = Walk::new(54, frame[20]);
    let walked = walk.go(frame, ETHERNET + length);
    let packet = Packet {
        is_v6: true,
        source,
        destination,
        hops: frame[21],
        length,
        transport: walk.transport,
        protocol: walk.protocol,
        is_whole: true,
        id: walk.id,
        part: walk.part,
        offset: walk.offset,
        fragmented: walk.fragmented,
        options: None,
    };
    Ok((packet, walked))
}

/// The way over IPv6 extension headers, up to the transport header, a header that is not looked through, or a later fragment's data.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Offset in the frame of what follows the headers.
    pub transport: usize,
    /// Number of its protocol.
    pub protocol: u8,
    /// What of a datagram the packet is.
    pub part: Part,
    /// See [`Packet`].
    pub id: u32,
    /// See [`Packet`].
    pub offset: u16,
    /// See [`Packet`].
    pub fragmented: u8,
}

impl Walk {
    /// Begins behind an IPv6 header.
    pub const fn new(transport: usize, protocol: u8) -> Self {
        Self {
            transport,
            protocol,
            part: Part::Whole,
            id: 0,
            offset: 0,
            fragmented: 0,
        }
    }

    /// Goes as far as it can in a packet that ends at `end`.
    pub fn go(&mut self, frame: &[u8], end: usize) -> Result<(), Discard> {
        let first = self.transport;
        for number in 0.. {
            if !matches!(self.protocol, 0 | 43 | 44 | 60) {
                break;
            }
            if number == MOST_EXTENSIONS.0 {
                return Err(Discard::ExtensionHeaders);
            }
            let header = frame[..end].get(self.transport..self.transport + 8);
            let header = header.ok_or(Discard::Malformed)?;
            let kind = self.protocol;
            self.protocol = header[0];
            match kind {
                44 => {
                    if self.part != Part::Whole {
                        return Err(Discard::Malformed);
                    }
                    let bits = be16(header, 2).expect("eight bytes");
                    (self.id, self.offset) = (be32(header, 4).expect("eight bytes"), bits >> 3);
                    self.fragmented = header[0];
                    self.transport += 8;
                    self.part = match (self.offset, bits & 1) {
                        (0, 0) => Part::Whole,
                        (0, _) => Part::First,
                        _ => Part::Later,
                    };
                    if self.part == Part::Later {
                        return Ok(());
                    }
                }
                43 if header[2] == 0 => return Err(Discard::ExtensionHeaders),
                43 if header[3] != 0 => return Err(Discard::NotTcpUdp),
                _ => self.transport += (usize::from(header[1]) + 1) * 8,
            }
            if self.transport > end {
                return Err(Discard::Malformed);
            }
            if self.transport > first + MOST_EXTENSIONS.1 {
                return Err(Discard::ExtensionHeaders);
            }
        }
        Ok(())
    }
}
