//! Ping checks: an ICMP or ICMPv6 echo request. All fields are in network byte order.
//!
//! ```text
//!  0       1       2               4               6               8                       16
//!  ┌───────┬───────┬───────────────┬───────────────┬───────────────┬───────────────────────┐
//!  │ type  │ code  │   checksum    │  identifier   │   sequence    │         token         │
//!  └───────┴───────┴───────────────┴───────────────┴───────────────┴───────────────────────┘
//! ```

use std::hash::{BuildHasher as _, RandomState};

use socket2::Type;

use super::{Passed, ProbeFailure, socket::Endpoint, udp::receive};

#[derive(Debug)]
pub struct Ping {
    endpoint: Endpoint,
}

impl Ping {
    pub const fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    pub async fn probe(&self) -> Result<Passed, ProbeFailure> {
        let is_ipv4 = self.endpoint.target().is_ipv4();
        let (socket, kind) = self.endpoint.icmp_socket()?;
        // A new random token per probe: a late reply to an earlier probe does not match.
        let token = RandomState::new().hash_one(0).to_ne_bytes();
        let request = request(is_ipv4, token);
        self.endpoint.send(&socket, &request).await?;
        loop {
            let message = receive(&socket).await?;
            // Only raw IPv4 sockets return the IP header.
            let icmp = match is_ipv4 && kind == Type::RAW {
                true => behind_ip_header(&message),
                false => Some(&message[..]),
            };
            if icmp.is_some_and(|icmp| is_reply(icmp, is_ipv4, token)) {
                return Ok(Passed::new("echo reply"));
            }
        }
    }
}

fn request(is_ipv4: bool, token: [u8; 8]) -> [u8; 16] {
    let mut message = [0; 16];
    message[0] = if is_ipv4 { 8 } else { 128 };
    // For a ping socket the kernel replaces the identifier by its own.
    message[4..6].copy_from_slice(&token[..2]);
    message[7] = 1;
    message[8..].copy_from_slice(&token);
    if is_ipv4 {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
    }
    // The kernel computes the ICMPv6 checksum, which covers the addresses.
    message
}

/// The internet checksum (RFC 1071), as bytes on the wire.
fn checksum(message: &[u8; 16]) -> [u8; 2] {
    let sum: u32 = message
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    // The sum of eight words has carries of less than 16 bits; adding them carries at most once more.
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!folded as u16).to_be_bytes()
}

fn behind_ip_header(packet: &[u8]) -> Option<&[u8]> {
    packet.get(usize::from(packet.first()? & 0x0f) * 4..)
}

fn is_reply(icmp: &[u8], is_ipv4: bool, token: [u8; 8]) -> bool {
    let reply = if is_ipv4 { 0 } else { 129 };
    icmp.len() == 16 && icmp[0] == reply && icmp[1] == 0 && icmp[8..] == token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_and_its_reply() {
        let token = [1, 2, 3, 4, 5, 6, 7, 8];
        // 0800 + 0102 + 0001 + 0102 + 0304 + 0506 + 0708 = 0x1917, inverted 0xe6e8.
        assert_eq!(
            request(true, token),
            [8, 0, 0xe6, 0xe8, 1, 2, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        assert_eq!(
            request(false, token),
            [128, 0, 0, 0, 1, 2, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        let mut reply = request(true, token);
        assert!(!is_reply(&reply, true, token), "our own request");
        reply[0] = 0;
        assert!(is_reply(&reply, true, token));
        assert!(!is_reply(&reply, false, token));
        assert!(!is_reply(&reply[..15], true, token));
        assert!(!is_reply(&[], true, token));
        assert!(!is_reply(&reply, true, [0; 8]));
        assert_eq!(checksum(&[0xff; 16]), [0, 0]);
        assert_eq!(checksum(&[0; 16]), [0xff, 0xff]);
    }

    #[test]
    fn the_ip_header_is_left_out_however_long_it_is() {
        assert_eq!(behind_ip_header(&[0x45; 21]), Some(&[0x45][..]));
        assert_eq!(behind_ip_header(&[0x46; 24]), Some(&[][..]));
        assert_eq!(behind_ip_header(&[0x45; 19]), None);
        assert_eq!(behind_ip_header(&[]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_taken_for_a_reply_but_one_with_the_token(
            packet in crate::os::fuzz::bytes(&[
                b"\x45\0\0\x24\0\0\0\0\x40\x01\0\0\x0a\0\0\x01\x0a\0\0\x02\0\0\0\0\0\0\0\x01tokentok",
                b"\x81\0\0\0\0\0\0\x01tokentok",
            ]),
        ) {
            for is_ipv4 in [true, false] {
                let icmp = if is_ipv4 { behind_ip_header(&packet) } else { Some(&packet[..]) };
                let is_reply = icmp.is_some_and(|icmp| is_reply(icmp, is_ipv4, *b"tokentok"));
                proptest::prop_assert!(!is_reply || packet.ends_with(b"tokentok"), "{packet:?}");
            }
        }
    }
}
