//! The checksum of RFC 1071 over a message and its pseudo-header (RFC 8200 section 8.1). Pure.

use std::net::IpAddr;

use balancer_common::checksum::Sum;

/// What a checksum covers besides the message: the addresses, its length, and this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PseudoHeader {
    /// The sender's address.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// The IP protocol.
    pub protocol: u8,
}

/// The checksum of a message of whole 16-bit words, as bytes on the wire; zero if the message contains one that is
/// right.
pub(super) fn checksum(message: &[u8], pseudo_header: Option<PseudoHeader>) -> [u8; 2] {
    let mut sum = words(Sum::new(), message);
    if let Some(header) = pseudo_header {
        for address in [header.source, header.destination] {
            sum = match address {
                IpAddr::V4(v4) => words(sum, &v4.octets()),
                IpAddr::V6(v6) => words(sum, &v6.octets()),
            };
        }
        // In IPv6 these two fields are of 32 bits, whose upper halves are zero for messages of less than 64 KiB.
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        sum = sum.number(length).number(header.protocol.into());
    }
    sum.checksum().to_ne_bytes()
}

/// Adds 16-bit words.
fn words(sum: Sum, bytes: &[u8]) -> Sum {
    let (words, _) = bytes.as_chunks::<2>();
    let add = |sum: Sum, word: &[u8; 2]| sum.add(u16::from_ne_bytes(*word).into());
    words.iter().fold(sum, add)
}
