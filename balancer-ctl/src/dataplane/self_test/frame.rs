//! The frames that the self-test sends and expects.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use etherparse::PacketBuilder;

/// This host's MAC address.
pub const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The sender's MAC address.
pub const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The MAC address of the host that frames are forwarded to.
pub const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 3];

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// TCP: whether SYN, ACK and RST are set, and the numbers.
    Segment {
        syn: bool,
        ack: bool,
        rst: bool,
        sequence: u32,
        acknowledgement: u32,
    },
    /// UDP.
    Datagram,
}

/// A segment without RST.
pub const fn segment(syn: bool, ack: bool, sequence: u32, acknowledgement: u32) -> Content {
    Content::Segment {
        syn,
        ack,
        rst: false,
        sequence,
        acknowledgement,
    }
}

/// A frame before its headers are written.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Receiver's and sender's MAC address.
    pub macs: [[u8; 6]; 2],
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub hops: u8,
    pub content: Content,
    pub payload: &'static [u8],
}

impl Frame {
    /// A frame from a neighbour to this host.
    pub fn new(from: SocketAddr, to: SocketAddr, content: Content, payload: &'static [u8]) -> Self {
        Self {
            macs: [OURS, NEIGHBOUR],
            from,
            to,
            hops: 64,
            content,
            payload,
        }
    }

    /// The frame as it leaves while no next hop is known: translated, with unchanged MAC addresses and TTL.
    pub fn translated(self, from: SocketAddr, to: SocketAddr) -> Self {
        Self { from, to, ..self }
    }

    /// The frame as it leaves when the next hop is known: translated and forwarded.
    pub fn forwarded(self, from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            macs: [NEXT_HOP, OURS],
            hops: self.hops - 1,
            ..self.translated(from, to)
        }
    }

    /// The frame's bytes, every checksum computed in full.
    pub fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        let [receiver, sender] = self.macs;
        let ethernet = PacketBuilder::ethernet2(sender, receiver);
        let ip = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ethernet.ipv4(from.octets(), to.octets(), self.hops)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ethernet.ipv6(from.octets(), to.octets(), self.hops)
            }
            _ => bail!("a frame has two families"),
        };
        let (from, to) = (self.from.port(), self.to.port());
        let mut bytes = Vec::new();
        match self.content {
            Content::Datagram => ip.udp(from, to).write(&mut bytes, self.payload),
            Content::Segment {
                syn,
                ack,
                rst,
                sequence,
                acknowledgement,
            } => {
                // The answer to a stray segment offers no window.
                let mut tcp = ip.tcp(from, to, sequence, if rst { 0 } else { 64_240 });
                if syn {
                    tcp = tcp.syn();
                }
                if ack {
                    tcp = tcp.ack(acknowledgement);
                }
                if rst {
                    tcp = tcp.rst();
                }
                tcp.write(&mut bytes, self.payload)
            }
        }
        .context("cannot write a frame")?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_in_both_families() {
        for (from, to, length) in [
            ("192.0.2.1:1", "192.0.2.2:2", 14 + 20 + 8 + 5),
            ("[2001:db8::1]:1", "[2001:db8::2]:2", 14 + 40 + 8 + 5),
        ] {
            let [from, to] = [from, to].map(|address| address.parse().unwrap());
            let frame = Frame::new(from, to, Content::Datagram, b"query");
            let bytes = frame.bytes().unwrap();
            assert_eq!(bytes.len(), length);
            assert_eq!(bytes[..6], OURS);
            assert_ne!(frame.forwarded(to, from).bytes().unwrap(), bytes);
        }
    }
}
