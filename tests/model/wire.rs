//! Bytes of frames: reading fields, writing them, and sums over all of a packet (RFC 1071). Nothing here is the data plane's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// The two bytes at an offset as a number.
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([field[0], field[1]]))
}

/// The four bytes at an offset as a number.
pub fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(field.try_into().expect("four bytes")))
}

/// Writes a number over two bytes.
pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The address at an offset, of a family.
pub fn address(bytes: &[u8], at: usize, is_v6: bool) -> IpAddr {
    if is_v6 {
        let field: [u8; 16] = bytes[at..at + 16].try_into().expect("16 bytes");
        Ipv6Addr::from(field).into()
    } else {
        let field: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
        Ipv4Addr::from(field).into()
    }
}

/// Writes an address.
pub fn put_address(bytes: &mut [u8], at: usize, address: IpAddr) {
    let octets = octets(address);
    bytes[at..at + octets.len()].copy_from_slice(&octets);
}

/// An address's bytes.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Offsets of an IP header's addresses from its start.
pub const fn addresses_at(is_v6: bool) -> [usize; 2] {
    if is_v6 { [8, 24] } else { [12, 16] }
}

/// The sum of 16-bit words, modulo 65,535; an odd last byte is a word's upper half.
pub fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    let sum: u64 = words
        .map(|word| u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0)))
        .sum();
    (sum % 0xffff) as u32
}

/// A part of a packet that one checksum covers.
pub struct Covered<'a> {
    /// The bytes, which begin at an even offset.
    pub bytes: &'a [u8],
    /// Where among them the checksum stands.
    pub checksum_at: usize,
    /// The sum of what else is covered: a pseudo header.
    pub beside: u32,
}

impl Covered<'_> {
    /// The sum of all but the checksum.
    fn rest(&self) -> u32 {
        let checksum = be16(self.bytes, self.checksum_at).expect("a checksum");
        (sum(self.bytes) + self.beside + 0xffff - u32::from(checksum) % 0xffff) % 0xffff
    }

    /// By how much the checksum, together with all that it covers, misses zero: zero where it is right.
    pub fn error(&self) -> u32 {
        (sum(self.bytes) + self.beside) % 0xffff
    }

    /// The checksum that misses by `error`, too: a wrong one must not become right on the way.
    pub fn with_error(&self, error: u32) -> u16 {
        ((2 * 0xffff + error - self.rest()) % 0xffff) as u16
    }
}

/// The sum of a pseudo header's addresses. Length and protocol, which nobody changes, are left out.
pub fn pseudo(source: IpAddr, destination: IpAddr) -> u32 {
    (sum(&octets(source)) + sum(&octets(destination))) % 0xffff
}

/// A full checksum (RFC 1071) with a pseudo header's sum.
pub fn full(bytes: &[u8], beside: u32) -> u16 {
    let total = (sum(bytes) + beside) % 0xffff;
    // A sum of zero would need all bytes to be zero: what stands here is all ones.
    if total == 0 { 0 } else { 0xffff - total as u16 }
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
