//! From a packet to its frame: every header's bytes, and the checksums computed in full.

use std::net::IpAddr;

use super::{Checksum, Packet, Transport};

impl Packet {
    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let transport = self.transport_bytes();
        let mut frame = Vec::new();
        frame.extend(self.mac_destination);
        frame.extend(self.mac_source);
        for (protocol, control) in &self.tags {
            frame.extend(protocol.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(0x0800_u16.to_be_bytes());
                let words = 5 + self.ip_options.len() / 4;
                let mut header = vec![0x40 | words as u8, self.tos];
                header.extend(((words * 4 + transport.len()) as u16).to_be_bytes());
                header.extend(self.id.to_be_bytes());
                header.extend(self.fragment.to_be_bytes());
                header.extend([self.hops, self.protocol(), 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.ip_options);
                let sum = full_sum(&[&header]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend(0x86dd_u16.to_be_bytes());
                let word = 6 << 28 | u32::from(self.tos) << 20 | self.flow_label;
                frame.extend(word.to_be_bytes());
                let (next, extensions) = self
                    .extensions
                    .clone()
                    .unwrap_or((self.protocol(), Vec::new()));
                frame.extend(((extensions.len() + transport.len()) as u16).to_be_bytes());
                frame.extend([next, self.hops]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(extensions);
            }
            families => panic!("two families in one packet: {families:?}"),
        }
        frame.extend(transport);
        frame.extend(&self.padding);
        frame
    }

    /// The IPv4 header checksum.
    #[must_use]
    pub fn ip_checksum(&self) -> u16 {
        let bytes = self.bytes();
        let at = self.ip_offset() + 10;
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    }

    /// The transport checksum.
    ///
    /// # Panics
    /// The protocol has none.
    #[must_use]
    pub fn transport_checksum(&self) -> u16 {
        let bytes = self.bytes();
        let at = self.transport_offset()
            + match self.transport {
                Transport::Tcp { .. } => 16,
                Transport::Udp => 6,
                Transport::Other(number) => panic!("protocol {number} has no checksum here"),
            };
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    }

    pub(super) fn transport_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let at = match &self.transport {
            Transport::Tcp {
                sequence,
                acknowledgement,
                flags,
                window,
                options,
            } => {
                bytes.extend(self.source_port.to_be_bytes());
                bytes.extend(self.destination_port.to_be_bytes());
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgement.to_be_bytes());
                bytes.extend([((5 + options.len() / 4) << 4) as u8, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(options);
                16
            }
            Transport::Udp => {
                bytes.extend(self.source_port.to_be_bytes());
                bytes.extend(self.destination_port.to_be_bytes());
                let length = (8 + self.payload.len()) as u16;
                bytes.extend(self.udp_length.unwrap_or(length).to_be_bytes());
                bytes.extend([0; 2]);
                6
            }
            Transport::Other(_) => return self.payload.clone(),
        };
        bytes.extend(&self.payload);
        let checksum = match self.checksum {
            Checksum::Given(value) => value,
            Checksum::Right => self.full_transport_sum(&bytes),
        };
        bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    pub(super) fn full_transport_sum(&self, bytes: &[u8]) -> u16 {
        let mut pseudo = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                pseudo.extend(source.octets());
                pseudo.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                pseudo.extend(source.octets());
                pseudo.extend(destination.octets());
            }
            families => panic!("two families in one packet: {families:?}"),
        }
        pseudo.extend((bytes.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol()]);
        let sum = full_sum(&[&pseudo, bytes]);
        // RFC 768: a computed zero is sent as all ones.
        if sum == 0 && self.transport == Transport::Udp {
            0xffff
        } else {
            sum
        }
    }
}

/// The Internet checksum (RFC 1071) over parts of which all but the last have even lengths.
pub(super) fn full_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use crate::{
        addresses::{R, R6},
        packet::{Packet, flag},
    };

    #[test]
    fn the_builder_gives_the_checksums_that_the_cases_state() {
        let syn = Packet::tcp(flag::SYN, 1000, 0);
        assert_eq!(
            (syn.ip_checksum(), syn.transport_checksum()),
            (0x4e41, 0x27eb)
        );
        let out = syn.delivered(R, 8080);
        assert_eq!(
            (out.ip_checksum(), out.transport_checksum()),
            (0x50e7, 0x0a51)
        );
        let ping = Packet::udp(b"ping");
        assert_eq!(
            (ping.ip_checksum(), ping.transport_checksum()),
            (0x4e3e, 0x9800)
        );
        let syn = syn.v6();
        assert_eq!(syn.transport_checksum(), 0xb7eb);
        assert_eq!(syn.delivered(R6, 8080).transport_checksum(), 0xca60);
    }
}
